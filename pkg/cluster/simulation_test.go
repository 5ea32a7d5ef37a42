package cluster_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/clustertest"
	"github.com/vnetd/vnetd/pkg/cluster/record"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "simulate this seed alone, and tell what happens")
	seedsFlag = flag.Int("seeds", 0, "how many seeds to simulate; 0 for what the test is for")
)

// TestSimulation has three hosts, their guests and a store live through faults that a seed
// chooses, and holds what must be true whatever happens: no address is promised to two
// cards at a time, no address is in two blocks, and once it is quiet each card sends from
// one host, where all hosts say that it does.
func TestSimulation(t *testing.T) {
	if *seedFlag != 0 {
		if err := simulate(*seedFlag, t.Logf); err != nil {
			t.Fatalf("seed %d: %v", *seedFlag, err)
		}
		return
	}
	seeds := seedsOfTest
	if *seedsFlag > 0 {
		seeds = *seedsFlag
	}
	var next, faults atomic.Uint64
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for seed := next.Add(1); seed <= uint64(seeds) && faults.Load() < 5; seed = next.Add(1) {
				if err := simulate(seed, nil); err != nil {
					faults.Add(1)
					t.Errorf("%v\nagain with: go test ./pkg/cluster -run TestSimulation -seed %d -v", err, seed)
				}
			}
		})
	}
	group.Wait()
}

const (
	simNetwork = "apps"
	simLease   = 60 * time.Second
	simSteps   = 100
)

// world is all that there is in a simulation.
type world struct {
	rng     *rand.Rand
	log     func(string, ...any)
	now     time.Time
	store   *clustertest.Store
	hosts   []*simHost
	guests  []*simGuest
	bag     []int // indexes of deeds
	fast    []int // indexes of hosts: one that is there more often does more
	burst   int
	mending int           // faults last so many times as long as there are hosts
	limbo   []cluster.Txn // sent, given up by who sent them, and not carried out yet
	first   netip.Addr    // of the pool, which is of IPv4 or of IPv6
	last    netip.Addr    // of the pool
	acks    map[netip.Addr]ack
	defined map[netip.Addr]record.MAC // for whom addresses are reserved, as the newest definition has it
	uuids   int
	err     error

	kept   *clustertest.Saved // a backup of the store
	broken bool               // the store lost something, and its operator has not acted yet
	wiped  bool               // it did once: not again
	calm   bool               // nothing fails any more
}

// ack is a promise that a guest relies on.
type ack struct {
	mac  record.MAC
	end  time.Time
	host string
}

// simGuest is a guest with one card.
type simGuest struct {
	cluster.Guest
	owner string
	host  *simHost // where it runs, nil for nowhere
	old   *simHost // where its port is left from before it moved
	to    *simHost // where it is about to move
	addr  netip.Addr
	end   time.Time
}

// simHost is a host: what is on its disk, and its vnetd, if that runs.
type simHost struct {
	name   string
	member *cluster.Member // nil: down
	disk   cluster.Saved
	leases map[netip.Addr]record.Lease
	has    map[netip.Addr]record.MAC // for whom addresses are reserved, as far as it knows
	ports  map[cluster.Guest]cluster.Port
	boot   int
	ahead  time.Duration // its clock, of the others'

	cut     bool // does not reach the store
	listed  bool // follows a watch
	from    int64
	req     *cluster.Request
	done    bool // req was carried out, with res; the answer is on its way
	res     cluster.Result
	session int64
}

