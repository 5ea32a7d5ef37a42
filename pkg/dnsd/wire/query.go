package wire

import (
	"encoding/binary"
	"slices"
	"time"
	"unsafe"

	"github.com/miekg/dns"
)

// Record counts that a query may have: an OPT and a TSIG record at most in the
// additional section, the client's SOA record in the authority section (RFC
// 1995 section 3).
const (
	maxAuthority  = 1
	maxAdditional = 2
)

// Query is a question and what its client can take as the answer. Parse may be
// called again for the next message; Clone keeps one.
type Query struct {
	Key      string    // of the name, see AppendKey; valid until the next Parse
	Type     uint16    // QTYPE
	Received time.Time // when it was read

	question []byte // name, type and class as the client sent them, which the answer repeats
	keyBuf   []byte
	class    uint16

	id      uint16
	rd, cd  bool
	edns    bool // the client sent an OPT record
	version uint8
	do      bool
	size    int // octets of the largest answer
}

// Repeats reports whether other is q sent again, as by a client whose answer is late: a resolver
// that asks for another has a random id of its own.
func (q *Query) Repeats(other *Query) bool { return q.id == other.id }

// Question is what an upstream server is asked. Two queries with the same
// Question have answers that Response.Answer makes into one another.
type Question struct {
	Name     string // key
	Type     uint16
	RD, CD   bool
	EDNS, DO bool
}

// Question returns what an upstream server is asked for q.
func (q *Query) Question() Question {
	return Question{Name: q.Key, Type: q.Type, RD: q.rd, CD: q.cd, EDNS: q.edns, DO: q.do}
}

// CopyTo makes c a copy of q that shares nothing with it.
func (q *Query) CopyTo(c *Query) {
	*c = *q
	n := len(q.question)
	both := append(append(make([]byte, 0, n+len(q.Key)), q.question...), q.Key...)
	c.question, c.keyBuf = both[:n:n], nil
	c.Key = unsafe.String(unsafe.SliceData(both[n:]), len(q.Key)) // nobody writes there
}

// For returns q for another name, packed, with room for the largest answer. It shares
// nothing with q.
func (q *Query) For(name []byte) *Query {
	c := *q
	c.question = append(slices.Clone(name), q.question[len(q.question)-4:]...)
	c.Key = string(AppendKey(nil, name))
	c.keyBuf = nil
	c.size = dns.MaxMsgSize
	return &c
}

// Size returns the number of octets of the largest answer that q's client takes.
func (q *Query) Size() int { return q.size }

// Parse reads a message, which q refers to from then on. It returns false for a
// message that must not be answered. An rcode other than NOERROR is the whole
// answer (HeaderReply), and q is of no use then. size is the number of octets of
// the largest answer over the message's transport.
func (q *Query) Parse(raw []byte, size int, now time.Time) (rcode int, ok bool) {
	if len(raw) < HeaderSize {
		return 0, false
	}
	bits := binary.BigEndian.Uint16(raw[2:])
	if bits&bitQR != 0 {
		return 0, false // two servers must not keep each other busy
	}
	if opcode := int(bits >> 11 & 0xf); opcode != dns.OpcodeQuery {
		return dns.RcodeNotImplemented, true
	}
	if !plausibleCounts(raw) || !q.readQuestion(raw) {
		return dns.RcodeFormatError, true
	}
	q.id = binary.BigEndian.Uint16(raw)
	q.rd, q.cd = bits&bitRD != 0, bits&bitCD != 0
	q.size, q.Received = size, now
	if !q.readEDNS(raw) {
		return dns.RcodeFormatError, true
	}
	return dns.RcodeSuccess, true
}

// plausibleCounts checks the record counts before any record is read. RFC 9619
// section 4: a QUERY with more than one question is a format error.
func plausibleCounts(raw []byte) bool {
	return binary.BigEndian.Uint16(raw[countQuestion:]) == 1 &&
		binary.BigEndian.Uint16(raw[Answer:]) == 0 &&
		binary.BigEndian.Uint16(raw[Authority:]) <= maxAuthority &&
		binary.BigEndian.Uint16(raw[Additional:]) <= maxAdditional
}

// HeaderReply packs the answer that needs nothing but raw's header, into buf if
// that is long enough: the rcode and no section but an OPT record, if raw has one that
// can be found (RFC 6891 section 6.1.1).
func HeaderReply(raw, buf []byte, rcode int) []byte {
	bits := binary.BigEndian.Uint16(raw[2:])
	bits = bitQR | bits&(0xf<<11|bitRD|bitCD) | uint16(rcode)
	b := append(buf[:0], raw[:2]...)
	b = binary.BigEndian.AppendUint16(b, bits)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	if do, found := findOPT(raw); found {
		b[Additional+1]++
		b = (&Query{do: do}).appendOPT(b, rcode)
	}
	return b
}

