package cluster

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// New makes a member that has seen nothing.
func New(cfg Config) *Member {
	s := &state{cfg: cfg, view: newView(cfg.Cluster), wakes: make(chan struct{}, 1)}
	c := &cards{state: s, ports: make(map[Guest]*localPort), named: make(map[FQN][]Guest), asked: make(map[Address]int), moves: make(map[Guest]*moves), moving: make(chan struct{}, 1)}
	p := &pools{state: s, spans: make(map[string]Span), reserved: make(map[string]*reserved), need: make(map[family]uint64), use: make(map[string]*usage)}
	l := &promises{state: s, cards: c, pools: p, lease: make(map[Address]record.Lease), ended: make(map[Address]struct{})}
	return &Member{&Follower{
		state: s, cards: c, pools: p, promises: l, rights: &rights{promises: l, wishes: make(map[Address]wish)}, phase: Away, reason: errUnseen, known: make(chan struct{}),
		news: make(chan struct{}, 1), retry: make(chan struct{}, 1),
	}}
}

// SetSpan makes a network known, or changes it.
func (m *Member) SetSpan(s Span) error {
	if err := checkSpan(s); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.unlock()
	m.spans[s.Network] = s
	m.reserve(s.Network, s.Reserved)
	m.recount(s.Network)
	return nil
}

// DropSpan forgets a network. Its ports and leases must have been dropped; its blocks are
// given back.
func (m *Member) DropSpan(network string) {
	m.mu.Lock()
	defer m.unlock()
	delete(m.spans, network)
	delete(m.need, family{network, true})
	delete(m.need, family{network, false})
	m.reserve(network, nil)
	m.pending.nets.push(network)
}

// SetPort makes a card of this host known, or changes it. One that is made anew, by
// another UUID, and is here counts as moved here.
func (m *Member) SetPort(g Guest, p Port) {
	m.mu.Lock()
	defer m.unlock()
	old := m.ports[g]
	l := &localPort{Port: p, moving: !p.Here, seq: m.view.seq(g)}
	if old != nil {
		if old.UUID == p.UUID {
			*l = *old
			l.Port, l.Here = p, old.Here || p.Here
		}
		m.unname(g, old.Name)
		m.asks(g, old.Port, -1)
	}
	m.ports[g] = l
	m.asks(g, p, 1)
	if p.Name != "" {
		n := FQN{g.Network, p.Name}
		m.named[n] = append(m.named[n], g)
	}
	m.touchGuest(g)
}

// DropPort says that a card is gone from this host.
func (m *Member) DropPort(g Guest) {
	m.mu.Lock()
	defer m.unlock()
	if old := m.ports[g]; old != nil {
		delete(m.ports, g)
		m.asks(g, old.Port, -1)
		m.unname(g, old.Name)
		m.touchGuest(g)
		if old.Name != "" {
			m.pending.names.push(FQN{g.Network, old.Name})
		}
	}
}

// SetLease says that this host has promised an address to a card: on its own disk by now.
// End and Seconds count; Seq does not.
func (m *Member) SetLease(a Address, l record.Lease) {
	m.mu.Lock()
	defer m.unlock()
	m.set(a, l)
}

// EndLease says that a lease has ended, or was given back.
func (m *Member) EndLease(a Address) {
	m.mu.Lock()
	defer m.unlock()
	if _, there := m.lease[a]; !there {
		return
	}
	delete(m.lease, a)
	m.ended[a] = struct{}{}
	m.touchAddress(a)
}

// SetNeed says how many guests of a network wait for an address of IPv4, or of IPv6, for want of one.
func (m *Member) SetNeed(network string, is4 bool, guests int) {
	m.mu.Lock()
	defer m.unlock()
	if f := (family{network, is4}); m.need[f] != uint64(guests) {
		m.need[f] = uint64(guests)
		m.pending.nets.push(network)
	}
}

// News is sent to when Changes may have something new.
func (m *Member) News() <-chan struct{} { return m.news }

// Moves is sent to when a card has moved from host to host: Changes has it, and frames for it go
// astray until it is looked at.
func (m *Member) Moves() <-chan struct{} { return m.moving }

// Changes returns what has changed since it was called last.
func (m *Member) Changes() Changes {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.changes
	m.changes = Changes{}
	return c
}

// Status is how this host stands to the others.
type Status struct {
	Phase    Phase
	Since    time.Time
	Reason   string // why it is away
	Lost     string // what the store lost, "" for nothing
	Revision int64  // up to which the store was seen
	Backlog  int    // leases whose newest state the store has not
	Waiting  []string
	Moves    uint64 // of cards from host to host, as this host saw them
}

// Status returns how this host stands to the others.
func (m *Member) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Status{Phase: m.phase, Since: m.since, Lost: string(m.lost), Revision: m.view.revision, Backlog: m.pending.leases.len(), Moves: m.moved}
	if m.phase == Away && m.reason != nil {
		s.Reason = m.reason.Error()
	}
	if m.view.meta != nil {
		for _, host := range m.view.meta.Await {
			if m.view.awaits(host) {
				s.Waiting = append(s.Waiting, host)
			}
		}
	}
	return s
}

