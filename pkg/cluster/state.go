package cluster

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"

	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// state is what all parts of a member have in common: what this host is, what it knows of
// the store, and what it has still to do and to tell.
type state struct {
	cfg Config
	mu  sync.Mutex

	view      *view // what the store had when this host was last in step
	before    *view // until all hosts are back: what it had before it was lost
	doubt     doubt
	twin      bool // another vnetd writes as this host: what is free of its blocks is not this one's to give
	restoring bool // this host writes its own into a store that lost it

	pending queues
	changes Changes
	wakes   chan struct{} // capacity 1: Next has something new to look at
}

// Config is what a host is in its cluster.
type Config struct {
	Cluster string // its name
	Host    string // this host's
	Boot    string // another one each time that vnetd starts

	Underlay netip.Addr // where tunnels of this host end
	MTU      int        // of the underlay, in bytes
	Version  string     // of this vnetd

	Rand *rand.Rand // chooses blocks of addresses
}

// Span is a network that spans hosts, as this host has it.
type Span struct {
	Network string
	Pools   []Pool // one of each family at most

	// Reserved are the addresses that one client each gets, on whichever host it is; in a pool
	// or not.
	Reserved []Reservation
}

// Reservation is an address that is reserved for a client.
type Reservation struct {
	Addr  netip.Addr
	Cards []record.MAC // of the client, as far as they are known
	Open  bool         // the client may have another card
}

// Pool are the addresses of a network that hosts give to guests.
type Pool struct {
	First, Last netip.Addr
	Bits        int          // length of the prefix of a block
	Excluded    []netip.Addr // given to nobody: gateways, reservations
}

// Port is a guest's card on this host.
type Port struct {
	UUID      string // of the port
	Owner     string // the guest's UUID: the same guest may be on two hosts while it moves
	Name      string // of the guest, for DNS; "" for none
	Addresses []netip.Addr
	Here      bool // false: it is about to move here
}

func checkSpan(s Span) error {
	if err := record.CheckNetwork(s.Network); err != nil {
		return err
	}
	for i, p := range s.Pools {
		switch {
		case !p.First.IsValid() || p.First.Is4() != p.Last.Is4() || p.Last.Less(p.First):
			return fmt.Errorf("network %q: addresses %v to %v: want the first of a family before its last", s.Network, p.First, p.Last)
		case p.Bits < minPool(p.First) || p.Bits > smallest(p.First):
			return fmt.Errorf("network %q: blocks of /%d: want /%d to /%d", s.Network, p.Bits, minPool(p.First), smallest(p.First))
		case i > 0 && s.Pools[0].First.Is4() == p.First.Is4():
			return fmt.Errorf("network %q: two pools of one family", s.Network)
		}
	}
	return nil
}

// queues are what has to be compared with the store.
type queues struct {
	ports  queue[Guest]
	leases queue[Address]
	names  queue[FQN]
	nets   queue[string]
	rights queue[Address]
	cedes  queue[string] // networks whose blocks may not be without what is reserved
}

// doubt is what a transaction under way may have done, or may still do.
type doubt struct {
	ops    []Op
	leases map[Address]record.MAC // records that it puts
	gone   []netPrefix            // blocks that it deletes
	stay   []netPrefix            // blocks that it puts
	ceded  map[Address]struct{}   // what those are without
	keys   map[string]struct{}    // keys that it deletes
}

// doubts keeps what a transaction may do, from the moment on that it is made.
func (m *state) doubts(ops []Op) {
	if m.doubt.keys == nil {
		m.doubt.leases, m.doubt.keys, m.doubt.ceded = make(map[Address]record.MAC), make(map[string]struct{}), make(map[Address]struct{})
	}
	m.doubt.ops = append(m.doubt.ops, ops...)
	for _, op := range ops {
		m.doubtOp(op)
	}
}

func (m *state) doubtOp(op Op) {
	k, err := record.Parse(m.cfg.Cluster, op.Key)
	if err != nil {
		return
	}
	if op.Value == nil {
		m.doubt.keys[op.Key] = struct{}{}
	}
	switch {
	case k.Kind == record.KindLease && op.Value != nil:
		var l record.Lease
		if record.Decode(op.Value, &l) == nil {
			m.doubt.leases[addressOf(k)] = l.MAC
		}
	case k.Kind == record.KindBlock && op.Value == nil:
		block, _ := record.ParseBlockID(k.ID)
		m.doubt.gone = append(m.doubt.gone, netPrefix{k.Network, block})
	case k.Kind == record.KindBlock:
		block, _ := record.ParseBlockID(k.ID)
		m.doubt.stay = append(m.doubt.stay, netPrefix{k.Network, block})
		var b record.Block
		if record.Decode(op.Value, &b) == nil {
			m.doubt.cede(k.Network, b.Without)
		}
	}
}

// cede takes in that a block may be without addresses.
func (d *doubt) cede(network string, without []netip.Addr) {
	for _, addr := range without {
		d.ceded[Address{network, addr}] = struct{}{}
	}
}