func simulate(seed uint64, log func(string, ...any)) error {
	w := &world{
		rng: rand.New(rand.NewPCG(seed, 1)), log: log, now: time.Unix(1e9, 0), store: clustertest.New(), acks: make(map[netip.Addr]ack), defined: make(map[netip.Addr]record.MAC),
	}
	w.first = netip.MustParseAddr([]string{"10.50.0.0", "fd00:50::"}[w.rng.IntN(2)])
	w.last = w.at([]int{7, 11, 19}[w.rng.IntN(3)])
	if err := cluster.Init(context.Background(), w.store, "lab", "uuid"); err != nil {
		return err
	}
	for i := range 3 {
		h := &simHost{ahead: time.Duration(w.rng.IntN(5)-2) * 100 * time.Minute, name: fmt.Sprintf("h%d", i+1), leases: make(map[netip.Addr]record.Lease), ports: make(map[cluster.Guest]cluster.Port)}
		w.hosts = append(w.hosts, h)
		w.boot(h)
	}
	for i := range 2 + w.rng.IntN(5) {
		w.guests = append(w.guests, &simGuest{Guest: cluster.Guest{Network: simNetwork, MAC: record.MAC{0x52, 0x54, 0, 0, 0, byte(i)}}, owner: fmt.Sprint("guest", i)})
	}
	w.weigh()
	w.hurry()
	if err := w.settle(1 + w.rng.IntN(16)); err != nil {
		return err
	}
	for range simSteps {
		if w.step(); w.err != nil {
			return w.err
		}
	}
	if seed%8 != 0 {
		return nil // what must be true once it is quiet takes longer than all else
	}
	return w.quiet()
}

func (w *world) say(format string, args ...any) {
	if w.log != nil {
		w.log("%s "+format, append([]any{w.now.Format("15:04:05")}, args...)...)
	}
}

// fail notes what must not be.
func (w *world) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
	}
}

// boot starts the vnetd of a host, which knows what is on its disk and which ports there
// are.
func (w *world) boot(h *simHost) {
	h.boot++
	w.say("%s starts", h.name)
	h.member = cluster.New(cluster.Config{
		Cluster: "lab", Host: h.name, Boot: fmt.Sprint(h.boot), Underlay: netip.MustParseAddr("10.0.0." + h.name[1:]), MTU: 1500,
		Rand: rand.New(rand.NewPCG(w.rng.Uint64(), 2)),
	})
	h.member.Load(h.disk)
	w.define(h)
	for addr, l := range h.leases {
		h.member.SetLease(cluster.Address{Network: simNetwork, Addr: addr}, l)
	}
	for _, g := range w.guests {
		if p, there := h.ports[g.Guest]; there {
			h.member.SetPort(g.Guest, p)
		}
	}
}

// define has a host have the network as it knows it.
func (w *world) define(h *simHost) {
	s := cluster.Span{Network: simNetwork, Pools: []cluster.Pool{{
		First: w.first, Last: w.last, Bits: w.first.BitLen() - 2, Excluded: []netip.Addr{w.first},
	}}}
	for _, a := range slices.SortedFunc(maps.Keys(h.has), netip.Addr.Compare) {
		s.Reserved = append(s.Reserved, cluster.Reservation{Addr: a, Cards: []record.MAC{h.has[a]}})
		s.Pools[0].Excluded = append(s.Pools[0].Excluded, a)
	}
	if err := h.member.SetSpan(s); err != nil {
		w.fail("%v", err)
	}
}

// reserve has a definition reserve an address for a guest, or for none any more.
func (w *world) reserve(_ *simHost, g *simGuest) {
	a := w.at(1 + w.rng.IntN(24)) // some are in no block
	w.defined = maps.Clone(w.defined)
	if delete(w.defined, a); w.rng.IntN(3) > 0 {
		maps.DeleteFunc(w.defined, func(_ netip.Addr, mac record.MAC) bool { return mac == g.MAC })
		w.defined[a] = g.MAC
	}
	w.say("reserved are %v", w.defined)
}

// learn has a host take the newest definition over.
func (w *world) learn(h *simHost, _ *simGuest) {
	if h.has = w.defined; h.member != nil {
		w.say("%s takes the definition over", h.name)
		w.define(h)
	}
}

// at is the address so many behind the first of the pool.
func (w *world) at(n int) netip.Addr { return record.Add(w.first, uint64(n), 0) }

