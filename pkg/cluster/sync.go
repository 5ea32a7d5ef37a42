package cluster

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// loss is what became of the store's data while nobody looked.
type loss string

// What a store can lose. Each is treated as if the store were away, until its operator
// says otherwise: what this host had from it stays in force.
const (
	lostNothing loss = ""
	lostAll     loss = "emptied"     // there is no cluster in it
	lostOther   loss = "other"       // there is another cluster in it
	lostBack    loss = "rolled back" // it is as it was at an earlier time
	lostHost    loss = "forgotten"   // what this host wrote is not there
)

// Errors that say why a host is away.
var (
	errUnseen = errors.New("the store has not been seen yet")
	errTwin   = errors.New("another vnetd writes as this host: each host needs a name and a certificate of its own")
)

// Phase is how far this host is in step with the others.
type Phase string

// The phases of a Member.
const (
	Away    Phase = "away"    // the store is not reached, or is not the one it was: all stays as it is
	Joining Phase = "joining" // what the store has is known, what this host has to say is not there
	Joined  Phase = "joined"
)

// Member is one host of a cluster. Its methods may be called by several goroutines.
type Member struct{ *Follower }

// Follower is the part of a Member that is told what the store has, and says what to ask
// of it.
type Follower struct {
	*state
	*cards
	*pools
	*promises
	*rights

	phase  Phase
	listed bool          // all that the store has was seen once
	known  chan struct{} // closed once phase says what came of looking for the store
	reason error         // why it is away
	since  time.Time     // since when it has joined, or has not any more; zero until it first has
	lost   loss          // what the store lost, if it did
	accept bool          // the operator has said that this host shall write its own anew

	session    int64
	sessionPut int64    // the session with which "alive" was put
	fence      int64    // revision of this host's "member", which each transaction compares
	busy       *Request // under way
	settle     int64    // nothing is asked of the store until it was seen up to here
	contest    contest  // how the last transaction that lost a race is waited for

	unsaved []Event
	anew    bool // unsaved is all that there is

	news  chan struct{} // Changes has something
	retry chan struct{} // the store is to be tried again now
}

// unlock unlocks, and has looked at what has changed.
func (m *Follower) unlock() {
	m.mu.Unlock()
	ring(m.wakes)
	ring(m.news)
}

// Lost says that the store is not reached, or a request or the watch failed. What was
// known stays. The next that is asked for is a list.
func (m *Follower) Lost(err error, now time.Time) {
	m.mu.Lock()
	defer m.unlock()
	m.away(err, now)
}

func (m *Follower) away(err error, now time.Time) {
	if m.phase == Joined {
		m.since = now
	}
	m.changes.State = true
	m.phase, m.reason, m.busy, m.sessionPut = Away, err, nil, 0
	m.know()
}

// know says that it is known by now whether the store is there.
func (m *Follower) know() {
	select {
	case <-m.known:
	default:
		close(m.known)
	}
}

// Known is closed once this host has joined for the first time, or knows why it can't yet.
func (m *Follower) Known() <-chan struct{} { return m.known }

// Listed takes in all that the store has: of what is known already only what has changed. It
// returns false where the store is not what it was: then a list is to be asked for again later.
func (m *Follower) Listed(l Listing, now time.Time) bool {
	first := m.view.meta == nil           // nobody else changes what view has
	next := read(m.cfg.Cluster, l, first) // which is long the first time, and DHCP asks meanwhile
	m.mu.Lock()
	defer m.unlock()
	if m.twin = m.hasTwin(next); m.twin {
		m.away(errTwin, now)
		return false
	}
	lost, err := m.compare(next)
	if lost != lostNothing && !m.accepts(next, lost) {
		m.away(err, now)
		m.lost = lost
		return false
	}
	if lost != lostNothing {
		next = read(m.cfg.Cluster, l, true)
		m.beginRestore(next, lost)
	}
	m.accept, m.lost = false, lostNothing
	m.catchUp(l, next, first || lost != lostNothing, now)
	m.settle, m.fence, m.contest = 0, next.keys[m.key(record.KindMember)].mod, contest{}
	m.phase, m.reason = Joining, nil
	m.changes.State = true
	for g := range m.ports {
		m.pending.ports.push(g)
	}
	return true
}

// hasTwin reports whether another vnetd that is alive is this host: neither this one nor the one before,
// of which the disk knows. A session of who was this host earlier may last a while.
func (m *Follower) hasTwin(next *view) bool {
	alive, there := next.alive[m.cfg.Host]
	boot := next.members[m.cfg.Host].v.Boot
	return there && alive.v.Boot == boot && boot != m.cfg.Boot && boot != m.view.members[m.cfg.Host].v.Boot
}

// isAway reports whether this host is away.
func (m *Follower) isAway() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.phase == Away
}

// cause is why this host is away.
func (m *Follower) cause() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.why()
}

// why is why this host is not in step.
func (m *Follower) why() error {
	if m.reason != nil {
		return m.reason
	}
	return errUnseen
}