// gives reports whether an address may be part of what is given up of a block, or what the
// block is without.
func (d *doubt) gives(a Address, block netip.Prefix) bool {
	if _, ceded := d.ceded[a]; ceded {
		return true
	}
	has := func(p netPrefix) bool { return p.network == a.Network && p.block.Contains(a.Addr) }
	return slices.Contains(d.gone, netPrefix{a.Network, block}) && !slices.ContainsFunc(d.stay, has)
}

// path is that of a key of a network.
func (m *state) path(kind record.Kind, network, id string) string {
	return record.Key{Kind: kind, Host: m.cfg.Host, Network: network, ID: id}.Path(m.cfg.Cluster)
}

// key is the path of a key of this host that there is once.
func (m *state) key(kind record.Kind) string {
	return record.Key{Kind: kind, Host: m.cfg.Host}.Path(m.cfg.Cluster)
}

// Changes are what has changed for the host since they were taken last: what to ask about
// again, each once.
type Changes struct {
	State     bool      // Status
	Peers     bool      // Peers, but for which of them are silent
	Pools     bool      // Pool
	Guests    []Guest   // Where
	Names     []FQN     // Resolve
	Addresses []Address // Lease
	Networks  []string  // Definition

	Adopted  []Address // leases that this host serves from now on: SetLease need not be told
	GivenUp  []Address // leases that it must not renew
	Conceded []Block   // blocks that others had when this host's were restored

	guests    map[Guest]struct{}
	names     map[FQN]struct{}
	addresses map[Address]struct{}
}

// Block is a block of addresses of a network.
type Block struct {
	Network string
	Prefix  netip.Prefix
}

func (c *Changes) guest(g Guest)     { once(&c.guests, &c.Guests, g) }
func (c *Changes) name(n FQN)        { once(&c.names, &c.Names, n) }
func (c *Changes) address(a Address) { once(&c.addresses, &c.Addresses, a) }

// once adds what is not in a list yet.
func once[T comparable](seen *map[T]struct{}, list *[]T, t T) {
	if _, there := (*seen)[t]; there {
		return
	}
	if *seen == nil {
		*seen = make(map[T]struct{})
	}
	(*seen)[t] = struct{}{}
	*list = append(*list, t)
}

// queue is what has still to be looked at, in the order in which it came, each once.
type queue[T comparable] struct {
	in    map[T]struct{}
	order []T
}

// push adds what is not in it yet.
func (q *queue[T]) push(t T) {
	if _, there := q.in[t]; there {
		return
	}
	if q.in == nil {
		q.in = make(map[T]struct{})
	}
	q.in[t] = struct{}{}
	q.order = append(q.order, t)
}

// keep calls look for each in turn until it returns stop, and drops those for which it
// returns done. look may not push.
func (q *queue[T]) keep(look func(T) (done, stop bool)) {
	kept := 0
	for i, t := range q.order {
		done, stop := look(t)
		if done {
			delete(q.in, t)
		} else {
			q.order[kept] = t
			kept++
		}
		if stop {
			kept += copy(q.order[kept:], q.order[i+1:])
			break
		}
	}
	clear(q.order[kept:])
	q.order = q.order[:kept]
}

// ring sends to a channel unless something is in it already.
func ring(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// len is how many are in it.
func (q *queue[T]) len() int { return len(q.order) }

// Request is what a Member asks of the store: a transaction.
type Request struct {
	Txn Txn

	// Keep says that the disk must have what Saving returns before the store is asked. A guest
	// that moves can't be reached meanwhile, so a request that says where guests are need not wait:
	// nothing hangs on whether it was made.
	Keep bool

	at   int64 // revision by which it was made
	full bool  // nothing more has its room in it
	wait bool  // what comes next in order has to wait for other hosts
	more bool  // not all was looked at
}

// keeps reports whether it does anything but say where guests are.
func (r *Request) keeps(cluster string) bool {
	return slices.ContainsFunc(r.Txn.Then, func(op Op) bool {
		k, err := record.Parse(cluster, op.Key)
		return err != nil || k.Kind != record.KindPort || op.Value == nil
	})
}

// add puts an operation, with its comparisons, into a request, if there is room for it.
func (r *Request) add(op Op, compares ...Compare) bool {
	// One comparison is that of the fence.
	if len(r.Txn.Then)+1 > MaxOps || len(r.Txn.If)+len(compares)+1 > MaxOps {
		r.full = true
		return false
	}
	r.Txn.Then, r.Txn.If = append(r.Txn.Then, op), append(r.Txn.If, compares...)
	return true
}

// sortedAddresses are the keys of a map in order, so that what is done by them is the
// same each time.
func sortedAddresses[T any](m map[Address]T) []Address {
	return slices.SortedFunc(maps.Keys(m), func(a, b Address) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), a.Addr.Compare(b.Addr))
	})
}

// minPool is the shortest prefix that a block may have.
func minPool(a netip.Addr) int {
	if a.Is4() {
		return 16
	}
	return 112
}

// smallest is the longest prefix that a block may have which is claimed as a whole.
func smallest(a netip.Addr) int { return a.BitLen() - 2 }