// clock is what a host takes the time for.
func (w *world) clock(h *simHost) time.Time { return w.now.Add(h.ahead) }

// crash ends the vnetd of a host; what it sent may still arrive.
func (w *world) crash(h *simHost) {
	w.say("%s crashes", h.name)
	w.abandon(h)
	h.member, h.listed, h.session = nil, false, 0
}

// abandon has a host's connection end.
func (w *world) abandon(h *simHost) {
	if h.req != nil && !h.done {
		w.limbo = append(w.limbo, h.req.Txn)
	}
	h.req, h.done, h.listed = nil, false, false
}

var errCut = errors.New("no connection")

// deed is something that happens, in some seeds more often than in others.
type deed struct {
	usual int
	do    func(w *world, h *simHost, g *simGuest)
}

var deeds = []deed{
	{30, func(w *world, _ *simHost, _ *simGuest) {
		h := w.hosts[w.fast[w.rng.IntN(len(w.fast))]]
		for range 1 + w.rng.IntN(w.burst) {
			w.pump(h)
		}
	}},
	{6, func(w *world, _ *simHost, _ *simGuest) { w.late() }},
	{20, func(w *world, _ *simHost, g *simGuest) { w.dhcp(g) }},
	{4, (*world).run},
	{8, (*world).migrate},
	{6, func(w *world, _ *simHost, g *simGuest) { w.leave(g) }},
	{10, func(w *world, _ *simHost, g *simGuest) { w.stop(g) }},
	{6, func(w *world, _ *simHost, _ *simGuest) { w.pass(time.Duration(w.rng.IntN(40)) * time.Second) }},
	{3, (*world).reserve},
	{6, (*world).learn},
	{3, (*world).restart},
	{3, (*world).partition},
	{1, func(w *world, h *simHost, _ *simGuest) { w.store.Expire(h.session) }},
	{1, func(w *world, _ *simHost, _ *simGuest) { w.store.Compact(w.revision() - int64(w.rng.IntN(4))) }},
	{1, func(w *world, _ *simHost, _ *simGuest) { w.disaster() }},
}

// weigh chooses how often each deed is done: some never, some much more often than usual.
func (w *world) weigh() {
	for i, d := range deeds {
		n := d.usual * []int{0, 1, 1, 2, 4}[w.rng.IntN(5)]
		switch {
		case i < 3:
			n = max(n, d.usual)
		case i == len(deeds)-1 && w.rng.IntN(4) > 0:
			n = 0 // most of the time nothing is lost
		}
		for range n {
			w.bag = append(w.bag, i)
		}
	}
}

// hurry chooses which hosts are fast: what a slow one knows, and asks for, is long past.
func (w *world) hurry() {
	for i := range w.hosts {
		for range []int{1, 3, 10}[w.rng.IntN(3)] {
			w.fast = append(w.fast, i)
		}
	}
	w.burst = []int{1, 4, 10}[w.rng.IntN(3)]
	w.mending = []int{2, 5, 20}[w.rng.IntN(3)]
}

// step has something happen.
func (w *world) step() {
	h, g := w.hosts[w.rng.IntN(len(w.hosts))], w.guests[w.rng.IntN(len(w.guests))]
	deeds[w.bag[w.rng.IntN(len(w.bag))]].do(w, h, g)
	w.mend()
}

// mend ends faults, sooner or later.
func (w *world) mend() {
	if w.broken && w.rng.IntN(12) == 0 {
		w.operate()
	}
	switch h := w.hosts[w.rng.IntN(len(w.hosts))]; {
	case h.member == nil && w.rng.IntN(w.mending) == 0:
		w.boot(h)
	case h.cut && w.rng.IntN(w.mending) == 0:
		h.cut = false
	}
}

// restart ends the vnetd of a host, or starts it.
func (w *world) restart(h *simHost, _ *simGuest) {
	if h.member != nil {
		w.crash(h)
	} else {
		w.boot(h)
	}
}

