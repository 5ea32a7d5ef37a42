package dnsd

import (
	"bytes"
	"encoding/binary"

	"github.com/miekg/dns"
)

// upstreamQuery packs what is asked of an upstream for q, with an id that is
// still to be set: the question alone, and an OPT record of our own if the
// client knows EDNS. No option of a guest leaves the host.
func upstreamQuery(q *query) []byte {
	var bits uint16
	if q.rd {
		bits |= bitRD
	}
	if q.cd {
		bits |= bitCD
	}
	b := make([]byte, headerSize, headerSize+len(q.question)+optSize)
	binary.BigEndian.PutUint16(b[2:], bits)
	b[5] = 1
	b = append(b, q.question...)
	if q.edns {
		b[countExtra+1] = 1
		b = q.appendOPT(b, 0)
	}
	return b
}

// matches tells whether msg is a response to query: its id, and its question
// but for the case of letters (RFC 5452 section 9.1). A failure may come without
// the question.
func matches(msg, query []byte) bool {
	if len(msg) < headerSize || msg[0] != query[0] || msg[1] != query[1] {
		return false
	}
	bits := binary.BigEndian.Uint16(msg[2:])
	if bits&bitQR == 0 || bits>>11&0xf != dns.OpcodeQuery {
		return false
	}
	if !hasQuestion(msg) {
		return isFailure(msg)
	}
	end := questionEnd(query)
	return binary.BigEndian.Uint16(msg[4:]) == 1 && len(msg) >= end &&
		equalFold(msg[headerSize:end], query[headerSize:end])
}

// mixCase gives the letters of query's name a random case, which an answer has
// to repeat and one who guesses does not know (draft-vixie-dnsext-dns0x20).
func mixCase(query, random []byte) {
	name := query[headerSize : questionEnd(query)-4]
	for i := 0; name[i] != 0; i += int(name[i]) + 1 {
		for j := i + 1; j <= i+int(name[i]); j++ {
			if c := foldOctet(name[j]); c >= 'a' && c <= 'z' {
				name[j] = c ^ random[j/8]>>(j%8)&1<<5
			}
		}
	}
}

// repeatsCase tells whether msg, which answers query, has its question in the
// same spelling, or none.
func repeatsCase(msg, query []byte) bool {
	end := questionEnd(query)
	return !hasQuestion(msg) || bytes.Equal(msg[headerSize:end], query[headerSize:end])
}

// readAnswer is the part of msg that answers query, nil if it does not: the
// header of a failure without its question, or a message whose records are all
// in their place. Of one that is cut anyway the records don't matter.
func readAnswer(msg, query []byte) []byte {
	if !matches(msg, query) {
		return nil
	}
	if !hasQuestion(msg) {
		return msg[:headerSize]
	}
	if !isTruncated(msg) && !isWhole(msg) {
		return nil
	}
	return msg
}

// hasQuestion tells whether a message has a question section.
func hasQuestion(msg []byte) bool { return binary.BigEndian.Uint16(msg[4:]) != 0 }

// isFailure tells whether a response says only that this server has no answer,
// so that another may be asked.
func isFailure(msg []byte) bool {
	switch rcodeOf(msg) {
	case dns.RcodeFormatError, dns.RcodeServerFailure, dns.RcodeNotImplemented, dns.RcodeRefused:
		return true
	}
	return false
}

// rcodeOf is the rcode in a message's header.
func rcodeOf(msg []byte) int { return int(msg[3] & 0xf) }

// isTruncated tells whether a message has the TC bit set.
func isTruncated(msg []byte) bool { return binary.BigEndian.Uint16(msg[2:])&bitTC != 0 }

// equalFold compares the octets of two questions; letters are equal in either
// case (RFC 4343 section 3).
func equalFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if foldOctet(a[i]) != foldOctet(b[i]) {
			return false
		}
	}
	return true
}

func foldOctet(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}

// questionEnd is the offset behind the question of a message that we packed.
func questionEnd(msg []byte) int {
	end, _ := skipName(msg, headerSize)
	return end + 4
}

// skipName is the offset behind the name at off; ok is false when the name
// leaves msg. A compression pointer ends a name and is not followed.
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

// isWhole tells whether all the records that msg's header counts are in it.
func isWhole(msg []byte) bool {
	off, ok := skipName(msg, headerSize)
	if off += 4; !ok || off > len(msg) {
		return false
	}
	for count := countAnswer; count <= countExtra; count += 2 {
		for range binary.BigEndian.Uint16(msg[count:]) {
			if _, off, ok = scanRecord(msg, off); !ok {
				return false
			}
		}
	}
	return true
}

// scanRecord reads the record at off: its type and the offset behind it.
func scanRecord(msg []byte, off int) (rtype uint16, end int, ok bool) {
	const fixed = 10 // type, class, TTL, RDLENGTH
	off, ok = skipName(msg, off)
	if !ok || off+fixed > len(msg) {
		return 0, 0, false
	}
	rtype = binary.BigEndian.Uint16(msg[off:])
	end = off + fixed + int(binary.BigEndian.Uint16(msg[off+8:]))
	return rtype, end, end <= len(msg)
}
