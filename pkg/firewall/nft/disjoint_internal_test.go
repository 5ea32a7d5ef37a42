package nft

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestDisjointIsPairwise compares what is left out of random elements with what a
// comparison of all with all leaves out.
func TestDisjointIsPairwise(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	key := func(most int) (from, to string) {
		for range 3 * partSize {
			a, b := byte(r.IntN(most)), byte(r.IntN(most))
			from, to = from+string(rune(min(a, b))), to+string(rune(max(a, b)))
		}
		return from, to
	}
	for range 200 {
		var all []element
		most := 1 + r.IntN(3)
		for range r.IntN(60) {
			e := element{set: []string{"a", "b"}[r.IntN(2)], value: string(rune('0' + r.IntN(3)))}
			e.from, e.to = key(most)
			if r.IntN(5) == 0 {
				e.to = ""
			}
			if !slices.Contains(all, e) {
				all = append(all, e)
			}
		}
		want := slices.DeleteFunc(slices.Clone(all), func(e element) bool {
			return e.to != "" && slices.ContainsFunc(all, func(o element) bool { return o != e && o.to != "" && o.set == e.set && covers(o, e) })
		})
		if got := disjoint(all); !slices.Equal(got, want) {
			t.Fatalf("of %+v\nare left %+v\nwant %+v", all, got, want)
		}
	}
}