// partition cuts a host off, or ends that.
func (w *world) partition(h *simHost, _ *simGuest) {
	if h.cut = !h.cut; h.cut && h.member != nil {
		w.say("%s is cut off", h.name)
		w.abandon(h)
		h.member.Lost(errCut, w.clock(h))
	}
}

func (w *world) revision() int64 {
	b, _ := w.store.Since("", 1<<62)
	return b.Revision
}

// disaster has the store lose everything, or what happened since a backup.
func (w *world) disaster() {
	if w.wiped {
		return
	}
	if w.kept == nil && w.rng.IntN(2) == 0 {
		saved := w.store.Save()
		w.kept = &saved
		w.say("backup at revision %d", w.revision())
		return
	}
	// A host that was away since before the backup can't know that the store went back.
	for _, h := range w.hosts {
		if w.kept != nil && (h.member == nil || h.member.Status().Revision < w.kept.Revision()) {
			w.kept = nil
		}
	}
	if w.kept == nil || w.rng.IntN(2) == 0 {
		w.say("the store is wiped")
		w.store.Wipe()
	} else {
		w.say("the store goes back to revision %d", w.kept.Revision())
		w.store.Restore(*w.kept)
	}
	w.broken, w.wiped, w.limbo = true, true, nil
	for _, h := range w.hosts {
		w.abandon(h)
		if h.session = 0; h.member != nil {
			h.member.Lost(errCut, w.clock(h))
		}
	}
}

// operate is what an operator does after the store has lost something.
func (w *world) operate() {
	w.broken = false
	w.say("the operator makes the cluster anew")
	if err := cluster.InitAnew(context.Background(), w.store, "lab", "uuid", 1, []string{"h1", "h2", "h3"}); err != nil {
		w.fail("%v", err)
	}
}

// late has the store carry out what somebody sent long ago.
func (w *world) late() {
	if len(w.limbo) == 0 {
		return
	}
	i := w.rng.IntN(len(w.limbo))
	txn := w.limbo[i]
	w.limbo = slices.Delete(w.limbo, i, i+1)
	if w.rng.IntN(3) == 0 {
		return // it is lost on the way
	}
	res, err := w.store.Txn(context.Background(), txn)
	w.say("late: %s: %v %v", ops(w, txn), res, err)
}

// pump has a host do one thing with the store.
func (w *world) pump(h *simHost) bool {
	switch {
	case h.member == nil || h.cut:
		return false
	case !h.listed:
		return w.list(h)
	case h.done && (w.calm || w.rng.IntN(2) == 0):
		w.answer(h)
		return true
	}
	if w.watch(h) {
		return true
	}
	switch {
	case h.done:
		w.answer(h)
	case h.req != nil:
		return w.carryOut(h)
	default:
		h.member.SetSession(w.sessionOf(h))
		r := h.member.Next(w.clock(h))
		w.follow(h)
		if r == nil {
			if h.member.Status().Phase == cluster.Away {
				h.listed = false
				return true
			}
			return false
		}
		if r.Keep {
			h.disk.Take(h.member.Saving())
		}
		w.say("%s asks %s", h.name, ops(w, r.Txn))
		h.req = r
	}
	return true
}

func (w *world) sessionOf(h *simHost) int64 {
	if h.session == 0 || !w.store.Lives(h.session) {
		h.session = w.store.Grant()
	}
	return h.session
}

func (w *world) list(h *simHost) bool {
	l, err := w.store.List(context.Background(), record.Prefix("lab"), 0)
	if err != nil {
		w.fail("%v", err)
	}
	if !h.member.Listed(l, w.clock(h)) {
		s := h.member.Status()
		w.say("%s refuses the store: %s %s", h.name, s.Lost, s.Reason)
		if s.Lost != "" && !w.broken {
			_ = h.member.Restore()
		}
		return false
	}
	w.say("%s lists at revision %d", h.name, l.Revision)
	h.listed, h.from = true, l.Revision+1
	h.disk.Take(h.member.Saving())
	return true
}