// Peer is another host.
type Peer struct {
	Host     string
	Underlay netip.Addr
	MTU      int
	Version  string
	Silent   bool // its vnetd does not talk to the store: guests of it may run all the same
}

// Peers returns the other hosts, in order of name: to each of them leads a tunnel, the
// silent ones included.
func (m *Member) Peers() []Peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	var peers []Peer
	for _, host := range m.members() {
		if host == m.cfg.Host {
			continue
		}
		h, _ := m.member(host)
		_, alive := m.view.alive[host]
		peers = append(peers, Peer{host, h.Underlay, h.MTU, h.Version, !alive})
	}
	return peers
}

// Location is where a card sends from.
type Location struct {
	Host     string     // "" if nobody says
	Underlay netip.Addr // of another host: where frames for the card go to
	Frozen   bool       // it has moved too often, and stays where it was
	Lost     bool       // there is a port of it here, from which it does not send any more
}

// Where returns where a card sends from.
func (m *Member) Where(g Guest) Location {
	m.mu.Lock()
	defer m.mu.Unlock()
	var l Location
	l.Host, _ = m.sender(g)
	if host := m.frozen(g); host != "" {
		l.Host, l.Frozen = host, true
	}
	if l.Host != m.cfg.Host {
		h, _ := m.member(l.Host)
		l.Underlay = h.Underlay
	}
	p := m.ports[g]
	l.Lost = p != nil && (p.lost || m.displaced(g, p))
	return l
}

// Elsewhere reports whether a guest has a port on another host as well, from which it sends
// or is about to. owner is the guest's UUID: another guest's port does not count.
func (m *Member) Elsewhere(g Guest, owner string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for host, p := range m.view.ports[g].all() {
		if host != m.cfg.Host && p.v.State != record.Moved && p.v.Owner == owner && owner != "" {
			return true
		}
	}
	return false
}

// Remote returns the cards of a network that send from other hosts, and where frames for
// them go to, as far as that is known.
func (m *Member) Remote(network string) map[record.MAC]Location {
	m.mu.Lock()
	all := m.guests(network)
	m.mu.Unlock()
	remote := make(map[record.MAC]Location)
	for _, g := range all {
		if l := m.Where(g); l.Host != "" && l.Underlay.IsValid() {
			remote[g.MAC] = l
		}
	}
	return remote
}

// Lease returns what is promised of an address, by this host or another one.
func (m *Member) Lease(a Address) (l record.Lease, host string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l, there := m.lease[a]; there {
		return l, m.cfg.Host
	}
	host, k := m.view.newest(a)
	return k.v, host
}

// Resolve returns the card that has a name, and its addresses.
func (m *Member) Resolve(n FQN) (g Guest, addrs []netip.Addr, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name, ok := m.nameOf(n)
	if !ok {
		return Guest{}, nil, false
	}
	g = Guest{n.Network, name.MAC}
	_, port := m.sender(g)
	addrs = append(slices.Clone(port.v.Addresses), m.addressesOf(g)...)
	slices.SortFunc(addrs, netip.Addr.Compare)
	return g, slices.Compact(addrs), true
}

// Names returns the names of a network that cards of other hosts have, and their addresses.
func (m *Member) Names(network string) map[string][]netip.Addr {
	m.mu.Lock()
	var names []FQN
	for _, v := range m.views() {
		for text := range v.called[network] {
			n := FQN{network, text}
			if name, there := m.nameOf(n); there && name.Host != m.cfg.Host {
				names = append(names, n)
			}
		}
	}
	m.mu.Unlock()
	all := make(map[string][]netip.Addr, len(names))
	for _, n := range names {
		if _, addrs, ok := m.Resolve(n); ok {
			all[n.Name] = addrs
		}
	}
	return all
}

// Usage is how the blocks of a network are shared out.
type Usage struct {
	Mine, Others int    // blocks
	Free, All    uint64 // addresses in this host's
}

// Usage returns how the blocks of a network are shared out.
func (m *Member) Usage(network string) (u Usage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.view.blocks[network] {
		if b.v.Host == m.cfg.Host {
			u.Mine++
		} else {
			u.Others++
		}
	}
	for _, p := range m.spans[network].Pools {
		free, all := m.free(network, p)
		u.Free, u.All = u.Free+free, u.All+all
	}
	return u
}

// Pool returns the blocks of a network from which this host gives addresses; whether it
// may give one is what MayLease says.
func (m *Member) Pool(network string) []netip.Prefix {
	m.mu.Lock()
	defer m.mu.Unlock()
	var pool []netip.Prefix
	for block, b := range m.view.blocks[network] {
		if b.v.Host == m.cfg.Host {
			pool = append(pool, block)
		}
	}
	slices.SortFunc(pool, netip.Prefix.Compare)
	return pool
}

// Definition returns the definition of a network, and the revision of its last change: 0 for
// none.
func (m *Member) Definition(network string) (n record.Network, revision int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.view.networks[network]
	return k.v, k.mod
}

