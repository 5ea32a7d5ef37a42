package wire

import (
	"bytes"
	"encoding/binary"
	"iter"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// Sizes of messages, in octets.
const (
	// PayloadSize is the largest UDP message that we send and say we take (RFC
	// 6891 section 6.2.3): what fits into one packet of any IPv6 path.
	PayloadSize = 1232

	// MaxQuery is the largest query that is read whole over TCP. A query of one
	// name with its OPT record needs a tenth of it; a longer one is cut and so
	// becomes a format error.
	MaxQuery = 4096

	// HeaderSize is the size of a header, RFC 1035 section 4.1.1.
	HeaderSize = 12

	optSize     = 11 // an OPT record without options
	recordFixed = 10 // type, class, TTL, RDLENGTH
)

// Sections of a message, by the offset of their record count in the header.
const (
	countQuestion = 4
	Answer        = 6
	Authority     = 8
	Additional    = 10
)

// The bits of a header's second word, RFC 1035 section 4.1.1 and RFC 4035
// section 3.
const (
	bitQR = 1 << 15
	bitAA = 1 << 10
	bitTC = 1 << 9
	bitRD = 1 << 8
	bitRA = 1 << 7
	bitAD = 1 << 5
	bitCD = 1 << 4
)

// hasQuestion reports whether a message has a question section.
func hasQuestion(msg []byte) bool { return binary.BigEndian.Uint16(msg[countQuestion:]) != 0 }

// IsFailure reports whether a response says only that its server has no answer,
// so that another may be asked.
func IsFailure(msg []byte) bool {
	switch Rcode(msg) {
	case dns.RcodeFormatError, dns.RcodeServerFailure, dns.RcodeNotImplemented, dns.RcodeRefused:
		return true
	}
	return false
}

// Rcode returns the rcode in a message's header.
func Rcode(msg []byte) int { return int(msg[3] & 0xf) }

// SetRcode sets the rcode in a message's header.
func SetRcode(msg []byte, rcode int) { msg[3] = msg[3]&0xf0 | byte(rcode) }

// IsNXDOMAIN reports whether a response says of the question's name itself that it does
// not exist: of an alias it would be said of another name (RFC 6604 section 3).
func IsNXDOMAIN(msg []byte) bool {
	return Rcode(msg) == dns.RcodeNameError && binary.BigEndian.Uint16(msg[Answer:]) == 0
}

// IsTruncated reports whether a message has the TC bit set.
func IsTruncated(msg []byte) bool { return binary.BigEndian.Uint16(msg[2:])&bitTC != 0 }

// questionEnd returns the offset behind the question of a message, which must be
// whole.
func questionEnd(msg []byte) int {
	end, _ := skipName(msg, HeaderSize)
	return end + 4
}

// skipName returns the offset behind the name at off; false when the name leaves
// msg. A compression pointer ends a name and is not followed.
func skipName(msg []byte, off int) (end int, ok bool) {
	for off < len(msg) {
		switch c := int(msg[off]); {
		case c == 0:
			return off + 1, true
		case c&0xc0 == 0xc0:
			return off + 2, off+2 <= len(msg)
		case c&0xc0 != 0:
			return 0, false
		default:
			off += c + 1
		}
	}
	return 0, false
}

// isWhole reports whether all the records that msg's header counts are in it.
func isWhole(msg []byte) bool {
	off, ok := skipName(msg, HeaderSize)
	if off += 4; !ok || off > len(msg) {
		return false
	}
	for section := Answer; section <= Additional; section += 2 {
		for range binary.BigEndian.Uint16(msg[section:]) {
			if _, off, ok = scanRecord(msg, off); !ok {
				return false
			}
		}
	}
	return true
}

// scanRecord returns the type of the record at off and the offset behind it;
// false when it leaves msg.
func scanRecord(msg []byte, off int) (rtype uint16, end int, ok bool) {
	off, ok = skipName(msg, off)
	if !ok || off+recordFixed > len(msg) {
		return 0, 0, false
	}
	rtype = binary.BigEndian.Uint16(msg[off:])
	end = off + recordFixed + int(binary.BigEndian.Uint16(msg[off+8:]))
	return rtype, end, end <= len(msg)
}

// Addresses returns the addresses in the answer section of msg, up to the first
// record that leaves msg; none without a question, which must be whole.
func Addresses(msg []byte) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for a := range Lifetimes(msg) {
			if !yield(a) {
				return
			}
		}
	}
}

