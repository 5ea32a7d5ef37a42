package member

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/record"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// needFor is how long a guest that got no address counts as one that waits for one, and this host
// keeps one from other hosts for it: it is answered once there is one, without asking again.
const needFor = 2 * time.Second

// mostNeeds is how many guests of a network are counted that wait.
const mostNeeds = 1024

// need is what guests of a network wait for: addresses of a family.
type need struct {
	network string
	is4     bool
}

// ledger is what this host has told of itself.
type ledger struct {
	mu       sync.Mutex // guards what follows; Member is called without it
	running  time.Time  // since when; zero: not yet
	networks map[string]bool
	ports    map[string]map[record.MAC]localPort
	coming   map[cluster.Guest]time.Time // guests that may have a port here next, and move to it
	leases   map[string]map[netip.Addr]struct{}
	needs    map[need]map[record.MAC]time.Time // when each guest got no address last
	joining  map[string]bool                   // networks that become the cluster's
}

// localPort is a port of this host.
type localPort struct {
	cluster.Port
	plugged bool // while its guest is about to move here: its device is there
}

// expectFor is how long a guest is expected that was let have a port.
const expectFor = 10 * time.Second

// expect takes in that a guest is let have a port, by which it moves here.
func (l *ledger) expect(g cluster.Guest, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.coming == nil {
		l.coming = make(map[cluster.Guest]time.Time)
	}
	l.coming[g] = now
}

// begin says that others may hear of this host from now on.
func (l *ledger) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = time.Now()
}

// began reports whether begin was called.
func (l *ledger) began() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.running.IsZero()
}

// newFor is how long a cluster that was never reached since vnetd started is new.
const newFor = 10 * time.Second

// IsNew reports whether a cluster that was not reached yet has hardly been asked.
func (c *Cluster) IsNew(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Member.Status().Since.IsZero() && (c.running.IsZero() || now.Sub(c.running) < newFor)
}

// replaced takes the networks over, and returns those that are none any more.
func (l *ledger) replaced(known map[string]bool) (gone []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.networks {
		if !known[name] {
			gone = append(gone, name)
		}
	}
	l.networks = known
	return gone
}

// hold takes in that an address has a lease; not: that it has none. It reports whether that
// is news.
func (l *ledger) hold(network string, a netip.Addr, has bool) (news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, had := l.leases[network][a]
	switch {
	case has && l.leases == nil:
		l.leases = make(map[string]map[netip.Addr]struct{})
		fallthrough
	case has && l.leases[network] == nil:
		l.leases[network] = make(map[netip.Addr]struct{})
		fallthrough
	case has:
		l.leases[network][a] = struct{}{}
	default:
		delete(l.leases[network], a)
	}
	return had != has
}

// held lists the addresses that have a lease.
func (l *ledger) held(network string) []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Keys(l.leases[network]), netip.Addr.Compare)
}

// want takes in that a guest got no address. It returns how many wait where that has changed.
func (l *ledger) want(n need, mac record.MAC, now time.Time) (changed map[need]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.needs == nil {
		l.needs = make(map[need]map[record.MAC]time.Time)
	}
	if l.needs[n] == nil {
		l.needs[n] = make(map[record.MAC]time.Time)
	}
	_, had := l.needs[n][mac]
	if !had && len(l.needs[n]) >= mostNeeds {
		return nil
	}
	if l.needs[n][mac] = now; had {
		return nil
	}
	return map[need]int{n: len(l.needs[n])}
}

// met takes in that a guest has got an address. It returns what want does.
func (l *ledger) met(n need, mac record.MAC) (changed map[need]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, had := l.needs[n][mac]; !had {
		return nil
	}
	delete(l.needs[n], mac)
	return map[need]int{n: len(l.needs[n])}
}

// satisfied forgets guests that have not asked again. It returns what want does.
func (l *ledger) satisfied(now time.Time) (changed map[need]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	changed = make(map[need]int)
	for n, guests := range l.needs {
		for mac, last := range guests {
			if now.Sub(last) >= needFor {
				delete(guests, mac)
				changed[n] = len(guests)
			}
		}
		if len(guests) == 0 {
			delete(l.needs, n)
		}
	}
	return changed
}

