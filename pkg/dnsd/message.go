package dnsd

import (
	"encoding/binary"
	"strings"

	"github.com/miekg/dns"
)

// Sizes of messages.
const (
	// payloadSize is the largest UDP message that we send and say we take (RFC
	// 6891 section 6.2.3): what fits into one packet of any IPv6 path.
	payloadSize = 1232

	// maxQuery is the largest query that is read whole. A query of one name
	// with its OPT record needs a tenth of it; what is longer is cut and so
	// becomes a format error.
	maxQuery = 4096

	headerSize = 12
)

// The bits of a header's second word, RFC 1035 section 4.1.1 and RFC 4035
// section 3.
const (
	bitQR = 1 << 15
	bitTC = 1 << 9
	bitRD = 1 << 8
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

// query is a question and what its client can take as the answer.
type query struct {
	name  string // as the client spelled it: the answer repeats that
	key   string // lower-case
	qtype uint16
	class uint16

	id      uint16
	rd, cd  bool
	edns    bool // the client sent an OPT record
	version uint8
	do      bool
	size    int // of the largest answer
}

// parseQuery reads a message. A nil query is not to be answered but with reply,
// a whole message, which is nil too when the message calls for silence. size is
// that of the largest answer over the message's transport.
func parseQuery(raw []byte, size int) (q *query, reply []byte) {
	if len(raw) < headerSize {
		return nil, nil
	}
	bits := binary.BigEndian.Uint16(raw[2:])
	if bits&bitQR != 0 {
		return nil, nil // two servers must not keep each other busy
	}
	if opcode := int(bits >> 11 & 0xf); opcode != dns.OpcodeQuery {
		return nil, headerReply(raw, dns.RcodeNotImplemented)
	}
	if !plausibleCounts(raw) {
		return nil, headerReply(raw, dns.RcodeFormatError)
	}
	m := new(dns.Msg)
	if err := m.Unpack(raw); err != nil || len(m.Question) != 1 {
		return nil, headerReply(raw, dns.RcodeFormatError)
	}
	q = newQuery(m, size)
	if !q.readEDNS(m) {
		return nil, headerReply(raw, dns.RcodeFormatError)
	}
	return q, nil
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
func headerReply(raw []byte, rcode int) []byte {
	b := make([]byte, headerSize)
	copy(b, raw[:2])
	bits := binary.BigEndian.Uint16(raw[2:])
	bits = bitQR | bits&(0xf<<11|bitRD|bitCD) | uint16(rcode)
	binary.BigEndian.PutUint16(b[2:], bits)
	return b
}

// newQuery is the query that m, which must have a question, asks.
func newQuery(m *dns.Msg, size int) *query {
	question := m.Question[0]
	return &query{
		name:  question.Name,
		key:   strings.ToLower(question.Name),
		qtype: question.Qtype,
		class: question.Qclass,
		id:    m.Id,
		rd:    m.RecursionDesired,
		cd:    m.CheckingDisabled,
		size:  size,
	}
}

// readEDNS takes over what m's OPT record says; its options are ignored. It
// returns false when m is malformed.
func (q *query) readEDNS(m *dns.Msg) bool {
	udp := q.size <= payloadSize
	if udp {
		q.size = dns.MinMsgSize
	}
	for _, rr := range m.Extra {
		opt, ok := rr.(*dns.OPT)
		if !ok {
			continue
		}
		// RFC 6891 section 6.1.1: "If a query message with more than one OPT RR
		// is received, a FORMERR (RCODE=1) MUST be returned."
		// Section 6.1.2: the name "MUST be 0 (root domain)".
		if q.edns || opt.Hdr.Name != "." {
			return false
		}
		q.edns, q.version, q.do = true, opt.Version(), opt.Do()
		if udp {
			// Section 6.2.3: "Values lower than 512 MUST be treated as equal to 512."
			q.size = min(max(int(opt.UDPSize()), dns.MinMsgSize), payloadSize)
		}
	}
	return true
}

// header is the header of a record of q's name.
func (q *query) header(rtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: q.name, Rrtype: rtype, Class: dns.ClassINET, Ttl: ttl}
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

// reply packs the answer to q without any record, into buf if that is long
// enough. recursion tells whether we forward.
func (q *query) reply(rcode int, recursion bool, buf []byte) []byte {
	return q.pack(q.message(rcode, recursion), buf)
}

// local packs the zone's answer to q.
func (q *query) local(a answer, recursion bool, buf []byte) []byte {
	m := q.message(a.rcode, recursion)
	m.Authoritative = true
	m.Answer = a.records
	if a.soa != "" {
		m.Ns = []dns.RR{soa(a.soa)}
	}
	return q.pack(m, buf)
}

// soa is the SOA record of a negative answer. Nothing of it is to be kept (RFC
// 2308 section 5: for the lesser of its TTL and its last field): the name may
// be there a moment later.
func soa(zone string) *dns.SOA {
	return &dns.SOA{
		Hdr:     dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET},
		Ns:      zone,
		Mbox:    "hostmaster." + zone,
		Serial:  1,
		Refresh: 3600,
		Retry:   600,
		Expire:  86400,
	}
}

// message is the answer to q but for its records.
func (q *query) message(rcode int, recursion bool) *dns.Msg {
	m := &dns.Msg{
		MsgHdr: dns.MsgHdr{
			Id:                 q.id,
			Response:           true,
			Opcode:             dns.OpcodeQuery,
			RecursionDesired:   q.rd,
			RecursionAvailable: recursion,
			// RFC 4035 section 3.1.6: the CD bit is copied into the response.
			CheckingDisabled: q.cd,
			Rcode:            rcode,
		},
		Question: []dns.Question{{Name: q.name, Qtype: q.qtype, Qclass: q.class}},
	}
	if q.edns {
		// RFC 6891 section 7: an OPT record only in answers to requests that have one.
		m.Extra = []dns.RR{q.opt()}
	}
	return m
}

// opt is our OPT record. RFC 3225 section 3: the DO bit is copied into the
// response.
func (q *query) opt() *dns.OPT {
	opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	opt.SetUDPSize(payloadSize)
	opt.SetDo(q.do)
	return opt
}

// pack packs m, cut to what q's client takes. It returns nil for what can't be
// packed: a name longer than a name may be.
func (q *query) pack(m *dns.Msg, buf []byte) []byte {
	m.Compress = len(m.Answer) > 1
	if m.Len() > q.size {
		m.Truncate(q.size)
	}
	b, err := m.PackBuffer(buf)
	if err != nil {
		return nil
	}
	return b
}