// watch tells a host what happened, or only the beginning of it.
func (w *world) watch(h *simHost) bool {
	b, err := w.store.Since(record.Prefix("lab"), h.from)
	if err != nil {
		w.say("%s: %v", h.name, err)
		w.abandon(h)
		h.member.Lost(err, w.clock(h))
		return true
	}
	if len(b.Events) == 0 {
		return false
	}
	if !w.calm && w.rng.IntN(2) == 0 {
		b.Revision = b.Events[w.rng.IntN(len(b.Events))].Mod
		b.Events = slices.DeleteFunc(b.Events, func(e cluster.Event) bool { return e.Mod > b.Revision })
	}
	h.from = b.Revision + 1
	if !h.member.Seen(b, w.clock(h)) {
		w.say("%s lists again: %s", h.name, h.member.Status().Reason)
		w.abandon(h)
	}
	w.follow(h)
	return true
}

// follow has the host's DHCP do what its member says.
func (w *world) follow(h *simHost) {
	c := h.member.Changes()
	for _, a := range c.Adopted {
		h.leases[a.Addr], _ = h.member.Lease(a)
		w.say("%s adopts %v", h.name, a.Addr)
	}
	for _, a := range c.GivenUp {
		delete(h.leases, a.Addr)
		w.say("%s gives up %v", h.name, a.Addr)
	}
}

// carryOut has a request arrive, or not, and the answer be lost, or not.
func (w *world) carryOut(h *simHost) bool {
	switch n := w.rng.IntN(12); {
	case w.calm:
	case n == 0:
		w.say("%s times out", h.name)
		r := h.req
		w.abandon(h)
		h.member.Done(r, cluster.Result{}, errCut, w.clock(h))
		return true
	case n == 1:
		if _, err := w.store.Txn(context.Background(), h.req.Txn); err == nil {
			w.say("%s: the answer is lost", h.name)
		}
		r := h.req
		h.req, h.listed = nil, false
		h.member.Done(r, cluster.Result{}, errCut, w.clock(h))
		return true
	}
	res, err := w.store.Txn(context.Background(), h.req.Txn)
	if err != nil {
		r := h.req
		h.req, h.listed = nil, false
		h.member.Done(r, res, err, w.clock(h))
		return true
	}
	h.done, h.res = true, res
	return true
}

func (w *world) answer(h *simHost) {
	r := h.req
	h.req, h.done = nil, false
	w.say("%s is answered %v", h.name, h.res)
	h.member.Done(r, h.res, nil, w.clock(h))
	w.follow(h)
}

// run starts a guest that does not run.
func (w *world) run(h *simHost, g *simGuest) {
	if g.host != nil || h.member == nil || h.ports[g.Guest].UUID != "" {
		return
	}
	w.uuids++
	p := cluster.Port{UUID: fmt.Sprint("port", w.uuids), Owner: g.owner, Name: "n" + g.MAC.String()[15:], Here: true}
	if h.member.Admit(g.Guest, p) != nil {
		return
	}
	w.say("%s runs on %s", g.MAC, h.name)
	h.ports[g.Guest], g.host, g.end = p, h, time.Time{}
	h.member.SetPort(g.Guest, p)
}

// stop ends a guest.
func (w *world) stop(g *simGuest) {
	if g.host == nil || g.to != nil || g.old != nil || g.host.member == nil {
		return
	}
	w.say("%s stops on %s", g.MAC, g.host.name)
	if l, there := g.host.leases[g.addr]; there && l.MAC == g.MAC && w.rng.IntN(3) > 0 {
		w.say("%s gives %v back", g.MAC, g.addr)
		delete(g.host.leases, g.addr)
		g.host.member.EndLease(cluster.Address{Network: simNetwork, Addr: g.addr})
	}
	delete(g.host.ports, g.Guest)
	g.host.member.DropPort(g.Guest)
	g.host = nil
	if w.acks[g.addr].mac == g.MAC {
		delete(w.acks, g.addr) // nobody relies on it
	}
	g.addr, g.end = netip.Addr{}, time.Time{}
}

