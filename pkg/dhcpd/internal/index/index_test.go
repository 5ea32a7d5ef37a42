package index_test

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd/internal/index"
)

type thing struct{ key string }

// An index has what a map has.
func TestIndexIsAMap(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var things index.Slab[thing]
	x := index.New(func(n index.Number) string { return things.At(n).key })
	want := make(map[string]index.Number)
	for step := range 300000 {
		// There are more and more, up to some tables of all, and then few again.
		among := 1 + step/10%10000
		key := strconv.Itoa(random.IntN(among))
		switch random.IntN(3) {
		case 0:
			x.Delete(key)
			delete(want, key)
		default:
			n, it := things.Add()
			it.key = key
			x.Put(n)
			want[key] = n
		}
		key = strconv.Itoa(random.IntN(10000))
		if got := x.Get(key); got != want[key] || x.Len() != len(want) {
			t.Fatalf("step %d: %q is %d of %d, want %d of %d", step, key, got, x.Len(), want[key], len(want))
		}
	}
	all := 0
	for it := range x.All() {
		key := things.At(it).key
		if all++; want[key] != it {
			t.Errorf("%q is yielded", key)
		}
		x.Delete(key)
	}
	if all != len(want) || x.Len() != 0 {
		t.Errorf("%d are yielded of %d, %d are left", all, len(want), x.Len())
	}
}

// Things stay what and where they are, whatever comes and goes, and no two have one number.
func TestSlabKeepsThings(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	type kept struct {
		it  *thing
		key string
	}
	var things index.Slab[thing]
	want := make(map[index.Number]kept)
	for step := range 20000 {
		if random.IntN(3) == 0 {
			for n, k := range want { // any
				things.Free(n)
				if k.it.key != "" {
					t.Fatalf("step %d: %d is %q after it was freed", step, n, k.it.key)
				}
				delete(want, n)
				break
			}
			continue
		}
		n, it := things.Add()
		if _, there := want[n]; n == 0 || there || it.key != "" {
			t.Fatalf("step %d: %d is given, with %q", step, n, it.key)
		}
		it.key = strconv.Itoa(step)
		want[n] = kept{it, it.key}
	}
	for n, k := range want {
		if got := things.At(n); got != k.it || got.key != k.key {
			t.Errorf("%d is %q at %p, want %q at %p", n, got.key, got, k.key, k.it)
		}
	}
}

// Only things with the key are looked at, however many there are: each of them is elsewhere in memory.
func TestOthersAreNotLookedAt(t *testing.T) {
	looked := 0
	x := index.New(func(n index.Number) index.Number { looked++; return n })
	for n := index.Number(1); n <= 100000; n++ {
		x.Put(n)
		x.Get(n + 1)
	}
	if looked > 100100 { // some hashes are alike
		t.Errorf("%d were looked at", looked)
	}
}