// Lifetimes returns the addresses that Addresses does, with how long each may be kept.
func Lifetimes(msg []byte) iter.Seq2[netip.Addr, time.Duration] {
	return func(yield func(netip.Addr, time.Duration) bool) {
		if !hasQuestion(msg) {
			return
		}
		off := questionEnd(msg)
		for range binary.BigEndian.Uint16(msg[Answer:]) {
			rtype, end, ok := scanRecord(msg, off)
			if !ok {
				return
			}
			fixed, _ := skipName(msg, off)
			ttl := time.Duration(sane(binary.BigEndian.Uint32(msg[fixed+4:]))) * time.Second
			if a, ok := address(rtype, msg[fixed+recordFixed:end]); ok && !yield(a, ttl) {
				return
			}
			off = end
		}
	}
}

// address returns the address in a record's data.
func address(rtype uint16, rdata []byte) (a netip.Addr, ok bool) {
	if rtype != dns.TypeA && rtype != dns.TypeAAAA {
		return a, false
	}
	a, ok = netip.AddrFromSlice(rdata)
	return a.Unmap(), ok
}

// UpstreamQuery packs what an upstream server is asked for q, with an id that is
// still to be set: the question alone, and an OPT record of our own if the
// client knows EDNS. No option of a guest leaves the host.
func UpstreamQuery(q *Query) []byte {
	var bits uint16
	if q.rd {
		bits |= bitRD
	}
	if q.cd {
		bits |= bitCD
	}
	b := make([]byte, HeaderSize, HeaderSize+len(q.question)+optSize)
	binary.BigEndian.PutUint16(b[2:], bits)
	b[countQuestion+1] = 1
	b = append(b, q.question...)
	if q.edns {
		b[Additional+1] = 1
		b = q.appendOPT(b, 0)
	}
	return b
}

// HasEDNS reports whether a message has an OPT record.
func HasEDNS(msg []byte) bool {
	_, found := findOPT(msg)
	return found
}

// WithoutEDNS returns query, which came from UpstreamQuery and is changed, without its OPT
// record.
func WithoutEDNS(query []byte) []byte {
	query[Additional+1] = 0
	return query[:questionEnd(query)]
}

// RejectsEDNS reports whether msg, which answers a query with an OPT record, is what a
// server says that does not know EDNS: RFC 6891 section 7.
func RejectsEDNS(msg []byte) bool {
	rcode := Rcode(msg)
	return (rcode == dns.RcodeFormatError || rcode == dns.RcodeNotImplemented) && !HasEDNS(msg)
}

// MixCase gives the letters of query's name a random case, which an answer has
// to repeat and one who guesses does not know (draft-vixie-dnsext-dns0x20).
// random must have a bit for each octet of the name.
func MixCase(query, random []byte) {
	name := query[HeaderSize : questionEnd(query)-4]
	for i := 0; name[i] != 0; i += int(name[i]) + 1 {
		for j := i + 1; j <= i+int(name[i]); j++ {
			if c := foldOctet(name[j]); c >= 'a' && c <= 'z' {
				name[j] = c ^ random[j/8]>>(j%8)&1<<5
			}
		}
	}
}

// RepeatsCase reports whether msg, which answers query, has its question in the
// same case, or no question.
func RepeatsCase(msg, query []byte) bool {
	end := questionEnd(query)
	return !hasQuestion(msg) || bytes.Equal(msg[HeaderSize:end], query[HeaderSize:end])
}

// ReadAnswer returns the part of msg that answers query, nil if it does not: the
// header of a failure without its question, or a message whose records are all
// in their place. The records of a truncated message don't matter.
func ReadAnswer(msg, query []byte) []byte {
	if !matches(msg, query) {
		return nil
	}
	if !hasQuestion(msg) {
		return msg[:HeaderSize]
	}
	if !IsTruncated(msg) && !isWhole(msg) {
		return nil
	}
	return msg
}

// matches reports whether msg is a response to query: whether it has its id, and
// its question but for the case of letters (RFC 5452 section 9.1). A failure may
// come without the question.
func matches(msg, query []byte) bool {
	if len(msg) < HeaderSize || msg[0] != query[0] || msg[1] != query[1] {
		return false
	}
	bits := binary.BigEndian.Uint16(msg[2:])
	if bits&bitQR == 0 || bits>>11&0xf != dns.OpcodeQuery {
		return false
	}
	if !hasQuestion(msg) {
		return IsFailure(msg)
	}
	end := questionEnd(query)
	return binary.BigEndian.Uint16(msg[countQuestion:]) == 1 && len(msg) >= end &&
		equalFold(msg[HeaderSize:end], query[HeaderSize:end])
}