// migrate has a guest move: its port is made, then it sends from there.
func (w *world) migrate(h *simHost, g *simGuest) {
	if g.to != nil {
		if g.to.member == nil {
			return
		}
		p := g.to.ports[g.Guest]
		p.Here = true
		g.to.ports[g.Guest] = p
		g.to.member.SetPort(g.Guest, p)
		w.say("%s sends from %s", g.MAC, g.to.name)
		g.old, g.host, g.to = g.host, g.to, nil
		return
	}
	if g.host == nil || g.old != nil || g.host == h || h.member == nil || h.ports[g.Guest].UUID != "" {
		return
	}
	w.uuids++
	p := cluster.Port{UUID: fmt.Sprint("port", w.uuids), Owner: g.owner, Name: "n" + g.MAC.String()[15:]}
	if h.member.Admit(g.Guest, p) != nil {
		return
	}
	w.say("%s is about to move to %s", g.MAC, h.name)
	h.ports[g.Guest], g.to = p, h
	h.member.SetPort(g.Guest, p)
}

// leave removes the port from which a guest has moved away.
func (w *world) leave(g *simGuest) {
	if g.old == nil || g.old.member == nil {
		return
	}
	w.say("%s leaves %s", g.MAC, g.old.name)
	delete(g.old.ports, g.Guest)
	g.old.member.DropPort(g.Guest)
	g.old = nil
}

// dhcp has a guest ask the host on which it runs for an address.
func (w *world) dhcp(g *simGuest) {
	if g.host == nil {
		w.run(w.hosts[w.rng.IntN(len(w.hosts))], g)
	}
	h := g.host
	if h == nil || h.member == nil {
		return
	}
	addr := w.choose(h, g)
	if !addr.IsValid() {
		h.member.SetNeed(simNetwork, w.first.Is4(), 1)
		return
	}
	h.member.SetNeed(simNetwork, w.first.Is4(), 0)
	end := w.now.Add(simLease)
	l := record.Lease{MAC: g.MAC, End: w.clock(h).Add(simLease).Unix(), Seconds: int64(simLease / time.Second)}
	h.leases[addr] = l
	h.member.SetLease(cluster.Address{Network: simNetwork, Addr: addr}, l)
	w.say("%s promises %v to %s", h.name, addr, g.MAC)
	if old := w.acks[addr]; old.mac != g.MAC && old.end.After(w.now) {
		w.fail("%v is promised to %s by %s until %s, and to %s by %s at %s", addr, old.mac, old.host, old.end.Format("15:04:05"), g.MAC, h.name, w.now.Format("15:04:05"))
	}
	if g.addr != addr && w.acks[g.addr].mac == g.MAC {
		delete(w.acks, g.addr)
	}
	w.acks[addr] = ack{g.MAC, end, h.name}
	g.addr, g.end = addr, end
}

// choose is what DHCP does: the address that is reserved for the card, else the one that it has,
// else a free one.
func (w *world) choose(h *simHost, g *simGuest) netip.Addr {
	if a := w.chooseReserved(h, g); a.IsValid() {
		return a
	}
	var has netip.Addr
	for addr, l := range h.leases {
		if _, reserved := h.has[addr]; l.MAC == g.MAC && !reserved && (!has.IsValid() || addr == g.addr || addr.Less(has) && has != g.addr) {
			has = addr
		}
	}
	if has.IsValid() && h.member.MayLease(cluster.Address{Network: simNetwork, Addr: has}, g.MAC) {
		return has
	}
	for _, block := range h.member.Pool(simNetwork) {
		for a := block.Addr(); block.Contains(a); a = a.Next() {
			if w.isFree(h, a) && h.member.MayLease(cluster.Address{Network: simNetwork, Addr: a}, g.MAC) {
				return a
			}
		}
	}
	return netip.Addr{}
}

