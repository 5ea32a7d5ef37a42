package guard

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/vnetd/vnetd/pkg/bridge/neighbour"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// permanent is a neighbour table in memory.
type permanent map[netip.Addr]firewall.MAC

func (p permanent) Set(_ int, e neighbour.Entry) error           { p[e.Addr] = e.MAC; return nil }
func (p permanent) Delete(_ int, a netip.Addr) error             { delete(p, a); return nil }
func (permanent) List(int) ([]neighbour.Entry, error)            { return nil, nil }
func (permanent) Learned(int) (all []neighbour.Entry, err error) { return nil, nil }

// TestNeighboursOfOneAddress has two guests with the same address: the one that came last
// has it, and the other one has it again at once when that ends, or has others.
func TestNeighboursOfOneAddress(t *testing.T) {
	const bridge, index = "virbr0", 7
	shared, other := netip.MustParseAddr("192.0.2.5"), netip.MustParseAddr("192.0.2.6")
	first, second := firewall.MAC{2, 1}, firewall.MAC{2, 2}
	kernel := permanent{}
	n := newNeighbours(kernel)
	for _, step := range []struct {
		what string
		do   func()
		want permanent
	}{
		{"the first comes", func() { n.set(bridge, index, 1, first, []netip.Addr{shared}) }, permanent{shared: first}},
		{"the second comes", func() { n.set(bridge, index, 2, second, []netip.Addr{shared}) }, permanent{shared: second}},
		{"the first is looked at", func() { n.set(bridge, index, 1, first, []netip.Addr{shared}) }, permanent{shared: second}},
		{"the second has another", func() { n.set(bridge, index, 2, second, []netip.Addr{other}) }, permanent{shared: first, other: second}},
		{"the second has both", func() { n.set(bridge, index, 2, second, []netip.Addr{other, shared}) }, permanent{shared: second, other: second}},
		{"the second ends", func() { n.drop(2) }, permanent{shared: first}},
		{"somebody else ends", func() { n.drop(3) }, permanent{shared: first}},
		{"the first has another card", func() { n.set(bridge, index, 1, second, []netip.Addr{shared}) }, permanent{shared: second}},
		{"the first ends", func() { n.drop(1) }, permanent{}},
	} {
		step.do()
		if !maps.Equal(kernel, step.want) {
			t.Errorf("%s: the table is %v, want %v", step.what, kernel, step.want)
		}
	}
}
