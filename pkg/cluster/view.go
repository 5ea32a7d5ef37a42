package cluster

import (
	"cmp"
	"hash/maphash"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// Guest is a guest's card on a network.
type Guest struct {
	Network string
	MAC     record.MAC
}

func (g Guest) compare(other Guest) int {
	return cmp.Or(cmp.Compare(g.Network, other.Network), slices.Compare(g.MAC[:], other.MAC[:]))
}

// Address is an address on a network.
type Address struct {
	Network string
	Addr    netip.Addr
}

// FQN is a name on a network.
type FQN struct{ Network, Name string }

// kept is a value as the store has it.
type kept[T any] struct {
	v           T
	create, mod int64
}

// stamp says when a key came to be and was changed last, and to what: a store that was set back and has
// gone on since may have another value of the same revision.
type stamp struct {
	create, mod int64
	sum         uint64
}

var seed = maphash.MakeSeed()

func stampOf(kv KV) stamp { return stamp{kv.Create, kv.Mod, maphash.Bytes(seed, kv.Value)} }

// byHost is what hosts say of one thing. It is seldom more than one that does, for which a map would
// be many times as large.
type byHost[T any] []said[T]

// said is what one host says.
type said[T any] struct {
	host string
	kept[T]
}

// of is what a host says.
func (b byHost[T]) of(host string) (k kept[T], there bool) {
	for h, k := range b.all() {
		if h == host {
			return k, true
		}
	}
	return k, false
}

// all are the hosts that say something, and what.
func (b byHost[T]) all() iter.Seq2[string, kept[T]] {
	return func(yield func(string, kept[T]) bool) {
		for i := range b {
			if !yield(b[i].host, b[i].kept) {
				return
			}
		}
	}
}

// view is what the store had at a revision.
type view struct {
	cluster  string
	revision int64
	store    uint64
	keys     map[string]stamp // all that there are

	meta     *record.Meta
	networks map[string]kept[record.Network]
	members  map[string]kept[record.Member]
	alive    map[string]kept[record.Alive]
	ports    map[Guest]byHost[record.Port]
	cards    map[string]map[record.MAC]struct{} // of each network, of which there are ports
	leases   map[Address]byHost[record.Lease]
	blocks   map[string]map[netip.Prefix]kept[record.Block]
	lengths  map[string]map[int]int // how many blocks of a network have a length
	names    map[FQN]kept[record.Name]
	called   map[string]map[string]struct{} // names of each network
	rights   map[Address]kept[record.Right]
	wants    map[string]map[string]kept[record.Want] // by host
	of       map[Guest]map[Address]int               // how many records of an address name the card
	strange  map[string]error                        // keys that can't be read
}

func newView(cluster string) *view {
	return &view{
		cluster: cluster, keys: make(map[string]stamp), networks: make(map[string]kept[record.Network]),
		members: make(map[string]kept[record.Member]), alive: make(map[string]kept[record.Alive]),
		ports: make(map[Guest]byHost[record.Port]), cards: make(map[string]map[record.MAC]struct{}), called: make(map[string]map[string]struct{}), leases: make(map[Address]byHost[record.Lease]),
		blocks: make(map[string]map[netip.Prefix]kept[record.Block]), lengths: make(map[string]map[int]int), names: make(map[FQN]kept[record.Name]),
		rights: make(map[Address]kept[record.Right]), wants: make(map[string]map[string]kept[record.Want]), of: make(map[Guest]map[Address]int), strange: make(map[string]error),
	}
}

// read reads a listing of all keys of a cluster: the values of all, or of those alone that say which
// cluster it is and which hosts are there. What can't be read counts as absent.
func read(cluster string, l Listing, all bool) *view {
	v := newView(cluster)
	v.revision, v.store, v.keys = l.Revision, l.Store, make(map[string]stamp, len(l.KVs))
	for _, kv := range l.KVs {
		if !all && !slices.Contains(outlines, kv.Key[strings.LastIndexByte(kv.Key, '/')+1:]) {
			v.keys[kv.Key] = stampOf(kv)
			continue
		}
		k, err := record.Parse(cluster, kv.Key)
		v.add(kv, k, err == nil)
	}
	return v
}

// outlines end the keys that say which cluster it is and which hosts are there.
var outlines = []string{string(record.KindMeta), string(record.KindMember), string(record.KindAlive)}

// missed is how what a list has, next, differs from what v has.
func (v *view) missed(l Listing, next *view) (all []Event) {
	for _, kv := range l.KVs {
		if v.keys[kv.Key] != next.keys[kv.Key] {
			all = append(all, Event{KV: kv})
		}
	}
	for path := range v.keys {
		if _, there := next.keys[path]; !there {
			all = append(all, Event{KV: KV{Key: path, Mod: l.Revision}, Deleted: true})
		}
	}
	return all
}

// written are the keys that a host wrote, but for those of its blocks.
func (v *view) written(host string) (paths []string) {
	for path := range v.keys {
		if strings.HasPrefix(path, record.HostPrefix(v.cluster, host)) {
			paths = append(paths, path)
		}
	}
	for n, name := range v.names {
		if name.v.Host == host {
			paths = append(paths, record.Key{Kind: record.KindName, Network: n.Network, ID: n.Name}.Path(v.cluster))
		}
	}
	return paths
}

// see takes in what became of a key.
func (v *view) see(e Event) {
	if e.Deleted {
		v.drop(e.Key)
	} else {
		v.put(e.KV)
	}
}

// put takes a key in. It returns the key even if the value can't be read, which then
// counts as absent.
func (v *view) put(kv KV) (record.Key, bool) {
	k, known := v.drop(kv.Key)
	v.add(kv, k, known)
	return k, known
}

// add is put for a key that was not there. known says whether it stands for something.
func (v *view) add(kv KV, k record.Key, known bool) {
	v.keys[kv.Key] = stampOf(kv)
	if !known {
		return
	}
	if err := v.decode(k, kv); err != nil {
		v.strange[kv.Key] = err
	}
}

// decode reads a value to where its kind is kept.
func (v *view) decode(k record.Key, kv KV) error {
	switch k.Kind {
	case record.KindMeta:
		var m kept[record.Meta]
		err := m.read(kv, &m.v)
		if err == nil {
			v.meta = &m.v
		}
		return err
	case record.KindNetwork:
		return take(v.networks, k.Network, kv, func(w *record.Network) record.Value { return w })
	case record.KindMember:
		return take(v.members, k.Host, kv, func(w *record.Member) record.Value { return w })
	case record.KindAlive:
		return take(v.alive, k.Host, kv, func(w *record.Alive) record.Value { return w })
	case record.KindPort:
		g := guestOf(k)
		inner(v.cards, g.Network)[g.MAC] = struct{}{}
		return say(v.ports, g, k.Host, kv, func(w *record.Port) record.Value { return w })
	case record.KindLease:
		return v.decodeLease(k, kv)
	case record.KindBlock:
		block, _ := record.ParseBlockID(k.ID)
		err := take(inner(v.blocks, k.Network), block, kv, func(w *record.Block) record.Value { return w })
		if err == nil {
			inner(v.lengths, k.Network)[block.Bits()]++
		}
		return err
	case record.KindName:
		inner(v.called, k.Network)[k.ID] = struct{}{}
		return take(v.names, FQN{k.Network, k.ID}, kv, func(w *record.Name) record.Value { return w })
	case record.KindRight:
		return take(v.rights, addressOf(k), kv, func(w *record.Right) record.Value { return w })
	case record.KindWant:
		return take(inner(v.wants, k.Network), k.Host, kv, func(w *record.Want) record.Value { return w })
	}
	return nil
}

func (v *view) decodeLease(k record.Key, kv KV) error {
	a := addressOf(k)
	err := say(v.leases, a, k.Host, kv, func(w *record.Lease) record.Value { return w })
	if err == nil {
		l, _ := v.leases[a].of(k.Host)
		inner(v.of, Guest{k.Network, l.v.MAC})[a]++
	}
	return err
}

// drop takes a key out. It returns false for one that stands for nothing.
func (v *view) drop(path string) (record.Key, bool) {
	delete(v.keys, path)
	delete(v.strange, path)
	k, err := record.Parse(v.cluster, path)
	if err != nil {
		return k, false
	}
	switch k.Kind {
	case record.KindMeta:
		v.meta = nil
	case record.KindNetwork:
		delete(v.networks, k.Network)
	case record.KindMember:
		delete(v.members, k.Host)
	case record.KindAlive:
		delete(v.alive, k.Host)
	case record.KindPort:
		v.dropPort(guestOf(k), k.Host)
	case record.KindLease:
		v.dropLease(k)
	case record.KindBlock:
		block, _ := record.ParseBlockID(k.ID)
		v.dropBlock(k.Network, block)
	case record.KindName:
		delete(v.names, FQN{k.Network, k.ID})
		remove(v.called, k.Network, k.ID)
	case record.KindRight:
		delete(v.rights, addressOf(k))
	case record.KindWant:
		remove(v.wants, k.Network, k.Host)
	}
	return k, true
}

func (v *view) dropPort(g Guest, host string) {
	unsay(v.ports, g, host)
	if _, others := v.ports[g]; !others {
		remove(v.cards, g.Network, g.MAC)
	}
}

func (v *view) dropBlock(network string, block netip.Prefix) {
	if _, there := v.blocks[network][block]; !there {
		return
	}
	remove(v.blocks, network, block)
	if v.lengths[network][block.Bits()]--; v.lengths[network][block.Bits()] == 0 {
		remove(v.lengths, network, block.Bits())
	}
}

func (v *view) dropLease(k record.Key) {
	a := addressOf(k)
	old, there := v.leases[a].of(k.Host)
	if !there {
		return
	}
	unsay(v.leases, a, k.Host)
	g := Guest{k.Network, old.v.MAC}
	if v.of[g][a]--; v.of[g][a] <= 0 {
		remove(v.of, g, a)
	}
}

// winner is the host from which a card sends, of those that say so: where it moved last,
// and of two that say the same the one that said so later.
func (v *view) winner(g Guest) (host string, port kept[record.Port]) {
	for h, p := range v.ports[g].all() {
		if p.v.State != record.Here {
			continue
		}
		if host == "" || cmp.Or(cmp.Compare(p.v.Seq, port.v.Seq), cmp.Compare(p.create, port.create)) > 0 {
			host, port = h, p
		}
	}
	return host, port
}

// after is the number that follows one of a record. There is none after the largest, which no guest
// and no lease comes to by itself: of records that have that, the one that was made last counts.
func after(seq uint64) uint64 { return max(seq, seq+1) }

// seq is how often a card has moved, as far as anybody says.
func (v *view) seq(g Guest) (seq uint64) {
	for _, p := range v.ports[g].all() {
		seq = max(seq, p.v.Seq)
	}
	return seq
}

// newest is the record of an address that its last host wrote.
func (v *view) newest(a Address) (host string, lease kept[record.Lease]) {
	for h, l := range v.leases[a].all() {
		if host == "" || cmp.Or(cmp.Compare(l.v.Seq, lease.v.Seq), cmp.Compare(l.create, lease.create)) > 0 {
			host, lease = h, l
		}
	}
	return host, lease
}

// allows reports whether no record gives an address to another card than this one.
func (v *view) allows(a Address, mac record.MAC) bool {
	for _, l := range v.leases[a].all() {
		if l.v.MAC != mac {
			return false
		}
	}
	return true
}

// owner returns the block that has an address, and whose it is.
func (v *view) owner(a Address) (block netip.Prefix, host string) {
	length := 0
	for bits := range v.lengths[a.Network] {
		p, err := a.Addr.Prefix(bits)
		if b, there := v.blocks[a.Network][p]; err == nil && there && bits > length {
			block, host, length = p, b.v.Host, bits
		}
	}
	return block, host
}

// complete reports whether every host is back that was known when the store was lost.
func (v *view) complete() bool {
	return v.meta != nil && !slices.ContainsFunc(v.meta.Await, v.awaits)
}

// awaits reports whether a host has still to write its own into a store that lost it.
func (v *view) awaits(host string) bool {
	h, there := v.members[host]
	return v.meta != nil && slices.Contains(v.meta.Await, host) && (!there || h.v.Epoch < v.meta.Epoch)
}

// ours reports whether a key is one that this host alone writes, and that stays until it
// deletes it.
func (v *view) ours(path, host string) bool {
	rest, under := strings.CutPrefix(path, record.HostPrefix(v.cluster, host))
	if under {
		return rest != string(record.KindAlive)
	}
	k, err := record.Parse(v.cluster, path)
	return err == nil && (k.Kind == record.KindBlock || k.Kind == record.KindRight) && v.belongs(k, host)
}

// belongs reports whether a key that all hosts may write is a host's.
func (v *view) belongs(k record.Key, host string) bool {
	switch k.Kind {
	case record.KindBlock:
		block, _ := record.ParseBlockID(k.ID)
		return v.blocks[k.Network][block].v.Host == host
	case record.KindRight:
		return v.rights[addressOf(k)].v.Host == host
	case record.KindName:
		return v.names[FQN{k.Network, k.ID}].v.Host == host
	case record.KindWant:
		return k.Host == host
	}
	return false
}

func guestOf(k record.Key) Guest {
	mac, _ := record.ParseMAC(k.ID)
	return Guest{k.Network, mac}
}

func addressOf(k record.Key) Address {
	addr, _ := netip.ParseAddr(k.ID)
	return Address{k.Network, addr}
}

// read decodes a value.
func (e *kept[T]) read(kv KV, v record.Value) error {
	e.create, e.mod = kv.Create, kv.Mod
	return record.Decode(kv.Value, v)
}

// take decodes a value into a map.
func take[K comparable, T any](m map[K]kept[T], key K, kv KV, value func(*T) record.Value) error {
	var e kept[T]
	if err := e.read(kv, value(&e.v)); err != nil {
		return err
	}
	m[key] = e
	return nil
}

// say is take for what a host says of the thing at a key, of which it has said nothing.
func say[K comparable, T any](m map[K]byHost[T], key K, host string, kv KV, value func(*T) record.Value) error {
	e := said[T]{host: host}
	if err := e.read(kv, value(&e.v)); err != nil {
		return err
	}
	m[key] = append(m[key], e)
	return nil
}

// unsay deletes what a host says of the thing at a key.
func unsay[K comparable, T any](m map[K]byHost[T], key K, host string) {
	if m[key] = slices.DeleteFunc(m[key], func(s said[T]) bool { return s.host == host }); len(m[key]) == 0 {
		delete(m, key)
	}
}

// inner returns the map at a key, and makes it if there is none.
func inner[K, L comparable, T any](m map[K]map[L]T, key K) map[L]T {
	if m[key] == nil {
		m[key] = make(map[L]T, 1)
	}
	return m[key]
}

// remove deletes what is in the map at a key, and the map when it is empty.
func remove[K, L comparable, T any](m map[K]map[L]T, key K, at L) {
	delete(m[key], at)
	if len(m[key]) == 0 {
		delete(m, key)
	}
}

// overlap finds a block that has addresses of another one.
func (v *view) overlap(b netPrefix) (other netip.Prefix, host string, found bool) {
	for block, k := range v.blocks[b.network] {
		if block.Overlaps(b.block) && (!found || block.Compare(other) < 0) {
			other, host, found = block, k.v.Host, true
		}
	}
	return other, host, found
}

// netPrefix is a block of a network.
type netPrefix struct {
	network string
	block   netip.Prefix
}

// without reports whether a block is without an address.
func (v *view) without(network string, block netip.Prefix, addr netip.Addr) bool {
	return slices.Contains(v.blocks[network][block].v.Without, addr)
}
