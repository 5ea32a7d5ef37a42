package nft

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// guardTable is a table with the guards of the ports of some networks. The kernel checks
// all of a table with each port that comes or gets an address (nft_table_validate), and
// nothing of others. Who calls holds Guards.mu, and the kernel is connected where a method
// needs it.
type guardTable struct {
	place
	stands bool // it is as it should be
	ours   bool // this process has written it
	err    error

	networks map[string]*firewall.GuardedNetwork // by bridge
	ports    map[int]*port                       // by ifindex
	elements map[element]int                     // how often each is wanted
	profiles map[string]profile                  // in the kernel, by name
	tally    tally
}

func newGuardTable(k *kernel, name string) *guardTable {
	return &guardTable{
		place:    place{guardPlace(name), k},
		networks: make(map[string]*firewall.GuardedNetwork), ports: make(map[int]*port),
		elements: make(map[element]int), profiles: make(map[string]profile), tally: newTally(),
	}
}

// port is a port with what stands for it.
type port struct {
	firewall.GuardedPort
	elements []element
	profile  string // to which its chain leads; "" for none
	pairs    []pair // by which its own chain lets packets through
	looks    bool   // it looks for others
}

// stand sets what stands for p on its network.
func (p *port) stand(n *firewall.GuardedNetwork) {
	pairs := known(n, &p.GuardedPort)
	p.elements, p.pairs, p.looks = portElements(n, &p.GuardedPort), nil, len(pairs) > maxOwn
	if !p.looks {
		p.pairs = pairs
		return
	}
	for _, k := range pairs {
		p.elements = append(p.elements, k.element(p.Index))
	}
	slices.SortFunc(p.elements, compareElements)
}

// setPort notes a port on a network that is known, and returns what it was, nil for none.
func (t *guardTable) setPort(p firewall.GuardedPort) (was, next *port) {
	n := t.networks[p.Bridge]
	was, next = t.ports[p.Index], &port{GuardedPort: p, profile: profileOf(n, &p).profileName()}
	next.stand(n)
	t.ports[p.Index] = next
	return was, next
}

// forgetNetwork forgets the network of a bridge, and returns it with the ports that it had.
func (t *guardTable) forgetNetwork(bridge string) (n *firewall.GuardedNetwork, gone []*port) {
	n = t.networks[bridge]
	delete(t.networks, bridge)
	for index, p := range t.ports {
		if p.Bridge == bridge {
			delete(t.ports, index)
			gone = append(gone, p)
		}
	}
	return n, gone
}

// count reads what the table has counted, where it is there.
func (t *guardTable) count() {
	if t.stands && t.kernel.socket != nil {
		t.tally.update(&t.place)
	}
}

// profileOf are the rules of a port on the network.
func profileOf(n *firewall.GuardedNetwork, p *firewall.GuardedPort) *profile {
	if !p.Guarded() {
		return nil
	}
	return &profile{n, p.Guard, p.Isolated}
}

// profileName is the profile's name; "" for none.
func (p *profile) profileName() string {
	if p == nil {
		return ""
	}
	return p.name()
}

// changeNetwork brings what stands for the network from was, nil for nothing, to n.
func (t *guardTable) changeNetwork(was, n *firewall.GuardedNetwork) error {
	b := t.begin()
	if was == nil {
		b.addSets(networkSets(n))
		t.exchange(b, nil, networkElements(n))
		return b.commit()
	}
	t.exchange(b, networkElements(was), networkElements(n))
	for name, p := range t.profiles {
		if p.network.Bridge == n.Bridge {
			p.network = n
			t.profiles[name] = p
			b.empty(p.chains())
			b.addChains(p.chains())
		}
	}
	return b.commit()
}

// portChain is the chain at a port's ingress. It lets most frames through: those to one card that
// is not the port's device, of IPv4 or IPv6, without a tag, from a card of the port with an address
// of its own. No guard of a source is against them. A few pairs of a card and an address are compared,
// which costs less than to look them up, and most of what a guest sends has one.
func portChain(p *port) chain {
	c := chain{name: fmt.Sprintf("port%d", p.Index), device: p.IfName}
	if p.looks || len(p.pairs) > 0 {
		c.rules = append(c.rules, isNot(pktType, unix.PACKET_OTHERHOST).to(p.profile))
	}
	for _, f := range []family{v4, v6} {
		own := p.known(f)
		if len(own) == 0 {
			continue
		}
		for _, r := range f.special {
			c.rules = append(c.rules, r.to(p.profile))
		}
		for _, r := range own {
			if p.Isolated {
				c.rules = append(c.rules, r.to(subChain(p.profile, f.known)))
			} else {
				c.rules = append(c.rules, r.pass())
			}
		}
	}
	c.rules = append(c.rules, rule{}.to(p.profile))
	return c
}

// known match frames from a card of the port with an address of the family that is its own.
func (p *port) known(f family) (all []rule) {
	if p.looks {
		return []rule{and(is(protocol, uint16be(f.etherType)...), in(f.known, iif, etherSourceType, f.source), f.whole)}
	}
	for _, k := range p.pairs {
		if k.ip.Is4() == f.is4 {
			all = append(all, and(k.rule(), f.whole))
		}
	}
	return all
}

// sameChain reports whether the chains of two ports with one ifindex are the same.
func (p *port) sameChain(q *port) bool {
	return p.profile == q.profile && p.looks == q.looks && slices.Equal(p.pairs, q.pairs)
}

