package dnsd

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/miekg/dns"
)

// Sizes of messages.
const (
	// payloadSize is the largest UDP message that we send and say we take (RFC
	// 6891 section 6.2.3): what fits into one packet of any IPv6 path.
	payloadSize = 1232

	// maxQuery is the largest query that is read whole over TCP. A query of one name
	// with its OPT record needs a tenth of it; what is longer is cut and so
	// becomes a format error.
	maxQuery = 4096

	headerSize = 12
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

// Record counts that a query can have: an OPT and a TSIG record at most in the
// additional section, the client's SOA record in the authority section (RFC
// 1995 section 3).
const (
	maxAuthority  = 1
	maxAdditional = 2
)

// query is a question and what its client can take as the answer. It may be
// used again for the next message; clone keeps one.
type query struct {
	question []byte // name, type and class as the client sent them: the answer repeats that
	key      string // see appendKey
	keyBuf   []byte
	qtype    uint16
	class    uint16

	id      uint16
	rd, cd  bool
	edns    bool // the client sent an OPT record
	version uint8
	do      bool
	size    int       // of the largest answer
	now     time.Time // when it came
}

// clone is a copy of q that shares nothing with it.
func (q *query) clone() *query {
	c := *q
	c.question = slices.Clone(q.question)
	c.key = strings.Clone(q.key)
	c.keyBuf = nil
	return &c
}

// parse reads a message, which q refers to from then on. ok is false for one
// that is not answered; one with an rcode other than NOERROR is answered with
// that and no more (headerReply), and q means nothing. size is that of the
// largest answer over the message's transport.
func (q *query) parse(raw []byte, size int, now time.Time) (rcode int, ok bool) {
	if len(raw) < headerSize {
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
	q.size, q.now = size, now
	if !q.readEDNS(raw) {
		return dns.RcodeFormatError, true
	}
	return dns.RcodeSuccess, true
}

// plausibleCounts looks at the record counts before any record is read. RFC
// 9619 section 4: a QUERY with more than one question is a format error.
func plausibleCounts(raw []byte) bool {
	return binary.BigEndian.Uint16(raw[4:]) == 1 &&
		binary.BigEndian.Uint16(raw[6:]) == 0 &&
		binary.BigEndian.Uint16(raw[8:]) <= maxAuthority &&
		binary.BigEndian.Uint16(raw[10:]) <= maxAdditional
}

// headerReply is the answer that needs nothing but raw's header: the rcode and
// no section.
func headerReply(raw, buf []byte, rcode int) []byte {
	bits := binary.BigEndian.Uint16(raw[2:])
	bits = bitQR | bits&(0xf<<11|bitRD|bitCD) | uint16(rcode)
	b := append(buf[:0], raw[:2]...)
	b = binary.BigEndian.AppendUint16(b, bits)
	return append(b, 0, 0, 0, 0, 0, 0, 0, 0)
}

// readQuestion reads the question of raw, which must have a header. Its name
// has nothing before it that it could point to.
func (q *query) readQuestion(raw []byte) bool {
	end := nameEnd(raw[headerSize:])
	if end == 0 || headerSize+end+4 > len(raw) {
		return false
	}
	q.question = raw[headerSize : headerSize+end+4]
	q.keyBuf = appendKey(q.keyBuf[:0], q.question)
	q.key = unsafe.String(&q.keyBuf[0], len(q.keyBuf)) // until the next message is parsed
	q.qtype = binary.BigEndian.Uint16(q.question[end:])
	q.class = binary.BigEndian.Uint16(q.question[end+2:])
	return true
}

// name is q's name on the wire.
func (q *query) name() []byte { return q.question[:len(q.question)-4] }

// readEDNS takes over what raw's OPT record says; its options are ignored (RFC
// 6891 section 6.1.2: "Any OPTION-CODE values not understood by a responder or
// requestor MUST be ignored"). It returns false when raw is malformed.
func (q *query) readEDNS(raw []byte) bool {
	q.edns, q.version, q.do = false, 0, false
	udp := q.size <= payloadSize
	if udp {
		q.size = dns.MinMsgSize
	}
	off := headerSize + len(q.question)
	for range binary.BigEndian.Uint16(raw[8:]) + binary.BigEndian.Uint16(raw[10:]) {
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

// readOPT reads an OPT record, which is all there.
func (q *query) readOPT(rr []byte, udp bool) bool {
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
		q.size = min(max(int(binary.BigEndian.Uint16(rr[3:])), dns.MinMsgSize), payloadSize)
	}
	return true
}

// areOptions tells whether rdata is made of whole options, of whatever code:
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

// refusal tells whether q is one that is answered without a look at its name,
// and how.
func (q *query) refusal() (rcode int, refused bool) {
	switch {
	case q.version > 0:
		// RFC 6891 section 6.1.3: "If a responder does not implement the VERSION
		// level of the request, then it MUST respond with RCODE=BADVERS."
		return dns.RcodeBadVers, true
	case q.class != dns.ClassINET:
		return dns.RcodeRefused, true // version.bind and its like too
	case isMeta(q.qtype):
		return dns.RcodeRefused, true
	}
	return 0, false
}

// isMeta tells whether a type is not one of records that somebody can have: OPT
// and the QTYPEs and meta types of RFC 6895 section 3.1, AXFR and IXFR among
// them, but for ANY.
func isMeta(qtype uint16) bool {
	return qtype == dns.TypeNone || qtype == dns.TypeOPT || qtype >= 128 && qtype < dns.TypeANY
}