// isFree reports whether DHCP of a host may give an address to whoever asks.
func (w *world) isFree(h *simHost, a netip.Addr) bool {
	_, taken := h.leases[a]
	_, reserved := h.has[a]
	return !taken && !reserved && a != w.first
}

// chooseReserved is the address that is reserved for a card, if it may have it, and asks for the
// right to give it otherwise.
func (w *world) chooseReserved(h *simHost, g *simGuest) netip.Addr {
	for a, mac := range h.has {
		if l, taken := h.leases[a]; mac != g.MAC || taken && l.MAC != mac {
			continue
		}
		at := cluster.Address{Network: simNetwork, Addr: a}
		if h.member.MayLease(at, mac) {
			return a
		}
		h.member.Want(at, mac, w.clock(h))
	}
	return netip.Addr{}
}

// pass has time pass, and leases end.
func (w *world) pass(d time.Duration) {
	w.now = w.now.Add(d)
	for _, h := range w.hosts {
		if h.member == nil {
			continue
		}
		for i := range 32 {
			addr := w.at(i)
			if l, there := h.leases[addr]; there && l.End <= w.clock(h).Unix() {
				w.say("%s: the lease on %v of %s has ended", h.name, addr, l.MAC)
				delete(h.leases, addr)
				h.member.EndLease(cluster.Address{Network: simNetwork, Addr: addr})
			}
		}
	}
}

// quiet ends all faults, and holds what must be true then.
func (w *world) quiet() error {
	w.say("quiet")
	if w.broken {
		w.operate()
	}
	for len(w.limbo) > 0 {
		w.late()
	}
	for _, h := range w.hosts {
		if h.cut = false; h.member == nil {
			w.boot(h)
		}
	}
	for _, g := range w.guests {
		if g.to != nil {
			w.migrate(nil, g)
		}
	}
	for _, h := range w.hosts {
		w.learn(h, nil)
	}
	w.pass(0)
	if err := w.settle(0); err != nil {
		return err
	}
	// A guest that moved while nobody could be told of where it was before may seem to be
	// there until that port is gone; it seems to be at one place all the same.
	w.check(false)
	for _, g := range w.guests {
		w.leave(g)
	}
	if err := w.settle(0); err != nil {
		return err
	}
	w.check(true)
	return w.err
}

// settle has all hosts do what they have to do, while nothing fails: so much of it, 0 for
// all.
func (w *world) settle(most int) error {
	w.calm = true
	defer func() { w.calm = false }()
	for rounds, idle := 0, 0; idle < 3 && (most == 0 || rounds < most); rounds++ {
		if rounds > 3000 {
			return fmt.Errorf("it does not get quiet: %s", w.describe())
		}
		idle++
		w.now = w.now.Add(10 * time.Millisecond)
		for _, h := range w.hosts {
			if w.pump(h) {
				idle = 0
			}
		}
		if w.err != nil {
			return w.err
		}
	}
	return nil
}

func (w *world) describe() string {
	var b strings.Builder
	for _, h := range w.hosts {
		fmt.Fprintf(&b, "%s: %+v\n", h.name, h.member.Status())
	}
	l, _ := w.store.List(context.Background(), "", 0)
	for _, kv := range l.KVs {
		fmt.Fprintf(&b, "%s = %s (%d)\n", kv.Key, kv.Value, kv.Mod)
	}
	return b.String()
}

// said is what the store has, once it is quiet.
type said struct {
	blocks []netip.Prefix
	here   map[string][]string // the hosts from which a card sends
	held   map[string]string   // the card that has an address
}