// changePort brings what stands for a port from was to next, nil for nothing.
func (t *guardTable) changePort(was, next *port) error {
	var before, after []element
	b := t.begin()
	if was != nil {
		before = was.elements
	} else if t.tally.gone[next.Index] { // another port had this ifindex a moment ago
		b.remove(t.tally.sweep(&t.place)...)
	}
	if next != nil {
		after = next.elements
		t.need(b, next)
	}
	t.exchange(b, before, after)
	if err := t.lead(b, was, next); err != nil {
		return err
	}
	if was != nil {
		t.leave(b, was.profile)
	}
	return b.commit()
}

// lead has a port's chain lead to its profile.
func (t *guardTable) lead(b *batch, was, next *port) error {
	had, has := was != nil && was.profile != "", next != nil && next.profile != ""
	switch {
	case had && !has:
		return t.forget(b, was)
	case had && !was.sameChain(next):
		b.empty([]chain{portChain(next)})
		b.addChains([]chain{portChain(next)})
	case has && !had:
		b.addChains([]chain{portChain(next)})
	}
	return nil
}

// leave takes away the chains of a profile that no port has any more.
func (t *guardTable) leave(b *batch, name string) {
	p, there := t.profiles[name]
	for _, other := range t.ports {
		if other.profile == name {
			return
		}
	}
	if !there {
		return
	}
	delete(t.profiles, name)
	b.empty(p.chains())
	for _, c := range p.chains() {
		b.deleteChains(c.name)
	}
}

// need makes the profile of a port, if no port had it before.
func (t *guardTable) need(b *batch, p *port) {
	q := profileOf(t.networks[p.Bridge], &p.GuardedPort)
	if q == nil {
		return
	}
	if _, there := t.profiles[q.name()]; !there {
		t.profiles[q.name()] = *q
		b.addChains(q.chains())
	}
}

// forget takes away the chain of a port, which the kernel may have done, and what
// was counted.
func (t *guardTable) forget(b *batch, p *port) error {
	name := portChain(p).name
	there, err := t.kernel.socket.HasChain(t.Place, name)
	if err != nil {
		return err
	}
	if there {
		b.deleteChains(name)
	}
	t.tally.forget(p.Index)
	return nil
}

// exchange takes away elements and adds others, as far as nobody else wants them.
func (t *guardTable) exchange(b *batch, before, after []element) {
	for _, e := range after {
		t.elements[e]++
		if t.elements[e] == 1 {
			b.add(e)
		}
	}
	for _, e := range before {
		t.elements[e]--
		if t.elements[e] > 0 {
			continue
		}
		delete(t.elements, e)
		b.remove(e)
	}
}

// takeNetwork takes away what stands for a network and its ports, and touches nothing
// of others.
func (t *guardTable) takeNetwork(n *firewall.GuardedNetwork, ports []*port) error {
	b := t.begin()
	for _, p := range ports {
		t.exchange(b, p.elements, nil)
		if p.profile == "" {
			continue
		}
		if err := t.forget(b, p); err != nil {
			return err
		}
	}
	for _, p := range ports {
		t.leave(b, p.profile) // no port's chain leads to it any more
	}
	t.exchange(b, networkElements(n), nil)
	b.deleteSets(networkSets(n))
	return b.commit()
}

// rewrite makes the whole table anew, in one transaction. Ports without a device
// are left out, where the kernel refuses them.
func (t *guardTable) rewrite() error {
	if t.ours {
		t.tally.refresh(&t.place)
	}
	err := t.write()
	if errors.Is(err, unix.ENOENT) {
		t.dropGone()
		err = t.write()
	}
	if err == nil {
		t.ours = true
		t.tally.keep()
	}
	return err
}

// dropGone leaves out ports whose devices are gone.
func (t *guardTable) dropGone() {
	maps.DeleteFunc(t.ports, func(index int, p *port) bool {
		link, err := net.InterfaceByName(p.IfName)
		return err != nil || link.Index != index
	})
}

// write is one attempt at the whole table.
func (t *guardTable) write() error {
	clear(t.elements)
	clear(t.profiles)
	b := t.begin()
	if len(t.networks) == 0 {
		b.gone()
		return b.commit()
	}
	b.anew()
	b.addSets(commonSets())
	b.addChains(common())
	for _, bridge := range slices.Sorted(maps.Keys(t.networks)) {
		n := t.networks[bridge]
		b.addSets(networkSets(n))
		t.exchange(b, nil, networkElements(n))
	}
	for _, index := range slices.Sorted(maps.Keys(t.ports)) {
		p := t.ports[index]
		n := t.networks[p.Bridge]
		p.profile = profileOf(n, &p.GuardedPort).profileName()
		p.stand(n)
		t.need(b, p)
		t.exchange(b, nil, p.elements)
		if p.profile != "" {
			b.addChains([]chain{portChain(p)})
		}
	}
	return b.commit()
}

// equalNetworks reports whether guards see no difference.
func equalNetworks(a, b *firewall.GuardedNetwork) bool {
	return a.Index == b.Index && a.MAC == b.MAC && a.Foreign == b.Foreign && a.DHCP == b.DHCP && a.DHCP6 == b.DHCP6 && a.RA == b.RA &&
		slices.Equal(a.Gateway, b.Gateway) && slices.Equal(a.Subnets, b.Subnets) && slices.Equal(a.Behind, b.Behind) && slices.Equal(a.Autoconf, b.Autoconf)
}
