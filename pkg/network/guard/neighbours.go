package guard

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/vnetd/vnetd/pkg/bridge/neighbour"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/port"
)

// Neighbours is what a Keeper asks of the host's neighbour table; *neighbour.Table is the
// real one, whose contracts hold.
type Neighbours interface {
	Set(link int, e neighbour.Entry) error
	Delete(link int, a netip.Addr) error
	List(link int) ([]neighbour.Entry, error)
	Learned(link int) ([]neighbour.Entry, error)
}

// nobody is a table of which nothing is kept.
type nobody struct{}

func (nobody) Set(int, neighbour.Entry) error         { return nil }
func (nobody) Delete(int, netip.Addr) error           { return nil }
func (nobody) List(int) ([]neighbour.Entry, error)    { return nil, nil }
func (nobody) Learned(int) ([]neighbour.Entry, error) { return nil, nil }

// neighbours keeps the host's own neighbour table as to guests whose addresses vnetd
// knows: what somebody claims who has no guard moves nothing of theirs, and a table that
// is full of addresses that nobody has leaves them reachable. What can't be written is
// tried again when the network is next looked at as a whole. Methods may be called
// concurrently.
type neighbours struct {
	kernel Neighbours

	mu     sync.Mutex
	tables map[string]*table // by bridge
}

// table is what this host shall know of the guests on one bridge.
type table struct {
	index int
	// cards are who has an address, the one that counts last: those before it have it
	// again when that has it no more.
	cards map[netip.Addr][]owner
}

// owner is who has an address: a card, behind the port with that ifindex.
type owner struct {
	mac  firewall.MAC
	port int
}

func newNeighbours(kernel Neighbours) *neighbours {
	if kernel == nil {
		kernel = nobody{}
	}
	return &neighbours{kernel: kernel, tables: make(map[string]*table)}
}

// of is the table of a bridge. The caller holds n.mu.
func (n *neighbours) of(bridge string, index int) *table {
	t := n.tables[bridge]
	if t == nil {
		t = &table{cards: make(map[netip.Addr][]owner)}
		n.tables[bridge] = t
	}
	t.index = index
	return t
}

// set has the guest of a port have those addresses on a bridge, and no others.
func (n *neighbours) set(on string, index, port int, mac firewall.MAC, addrs []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.of(on, index)
	want := make(map[netip.Addr]bool)
	for _, a := range addrs {
		want[a] = true
		if !slices.Contains(t.cards[a], owner{mac, port}) {
			others := slices.DeleteFunc(t.cards[a], func(o owner) bool { return o.port == port })
			t.cards[a] = append(others, owner{mac, port})
			_ = n.kernel.Set(index, neighbour.Entry{Addr: a, MAC: mac})
		}
	}
	for a := range t.cards {
		if !want[a] {
			n.leave(t, a, port)
		}
	}
}

// leave has the guest of a port have an address no more. The caller holds n.mu.
func (n *neighbours) leave(t *table, a netip.Addr, port int) {
	was := t.cards[a]
	last := was[len(was)-1]
	left := slices.DeleteFunc(was, func(o owner) bool { return o.port == port })
	if len(left) == 0 {
		delete(t.cards, a)
		_ = n.kernel.Delete(t.index, a)
		return
	}
	t.cards[a] = left
	if next := left[len(left)-1]; next != last {
		_ = n.kernel.Set(t.index, neighbour.Entry{Addr: a, MAC: next.mac})
	}
}

// drop forgets what the guest of a port has, on whatever bridge.
func (n *neighbours) drop(port int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range n.tables {
		for a := range t.cards {
			n.leave(t, a, port)
		}
	}
}

// end forgets a bridge, which is gone or will be.
func (n *neighbours) end(bridge string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.tables, bridge)
}

// settle makes the kernel's table of a bridge what was set, whatever became of it.
func (n *neighbours) settle(on string, index int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.of(on, index)
	there, err := n.kernel.List(index)
	if err != nil {
		return
	}
	has := make(map[netip.Addr]firewall.MAC)
	for _, e := range there {
		has[e.Addr] = e.MAC
		if _, wanted := t.cards[e.Addr]; !wanted {
			_ = n.kernel.Delete(index, e.Addr)
		}
	}
	for a, owners := range t.cards {
		o := owners[len(owners)-1]
		if mac, known := has[a]; !known || mac != o.mac {
			_ = n.kernel.Set(index, neighbour.Entry{Addr: a, MAC: o.mac})
		}
	}
}

// claims are the addresses that nobody but the guest of p has: those leased to its card,
// and where it may have no others and no other card, those set aside for it. It is none
// where the guard lets others claim them, or lets the guest have them by another card.
func claims(live *netdef.Network, p *port.Port, g *firewall.GuardedPort) (all []netip.Addr) {
	if !live.Mode().OwnsBridge() {
		return nil
	}
	level := func(a netip.Addr) firewall.GuardLevel {
		if a.Is4() {
			return g.Guard[firewall.GuardARP]
		}
		return g.Guard[firewall.GuardND]
	}
	for _, a := range p.Status().Held {
		if level(a) >= firewall.GuardGateway {
			all = append(all, a)
		}
	}
	if !g.Bound || g.Guard[firewall.GuardMAC] != firewall.GuardStrict {
		return all
	}
	for _, a := range p.Addrs {
		if level(a) == firewall.GuardStrict {
			all = append(all, a)
		}
	}
	return all
}
