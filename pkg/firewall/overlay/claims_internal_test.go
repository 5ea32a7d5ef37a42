package overlay

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// spanOver is the tunnel of the n-th network to so many peers.
func spanOver(n, peers int) *firewall.Span {
	s := &firewall.Span{
		Device: fmt.Sprintf("vx%d", n), MAC: net.HardwareAddr{2, 'v', 'n', 0, byte(n >> 8), byte(n)}, Port: 4789,
		Gateways: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 1})},
	}
	for i := range peers {
		s.Peers = append(s.Peers, netip.AddrFrom4([4]byte{203, 0, 113, byte(i + 1)}))
	}
	return s
}

// TestClaims has networks come, change and go: what is brought to the sets and taken from them
// makes them what they would be if they were filled anew.
func TestClaims(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		own, sets, networks := newClaims(), make(content), make(map[string]*firewall.Network)
		for range 100 {
			for range 1 + random.IntN(3) {
				n := random.IntN(8)
				bridge := fmt.Sprintf("virbr%d", n)
				switch random.IntN(4) {
				case 0:
					delete(networks, bridge)
				case 1:
					networks[bridge] = &firewall.Network{Bridge: bridge}
				default:
					networks[bridge] = &firewall.Network{Bridge: bridge, Span: spanOver(n, random.IntN(4))}
				}
			}
			next := own.to(maps.Values(networks))
			whole := own.content(next)
			old, fresh := own.differences(next)
			for set, keys := range fresh {
				for k := range keys {
					sets.add(set, []byte(k))
				}
			}
			sets.drop(old)
			own.take(next)
			anew := newClaims()
			scratch := anew.content(anew.to(maps.Values(networks)))
			empty := func(_ string, keys map[string]bool) bool { return len(keys) == 0 }
			maps.DeleteFunc(sets, empty)
			for what, got := range map[string]content{"after the step": whole, "of the sets": sets, "of what was taken": own.content(step{})} {
				if !maps.EqualFunc(scratch, got, maps.Equal[map[string]bool]) {
					t.Fatalf("seed %d: the content %s (-want +got):\n%s", seed, what, cmp.Diff(scratch, got))
				}
			}
		}
	}
}

// TestClaimsOfMany holds that a network costs the same to change among many as among few.
func TestClaimsOfMany(t *testing.T) {
	cost := func(count int) float64 {
		var all []*firewall.Network
		for n := range count {
			all = append(all, &firewall.Network{Bridge: fmt.Sprintf("virbr%d", n), Span: spanOver(n, 15)})
		}
		own := newClaims()
		own.take(own.to(slices.Values(all)))
		return testing.AllocsPerRun(10, func() {
			all[0] = &firewall.Network{Bridge: all[0].Bridge, Span: spanOver(0, 15)}
			next := own.to(slices.Values(all))
			own.differences(next)
			own.take(next)
		})
	}
	// How often a map grows is a matter of chance.
	if few, many := cost(2), cost(500); many > 2*few {
		t.Errorf("to change one of 500 networks takes %v allocations, one of 2 %v", many, few)
	}
}
