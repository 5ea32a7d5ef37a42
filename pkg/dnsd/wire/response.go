package wire

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
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

// Response is an upstream's answer to a question, in a form in which clients
// get it but for id, case of letters and TTLs. It does not change but by Read.
type Response struct {
	Msg []byte // not to be changed; a header alone: the rcode is all that is known

	stored  int64    // when it came: Unix time in nanoseconds
	ttl     int32    // how long it may be kept, in seconds; 0: not at all
	owners  uint16   // offsets that are of owners
	opt     uint16   // offset of the OPT record behind its name; 0: none
	offsets []uint16 // of the question's name where a record repeats it in full, behind them of the TTLs
	set     addresses
}

// addresses are the records of the first address of several that a name has, one
// behind the other in the answer section and all of one length.
type addresses struct{ start, size, count uint16 }

// note takes the record of msg from off to end into account.
func (s *addresses) note(msg []byte, rtype uint16, off, end int) {
	next := int(s.start) + int(s.count)*int(s.size)
	switch {
	case s.count > 1 && off != next || rtype != dns.TypeA && rtype != dns.TypeAAAA || msg[off]&0xc0 != 0xc0:
	case off == next && end-off == int(s.size) && bytes.Equal(msg[off:off+4], msg[s.start:s.start+4]):
		s.count++
	case s.count < 2:
		*s = addresses{start: uint16(off), size: uint16(end - off), count: 1}
	}
}

// turn has another address of b, a copy of msg, come first.
func (s *addresses) turn(b, msg []byte) {
	if s.count < 2 {
		return
	}
	start, size, count := int(s.start), int(s.size), int(s.count)
	set := msg[start : start+count*size]
	first := rand.IntN(count) * size
	copy(b[start:], set[first:])
	copy(b[start+len(set)-first:], set[:first])
}

// Clone returns a copy of r that shares nothing with it.
func (r *Response) Clone() Response {
	c := *r
	c.Msg, c.offsets = bytes.Clone(r.Msg), slices.Clone(r.offsets)
	return c
}

// Read has r be msg, which came from ReadAnswer, in memory of r's own that it had before; false
// if its records are not all there.
func (r *Response) Read(msg []byte, now time.Time) bool {
	*r = Response{Msg: r.Msg[:0], offsets: r.offsets[:0]}
	if !hasQuestion(msg) {
		r.Msg = append(r.Msg, msg...)
		return true
	}
	r.stored = sinceEpoch(now)
	off, ok := skipName(msg, HeaderSize)
	if !ok || off+4 > len(msg) {
		return false
	}
	name := msg[HeaderSize:off]
	off += 4
	m := minimum{ttl: math.MaxInt32}
	var room [16]uint16
	owners, ttls := r.offsets, room[:0]
	for section := Answer; section <= Additional; section += 2 {
		for range binary.BigEndian.Uint16(msg[section:]) {
			rtype, end, ok := scanRecord(msg, off)
			if !ok {
				return false
			}
			fixed, _ := skipName(msg, off)
			if section == Answer {
				r.set.note(msg, rtype, off, end)
			}
			if equalFold(msg[off:fixed], name) {
				owners = append(owners, uint16(off))
			}
			if rtype == dns.TypeOPT && section == Additional {
				r.opt = uint16(fixed)
				m.extended = m.extended || msg[fixed+4] != 0
			} else {
				ttls = append(ttls, uint16(fixed+4))
				m.note(section, rtype, msg[fixed+4:end])
			}
			off = end
		}
	}
	r.Msg = append(r.Msg, msg[:off]...)
	r.offsets = append(owners, ttls...)
	r.owners = uint16(len(owners))
	r.ttl = int32(m.lifetime(r.Msg) / time.Second)
	// The answer was not validated here, and the way to the upstream is not
	// known to be safe: RFC 4035 section 3.2.3 leaves the AD bit to those who know.
	r.Msg[3] &^= bitAD
	if r.opt > 0 {
		// RFC 6891 section 6.1.1: the OPT record is hop-by-hop, so the size in
		// it is ours.
		binary.BigEndian.PutUint16(r.Msg[r.opt+2:], PayloadSize)
	}
	return true
}

// EmptyResponse returns the response that says of msg's name that it exists, and
// no more.
func EmptyResponse(msg []byte) *Response {
	header := make([]byte, HeaderSize)
	copy(header[:countQuestion], msg)
	header[3] &^= 0xf
	return &Response{Msg: header}
}

// minimum determines how long a message may be kept.
type minimum struct {
	ttl      uint32
	soa      bool // in the authority section
	extended bool // it has an extended RCODE
}

// note takes a record into account, from its TTL on.
func (m *minimum) note(section int, rtype uint16, rr []byte) {
	m.ttl = min(m.ttl, sane(binary.BigEndian.Uint32(rr)))
	if rdata := rr[6:]; section == Authority && rtype == dns.TypeSOA && len(rdata) >= 20 {
		// RFC 2308 section 5: "the TTL of this record is set from the minimum of
		// the MINIMUM field of the SOA record and the TTL of the SOA itself".
		m.soa = true
		m.ttl = min(m.ttl, sane(binary.BigEndian.Uint32(rdata[len(rdata)-4:])))
	}
}

