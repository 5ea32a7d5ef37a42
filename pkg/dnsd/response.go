package dnsd

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/miekg/dns"
)

// Limits of how long an answer may be kept.
const (
	maxPositive = 24 * time.Hour // RFC 8767 section 4 has a week as the most
	maxNegative = 3 * time.Hour  // RFC 2308 section 5: one to three hours
	maxStale    = 24 * time.Hour // beyond its TTL; RFC 8767 section 5: one to three days
	staleTTL    = 30             // seconds; RFC 8767 section 4
)

// response is an upstream's answer to a question, in a form in which clients
// get it but for id, spelling and TTLs. It does not change.
type response struct {
	msg    []byte
	opt    int      // offset of the OPT record behind its name; 0: none
	ttls   []uint16 // offsets of the TTLs
	owners []uint16 // offsets of the question's name where a record repeats it in full
	stored time.Time
	ttl    time.Duration // how long it may be kept; 0: not at all
}

// newResponse reads msg, which must have a question; nil if its records are not
// all there.
func newResponse(msg []byte, now time.Time) *response {
	r := &response{stored: now}
	off, ok := skipName(msg, headerSize)
	if !ok || off+4 > len(msg) {
		return nil
	}
	name := msg[headerSize:off]
	off += 4
	m := minimum{ttl: math.MaxInt32}
	for count := countAnswer; count <= countExtra; count += 2 {
		for range binary.BigEndian.Uint16(msg[count:]) {
			rtype, end, ok := scanRecord(msg, off)
			if !ok {
				return nil
			}
			fixed, _ := skipName(msg, off)
			if equalFold(msg[off:fixed], name) {
				r.owners = append(r.owners, uint16(off))
			}
			if rtype == dns.TypeOPT && count == countExtra {
				r.opt = fixed
				m.extended = m.extended || msg[fixed+4] != 0
			} else {
				r.ttls = append(r.ttls, uint16(fixed+4))
				m.note(count, rtype, msg[fixed+4:end])
			}
			off = end
		}
	}
	r.msg = append([]byte(nil), msg[:off]...)
	r.ttl = m.lifetime(r.msg)
	// The answer was not validated here, and the way to the upstream is not
	// known to be safe: RFC 4035 section 3.2.3 leaves the AD bit to those who know.
	r.msg[3] &^= bitAD
	if r.opt > 0 {
		// RFC 6891 section 6.1.1: the OPT record is hop-by-hop, so the size in
		// it is ours.
		binary.BigEndian.PutUint16(r.msg[r.opt+2:], payloadSize)
	}
	return r
}

// minimum collects how long a message may be kept.
type minimum struct {
	ttl      uint32
	soa      bool // in the authority section
	extended bool // it has an extended RCODE
}

// note looks at a record from its TTL on.
func (m *minimum) note(count int, rtype uint16, rr []byte) {
	m.ttl = min(m.ttl, sane(binary.BigEndian.Uint32(rr)))
	if rdata := rr[6:]; count == countAuthority && rtype == dns.TypeSOA && len(rdata) >= 20 {
		// RFC 2308 section 5: "the TTL of this record is set from the minimum of
		// the MINIMUM field of the SOA record and the TTL of the SOA itself".
		m.soa = true
		m.ttl = min(m.ttl, sane(binary.BigEndian.Uint32(rdata[len(rdata)-4:])))
	}
}

// sane is a TTL; RFC 2181 section 8: with the most significant bit set it is zero.
func sane(ttl uint32) uint32 {
	if ttl > math.MaxInt32 {
		return 0
	}
	return ttl
}

// lifetime is how long msg, of which m knows all records, may be kept.
func (m *minimum) lifetime(msg []byte) time.Duration {
	kept := time.Duration(m.ttl) * time.Second
	rcode := rcodeOf(msg)
	if isTruncated(msg) || m.extended || rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
		return 0
	}
	if rcode == dns.RcodeSuccess && binary.BigEndian.Uint16(msg[countAnswer:]) > 0 {
		return min(kept, maxPositive)
	}
	if !m.soa {
		return 0 // RFC 2308 section 5: without an SOA record it is not to be kept
	}
	return min(kept, maxNegative)
}

// fresh tells whether r may be given as it is.
func (r *response) fresh(now time.Time) bool { return now.Sub(r.stored) < r.ttl }

// usable tells whether r may be given when there is nothing better.
func (r *response) usable(now time.Time) bool { return r.ttl > 0 && now.Sub(r.stored) < r.ttl+maxStale }

// answer is r as the answer to q, whose question it must answer, in buf if that
// is long enough. kept tells that it was not fetched for q.
func (r *response) answer(q *query, buf []byte, kept bool) []byte {
	whole := len(r.msg) <= q.size && (r.opt == 0 || q.edns)
	var b []byte
	if whole {
		b = append(buf[:0], r.msg...)
	} else {
		b = r.shorten(q, buf)
	}
	binary.BigEndian.PutUint16(b, q.id)
	// The question as this client spelled it: compressed names in the records
	// point to it and follow.
	copy(b[headerSize:], q.question)
	for _, off := range r.owners {
		if int(off) >= len(b) {
			break
		}
		copy(b[off:], q.name())
	}
	if kept {
		b[2] &^= bitAA >> 8
		r.countDown(b, q.now)
	}
	if whole || !q.edns {
		return b
	}
	binary.BigEndian.PutUint16(b[countExtra:], binary.BigEndian.Uint16(b[countExtra:])+1)
	return q.appendOPT(b, r.extendedRcode())
}

// shorten copies as many of r's records as q's client takes, with the TC bit if some
// of the answer are not among them. The OPT record is not, but there is room for one of
// our own if the client knows EDNS. Names in a record can only point to what stands
// before it.
func (r *response) shorten(q *query, buf []byte) []byte {
	room := q.size
	if q.edns {
		room -= optSize
	}
	var counts [(countExtra-countAnswer)/2 + 1]uint16
	off, bits := headerSize+len(q.question), binary.BigEndian.Uint16(r.msg[2:])
sections:
	for i := range counts {
		count := countAnswer + 2*i
		for range binary.BigEndian.Uint16(r.msg[count:]) {
			rtype, end, ok := scanRecord(r.msg, off)
			if !ok || rtype == dns.TypeOPT && count == countExtra {
				break sections
			}
			if end > room {
				if count != countExtra { // RFC 2181 section 9: what is merely additional may be left out
					bits |= bitTC
				}
				break sections
			}
			off = end
			counts[i]++
		}
	}
	b := append(buf[:0], r.msg[:off]...)
	binary.BigEndian.PutUint16(b[2:], bits)
	for i, n := range counts {
		binary.BigEndian.PutUint16(b[countAnswer+2*i:], n)
	}
	return b
}

// extendedRcode are the upper bits of r's rcode (RFC 6891 section 6.1.3).
func (r *response) extendedRcode() int {
	if r.opt == 0 {
		return 0
	}
	return int(r.msg[r.opt+4]) << 4
}

// countDown sets the TTLs in b, a copy of r or of its beginning, to what is left of
// them; RFC 8767 section 4: to 30 seconds when r is stale.
func (r *response) countDown(b []byte, now time.Time) {
	age := uint32(max(now.Sub(r.stored)/time.Second, 0))
	fresh := r.fresh(now)
	for _, off := range r.ttls {
		if int(off) >= len(b) {
			break
		}
		ttl := uint32(staleTTL)
		if fresh {
			ttl = sane(binary.BigEndian.Uint32(b[off:]))
			ttl -= min(ttl, age)
		}
		binary.BigEndian.PutUint32(b[off:], ttl)
	}
}