// Claimed returns the revision at which a VXLAN network identifier was claimed, 0 for one that is
// free.
func (m *Member) Claimed(vni int) (revision int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.view.keys[record.Key{Kind: record.KindVNI, ID: strconv.Itoa(vni)}.Path(m.cfg.Cluster)].mod
}

// Defined returns the names of the networks that have a definition, in order.
func (m *Member) Defined() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.view.networks))
}

// Admit reports why a card may not come to this host: another guest has its address on a
// host that is alive, or, for one that is about to move here, the others would not learn
// where it is.
func (m *Member) Admit(g Guest, p Port) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !p.Here && m.phase != Joined {
		return fmt.Errorf("a guest can't move here while cluster %q is away: %w", m.cfg.Cluster, m.why())
	}
	if m.clashes(g, &localPort{Port: p}) {
		host, _ := m.view.winner(g)
		return fmt.Errorf("MAC address %s is that of another guest, on host %s", g.MAC, host)
	}
	return nil
}

// Fault is something that the operator should know.
type Fault struct {
	Kind    string // "away", "lost", "flapping", "duplicate", "split", "name", "reservation", "unreadable"
	Network string // that it is about; empty for no single one
	Subject string
	Text    string
}

// Faults returns what is not as it should be, in order.
func (m *Member) Faults() []Fault {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Fault
	add := func(kind, network, subject, format string, args ...any) {
		all = append(all, Fault{kind, network, subject, fmt.Sprintf(format, args...)})
	}
	switch {
	case m.lost != lostNothing:
		add("lost", "", m.cfg.Cluster, "%v", m.why())
	case m.phase == Away:
		add("away", "", m.cfg.Cluster, "%v", m.why())
	}
	for g, h := range m.moves {
		if h.frozen {
			add("flapping", g.Network, g.MAC.String(), "the card on network %q moves too often: two guests have its address; frames go to host %s until it is quiet", g.Network, h.host)
		}
	}
	for g, p := range m.ports {
		switch {
		case p.clash != "":
			add("duplicate", g.Network, g.MAC.String(), "another guest has the address on network %q, on host %s", g.Network, p.clash)
		case p.lost:
			add("split", g.Network, g.MAC.String(), "the guest sends from another host, its port on network %q is here still", g.Network)
		}
	}
	for n, guests := range m.named {
		have, there := m.view.names[n]
		another := slices.IndexFunc(guests, func(g Guest) bool { return g.MAC != have.v.MAC }) // not one that moves
		if there && another >= 0 && !m.wanted(n, have.v.MAC) {
			add("name", n.Network, n.Name, "the name on network %q is that of %s on host %s, and %s of this host goes without", n.Network, have.v.MAC, have.v.Host, guests[another].MAC)
		}
	}
	if m.phase != Away { // else it is not known who is silent
		for a, host := range m.waiting() {
			add("reservation", a.Network, a.Addr.String(), "the <host> with the address on network %q waits for host %s, which alone may give it until it is back or \"vnetctl cluster forget %[2]s\" says that it will not be", a.Network, host)
		}
	}
	for path, err := range m.view.strange {
		add("unreadable", "", path, "%v", err)
	}
	slices.SortFunc(all, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Network, b.Network))
	})
	return all
}

// Taken reports whether an address is promised to another card than this one, by any host.
func (m *Member) Taken(a Address, mac record.MAC) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, promised := m.lease[a]
	return promised && l.MAC != mac || !m.view.allows(a, mac)
}

// Uncovered is how many addresses of a network this host has promised of blocks that nobody has,
// or has not told of yet.
func (m *Member) Uncovered(network string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for a := range m.lease {
		if a.Network != network {
			continue
		}
		_, lent := m.pool(a)
		_, host := m.view.owner(a)
		if _, told := m.view.leases[a].of(m.cfg.Host); lent && host == "" || !told {
			n++
		}
	}
	return n
}

// Clash is why this host can't promise an address to a card that has it: another host has given
// it to another card, or may at any time.
type Clash struct {
	Host  string
	MAC   record.MAC   // the card that has the address there; zero: none
	Block netip.Prefix // of that host, which the address is in; invalid: of a card
}

// Clash finds why an address can't be a card's as this host has it; false for nothing.
func (m *Member) Clash(a Address, mac record.MAC) (Clash, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for host, l := range m.view.leases[a].all() {
		if host != m.cfg.Host && l.v.MAC != mac {
			return Clash{Host: host, MAC: l.v.MAC}, true
		}
	}
	block, host := m.view.owner(a)
	if host == "" || host == m.cfg.Host {
		return Clash{}, false
	}
	return Clash{Host: host, Block: block}, true
}

// MayLease reports whether this host may promise an address to a card: the question that
// DHCP asks before each promise. It needs no store. Where it may not give an address that is
// reserved for the card, Want is for that.
func (m *Member) MayLease(a Address, mac record.MAC) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mayLease(a, mac)
}

// Promise is MayLease, and where it may SetLease as well, with nothing in between.
func (m *Member) Promise(a Address, l record.Lease) bool {
	m.mu.Lock()
	defer m.unlock()
	if !m.mayLease(a, l.MAC) {
		return false
	}
	m.set(a, l)
	return true
}
