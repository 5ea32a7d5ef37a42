package wire

import (
	"encoding/binary"
	"strings"

	"github.com/miekg/dns"
)

const pointerBits = 0xc000

// QuestionName is the offset of the question's name, for PointerTo.
const QuestionName = HeaderSize

// Builder packs the answer to a query, record by record.
type Builder struct {
	q    *Query
	b    []byte
	room int // octets that the message may have before its OPT record
	bits uint16
}

// Build starts the answer to q, in buf if that is long enough. recursion says
// whether the RA bit is set: whether we forward.
func (q *Query) Build(buf []byte, recursion bool) Builder {
	w := Builder{q: q, room: q.size, bits: bitQR}
	if q.edns {
		w.room -= optSize
	}
	if q.rd {
		w.bits |= bitRD
	}
	if q.cd {
		w.bits |= bitCD // RFC 4035 section 3.1.6: the CD bit is copied into the response
	}
	if recursion {
		w.bits |= bitRA
	}
	w.b = binary.BigEndian.AppendUint16(buf[:0], q.id)
	w.b = append(w.b, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	w.b = append(w.b, q.question...)
	return w
}

// Authoritative sets the AA bit.
func (w *Builder) Authoritative() { w.bits |= bitAA }

// Len returns the number of octets packed so far: the offset behind the last
// record.
func (w *Builder) Len() int { return len(w.b) }

// Add appends a record to a section; sections are filled in their order. owner is
// packed: a name, or a pointer to one (PointerTo). A record that is too long for
// the client is left out and the message marked as truncated; Add returns false
// then.
func (w *Builder) Add(section int, owner []byte, rtype uint16, ttl uint32, rdata []byte) bool {
	if len(w.b)+len(owner)+recordFixed+len(rdata) > w.room {
		w.bits |= bitTC
		return false
	}
	w.b = append(w.b, owner...)
	w.b = binary.BigEndian.AppendUint16(w.b, rtype)
	w.b = binary.BigEndian.AppendUint16(w.b, dns.ClassINET)
	w.b = binary.BigEndian.AppendUint32(w.b, ttl)
	w.b = binary.BigEndian.AppendUint16(w.b, uint16(len(rdata)))
	w.b = append(w.b, rdata...)
	n := binary.BigEndian.Uint16(w.b[section:])
	binary.BigEndian.PutUint16(w.b[section:], n+1)
	return true
}

// AddSOA adds the SOA record of zone, a key, which a negative answer has
// in its authority section (RFC 2308 section 2). Nothing of it is to be kept (section
// 5: for the lesser of its TTL and its last field): the name may be there a moment later.
func (w *Builder) AddSOA(section int, zone string) {
	name := w.zoneName(zone)
	rdata := make([]byte, 0, 64)
	rdata = append(rdata, name...)
	rdata = append(rdata, "\x0ahostmaster"...)
	rdata = append(rdata, name...)
	for _, field := range []uint32{1, 3600, 600, 86400, 0} { // serial, refresh, retry, expire, minimum
		rdata = binary.BigEndian.AppendUint32(rdata, field)
	}
	w.Add(section, name, dns.TypeSOA, 0, rdata)
}

// zoneName returns zone on the wire: a pointer into the question where that ends
// with it.
func (w *Builder) zoneName(zone string) []byte {
	if zone == "." {
		return []byte{0}
	}
	if _, ok := InDomain(w.q.Key, zone); ok {
		// A key has a dot for each octet of length, and \DDD for some others.
		size := len(zone) + 1 - 3*strings.Count(zone, `\`)
		p := PointerTo(QuestionName + len(w.q.name()) - size)
		return p[:]
	}
	return AppendKeyed(nil, zone)
}

// Finish returns the whole message.
func (w *Builder) Finish(rcode int) []byte {
	binary.BigEndian.PutUint16(w.b[2:], w.bits|uint16(rcode&0xf))
	if w.q.edns {
		// RFC 6891 section 7: an OPT record only in answers to requests that have one.
		w.b = w.q.appendOPT(w.b, rcode)
		w.b[Additional+1]++
	}
	return w.b
}

// appendOPT appends our OPT record. RFC 3225 section 3: the DO bit is copied
// into the response.
func (q *Query) appendOPT(b []byte, rcode int) []byte {
	b = append(b, 0)
	b = binary.BigEndian.AppendUint16(b, dns.TypeOPT)
	b = binary.BigEndian.AppendUint16(b, PayloadSize)
	flags := byte(0)
	if q.do {
		flags = 0x80
	}
	return append(b, byte(rcode>>4), 0, flags, 0, 0, 0)
}

// Reply packs the answer to q without any record, into buf if that is long
// enough. recursion is as in Build.
func (q *Query) Reply(rcode int, recursion bool, buf []byte) []byte {
	w := q.Build(buf, recursion)
	return w.Finish(rcode)
}

// PointerTo returns the name that is a pointer to the one at offset.
func PointerTo(offset int) [2]byte {
	return [2]byte{byte(pointerBits>>8 | offset>>8), byte(offset)}
}