// exchange takes the ports of a network over, and returns those that it had.
func (l *ledger) exchange(network string, now map[record.MAC]localPort) (was map[record.MAC]localPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ports == nil {
		l.ports = make(map[string]map[record.MAC]localPort)
	}
	was = l.ports[network]
	for mac, p := range now {
		old, there := was[mac]
		if there && old.UUID == p.UUID { // once is enough
			p.Here, p.plugged = p.Here || old.Here, p.plugged || old.plugged
		}
		now[mac] = p
	}
	l.ports[network] = now
	if len(now) == 0 {
		delete(l.ports, network)
	}
	for g, since := range l.coming {
		if _, there := now[g.MAC]; there && g.Network == network || time.Since(since) > expectFor {
			delete(l.coming, g)
		}
	}
	return was
}

// port is the port of this host that has a card, or is to have it.
func (l *ledger) port(network string, mac record.MAC) (has bool, p localPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, has = l.ports[network][mac]; !has {
		_, has = l.coming[cluster.Guest{Network: network, MAC: mac}]
	}
	return has, p
}

// Card is a guest's card on a port of this host.
type Card struct {
	MAC       []byte
	UUID      string // of the port
	Owner     string // the guest's UUID, empty where that is not known
	Name      string // of the guest
	Addresses []netip.Addr
	Plugged   func() bool // reports whether the port's device is there, and its maker has done with it
	Sends     func() bool // reports whether the guest has sent something by the port
}

// SetPorts says which cards guests of a network have on this host: all. The cards that are
// about to move here, and have sent nothing yet, are returned, and whether these, or their ports,
// are others than before.
func (c *Cluster) SetPorts(network string, cards []Card) (incoming []Card, news bool) {
	now := make(map[record.MAC]localPort, len(cards))
	for _, card := range cards {
		if len(card.MAC) != len(record.MAC{}) {
			continue
		}
		g := cluster.Guest{Network: network, MAC: record.MAC(card.MAC)}
		p := cluster.Port{UUID: card.UUID, Owner: card.Owner, Name: card.Name, Addresses: card.Addresses, Here: true}
		if c.movesHere(g, card.Owner) && !card.Sends() {
			p.Here, incoming = false, append(incoming, card)
		}
		now[g.MAC] = localPort{p, !p.Here && card.Plugged()}
	}
	return incoming, c.tell(network, now, c.exchange(network, now))
}

// tell tells what has changed of the ports of a network. It reports whether guests that move here, or
// their ports, are others than before.
func (c *Cluster) tell(network string, now, was map[record.MAC]localPort) (news bool) {
	for mac, p := range now {
		old, there := was[mac]
		if !there || !same(old.Port, p.Port) {
			c.Member.SetPort(cluster.Guest{Network: network, MAC: mac}, p.Port)
		}
		news = news || !p.Here && (!there || old.plugged != p.plugged) || there && !old.Here && p.Here
	}
	for mac, old := range was {
		if _, there := now[mac]; !there {
			c.Member.DropPort(cluster.Guest{Network: network, MAC: mac})
			news = news || !old.Here
		}
	}
	return news
}

// same reports whether nothing has changed of a port.
func same(a, b cluster.Port) bool {
	return a.UUID == b.UUID && a.Owner == b.Owner && a.Name == b.Name && a.Here == b.Here && slices.Equal(a.Addresses, b.Addresses)
}

// SendsHere reports whether a guest that has a port on this host sends from it, as far as its
// cluster says otherwise.
func (cs *Clusters) SendsHere(doc *netdef.Network, mac []byte) bool {
	c := cs.Of(doc)
	if c == nil || len(mac) != len(record.MAC{}) {
		return true
	}
	at := c.Member.Where(cluster.Guest{Network: doc.Name, MAC: record.MAC(mac)})
	return at.Host == c.Host || at.Host == "" && !at.Lost
}

// Leaves reports whether a guest whose port on this host ends goes on by one on another host,
// which takes its leases on.
func (cs *Clusters) Leaves(doc *netdef.Network, mac []byte, owner string) bool {
	c := cs.Of(doc)
	return c != nil && len(mac) == len(record.MAC{}) && c.Member.Elsewhere(cluster.Guest{Network: doc.Name, MAC: record.MAC(mac)}, owner)
}