// sane returns a TTL; RFC 2181 section 8: with the most significant bit set it is
// zero.
func sane(ttl uint32) uint32 {
	if ttl > math.MaxInt32 {
		return 0
	}
	return ttl
}

// lifetime returns how long msg may be kept. m must have noted all its records.
func (m *minimum) lifetime(msg []byte) time.Duration {
	kept := time.Duration(m.ttl) * time.Second
	rcode := Rcode(msg)
	if IsTruncated(msg) || m.extended || rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
		return 0
	}
	if rcode == dns.RcodeSuccess && binary.BigEndian.Uint16(msg[Answer:]) > 0 {
		return min(kept, maxPositive)
	}
	if !m.soa {
		return 0 // RFC 2308 section 5: without an SOA record it is not to be kept
	}
	return min(kept, maxNegative)
}

// epoch is a time, with the reading of the clock that nobody sets.
var epoch = time.Now()

// sinceEpoch returns a time in nanoseconds from epoch.
func sinceEpoch(t time.Time) int64 { return int64(t.Sub(epoch)) }

// age returns how long r has been kept.
func (r *Response) age(now time.Time) time.Duration { return time.Duration(sinceEpoch(now) - r.stored) }

// TTL returns how long r may be kept; 0: not at all.
func (r *Response) TTL() time.Duration { return time.Duration(r.ttl) * time.Second }

// Fresh reports whether r may be given as it is.
func (r *Response) Fresh(now time.Time) bool { return r.age(now) < r.TTL() }

// Usable reports whether r may be given when there is nothing better.
func (r *Response) Usable(now time.Time) bool { return r.ttl > 0 && r.age(now) < r.TTL()+maxStale }

// Answer packs r as the answer to q, whose question it must answer, into buf if
// that is long enough. kept says that it was not fetched for q: TTLs are less by
// its age, it is not authoritative, and of several addresses another comes first.
func (r *Response) Answer(q *Query, buf []byte, kept bool) []byte {
	if !hasQuestion(r.Msg) {
		return q.Reply(Rcode(r.Msg), true, buf)
	}
	whole := len(r.Msg) <= q.size && (r.opt != 0) == q.edns
	var b []byte
	if whole {
		b = append(buf[:0], r.Msg...)
	} else {
		b = r.shorten(q, buf)
	}
	binary.BigEndian.PutUint16(b, q.id)
	// The question in the case of this client: compressed names in the records
	// point to it and follow.
	copy(b[HeaderSize:], q.question)
	for _, off := range r.offsets[:r.owners] {
		if int(off) >= len(b) {
			break
		}
		copy(b[off:], q.name())
	}
	if kept {
		b[2] &^= bitAA >> 8
		if whole {
			r.set.turn(b, r.Msg)
		}
		r.countDown(b, q.Received)
	}
	if whole || !q.edns {
		return b
	}
	binary.BigEndian.PutUint16(b[Additional:], binary.BigEndian.Uint16(b[Additional:])+1)
	return q.appendOPT(b, r.extendedRcode())
}

// shorten copies as many of r's records as q's client takes, with the TC bit if
// records of the answer are missing. The OPT record is not copied, but there is
// room for one of our own if the client knows EDNS. Names in a record can only
// point to what stands before it.
func (r *Response) shorten(q *Query, buf []byte) []byte {
	room := q.size
	if q.edns {
		room -= optSize
	}
	var counts [(Additional-Answer)/2 + 1]uint16
	off, bits := HeaderSize+len(q.question), binary.BigEndian.Uint16(r.Msg[2:])
sections:
	for i := range counts {
		section := Answer + 2*i
		for range binary.BigEndian.Uint16(r.Msg[section:]) {
			rtype, end, ok := scanRecord(r.Msg, off)
			if !ok || rtype == dns.TypeOPT && section == Additional {
				break sections
			}
			if end > room {
				if section != Additional { // RFC 2181 section 9: what is merely additional may be left out
					bits |= bitTC
				}
				break sections
			}
			off = end
			counts[i]++
		}
	}
	b := append(buf[:0], r.Msg[:off]...)
	binary.BigEndian.PutUint16(b[2:], bits)
	for i, n := range counts {
		binary.BigEndian.PutUint16(b[Answer+2*i:], n)
	}
	return b
}

// extendedRcode returns the upper bits of r's rcode (RFC 6891 section 6.1.3).
func (r *Response) extendedRcode() int {
	if r.opt == 0 {
		return 0
	}
	return int(r.Msg[r.opt+4]) << 4
}

// countDown sets the TTLs in b, a copy of r or of its beginning, to the rest of
// them; RFC 8767 section 4: to 30 seconds when r is stale.
func (r *Response) countDown(b []byte, now time.Time) {
	age := uint32(max(r.age(now)/time.Second, 0))
	fresh := r.Fresh(now)
	for _, off := range r.offsets[r.owners:] {
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
