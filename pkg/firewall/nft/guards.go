package nft

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// Guards keeps port guards in the kernel of one network namespace. Its methods may
// be called concurrently. What could not be made true is tried again with each
// change, and by Watch; until then Err says why.
type Guards struct {
	log *slog.Logger
	// port is the address of kernel's socket, 0 before there is one. It is read while mu
	// is held for a transaction, of which notifications come.
	port atomic.Uint32

	mu       sync.Mutex // guards what follows
	kernel   *kernel
	held     bool // nothing is written yet
	stands   bool // the table is as it should be
	err      error
	networks map[string]*firewall.GuardedNetwork // by bridge
	ports    map[int]*port                       // by ifindex
	elements map[element]int                     // how often each is wanted
	profiles map[string]profile                  // in the kernel, by name
	tally    tally
}

// port is a port with what stands for it.
type port struct {
	firewall.GuardedPort
	elements []element
	profile  string // to which its chain leads; "" for none
	pairs    []pair // by which its own chain lets packets through
}

// stand sets what stands for p on its network.
func (p *port) stand(n *firewall.GuardedNetwork) {
	pairs := known(n, &p.GuardedPort)
	p.elements, p.pairs = portElements(n, &p.GuardedPort), nil
	if len(pairs) <= maxOwn {
		p.pairs = pairs
		return
	}
	for _, k := range pairs {
		p.elements = append(p.elements, k.element(p.Index))
	}
	slices.SortFunc(p.elements, compareElements)
}

// NewGuards returns Guards without a port. It touches nothing before Release: what
// a former process left stands until then.
func NewGuards(log *slog.Logger) *Guards {
	return &Guards{
		log: log, held: true, networks: make(map[string]*firewall.GuardedNetwork), ports: make(map[int]*port),
		elements: make(map[element]int), profiles: make(map[string]profile), tally: newTally(),
	}
}

// Release has all that was set until now, and is set from now on, be true in the
// kernel. It replaces what a former process left by one transaction.
func (g *Guards) Release() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = false
	if len(g.networks) == 0 && (g.connect() != nil || !g.kernel.stands()) {
		return nil
	}
	return g.rewrite()
}

// Err is why guards are not as they should be; nil if they are.
func (g *Guards) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// Close gives up the connection to the kernel. It touches no rule.
func (g *Guards) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.kernel == nil {
		return nil
	}
	err := g.kernel.close()
	g.kernel = nil
	return err
}

// Purge removes all guards, also those of a former process.
func (g *Guards) Purge() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.networks)
	clear(g.ports)
	g.stands, g.err = false, nil
	if err := g.connect(); err != nil {
		return nil // a kernel without nftables has no guards
	}
	g.kernel.conn.DelTable(g.kernel.table)
	if err := g.kernel.conn.Flush(); err != nil && !missing(err) {
		return fmt.Errorf("removing port guards: %w", err)
	}
	return nil
}

// SetNetwork says what ports' guards on the network's bridge need to know. Those
// that are there change with it.
func (g *Guards) SetNetwork(n firewall.GuardedNetwork) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.networks[n.Bridge]
	if was != nil && g.stands && equalNetworks(was, &n) {
		return nil
	}
	g.networks[n.Bridge] = &n
	if was != nil && was.Index != n.Index || !g.stands {
		return g.settle(g.rewrite)
	}
	return g.settle(func() error { return g.changeNetwork(was, &n) })
}

// SetPort makes a port's guard what it should be. The device must be there, and
// the network known.
func (g *Guards) SetPort(p firewall.GuardedPort) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.networks[p.Bridge]
	if n == nil {
		return fmt.Errorf("guard of port %s: no network is known on bridge %q", p.IfName, p.Bridge)
	}
	was := g.ports[p.Index]
	next := &port{GuardedPort: p, profile: profileOf(n, &p).profileName()}
	next.stand(n)
	g.ports[p.Index] = next
	if was != nil && g.stands && was.sameChain(next) && slices.Equal(was.elements, next.elements) {
		return nil
	}
	if !g.stands {
		return g.settle(g.rewrite)
	}
	return g.settle(func() error { return g.changePort(was, next) })
}

// RemovePort forgets a port; its device may be gone.
func (g *Guards) RemovePort(index int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.ports[index]
	if was == nil {
		return nil
	}
	delete(g.ports, index)
	if !g.stands {
		return g.settle(g.rewrite)
	}
	return g.settle(func() error { return g.changePort(was, nil) })
}

// Port is what is set of a port.
func (g *Guards) Port(index int) (firewall.GuardedPort, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.ports[index]
	if p == nil {
		return firewall.GuardedPort{}, false
	}
	return p.GuardedPort, true
}

// Stopped is what was stopped of each port, by ifindex.
func (g *Guards) Stopped() map[int]firewall.Stopped {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make(map[int]firewall.Stopped)
	if g.stands && g.kernel != nil {
		g.tally.update(g.kernel)
	}
	for index := range g.ports {
		all[index] = g.tally.of(index)
	}
	return all
}

// StoppedBy is what was stopped of one port.
func (g *Guards) StoppedBy(index int) firewall.Stopped {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stands && g.kernel != nil {
		g.tally.update(g.kernel)
	}
	return g.tally.of(index)
}

// settle carries out a change, and where that fails makes everything anew.
func (g *Guards) settle(change func() error) error {
	if g.held {
		return nil
	}
	err := g.connect()
	if err == nil {
		err = change()
	}
	if err != nil && g.kernel != nil {
		err = g.rewrite()
	}
	g.note(err)
	return err
}

// note keeps what became of a change.
func (g *Guards) note(err error) {
	if err != nil && (g.err == nil || g.err.Error() != err.Error()) {
		g.log.Error("port guards are not as they should be", "error", err)
	}
	g.stands, g.err = err == nil, err
}