// findOPT reports whether a message of whatever opcode has an OPT record, and the DO bit in
// it. What stands before it must be whole.
func findOPT(raw []byte) (do, found bool) {
	off, ok := HeaderSize, true
	for range binary.BigEndian.Uint16(raw[countQuestion:]) {
		if off, ok = skipName(raw, off); !ok {
			return false, false
		}
		off += 4
	}
	for section := Answer; section <= Additional; section += 2 {
		for range binary.BigEndian.Uint16(raw[section:]) {
			rtype, end, ok := scanRecord(raw, off)
			if !ok {
				return false, false
			}
			if section == Additional && rtype == dns.TypeOPT {
				fixed, _ := skipName(raw, off)
				return raw[fixed+6]&0x80 != 0, true
			}
			off = end
		}
	}
	return false, false
}

// readQuestion reads the question of raw, which must have a header. Its name
// has nothing before it that it could point to.
func (q *Query) readQuestion(raw []byte) bool {
	end := nameEnd(raw[HeaderSize:])
	if end == 0 || HeaderSize+end+4 > len(raw) {
		return false
	}
	q.question = raw[HeaderSize : HeaderSize+end+4]
	q.keyBuf = AppendKey(q.keyBuf[:0], q.question)
	q.Key = unsafe.String(&q.keyBuf[0], len(q.keyBuf)) // until the next message is parsed
	q.Type = binary.BigEndian.Uint16(q.question[end:])
	q.class = binary.BigEndian.Uint16(q.question[end+2:])
	return true
}

// name returns q's name on the wire.
func (q *Query) name() []byte { return q.question[:len(q.question)-4] }

// readEDNS takes over what raw's OPT record says; its options are ignored (RFC
// 6891 section 6.1.2: "Any OPTION-CODE values not understood by a responder or
// requestor MUST be ignored"). It returns false when raw is malformed.
func (q *Query) readEDNS(raw []byte) bool {
	q.edns, q.version, q.do = false, 0, false
	udp := q.size <= PayloadSize
	if udp {
		q.size = dns.MinMsgSize
	}
	off := HeaderSize + len(q.question)
	for range binary.BigEndian.Uint16(raw[Authority:]) + binary.BigEndian.Uint16(raw[Additional:]) {
		rtype, end, ok := scanRecord(raw, off)
		if !ok {
			return false
		}
		if rtype == dns.TypeOPT && !q.readOPT(raw[off:end], udp) {
			return false
		}
		off = end
	}
	return true
}

// readOPT reads an OPT record, which must be whole.
func (q *Query) readOPT(rr []byte, udp bool) bool {
	// RFC 6891 section 6.1.1: "If a query message with more than one OPT RR
	// is received, a FORMERR (RCODE=1) MUST be returned."
	// Section 6.1.2: the name "MUST be 0 (root domain)".
	if q.edns || rr[0] != 0 || !areOptions(rr[optSize:]) {
		return false
	}
	// Section 6.1.3: the TTL is the extended RCODE, the version and 16 flags, DO first.
	q.edns, q.version, q.do = true, rr[6], rr[7]&0x80 != 0
	if udp {
		// Section 6.2.3: "Values lower than 512 MUST be treated as equal to 512."
		q.size = min(max(int(binary.BigEndian.Uint16(rr[3:])), dns.MinMsgSize), PayloadSize)
	}
	return true
}

// areOptions reports whether rdata is made of whole options, of whatever code:
// RFC 6891 section 6.1.2.
func areOptions(rdata []byte) bool {
	for len(rdata) >= 4 {
		end := 4 + int(binary.BigEndian.Uint16(rdata[2:]))
		if end > len(rdata) {
			return false
		}
		rdata = rdata[end:]
	}
	return len(rdata) == 0
}

// Refusal reports whether q is answered without a look at its name, and with
// which rcode.
func (q *Query) Refusal() (rcode int, refused bool) {
	switch {
	case q.version > 0:
		// RFC 6891 section 6.1.3: "If a responder does not implement the VERSION
		// level of the request, then it MUST respond with RCODE=BADVERS."
		return dns.RcodeBadVers, true
	case q.class != dns.ClassINET:
		return dns.RcodeRefused, true // version.bind and its like too
	case isMeta(q.Type):
		return dns.RcodeRefused, true
	}
	return 0, false
}

// isMeta reports whether a type is not one of records that a name can have: OPT
// and the QTYPEs and meta types of RFC 6895 section 3.1, AXFR and IXFR among
// them, but for ANY.
func isMeta(qtype uint16) bool {
	return qtype == dns.TypeNone || qtype == dns.TypeOPT || qtype >= 128 && qtype < dns.TypeANY
}