// check holds what must be true once it is quiet; left says that no port is left where its
// guest does not run.
func (w *world) check(left bool) {
	l, err := w.store.List(context.Background(), record.Prefix("lab"), 0)
	if err != nil {
		w.fail("%v", err)
	}
	s := said{here: make(map[string][]string), held: make(map[string]string)}
	for _, kv := range l.KVs {
		k, err := record.Parse("lab", kv.Key)
		if err != nil {
			w.fail("%v", err)
		}
		switch k.Kind {
		case record.KindBlock:
			w.checkBlock(&s, k)
		case record.KindPort:
			w.checkPort(&s, k, kv.Value)
		case record.KindLease:
			w.checkLease(&s, k, kv.Value)
		}
	}
	for _, g := range w.guests {
		w.checkGuest(g, s.here[g.MAC.String()], left)
	}
	if left {
		w.checkReserved()
	}
	for _, h := range w.hosts {
		if st := h.member.Status(); st.Phase != cluster.Joined || st.Backlog != 0 {
			w.fail("%s is %+v", h.name, st)
		}
		for addr := range h.leases {
			if s.held[addr.String()] == "" {
				w.fail("%s has a lease on %v that the store has not", h.name, addr)
			}
		}
	}
	if w.err != nil {
		w.say("%s", w.describe())
	}
}

func (w *world) checkBlock(s *said, k record.Key) {
	b, _ := record.ParseBlockID(k.ID)
	for _, other := range s.blocks {
		if b.Overlaps(other) {
			w.fail("blocks %v and %v overlap", b, other)
		}
	}
	s.blocks = append(s.blocks, b)
}

func (w *world) checkPort(s *said, k record.Key, text []byte) {
	var p record.Port
	if err := record.Decode(text, &p); err != nil {
		w.fail("%v", err)
	}
	if p.State == record.Here {
		s.here[k.ID] = append(s.here[k.ID], k.Host)
	}
}

func (w *world) checkLease(s *said, k record.Key, text []byte) {
	var r record.Lease
	if err := record.Decode(text, &r); err != nil {
		w.fail("%v", err)
	}
	if mac, there := s.held[k.ID]; there && mac != r.MAC.String() {
		w.fail("there are records of %s for %s and %s", k.ID, mac, r.MAC)
	}
	s.held[k.ID] = r.MAC.String()
	if own := w.hosts[k.Host[1]-'1'].leases[netip.MustParseAddr(k.ID)]; own.MAC != r.MAC || own.End != r.End {
		w.fail("%s says %s of %s, and has %+v", k.Host, text, k.ID, own)
	}
}

// checkGuest holds where a guest sends from: here are the hosts that say so.
func (w *world) checkGuest(g *simGuest, here []string, left bool) {
	if g.host == nil {
		if len(here) > 0 {
			w.fail("%s runs nowhere, and sends from %v", g.MAC, here)
		}
		return
	}
	if len(here) != 1 || left && here[0] != g.host.name {
		w.fail("%s sends from %v, runs on %s", g.MAC, here, g.host.name)
		return
	}
	for _, h := range w.hosts {
		if at := h.member.Where(g.Guest); at.Host != here[0] && !at.Frozen {
			w.fail("%s says that %s is on %+v, is on %s", h.name, g.MAC, at, here[0])
		}
	}
}

// checkReserved holds that a guest may have the address that is reserved for it where it runs,
// unless another one still has that.
func (w *world) checkReserved() {
	for _, g := range w.guests {
		for addr, mac := range w.defined {
			a := cluster.Address{Network: simNetwork, Addr: addr}
			if g.MAC != mac || g.host == nil || g.host.member.Taken(a, mac) || g.host.member.MayLease(a, mac) {
				continue
			}
			w.fail("%v, which is reserved for %s and nobody has, may not be given on %s", addr, mac, g.host.name)
		}
	}
}

// ops is what a transaction does, for who reads the log.
func ops(w *world, txn cluster.Txn) string {
	var b strings.Builder
	if w.log == nil {
		return ""
	}
	for _, op := range txn.Then {
		if op.Value == nil {
			b.WriteString("-")
		}
		fmt.Fprintf(&b, "%s %s; ", strings.TrimPrefix(op.Key, record.Prefix("lab")), op.Value)
	}
	return b.String()
}
