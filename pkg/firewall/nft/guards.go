package nft

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// Guards keeps port guards in the kernel of one network namespace, those of some networks
// in one table. Its methods may be called concurrently. What could not be made true is
// tried again with each change, and by Watch; until then Err says why.
type Guards struct {
	log *slog.Logger

	mu     sync.Mutex // guards what follows
	kernel *kernel
	held   bool                   // nothing is written yet
	stale  bool                   // tables of a former process may be left
	told   string                 // what was logged last of what fails; empty: nothing does
	tables map[string]*guardTable // by name, those that have networks or could not be deleted
	places map[int]*guardTable    // of ports, by ifindex
}

// NewGuards returns Guards without a port. It touches nothing before Release: what
// a former process left stands until then.
func NewGuards(log *slog.Logger) *Guards {
	return &Guards{log: log, kernel: new(kernel), held: true, stale: true, tables: make(map[string]*guardTable), places: make(map[int]*guardTable)}
}

// Release has all that was set until now, and is set from now on, be true in the
// kernel. It replaces what a former process left, a table by one transaction.
func (g *Guards) Release() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = false
	for _, t := range g.all() {
		g.anew(t)
	}
	g.sweep()
	return g.err()
}

// sweep deletes tables of a former process that have no networks any more, or of a vnetd
// that had all guards in one: once all others stand, which guard what these did.
func (g *Guards) sweep() {
	if !g.stale || g.held || g.kernel.connect() != nil {
		return
	}
	names, err := g.kernel.names()
	if g.err() != nil { // nobody is kept silent by a guard that the kernel refuses
		names = slices.DeleteFunc(names, func(name string) bool { return name != firewall.SilenceTable })
	}
	if err == nil {
		err = g.kernel.drop(slices.DeleteFunc(names, func(name string) bool { return g.tables[name] != nil }))
	}
	g.stale = g.err() != nil || err != nil && !missing(err)
}

// all are the tables, by name.
func (g *Guards) all() []*guardTable {
	return slices.SortedFunc(maps.Values(g.tables), func(a, b *guardTable) int { return cmp.Compare(a.Table, b.Table) })
}

// Err is why guards are not as they should be; nil if they are.
func (g *Guards) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err()
}

// err is that of the first table that has one. The caller holds mu.
func (g *Guards) err() error {
	for _, t := range g.all() {
		if t.err != nil {
			return t.err
		}
	}
	return nil
}

// Close gives up the connection to the kernel. It touches no rule.
func (g *Guards) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.kernel.close()
}

// Purge removes all guards, also those of a former process.
func (g *Guards) Purge() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.tables)
	clear(g.places)
	if err := g.kernel.connect(); err != nil {
		return nil // a kernel without nftables has no guards
	}
	names, err := g.kernel.names()
	if err == nil {
		err = g.kernel.drop(names)
	}
	if err != nil && !missing(err) {
		return fmt.Errorf("removing port guards: %w", err)
	}
	return nil
}

// silenced are how many devices one chain has: as many as the kernel takes, one less than
// NFT_NETDEVICE_MAX of linux/netfilter/nf_tables.h (nf_tables_parse_netdev_hooks).
const silenced = 255

// Silence has nothing come out of the ports that have guards any more, in place of these, in one
// transaction, and nothing else changes. It is for ports that are to be deleted: with each device the
// kernel looks through all chains there are (nf_tables_netdev_event), of which many guards have many.
// Purge ends it, and so does Release of the next process. Where it fails the guards stand.
func (g *Guards) Silence() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.kernel.connect(); err != nil {
		return nil // a kernel without nftables has no guards
	}
	var err error
	for range 5 {
		if err = g.kernel.silence(); !errors.Is(err, unix.ENOENT) { // a device has gone meanwhile
			break
		}
	}
	if err != nil && !missing(err) {
		return fmt.Errorf("silencing ports: %w", err)
	}
	clear(g.tables)
	clear(g.places)
	return nil
}

// silence is one attempt at Silence.
func (k *kernel) silence() error {
	there, err := k.socket.Devices(unix.NFPROTO_NETDEV)
	if err != nil {
		return err
	}
	b := place{guardPlace(firewall.SilenceTable), k}.begin()
	var devices []string
	for table, of := range there {
		if firewall.IsGuardTable(table) && table != firewall.SilenceTable {
			b.say(guardPlace(table).DeleteTable())
			devices = append(devices, of...)
		}
	}
	if len(b.messages) == 0 {
		return nil
	}
	b.gone()
	b.say(b.NewTable(0, "ports that are about to be deleted"))
	for part := range slices.Chunk(devices, silenced) {
		b.say(b.NewChain(fmt.Sprintf("silence%d", len(b.messages)), &nfnetlink.Hook{
			Number: unix.NF_NETDEV_INGRESS, Priority: guardPriority, Type: "filter", Devices: part, Drop: true,
		}))
	}
	return b.commit()
}

