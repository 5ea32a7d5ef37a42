package dhcpd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"net/netip"
	"slices"
	"sort"
	"time"
)

// Range is a part of the pool, both ends included. The network's, broadcast's
// and our own address in it are never given away.
type Range struct {
	Start, End netip.Addr
	// LeaseTime is the lease time of addresses in the range. 0: that of Config.
	LeaseTime time.Duration
}

// validate returns the first fault of r as a part of p.
func (r *Range) validate(p netip.Prefix) error {
	switch {
	case !p.Contains(r.Start) || !p.Contains(r.End):
		return fmt.Errorf("%v-%v is not in %v", r.Start, r.End, p)
	case r.End.Less(r.Start):
		return fmt.Errorf("%v-%v ends before it starts", r.Start, r.End)
	case r.LeaseTime < 0:
		return errors.New("lease time: negative")
	default:
		return nil
	}
}

// searched is how many addresses of one range are searched for a free one: more
// than can ever be leased. A client that asks gets those beyond, too.
const searched = 1 << 40

// Size returns the number of addresses in r, at most 2^64-1.
func (r *Range) Size() uint64 { return min(distance(r.Start, r.End), math.MaxUint64-1) + 1 }

// len returns the number of addresses in r, at most searched.
func (r *Range) len() uint64 { return min(r.Size(), searched) }

// Contains reports whether a is in r.
func (r *Range) Contains(a netip.Addr) bool { return !a.Less(r.Start) && !r.End.Less(a) }

// Disjoint yields the addresses of all ranges in ascending order as ranges that do not
// overlap.
func Disjoint(all []Range) iter.Seq[Range] {
	return func(yield func(Range) bool) {
		var last netip.Addr // of those that were yielded
		for _, r := range slices.SortedFunc(slices.Values(all), func(a, b Range) int { return a.Start.Compare(b.Start) }) {
			switch {
			case !last.IsValid() || last.Less(r.Start):
			case last.Less(r.End):
				r.Start = last.Next()
			default:
				continue
			}
			last = r.End
			if !yield(r) {
				return
			}
		}
	}
}

// ranges are all of a scope. Their addresses have positions: those of the first range
// come first. Where ranges overlap, an address has several. There may be thousands: one that
// holds an address is found by halving, unless some overlap.
type ranges struct {
	all     []Range
	base    []uint64 // position of the first address of each
	size    uint64   // how many addresses are searched
	order   []int    // which of them, by their addresses
	overlap bool     // some do: then order has no meaning
}

func newRanges(all []Range) (rs ranges) {
	for _, r := range all {
		rs.add(r)
	}
	return rs
}

// add adds a range. Positions stay as they are.
func (rs *ranges) add(r Range) {
	at := rs.behind(r.Start)
	rs.overlap = rs.overlap || at > 0 && !rs.all[rs.order[at-1]].End.Less(r.Start) ||
		at < len(rs.order) && !r.End.Less(rs.all[rs.order[at]].Start)
	rs.order = slices.Insert(rs.order, at, len(rs.all))
	rs.all, rs.base = append(rs.all, r), append(rs.base, rs.size)
	rs.size += r.len()
}

// behind is where the first range is in order that begins behind a.
func (rs *ranges) behind(a netip.Addr) int {
	return sort.Search(len(rs.order), func(i int) bool { return a.Less(rs.all[rs.order[i]].Start) })
}

// once returns how many addresses there are, each once where ranges overlap.
func (rs *ranges) once() (n uint64) {
	for r := range Disjoint(rs.all) {
		n += r.len()
	}
	return n
}

// holding returns the first range that holds a, nil when none does.
func (rs *ranges) holding(a netip.Addr) *Range {
	for i := range rs.with(a) {
		return &rs.all[i]
	}
	return nil
}

// with yields those of the ranges that hold a.
func (rs *ranges) with(a netip.Addr) iter.Seq[int] {
	return func(yield func(int) bool) {
		if !rs.overlap {
			if at := rs.behind(a); at > 0 && rs.all[rs.order[at-1]].Contains(a) {
				yield(rs.order[at-1])
			}
			return
		}
		for i := range rs.all {
			if rs.all[i].Contains(a) && !yield(i) {
				return
			}
		}
	}
}

// at returns the address at a position in the pool.
func (rs *ranges) at(pos uint64) netip.Addr {
	if pos >= rs.size {
		return netip.Addr{}
	}
	i := sort.Search(len(rs.base), func(i int) bool { return pos < rs.base[i] }) - 1
	return advance(rs.all[i].Start, pos-rs.base[i])
}

// positions calls fn with each position of a in the pool: several where ranges
// overlap.
func (rs *ranges) positions(a netip.Addr, fn func(pos uint64)) {
	for i := range rs.with(a) {
		if off := distance(rs.all[i].Start, a); off < rs.all[i].len() {
			fn(rs.base[i] + off)
		}
	}
}

// Is6 reports whether a is an IPv6 address and no IPv4 address in disguise.
func Is6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() }

// distance returns how many addresses b lies behind a, of the same family and not
// less; the largest uint64 when it is more.
func distance(a, b netip.Addr) uint64 {
	x, y := a.As16(), b.As16()
	be := binary.BigEndian
	hi, lo := be.Uint64(y[:])-be.Uint64(x[:]), be.Uint64(y[8:])-be.Uint64(x[8:])
	if be.Uint64(y[8:]) < be.Uint64(x[8:]) {
		hi--
	}
	if hi != 0 {
		return ^uint64(0)
	}
	return lo
}

// advance returns the address n behind a.
func advance(a netip.Addr, n uint64) netip.Addr {
	b := a.As16()
	be := binary.BigEndian
	lo := be.Uint64(b[8:])
	if lo+n < lo {
		be.PutUint64(b[:], be.Uint64(b[:])+1)
	}
	be.PutUint64(b[8:], lo+n)
	if a.Is4() {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.AddrFrom16(b)
}
