package index_test

import (
	"math/rand/v2"
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
	x := index.New(func(t *thing) string { return t.key })
	want := make(map[string]*thing)
	for step := range 100000 {
		key := string(rune('a' + random.IntN(1+step/50%1000)))
		switch random.IntN(3) {
		case 0:
			x.Delete(key)
			delete(want, key)
		default:
			it := &thing{key}
			x.Put(it)
			want[key] = it
		}
		key = string(rune('a' + random.IntN(1000)))
		if got := x.Get(key); got != want[key] || x.Len() != len(want) {
			t.Fatalf("step %d: %q is %p of %d, want %p of %d", step, key, got, x.Len(), want[key], len(want))
		}
	}
	all := 0
	for it := range x.All() {
		if all++; want[it.key] != it {
			t.Errorf("%q is yielded", it.key)
		}
		x.Delete(it.key)
	}
	if all != len(want) || x.Len() != 0 {
		t.Errorf("%d are yielded of %d, %d are left", all, len(want), x.Len())
	}
}
