package dhcpd

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		start, end string
		want       uint64
	}{
		{"192.0.2.10", "192.0.2.20", 10},
		{"192.0.1.255", "192.0.2.0", 1},
		{"2001:db8::ff", "2001:db8::1:0", 0xff01},
		{"2001:db8::", "2001:db8::ffff:ffff:ffff:ffff", 1<<64 - 1},
		{"2001:db8::", "2001:db9::", 1<<64 - 1},
	} {
		if got := distance(netip.MustParseAddr(c.start), netip.MustParseAddr(c.end)); got != c.want {
			t.Errorf("from %s to %s: %d, want %d", c.start, c.end, got, c.want)
		}
	}
}

// TestRanges finds the same by halving as by looking at every range, also where some overlap.
func TestRanges(t *testing.T) {
	t.Parallel()
	first := netip.MustParseAddr("10.0.0.0")
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var all []Range
		for _, n := range rng.Perm(40) {
			start := uint64(n * 8)
			length := rng.Uint64N(8)
			if seed%2 == 0 {
				length = rng.Uint64N(20) // which overlaps the next ones
			}
			all = append(all, Range{Start: advance(first, start), End: advance(first, start+length)})
		}
		rs := newRanges(all)
		for n := range uint64(400) {
			a := advance(first, n)
			want, holding, base := searchAll(all, a)
			var got []uint64
			rs.positions(a, func(pos uint64) { got = append(got, pos) })
			if in := rs.holding(a); !slices.Equal(got, want) || (in == nil) != (holding == nil) || in != nil && *in != *holding {
				t.Fatalf("seed %d: %v is at %v in %v, want %v in %v", seed, a, got, in, want, holding)
			}
			for _, pos := range got {
				if rs.at(pos) != a {
					t.Fatalf("seed %d: at %d is %v, want %v", seed, pos, rs.at(pos), a)
				}
			}
			if rs.size != base || rs.at(base).IsValid() {
				t.Fatalf("seed %d: there are %d addresses, want %d and none behind", seed, rs.size, base)
			}
		}
	}
}

// searchAll is where a is in ranges, in which one first, and how many addresses they have.
func searchAll(all []Range, a netip.Addr) (at []uint64, first *Range, size uint64) {
	for i := range all {
		if all[i].Contains(a) {
			at = append(at, size+distance(all[i].Start, a))
			if first == nil {
				first = &all[i]
			}
		}
		size += all[i].len()
	}
	return at, first, size
}