// compare finds what the store lost since it was last seen.
func (m *Follower) compare(next *view) (loss, error) {
	old := m.view
	switch {
	case next.meta == nil && old.meta == nil:
		return lostAll, fmt.Errorf("the store has no cluster %q: make it with vnetctl cluster init", m.cfg.Cluster)
	case next.meta == nil:
		return lostAll, fmt.Errorf("the store has lost cluster %q", m.cfg.Cluster)
	case next.meta.Schema > record.Schema:
		return lostOther, fmt.Errorf("cluster %q has schema %d, this vnetd knows %d: install a newer one", m.cfg.Cluster, next.meta.Schema, record.Schema)
	case old.meta == nil:
		return lostNothing, nil
	case next.meta.UUID != old.meta.UUID:
		return lostOther, fmt.Errorf("cluster %q is another one: its UUID is %s, was %s", m.cfg.Cluster, next.meta.UUID, old.meta.UUID)
	case next.store != old.store && next.store != 0 && old.store != 0:
		return lostBack, fmt.Errorf("the store is another one: its cluster ID is %x, was %x", next.store, old.store)
	case next.revision < old.revision:
		return lostBack, fmt.Errorf("the store went back in time: revision %d, was %d", next.revision, old.revision)
	}
	return m.compareKeys(next)
}

// compareKeys finds keys that went back, and such of this host that are missing.
func (m *Follower) compareKeys(next *view) (loss, error) {
	missing := ""
	for path, was := range m.view.keys {
		now, there := next.keys[path]
		if there && now.mod < was.mod {
			return lostBack, fmt.Errorf("the store went back in time: %s was changed at revision %d, and now at %d", path, was.mod, now.mod)
		}
		_, deleted := m.doubt.keys[path]
		if !there && !deleted && m.view.ours(path, m.cfg.Host) && (missing == "" || path < missing) {
			missing = path
		}
	}
	if missing != "" {
		return lostHost, fmt.Errorf("the store has lost what this host wrote, %s for one", missing)
	}
	return lostNothing, nil
}

// accepts reports whether this host may write its own anew into a store that lost it: the
// operator has said so here, and, unless only this host was forgotten, once for all hosts
// in Meta.
func (m *Follower) accepts(next *view, lost loss) bool {
	if !m.accept || next.meta == nil || m.view.meta == nil || next.meta.UUID != m.view.meta.UUID {
		return false
	}
	return lost == lostHost || next.meta.Epoch > m.view.meta.Epoch
}

// beginRestore prepares that this host writes its own into a store that lost it: its
// blocks first, then its leases, where its guests are and how they are called, and itself
// last.
func (m *Follower) beginRestore(next *view, lost loss) {
	m.restore, m.restoring = make(map[netPrefix][]netip.Addr), true
	m.doubts(nil)
	for network, blocks := range m.view.blocks {
		for block, b := range blocks {
			if b.v.Host == m.cfg.Host {
				m.restore[netPrefix{network, block}] = b.v.Without
				m.doubt.cede(network, b.v.Without)
			}
		}
	}
	m.distrust(next)
	m.before = nil
	if lost != lostHost {
		m.before = m.view
		m.keepNetworks(next)
	}
	for a := range m.lease {
		block, _ := m.view.owner(a)
		if _, has := m.restore[netPrefix{a.Network, block}]; lost == lostHost && (!has || m.view.without(a.Network, block, a.Addr)) {
			m.giveUp(a)
		}
	}
	for _, a := range sortedAddresses(m.lease) {
		m.pending.leases.push(a)
	}
	delete(next.members, m.cfg.Host) // joining writes it, last
}

// keepNetworks has definitions that the store has not any more count as lost with it: nobody
// took them back.
func (m *Follower) keepNetworks(next *view) {
	for network := range m.view.networks {
		if _, there := next.networks[network]; !there {
			delete(m.view.keys, record.Key{Kind: record.KindNetwork, Network: network}.Path(m.cfg.Cluster))
		}
	}
}

// Restore says that the operator wants this host to write its own anew into a store that
// lost it. It takes effect with the next list.
func (m *Follower) Restore() error {
	m.mu.Lock()
	defer m.unlock()
	if m.lost == lostNothing {
		return errors.New("the store has all that this host wrote: there is nothing to restore")
	}
	m.accept = true
	ring(m.retry)
	return nil
}

// catchUp has the view be what a list has, and has all looked at that is different. next is the
// list, and takes the place of the view where it is whole.
func (m *Follower) catchUp(l Listing, next *view, whole bool, now time.Time) {
	missed := m.view.missed(l, next)
	paths := make([]string, 0, len(missed))
	winners := make(map[Guest]string)
	for _, e := range missed {
		paths = append(paths, e.Key)
		if k, err := record.Parse(m.cfg.Cluster, e.Key); err == nil && k.Kind == record.KindPort {
			winners[guestOf(k)], _ = m.view.winner(guestOf(k))
		}
	}
	if whole {
		m.view, m.unsaved, m.anew = next, newView(m.cfg.Cluster).missed(l, next), true
	} else {
		for _, e := range missed {
			m.view.see(e)
		}
		m.view.revision, m.view.store = l.Revision, l.Store
		m.unsaved = append(m.unsaved, missed...)
	}
	for network := range m.spans {
		m.recount(network)
	}
	for network := range m.view.blocks { // also one that was this host's, and is none of its cluster's any more
		m.recount(network)
	}
	if !m.listed {
		m.listed = true
		paths = append(paths, m.view.written(m.cfg.Host)...) // by a process, perhaps, that knew other ports and leases
	}
	slices.Sort(paths)
	for _, path := range slices.Compact(paths) {
		if k, err := record.Parse(m.cfg.Cluster, path); err == nil {
			m.touch(k, true)
		}
	}
	for _, g := range slices.SortedFunc(maps.Keys(winners), Guest.compare) {
		m.noteMove(g, winners[g], now)
	}
}