func (g *Guards) connect() (err error) {
	if g.kernel == nil {
		if g.kernel, err = connect(); err == nil {
			g.port.Store(g.kernel.port)
		}
	}
	return err
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
func (g *Guards) changeNetwork(was, n *firewall.GuardedNetwork) error {
	b := g.kernel.begin()
	if was == nil {
		b.addSets(networkSets(n))
		g.exchange(b, nil, networkElements(n))
		return b.commit()
	}
	g.exchange(b, networkElements(was), networkElements(n))
	for name, p := range g.profiles {
		if p.network.Bridge == n.Bridge {
			p.network = n
			g.profiles[name] = p
			b.empty(p.chains())
			b.addChains(p.chains())
		}
	}
	return b.commit()
}

// portChain is the chain at a port's ingress. A few pairs of a card and an address are
// compared there, which costs less than to look them up, and most of what a guest sends
// has one.
func portChain(p *port) chain {
	c := chain{fmt.Sprintf("port%d", p.Index), p.IfName, []rule{rule{}.to(p.profile)}}
	if len(p.pairs) == 0 {
		return c
	}
	c.rules = []rule{isNot(pktType, unix.PACKET_OTHERHOST).to(subChain(p.profile, "slow"))}
	for _, k := range p.pairs {
		c.rules = append(c.rules, k.rule().to(subChain(p.profile, k.chain())))
	}
	c.rules = append(c.rules, rule{}.to(subChain(p.profile, "slow")))
	return c
}

// sameChain reports whether the chains of two ports with one ifindex are the same.
func (p *port) sameChain(q *port) bool {
	return p.profile == q.profile && slices.Equal(p.pairs, q.pairs)
}

// changePort brings what stands for a port from was to next, nil for nothing.
func (g *Guards) changePort(was, next *port) error {
	var before, after []element
	b := g.kernel.begin()
	if was != nil {
		before = was.elements
	} else if g.tally.gone[next.Index] { // another port had this ifindex a moment ago
		b.remove(g.tally.sweep(g.kernel)...)
	}
	if next != nil {
		after = next.elements
		g.need(b, next)
	}
	g.exchange(b, before, after)
	if err := g.lead(b, was, next); err != nil {
		return err
	}
	if was != nil {
		g.leave(b, was.profile)
	}
	return b.commit()
}

// lead has a port's chain lead to its profile.
func (g *Guards) lead(b *batch, was, next *port) error {
	had, has := was != nil && was.profile != "", next != nil && next.profile != ""
	switch {
	case had && !has:
		return g.forget(b, was)
	case had && !was.sameChain(next):
		b.empty([]chain{portChain(next)})
		b.addChains([]chain{portChain(next)})
	case has && !had:
		b.addChains([]chain{portChain(next)})
	}
	return nil
}

// leave takes away the chains of a profile that no port has any more.
func (g *Guards) leave(b *batch, name string) {
	p, there := g.profiles[name]
	for _, other := range g.ports {
		if other.profile == name {
			return
		}
	}
	if !there {
		return
	}
	delete(g.profiles, name)
	b.empty(p.chains())
	for _, c := range p.chains() {
		b.deleteChains(c.name)
	}
}

// need makes the profile of a port, if no port had it before.
func (g *Guards) need(b *batch, p *port) {
	q := profileOf(g.networks[p.Bridge], &p.GuardedPort)
	if q == nil {
		return
	}
	if _, there := g.profiles[q.name()]; !there {
		g.profiles[q.name()] = *q
		b.addChains(q.chains())
	}
}

// forget takes away the chain of a port, which the kernel may have done, and what
// was counted.
func (g *Guards) forget(b *batch, p *port) error {
	c := portChain(p)
	if _, err := g.kernel.conn.ListChain(g.kernel.table, c.name); err == nil {
		b.deleteChains(c.name)
	} else if !errors.Is(err, unix.ENOENT) {
		return err
	}
	g.tally.forget(p.Index)
	return nil
}

// exchange takes away elements and adds others, as far as nobody else wants them.
func (g *Guards) exchange(b *batch, before, after []element) {
	for _, e := range after {
		g.elements[e]++
		if g.elements[e] == 1 {
			b.add(e)
		}
	}
	for _, e := range before {
		g.elements[e]--
		if g.elements[e] > 0 {
			continue
		}
		delete(g.elements, e)
		b.remove(e)
	}
}

// rewrite makes the whole table anew, in one transaction. Ports without a device
// are left out.
func (g *Guards) rewrite() error {
	if g.held {
		return nil
	}
	err := g.connect()
	if err == nil {
		g.tally.keep(g.kernel)
		err = g.write()
	}
	if err != nil && g.kernel != nil && errors.Is(err, unix.ENOENT) {
		g.dropGone()
		err = g.write()
	}
	g.note(err)
	return err
}

// write is one attempt at the whole table.
func (g *Guards) write() error {
	clear(g.elements)
	clear(g.profiles)
	b := g.kernel.begin()
	b.anew()
	if len(g.networks) == 0 {
		b.conn.DelTable(b.table)
		return b.commit()
	}
	b.addSets(commonSets())
	b.addChains(common())
	for _, bridge := range slices.Sorted(maps.Keys(g.networks)) {
		n := g.networks[bridge]
		b.addSets(networkSets(n))
		g.exchange(b, nil, networkElements(n))
	}
	for _, index := range slices.Sorted(maps.Keys(g.ports)) {
		p := g.ports[index]
		n := g.networks[p.Bridge]
		p.profile = profileOf(n, &p.GuardedPort).profileName()
		p.stand(n)
		g.need(b, p)
		g.exchange(b, nil, p.elements)
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
