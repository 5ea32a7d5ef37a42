package dnsd

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// optSize is the size of an OPT record without options.
const optSize = 11

// Offsets of the counts of a header, and the name that points to the question's.
const (
	countAnswer    = 6
	countAuthority = 8
	countExtra     = 10

	pointerBits     = 0xc000
	questionPointer = pointerBits | headerSize
)

// builder packs the answer to a query, record by record.
type builder struct {
	q    *query
	b    []byte
	room int // octets that the message may have before its OPT record
	bits uint16
}

// build starts the answer to q, in buf if that is long enough. recursion tells
// whether we forward.
func (q *query) build(buf []byte, recursion bool) builder {
	w := builder{q: q, room: q.size, bits: bitQR}
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

// add appends a record whose owner is written before it: a name, or a pointer
// to one. A record that is too long for the client is left out and the message
// marked as cut; add returns false then.
func (w *builder) add(count int, owner []byte, rtype uint16, ttl uint32, rdata []byte) bool {
	const fixed = 10 // type, class, TTL, RDLENGTH
	if len(w.b)+len(owner)+fixed+len(rdata) > w.room {
		w.bits |= bitTC
		return false
	}
	w.b = append(w.b, owner...)
	w.b = binary.BigEndian.AppendUint16(w.b, rtype)
	w.b = binary.BigEndian.AppendUint16(w.b, dns.ClassINET)
	w.b = binary.BigEndian.AppendUint32(w.b, ttl)
	w.b = binary.BigEndian.AppendUint16(w.b, uint16(len(rdata)))
	w.b = append(w.b, rdata...)
	n := binary.BigEndian.Uint16(w.b[count:])
	binary.BigEndian.PutUint16(w.b[count:], n+1)
	return true
}

// finish is the whole message.
func (w *builder) finish(rcode int) []byte {
	binary.BigEndian.PutUint16(w.b[2:], w.bits|uint16(rcode&0xf))
	if w.q.edns {
		// RFC 6891 section 7: an OPT record only in answers to requests that have one.
		w.b = w.q.appendOPT(w.b, rcode)
		w.b[countExtra+1]++
	}
	return w.b
}

// appendOPT appends our OPT record. RFC 3225 section 3: the DO bit is copied
// into the response.
func (q *query) appendOPT(b []byte, rcode int) []byte {
	b = append(b, 0)
	b = binary.BigEndian.AppendUint16(b, dns.TypeOPT)
	b = binary.BigEndian.AppendUint16(b, payloadSize)
	flags := byte(0)
	if q.do {
		flags = 0x80
	}
	return append(b, byte(rcode>>4), 0, flags, 0, 0, 0)
}

// reply packs the answer to q without any record, into buf if that is long
// enough. recursion tells whether we forward.
func (q *query) reply(rcode int, recursion bool, buf []byte) []byte {
	w := q.build(buf, recursion)
	return w.finish(rcode)
}

// local packs the zone's answer to q.
func (q *query) local(a answer, recursion bool, buf []byte) []byte {
	w := q.build(buf, recursion)
	w.bits |= bitAA
	owner := pointerTo(headerSize)
	for _, alias := range a.aliases {
		if !w.add(countAnswer, owner[:], dns.TypeCNAME, alias.seconds(q.now), alias.data) {
			return w.finish(a.rcode)
		}
		owner = pointerTo(len(w.b) - len(alias.data))
	}
	for i := range a.records {
		r := &a.records[i]
		if !w.add(countAnswer, owner[:], a.rtype, r.seconds(q.now), r.data) {
			break
		}
	}
	if a.soa != "" {
		w.addSOA(a.soa)
	}
	return w.finish(a.rcode)
}

// pointerTo is a name that consists of a pointer.
func pointerTo(offset int) [2]byte {
	return [2]byte{byte(pointerBits>>8 | offset>>8), byte(offset)}
}

// addSOA adds the SOA record of a negative answer (RFC 2308 section 2). Nothing
// of it is to be kept (section 5: for the lesser of its TTL and its last field):
// the name may be there a moment later. zone is a lower-case fully qualified
// name without escapes.
func (w *builder) addSOA(zone string) {
	name := w.zoneName(zone)
	rdata := make([]byte, 0, 64)
	rdata = append(rdata, name...)
	rdata = append(rdata, "\x0ahostmaster"...)
	rdata = append(rdata, name...)
	for _, field := range []uint32{1, 3600, 600, 86400, 0} { // serial, refresh, retry, expire, minimum
		rdata = binary.BigEndian.AppendUint32(rdata, field)
	}
	w.add(countAuthority, name, dns.TypeSOA, 0, rdata)
}

// zoneName is zone on the wire: a pointer into the question where that ends with it.
func (w *builder) zoneName(zone string) []byte {
	if zone == "." {
		return []byte{0}
	}
	if _, ok := inDomain(w.q.key, zone); ok {
		p := pointerTo(headerSize + len(w.q.name()) - len(zone) - 1)
		return p[:]
	}
	return appendName(nil, zone)
}