// SetNetwork says what ports' guards on the network's bridge need to know. Those
// that are there change with it.
func (g *Guards) SetNetwork(n firewall.GuardedNetwork) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	name := firewall.GuardTable(n.Bridge)
	t := g.tables[name]
	if t == nil {
		t = newGuardTable(g.kernel, name)
		g.tables[name] = t
	}
	was := t.networks[n.Bridge]
	if was != nil && t.stands && equalNetworks(was, &n) {
		return nil
	}
	t.networks[n.Bridge] = &n
	if was != nil && was.Index != n.Index {
		return g.settle(t, t.rewrite)
	}
	return g.settle(t, func() error { return t.changeNetwork(was, &n) })
}

// RemoveNetwork forgets the network of a bridge, and its ports.
func (g *Guards) RemoveNetwork(bridge string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.tables[firewall.GuardTable(bridge)]
	if t == nil || t.networks[bridge] == nil {
		return nil
	}
	n, gone := t.forgetNetwork(bridge)
	for _, p := range gone {
		delete(g.places, p.Index)
	}
	stood, change := t.stands, func() error { return t.takeNetwork(n, gone) }
	if len(t.networks) == 0 {
		change = t.rewrite
	}
	err := g.settle(t, change)
	g.end(t)
	if !stood {
		return nil // others were made anew; a kernel without nftables has nothing of this one
	}
	return err
}

// end forgets a table that has no networks and is gone.
func (g *Guards) end(t *guardTable) {
	if len(t.networks) == 0 && t.err == nil {
		delete(g.tables, t.Table)
	}
}

// SetPort makes a port's guard what it should be. The device must be there, and
// the network known.
func (g *Guards) SetPort(p firewall.GuardedPort) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.tables[firewall.GuardTable(p.Bridge)]
	if t == nil || t.networks[p.Bridge] == nil {
		return fmt.Errorf("guard of port %s: no network is known on bridge %q", p.IfName, p.Bridge)
	}
	former := g.places[p.Index]
	g.places[p.Index] = t
	was, next := t.setPort(p)
	var err error
	if was == nil || !t.stands || !was.sameChain(next) || !slices.Equal(was.elements, next.elements) {
		err = g.settle(t, func() error { return t.changePort(was, next) })
	}
	if former != nil && former != t {
		err = errors.Join(err, g.removePort(former, p.Index))
	}
	return err
}

// RemovePort forgets a port; its device may be gone.
func (g *Guards) RemovePort(index int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.places[index]
	if t == nil {
		return nil
	}
	delete(g.places, index)
	return g.removePort(t, index)
}

// removePort takes a port out of a table. The caller holds mu.
func (g *Guards) removePort(t *guardTable, index int) error {
	was := t.ports[index]
	if was == nil {
		return nil
	}
	delete(t.ports, index)
	return g.settle(t, func() error { return t.changePort(was, nil) })
}

// Port is what is set of a port.
func (g *Guards) Port(index int) (firewall.GuardedPort, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.places[index]; t != nil && t.ports[index] != nil {
		return t.ports[index].GuardedPort, true
	}
	return firewall.GuardedPort{}, false
}

// Stopped is what was stopped of each port, by ifindex.
func (g *Guards) Stopped() map[int]firewall.Stopped {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make(map[int]firewall.Stopped)
	for _, t := range g.tables {
		t.count()
		for index := range t.ports {
			all[index] = t.tally.of(index)
		}
	}
	return all
}

// StoppedBy is what was stopped of one port.
func (g *Guards) StoppedBy(index int) firewall.Stopped {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.places[index]
	if t == nil {
		return firewall.Stopped{}
	}
	t.count()
	return t.tally.of(index)
}

// settle carries out a change of a table that stands, and where that fails, or the table
// does not stand, makes it anew.
func (g *Guards) settle(t *guardTable, change func() error) error {
	if g.held {
		return nil
	}
	err := g.kernel.connect()
	if err == nil {
		if !t.stands || change() != nil {
			err = t.rewrite()
		}
	}
	g.note(t, err)
	return err
}

// anew makes a table anew, whatever there is of it.
func (g *Guards) anew(t *guardTable) {
	t.stands = false
	_ = g.settle(t, nil) // it is in t.err
}

// note keeps what became of a change.
func (g *Guards) note(t *guardTable, err error) {
	was := t.err
	t.stands, t.err = err == nil, err
	if err == was {
		return
	}
	said := ""
	if err := g.err(); err != nil {
		said = err.Error()
	}
	if said != "" && said != g.told {
		g.log.Error("port guards are not as they should be", "error", said)
	}
	g.told = said
}
