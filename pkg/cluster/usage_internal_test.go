package cluster

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// TestUsageIsCounted holds that what is counted with each change of a block or a lease is what a
// count of everything comes to, whichever blocks of whom are within others.
func TestUsageIsCounted(t *testing.T) {
	t.Parallel()
	const network = "apps"
	first := netip.MustParseAddr("10.50.0.0")
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 0))
		m := New(Config{Cluster: "lab", Host: "h1", Rand: rng})
		if err := m.SetSpan(Span{Network: network, Pools: []Pool{{First: first.Next(), Last: record.Add(first, 200, 0), Bits: 28, Excluded: []netip.Addr{record.Add(first, 5, 0)}}}}); err != nil {
			t.Fatal(err)
		}
		for step := range int64(300) {
			a := record.Add(first, rng.Uint64N(256), 0)
			e := Event{KV: KV{Create: step + 1, Mod: step + 1}, Deleted: rng.IntN(3) == 0}
			if host := []string{"h1", "h2"}[rng.IntN(2)]; rng.IntN(2) == 0 {
				block, _ := a.Prefix(26 + rng.IntN(5))
				e.Key, e.Value = m.path(record.KindBlock, network, record.BlockID(block)), record.Encode(&record.Block{Host: host})
			} else {
				e.Key = record.Key{Kind: record.KindLease, Host: host, Network: network, ID: a.String()}.Path("lab")
				e.Value = record.Encode(&record.Lease{MAC: record.MAC{2, 5: byte(step)}})
			}
			m.Follower.see(e, time.Unix(1e9, 0))
			if at := (Address{network, a}); rng.IntN(4) == 0 {
				m.SetLease(at, record.Lease{MAC: record.MAC{2, 5: byte(step)}})
			} else if rng.IntN(4) == 0 {
				m.EndLease(at)
			}
			got := *m.usage(network)
			got.held = maps.Clone(got.held)
			m.recount(network)
			holdSame(t, seed, step, &got, m.usage(network))
		}
	}
}

// holdSame holds that two counts say the same.
func holdSame(t *testing.T, seed uint64, step int64, got, want *usage) {
	t.Helper()
	same := func(a, b *share) bool { return *a == *b }
	if !maps.Equal(got.held, want.held) || !maps.EqualFunc(got.own, want.own, same) || !maps.EqualFunc(got.shares, want.shares, same) {
		t.Fatalf("seed %d, step %d: counted %+v, want %+v", seed, step, got, want)
	}
}