// Seen takes in what a watch tells. It returns false if a list is needed.
func (m *Follower) Seen(b Batch, now time.Time) bool {
	m.mu.Lock()
	defer m.unlock()
	if b.Err != nil {
		m.away(b.Err, now)
		return false
	}
	if m.phase == Away {
		return false
	}
	for _, e := range b.Events {
		if e.Mod <= m.view.revision {
			continue
		}
		if err := m.foreign(e); err != nil {
			m.away(err, now)
			return false
		}
		m.see(e, now)
	}
	m.view.revision = max(m.view.revision, b.Revision)
	m.settled()
	if m.before != nil && m.view.complete() {
		m.before = nil
	}
	return true
}

// foreign reports a change of what this host alone writes by somebody else.
func (m *Follower) foreign(e Event) error {
	if e.Deleted {
		_, mine := m.doubt.keys[e.Key]
		if !mine && m.view.ours(e.Key, m.cfg.Host) {
			return fmt.Errorf("somebody deleted what this host wrote: %s", e.Key)
		}
		return nil
	}
	if e.Key != m.key(record.KindMember) {
		return nil
	}
	var other record.Member
	if err := record.Decode(e.Value, &other); err != nil || other.Boot != m.cfg.Boot {
		m.twin = true
		return errTwin
	}
	return nil
}

// see takes in one event.
func (m *Follower) see(e Event, now time.Time) {
	winner := ""
	k, err := record.Parse(m.cfg.Cluster, e.Key)
	if err == nil && k.Kind == record.KindPort {
		winner, _ = m.view.winner(guestOf(k))
	}
	m.view.see(e)
	m.unsaved = append(m.unsaved, e)
	if err != nil {
		return
	}
	if k.Kind == record.KindPort {
		m.noteMove(guestOf(k), winner, now)
	}
	m.touch(k, false)
	if e.Key == m.key(record.KindMember) && !e.Deleted {
		m.fence = e.Mod
		if m.phase == Joining {
			m.phase, m.since, m.restoring, m.restore = Joined, now, false, nil
			m.know()
			m.changes.State = true
		}
	}
}

// touch has all looked at that hangs on a key that has changed: in a list, after which what this
// host has of blocks was counted anew, or as an event.
func (m *Follower) touch(k record.Key, listed bool) {
	switch k.Kind {
	case record.KindAlive: // who is silent is a peer all the same
	case record.KindMember, record.KindMeta:
		m.changes.Peers = m.changes.Peers || k.Host != m.cfg.Host
		m.changes.State = m.changes.State || k.Kind == record.KindMeta
		m.remind()
	case record.KindNetwork:
		m.changes.Networks = append(m.changes.Networks, k.Network)
	case record.KindPort:
		g := guestOf(k)
		m.changes.guest(g)
		m.touchGuest(g)
		m.touchReserved(g)
	case record.KindLease:
		a := addressOf(k)
		m.changes.address(a)
		m.touchAddress(a)
	case record.KindBlock:
		block, _ := record.ParseBlockID(k.ID)
		if listed || m.recountBlock(k.Network, block) {
			m.changes.Pools = true
		}
		m.pending.nets.push(k.Network)
		m.touchRights(k.Network, block)
	case record.KindRight:
		m.changes.Pools = true
		m.pending.rights.push(addressOf(k))
	case record.KindName:
		m.changes.name(FQN{k.Network, k.ID})
		m.pending.names.push(FQN{k.Network, k.ID})
	case record.KindWant:
		m.pending.nets.push(k.Network)
	}
}

// SetSession says by which session the store knows this process; 0 for none.
func (m *Follower) SetSession(lease int64) {
	m.mu.Lock()
	defer m.unlock()
	m.session = lease
}

// Load takes in what a disk has kept, before anything else.
func (m *Follower) Load(s Saved) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.view.store, m.view.revision = s.Store, s.Revision
	for _, path := range slices.Sorted(maps.Keys(s.Keys)) {
		k, known := m.view.put(s.Keys[path])
		if known && k.Kind == record.KindLease {
			m.count(addressOf(k))
		}
	}
	m.doubts(s.Doubt)
}

// Saving returns what is to be kept: before a request that says so (Keep) is sent, and when
// there was none for a while.
func (m *Follower) Saving() Saving {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Saving{All: m.anew, Store: m.view.store, Revision: m.view.revision, Events: m.unsaved, Doubt: m.doubt.ops}
	m.unsaved, m.anew = nil, false
	return s
}
