package cluster_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/clustertest"
	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// node is a host that does what the test says, in the order in which it says so.
type node struct {
	*cluster.Member
	t       *testing.T
	store   *clustertest.Store
	name    string
	saved   cluster.Saved
	from    int64
	session int64
	now     *time.Time
}

// lab is a store with a cluster, and hosts that have joined it.
func lab(t *testing.T, last string, bits int, hosts ...string) (*clustertest.Store, []*node) {
	t.Helper()
	s, now := clustertest.New(), time.Unix(1e9, 0)
	if err := cluster.Init(t.Context(), s, "lab", "uuid"); err != nil {
		t.Fatal(err)
	}
	var nodes []*node
	for _, name := range hosts {
		n := &node{t: t, store: s, name: name, now: &now}
		n.start(last, bits)
		nodes = append(nodes, n)
	}
	settle(nodes...)
	return s, nodes
}

func (n *node) start(last string, bits int) {
	n.t.Helper()
	n.Member = cluster.New(cluster.Config{
		Cluster: "lab", Host: n.name, Boot: n.name + time.Now().String(), Underlay: netip.MustParseAddr("10.0.0." + n.name[1:]), Rand: rand.New(rand.NewPCG(1, 1)),
	})
	n.Load(n.saved)
	err := n.SetSpan(cluster.Span{Network: "apps", Pools: []cluster.Pool{{First: netip.MustParseAddr("10.50.0.0"), Last: netip.MustParseAddr(last), Bits: bits}}})
	if err != nil {
		n.t.Fatal(err)
	}
	n.from = 0
}

// list has the host list, as it does when it starts and after an error.
func (n *node) list() bool {
	n.t.Helper()
	l, err := n.store.List(n.t.Context(), "/vnetd/1/lab/", 0)
	if err != nil {
		n.t.Fatal(err)
	}
	n.from = l.Revision + 1
	ok := n.Listed(l, *n.now)
	n.saved.Take(n.Saving())
	return ok
}

// look has the host hear of what happened.
func (n *node) look() bool {
	n.t.Helper()
	b, err := n.store.Since("/vnetd/1/lab/", n.from)
	if err != nil {
		n.t.Fatal(err)
	}
	if len(b.Events) == 0 {
		return false
	}
	n.from = b.Revision + 1
	n.Seen(b, *n.now)
	return true
}

// ask returns what the host asks next, which has not arrived yet.
func (n *node) ask() *cluster.Request {
	n.t.Helper()
	r := n.Next(*n.now)
	if r == nil {
		n.t.Fatalf("%s asks nothing", n.name)
	}
	n.saved.Take(n.Saving())
	return r
}

// arrive has a request arrive, and returns whether it held.
func (n *node) arrive(r *cluster.Request) bool {
	n.t.Helper()
	res, err := n.store.Txn(n.t.Context(), r.Txn)
	if err != nil {
		n.t.Fatal(err)
	}
	n.Done(r, res, nil, *n.now)
	return res.OK
}

// settle has hosts do what they have to do until nothing is left to be done.
func settle(nodes ...*node) {
	for idle, rounds := 0, 0; idle < 3; idle, rounds = idle+1, rounds+1 {
		if rounds > 1000 {
			nodes[0].t.Fatal("the hosts do not come to rest")
		}
		for _, n := range nodes {
			n.t.Helper()
			if n.from == 0 || n.Status().Phase == cluster.Away {
				n.list()
			}
			if n.session == 0 {
				n.session = n.store.Grant()
			}
			n.SetSession(n.session)
			if n.look() {
				idle = 0
			}
			if r := n.Next(*n.now); r != nil {
				n.saved.Take(n.Saving())
				n.arrive(r)
				idle = 0
			}
		}
	}
}

var (
	web = cluster.Guest{Network: "apps", MAC: record.MAC{2, 0, 0, 0, 0, 1}}
	sql = cluster.Guest{Network: "apps", MAC: record.MAC{2, 0, 0, 0, 0, 2}}
)

func at(addr string) cluster.Address {
	return cluster.Address{Network: "apps", Addr: netip.MustParseAddr(addr)}
}

// free is the first address that a host may give to a card.
func (n *node) free(g cluster.Guest) cluster.Address {
	n.t.Helper()
	for _, block := range n.Pool("apps") {
		for a := block.Addr(); block.Contains(a); a = a.Next() {
			if n.MayLease(cluster.Address{Network: "apps", Addr: a}, g.MAC) {
				return cluster.Address{Network: "apps", Addr: a}
			}
		}
	}
	n.t.Fatalf("%s has no address to give", n.name)
	return cluster.Address{}
}

func (n *node) promise(a cluster.Address, g cluster.Guest) {
	n.SetLease(a, record.Lease{MAC: g.MAC, End: n.now.Add(time.Hour).Unix()})
}

// TestLateRequestFails holds that what a host asked for before it joined anew has no
// effect when it arrives at last.
func TestLateRequestFails(t *testing.T) {
	s, nodes := lab(t, "10.50.0.255", 28, "h1", "h2")
	h1 := nodes[0]
	a := h1.free(web)
	h1.promise(a, web)
	late := h1.ask()
	h1.Done(late, cluster.Result{}, errors.New("no answer"), *h1.now)
	h1.EndLease(a)
	if h1.MayLease(a, sql.MAC) {
		t.Error("an address is given to another card while a record for the first may still be written")
	}
	if h1.list(); h1.MayLease(a, sql.MAC) {
		t.Error("a list ends the doubt, although what was asked for may arrive after it")
	}
	settle(nodes...)
	if !h1.MayLease(a, sql.MAC) {
		t.Error("an address of which there is no record can't be given")
	}
	if res, err := s.Txn(t.Context(), late.Txn); err != nil || res.OK {
		t.Errorf("what was asked for long ago is done: %+v, %v", res, err)
	}
}

// TestListedAgain holds that of a list only what is not known yet is taken in and kept.
func TestListedAgain(t *testing.T) {
	_, nodes := lab(t, "10.50.0.255", 28, "h1", "h2")
	h1, h2 := nodes[0], nodes[1]
	h2.SetPort(web, cluster.Port{UUID: "u", Here: true})
	h2.SetPort(sql, cluster.Port{UUID: "v", Here: true})
	settle(nodes...)
	h1.Lost(errors.New("no answer"), *h1.now)
	h1.Saving()
	h2.DropPort(web)
	h2.SetPort(sql, cluster.Port{UUID: "w", Here: true})
	settle(h2)
	l, err := h1.store.List(t.Context(), "/vnetd/1/lab/", 0)
	if err != nil || !h1.Listed(l, *h1.now) {
		t.Fatalf("the list is refused: %v, %+v", err, h1.Status())
	}
	saving := h1.Saving()
	what := make(map[string]bool)
	for _, e := range saving.Events {
		what[e.Key] = e.Deleted
	}
	key := func(g cluster.Guest) string {
		return record.Key{Kind: record.KindPort, Host: "h2", Network: "apps", ID: g.MAC.String()}.Path("lab")
	}
	if want := map[string]bool{key(web): true, key(sql): false}; saving.All || !maps.Equal(what, want) || saving.Revision != l.Revision {
		t.Errorf("to be kept at %d, all that there is %v: %v; want of %d: %v", saving.Revision, saving.All, what, l.Revision, want)
	}
	if a, b := h1.Where(web), h1.Where(sql); a.Host != "" || b.Host != "h2" {
		t.Errorf("the cards send from %+v and %+v", a, b)
	}
}

// refusing is a disk that takes nothing the first time.
type refusing struct {
	cluster.Saved
	tried bool
	has   chan int // how many keys it has, each time that it has taken something
}

func (r *refusing) Save(s cluster.Saving) error {
	if !r.tried {
		r.tried = true
		return errors.New("the disk is full")
	}
	r.Take(s)
	r.has <- len(r.Keys)
	return nil
}

// TestKeptLater holds that a disk that has not taken what a list has gets it later, though by then it is
// known.
func TestKeptLater(t *testing.T) {
	s, _ := lab(t, "10.50.0.255", 28, "h2", "h3")
	l, err := s.List(t.Context(), "/vnetd/1/lab/", 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	disk := &refusing{has: make(chan int)}
	r := cluster.Runner{
		Member: cluster.New(cluster.Config{Cluster: "lab", Host: "h1", Boot: "1", Underlay: netip.MustParseAddr("10.0.0.1")}),
		Store:  s, Disk: disk, TTL: time.Minute, Logger: slog.New(slog.DiscardHandler),
	}
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	select {
	case n := <-disk.has:
		if n < len(l.KVs) {
			t.Errorf("the disk has %d keys, want all of %d", n, len(l.KVs))
		}
	case <-time.After(time.Minute):
		t.Error("the disk is given nothing again")
	}
	cancel()
	go func() { running.Wait(); close(disk.has) }()
	for range disk.has { // until it has ended
	}
}

// TestDoubtSurvivesARestart holds that a process knows what the one before it may have
// written, with nothing but its disk.
func TestDoubtSurvivesARestart(t *testing.T) {
	_, nodes := lab(t, "10.50.0.255", 28, "h1")
	h1 := nodes[0]
	a := h1.free(web)
	h1.promise(a, web)
	h1.ask()
	h1.start("10.50.0.255", 28)
	if len(h1.Pool("apps")) != 1 || h1.MayLease(a, sql.MAC) || !h1.MayLease(a, web.MAC) {
		t.Errorf("with the blocks %v, an address is given to another card than the one of the record that may be written", h1.Pool("apps"))
	}
	settle(h1)
	if !h1.MayLease(a, sql.MAC) {
		t.Error("an address of which there is no record can't be given")
	}
}

// TestWaitsToSeeItsOwn holds that a host asks for nothing more until it has seen what it
// did: only then does it know what was done before.
func TestWaitsToSeeItsOwn(t *testing.T) {
	_, nodes := lab(t, "10.50.0.255", 28, "h1")
	h1 := nodes[0]
	h1.promise(h1.free(web), web)
	h1.arrive(h1.ask())
	h1.SetPort(sql, cluster.Port{UUID: "1", Here: true})
	if r := h1.Next(*h1.now); r != nil {
		t.Errorf("asked is %+v before what was done has been seen", r.Txn)
	}
	h1.look()
	h1.ask()
}

// TestTakeOnLosesToTheOwner holds that a lease is not taken on once its host has ended it.
func TestTakeOnLosesToTheOwner(t *testing.T) {
	_, nodes := lab(t, "10.50.0.255", 28, "h1", "h2")
	h1, h2 := nodes[0], nodes[1]
	a := h1.free(web)
	h1.SetPort(web, cluster.Port{UUID: "1", Owner: "web", Here: true})
	h1.promise(a, web)
	settle(nodes...)
	h1.DropPort(web)
	h2.SetPort(web, cluster.Port{UUID: "2", Owner: "web", Here: true})
	h2.arrive(h2.ask()) // the card
	h2.look()
	takeOn := h2.ask()
	h1.EndLease(a)
	settle(h1)
	if !h1.MayLease(a, sql.MAC) {
		t.Fatal("the owner of the block may not give an address that is free")
	}
	h1.promise(a, sql)
	if h2.arrive(takeOn) {
		t.Error("a lease is taken on that had ended")
	}
	settle(nodes...)
	if h2.MayLease(a, web.MAC) {
		t.Error("two hosts give one address")
	}
}

// TestTakeOn holds that a guest keeps its address when it moves, and that the owner of the
// block does not give it to anybody until the other host has said that the lease ended.
func TestTakeOn(t *testing.T) {
	_, nodes := lab(t, "10.50.0.255", 28, "h1", "h2")
	h1, h2 := nodes[0], nodes[1]
	a := h1.free(web)
	h1.SetPort(web, cluster.Port{UUID: "1", Owner: "web", Here: true})
	h1.promise(a, web)
	settle(nodes...)
	if h2.MayLease(a, web.MAC) {
		t.Error("h2 gives an address of h1's before it has taken it on")
	}
	h2.SetPort(web, cluster.Port{UUID: "2", Owner: "web"})
	h2.SetPort(web, cluster.Port{UUID: "2", Owner: "web", Here: true})
	settle(nodes...)
	if c := h2.Changes(); !slices.Equal(c.Adopted, []cluster.Address{a}) || !h2.MayLease(a, web.MAC) || h2.MayLease(a, sql.MAC) {
		t.Errorf("h2 adopted %v, want %v", c.Adopted, a)
	}
	h1.DropPort(web)
	h1.EndLease(a)
	h1.Lost(errors.New("away"), *h1.now)
	if h1.MayLease(a, sql.MAC) {
		t.Error("h1 gives an address while it can't know whether it was taken on")
	}
	settle(nodes...)
	if h1.MayLease(a, sql.MAC) {
		t.Error("h1 gives an address that h2 has promised")
	}
	h2.EndLease(a)
	settle(nodes...)
	if !h1.MayLease(a, sql.MAC) || h2.MayLease(a, sql.MAC) {
		t.Error("an address that is free is not its block's owner's to give")
	}
}

// TestClaimsDoNotOverlap holds that of two hosts that claim addresses at a time one has
// them, also where one claims part of what the other does.
func TestClaimsDoNotOverlap(t *testing.T) {
	s, nodes := lab(t, "10.50.0.7", 29, "h1")
	h1, h2 := nodes[0], &node{t: t, store: s, name: "h2", now: nodes[0].now}
	h2.start("10.50.0.7", 29)
	settle(h2)
	if len(h1.Pool("apps")) != 1 || len(h2.Pool("apps")) != 0 {
		t.Fatalf("h1 has %v, h2 %v, want all and nothing", h1.Pool("apps"), h2.Pool("apps"))
	}
	h1.DropSpan("apps")
	settle(h1, h2)
	if got := len(h2.Pool("apps")); got != 1 {
		t.Fatalf("h2 has %d blocks once they are free", got)
	}

	s, nodes = lab(t, "10.50.0.15", 30)
	a, b := &node{t: t, store: s, name: "h1", now: h1.now}, &node{t: t, store: s, name: "h2", now: h1.now}
	_ = nodes
	a.start("10.50.0.15", 28)
	b.start("10.50.0.15", 30) // as if it had another definition
	for _, n := range []*node{a, b} {
		n.session = s.Grant()
		n.list()
		n.SetSession(n.session)
		for range 2 { // itself, and that it is alive
			n.arrive(n.ask())
			n.look()
		}
	}
	first, second := a.ask(), b.ask()
	for _, r := range []*cluster.Request{first, second} {
		if !strings.Contains(r.Txn.Then[0].Key, "/b/apps/") {
			t.Fatalf("asked is %+v, want a block", r.Txn.Then)
		}
	}
	if !a.arrive(first) || b.arrive(second) {
		t.Error("two hosts claim the same addresses")
	}
}

// TestWants has one host serve a pool to its last address, which the others had blocks of.
func TestWants(t *testing.T) {
	_, nodes := lab(t, "10.50.0.63", 30, "h1", "h2", "h3")
	h1 := nodes[0]
	given := make(map[cluster.Address]bool)
	for i := range 64 {
		g := cluster.Guest{Network: "apps", MAC: record.MAC{2, 1, 0, 0, 0, byte(i)}}
		serve(t, h1, g, given, 20, func() { settle(nodes...) })
	}
	settle(nodes...)
	if len(given) != 64 {
		t.Errorf("%d addresses are given", len(given))
	}
	for _, n := range nodes[1:] {
		n.SetNeed("apps", true, 1)
	}
	settle(nodes...)
	for i, a := range []string{"10.50.0.8", "10.50.0.21"} {
		h1.EndLease(at(a))
		settle(nodes...)
		if free := len(nodes[1].Pool("apps")) + len(nodes[2].Pool("apps")); free != i+1 {
			t.Errorf("of %d addresses that are free again the others have %d", i+1, free)
		}
	}
	for _, n := range nodes[1:] {
		n.SetNeed("apps", true, 0)
	}
	for a := range given {
		h1.EndLease(a)
	}
	settle(nodes...)
	if u := h1.Usage("apps"); u.Mine != 18 { // the others have an address of two
		t.Errorf("h1 has %d blocks once all is free again: %v, want halves to be one again", u.Mine, h1.Pool("apps"))
	}
}

// serve has a host give a guest an address that is not among given, and adds it. While the host
// has none it says that it needs one, and waits, at most so many times.
func serve(t *testing.T, n *node, g cluster.Guest, given map[cluster.Address]bool, most int, wait func()) {
	t.Helper()
	for tries := 0; ; tries++ {
		if a, ok := n.find(g); ok {
			if given[a] {
				t.Fatalf("%v is given twice", a)
			}
			given[a] = true
			n.promise(a, g)
			n.SetNeed("apps", true, 0)
			return
		}
		if tries == most {
			t.Fatalf("%v on %s gets no address when %d are given, blocks %v", g.MAC, n.name, len(given), n.Pool("apps"))
		}
		n.SetNeed("apps", true, 1)
		wait()
	}
}

// TestWantsOfSeveral has guests on all hosts of a pool with as many addresses as there are guests, some
// of which ask on one host and are gone when it has an address for them.
func TestWantsOfSeveral(t *testing.T) {
	_, nodes := lab(t, "10.50.0.63", 28, "h1", "h2", "h3")
	rng := rand.New(rand.NewPCG(7, 7))
	for _, n := range nodes {
		n.SetNeed("apps", true, 1) // of somebody who is gone by now
	}
	given := make(map[cluster.Address]bool)
	for i := range 64 {
		n, g := nodes[rng.IntN(3)], cluster.Guest{Network: "apps", MAC: record.MAC{2, 1, 0, 0, 0, byte(i)}}
		serve(t, n, g, given, 3, func() {
			for _, other := range nodes {
				if other != n && i > 32 {
					other.SetNeed("apps", true, 0) // who does not ask again does not count
				}
			}
			settle(nodes...)
		})
	}
	shareLast(t, nodes, given)
}

// shareLast has a guest wait on each of three hosts, of which the third then has three addresses.
func shareLast(t *testing.T, nodes []*node, given map[cluster.Address]bool) {
	t.Helper()
	h3 := nodes[2]
	var free []cluster.Address
	for a := range given {
		if _, host := h3.Lease(a); host == "h3" && len(free) < 3 {
			free = append(free, a)
		}
	}
	for _, n := range nodes {
		n.SetNeed("apps", true, 1)
	}
	settle(nodes...)
	for _, a := range free {
		h3.EndLease(a)
	}
	settle(nodes...)
	for _, n := range nodes {
		if u := n.Usage("apps"); u.Free != 1 {
			t.Errorf("%s, one of three with a guest that waits, has %d addresses of three that are free", n.name, u.Free)
		}
	}
}

// find is free, for a host that may have none.
func (n *node) find(g cluster.Guest) (cluster.Address, bool) {
	for _, block := range n.Pool("apps") {
		for a := block.Addr(); block.Contains(a); a = a.Next() {
			if _, host := n.Lease(cluster.Address{Network: "apps", Addr: a}); host == "" && n.MayLease(cluster.Address{Network: "apps", Addr: a}, g.MAC) {
				return cluster.Address{Network: "apps", Addr: a}, true
			}
		}
	}
	return cluster.Address{}, false
}

// TestFlapping has a card move to and fro: it stays where it was, until it is quiet.
func TestFlapping(t *testing.T) {
	_, nodes := lab(t, "10.50.0.255", 28, "h1", "h2", "h3")
	for i := range 8 {
		n := nodes[i%2]
		n.DropPort(web)
		n.SetPort(web, cluster.Port{UUID: string(rune('a' + i)), Owner: "web"})
		n.SetPort(web, cluster.Port{UUID: string(rune('a' + i)), Owner: "web", Here: true})
		settle(nodes...)
		*n.now = n.now.Add(time.Second)
	}
	for _, n := range nodes {
		if at := n.Where(web); !at.Frozen {
			t.Errorf("%s says that the card is on %+v, want it frozen", n.name, at)
		}
		if faults := n.Faults(); len(faults) == 0 || faults[0].Kind != "flapping" {
			t.Errorf("%s has the faults %+v", n.name, faults)
		}
	}
	*nodes[0].now = nodes[0].now.Add(61 * time.Second)
	settle(nodes...)
	for _, n := range nodes {
		if at := n.Where(web); at.Frozen || at.Host != "h2" {
			t.Errorf("%s says that the card is on %+v, want h2, where it is since a minute", n.name, at)
		}
	}
}

// TestAdmit holds that a card that another guest has on a host that is alive is refused,
// and a move while the store is away.
func TestAdmit(t *testing.T) {
	s, nodes := lab(t, "10.50.0.255", 28, "h1", "h2")
	h1, h2 := nodes[0], nodes[1]
	h1.SetPort(web, cluster.Port{UUID: "1", Owner: "web", Here: true})
	settle(nodes...)
	if err := h2.Admit(web, cluster.Port{UUID: "2", Owner: "other", Here: true}); err == nil || !strings.Contains(err.Error(), "02:00:00:00:00:01") || !strings.Contains(err.Error(), "h1") {
		t.Errorf("another guest with the same card: %v", err)
	}
	if err := h2.Admit(web, cluster.Port{UUID: "2", Owner: "web"}); err != nil {
		t.Errorf("the same guest, which moves: %v", err)
	}
	h2.Lost(errors.New("no answer from etcd"), *h2.now)
	if err := h2.Admit(web, cluster.Port{UUID: "2", Owner: "web"}); err == nil || !strings.Contains(err.Error(), "no answer from etcd") {
		t.Errorf("a move while the store is away: %v", err)
	}
	if err := h2.Admit(sql, cluster.Port{UUID: "2", Owner: "sql", Here: true}); err != nil {
		t.Errorf("a guest that starts while the store is away: %v", err)
	}
	settle(nodes...)
	s.Expire(h1.session)
	settle(h2)
	if err := h2.Admit(web, cluster.Port{UUID: "2", Owner: "other", Here: true}); err != nil || !h2.Peers()[0].Silent {
		t.Errorf("another guest, once the host is silent: %v, %+v", err, h2.Peers())
	}
	if h2.Where(web).Host != "h1" {
		t.Error("what a silent host said is forgotten")
	}
}

// TestNames holds that who comes first has a name, and takes it along.
func TestNames(t *testing.T) {
	_, nodes := lab(t, "10.50.0.255", 28, "h1", "h2")
	h1, h2 := nodes[0], nodes[1]
	n := cluster.FQN{Network: "apps", Name: "www"}
	h1.SetPort(web, cluster.Port{UUID: "1", Owner: "web", Name: "www", Here: true})
	settle(nodes...)
	h2.SetPort(sql, cluster.Port{UUID: "2", Owner: "sql", Name: "www", Here: true})
	settle(nodes...)
	if g, _, _ := h2.Resolve(n); g != web {
		t.Errorf("the name is %v's, want who came first", g)
	}
	if f := h2.Faults(); len(f) != 1 || f[0].Kind != "name" || !strings.Contains(f[0].Text, web.MAC.String()) {
		t.Errorf("faults %+v", f)
	}
	h2.SetPort(web, cluster.Port{UUID: "3", Owner: "web", Name: "www"})
	h2.SetPort(web, cluster.Port{UUID: "3", Owner: "web", Name: "www", Here: true})
	settle(nodes...)
	h1.DropPort(web)
	settle(nodes...)
	if g, _, _ := h1.Resolve(n); g != web {
		t.Errorf("the name is %v's after its guest moved", g)
	}
	h2.DropPort(web)
	settle(nodes...)
	if g, _, _ := h1.Resolve(n); g != sql {
		t.Errorf("the name is %v's, want that of the guest that waited for it", g)
	}
	h2.DropPort(sql)
	settle(nodes...)
	if g, _, ok := h1.Resolve(n); ok {
		t.Errorf("the name is %v's, who is gone", g)
	}
}

// TestForget has a host forgotten, and come back.
func TestForget(t *testing.T) {
	s, nodes := lab(t, "10.50.0.3", 30, "h1")
	h1 := nodes[0]
	h2 := &node{t: t, store: s, name: "h2", now: h1.now}
	h2.start("10.50.0.3", 30)
	h1.SetPort(web, cluster.Port{UUID: "1", Owner: "web", Name: "www", Here: true})
	a := h1.free(web)
	h1.promise(a, web)
	settle(h1, h2)
	if _, err := cluster.Forget(t.Context(), s, "lab", "h1", false); err == nil {
		t.Error("a host that is alive is forgotten")
	}
	s.Expire(h1.session)
	if n, err := cluster.Forget(t.Context(), s, "lab", "h1", false); err != nil || n != 5 {
		t.Errorf("%d keys are forgotten, %v, want member, port, lease, block and name", n, err)
	}
	settle(h2)
	if len(h2.Peers()) != 0 || h2.Where(web).Host != "" {
		t.Errorf("h2 has %+v of a host that is forgotten", h2.Peers())
	}
	h2.promise(h2.free(sql), sql)
	settle(h2)
	h1.session = 0
	h1.Lost(errors.New("was off"), *h1.now)
	if h1.list() || h1.Status().Lost != "forgotten" || !h1.MayLease(a, web.MAC) {
		t.Errorf("a host that was forgotten is %+v", h1.Status())
	}
	if err := h1.Restore(); err != nil {
		t.Fatal(err)
	}
	settle(h1, h2)
	c := h1.Changes()
	if h1.Status().Phase != cluster.Joined || !slices.Equal(c.GivenUp, []cluster.Address{a}) || len(c.Conceded) != 1 {
		t.Errorf("once it is back it is %+v, gives up %v and %v", h1.Status(), c.GivenUp, c.Conceded)
	}
	if h2.Where(web).Host != "h1" {
		t.Error("its guest is not known again")
	}
}

// TestTwins has two vnetd write as one host: the second is told, and the first goes on alone. Where
// both have been in step, as with a copied disk, the one that is ousted gives no address that is free.
func TestTwins(t *testing.T) {
	s, nodes := lab(t, "10.50.0.255", 28, "h1")
	h1 := nodes[0]
	h1.session = s.Grant()
	h1.SetSession(h1.session)
	settle(h1)
	a := h1.free(web)
	twin := &node{t: t, store: s, name: "h1", now: h1.now}
	twin.start("10.50.0.255", 28)
	if twin.list(); twin.Status().Phase != cluster.Away || !strings.Contains(twin.Status().Reason, "another vnetd") || twin.MayLease(a, web.MAC) {
		t.Errorf("the second is %+v", twin.Status())
	}
	settle(h1)
	if st := h1.Status(); st.Phase != cluster.Joined || !h1.MayLease(a, web.MAC) {
		t.Errorf("the first is %+v", st)
	}
	s.Expire(h1.session)
	if twin.list(); twin.Status().Phase == cluster.Away {
		t.Errorf("once the first is not alive any more, the second is %+v", twin.Status())
	}
	settle(twin)
	h1.look()
	if st := h1.Status(); st.Phase != cluster.Away || !strings.Contains(st.Reason, "another vnetd") || h1.MayLease(a, web.MAC) {
		t.Errorf("the first, ousted, is %+v", st)
	}
}

// TestAwaySince has a store be read and take nothing: the host is away since it was in step last.
func TestAwaySince(t *testing.T) {
	_, nodes := lab(t, "10.50.0.255", 28, "h1")
	h1 := nodes[0]
	*h1.now = h1.now.Add(time.Minute)
	since := *h1.now
	h1.Lost(cluster.ErrFull, since)
	for range 3 {
		*h1.now = h1.now.Add(time.Minute)
		h1.list()
		h1.Done(h1.ask(), cluster.Result{}, cluster.ErrFull, *h1.now)
	}
	if st := h1.Status(); st.Phase != cluster.Away || !st.Since.Equal(since) {
		t.Errorf("it is %+v, want away since %v", st, since)
	}
}

// takenOn is a lab in which h2 has taken on a lease of a block of h1's, for web, which
// moved there.
func takenOn(t *testing.T) (s *clustertest.Store, nodes []*node, a cluster.Address) {
	t.Helper()
	s, nodes = lab(t, "10.50.0.255", 28, "h1", "h2")
	h1, h2 := nodes[0], nodes[1]
	a = h1.free(web)
	h1.SetPort(web, cluster.Port{UUID: "1", Owner: "web", Here: true})
	h1.promise(a, web)
	settle(nodes...)
	h2.SetPort(web, cluster.Port{UUID: "2", Owner: "web"})
	h2.SetPort(web, cluster.Port{UUID: "2", Owner: "web", Here: true})
	settle(nodes...)
	h1.DropPort(web)
	h1.EndLease(a)
	settle(nodes...)
	return s, nodes, a
}

// TestEmptied has a store lose everything: all stays as it was, and nobody writes into a
// store that nobody has made anew.
func TestEmptied(t *testing.T) {
	s, nodes, _ := takenOn(t)
	s.Wipe()
	for _, n := range nodes {
		n.session = 0
		n.Lost(errors.New("no answer"), *n.now)
		if n.list() || n.Status().Lost != "emptied" || n.Where(web).Host != "h2" || len(n.Peers()) != 1 {
			t.Errorf("with an empty store %s is %+v", n.name, n.Status())
		}
		if err := n.Restore(); err != nil {
			t.Fatal(err)
		}
		if n.list() {
			t.Errorf("%s writes into a store that nobody has made anew", n.name)
		}
	}
	if err := cluster.InitAnew(t.Context(), s, "lab", "other", 1, nil); err != nil {
		t.Fatal(err)
	}
	if nodes[0].list() {
		t.Error("a host takes another cluster for its own")
	}
}

// TestRestore has hosts write their own into a store that lost everything, one after the
// other: nobody gives what another may have promised, until all have said what they have.
func TestRestore(t *testing.T) {
	s, nodes, a := takenOn(t)
	h1, h2 := nodes[0], nodes[1]
	p1, p2 := h1.Pool("apps"), h2.Pool("apps")
	s.Wipe()
	for _, n := range nodes {
		n.session = 0
		n.Lost(errors.New("no answer"), *n.now)
		n.list()
		if err := n.Restore(); err != nil {
			t.Fatal(err)
		}
	}
	if err := cluster.InitAnew(t.Context(), s, "lab", "uuid", 1, []string{"h1", "h2"}); err != nil {
		t.Fatal(err)
	}
	settle(h1)
	if st := h1.Status(); st.Phase != cluster.Joined || !slices.Equal(st.Waiting, []string{"h2"}) || !slices.Equal(h1.Pool("apps"), p1) {
		t.Errorf("h1 is %+v with %v, had %v", st, h1.Pool("apps"), p1)
	}
	if h1.MayLease(a, sql.MAC) {
		t.Error("h1 gives an address that h2 has promised, and has yet to say so")
	}
	h1.SetNeed("apps", true, 1)
	for _, b := range h1.Pool("apps") {
		for x := b.Addr(); b.Contains(x); x = x.Next() {
			h1.SetLease(cluster.Address{Network: "apps", Addr: x}, record.Lease{MAC: record.MAC{2, 9, x.As4()[3]}})
		}
	}
	settle(h1)
	if !slices.Equal(h1.Pool("apps"), p1) {
		t.Errorf("h1 claims addresses that may be h2's: %v", h1.Pool("apps"))
	}
	settle(nodes...)
	if st := h2.Status(); st.Phase != cluster.Joined || !slices.Equal(h2.Pool("apps"), p2) || h1.Where(web).Host != "h2" {
		t.Errorf("h2 is %+v with %v, had %v", st, h2.Pool("apps"), p2)
	}
	if len(h1.Pool("apps")) == len(p1) {
		t.Error("h1 claims nothing although all are back")
	}
}

// TestRollback has a store go back to what it was: a host that has seen more says so.
func TestRollback(t *testing.T) {
	s, nodes := lab(t, "10.50.0.255", 28, "h1", "h2")
	h1, h2 := nodes[0], nodes[1]
	kept := s.Save()
	h1.promise(h1.free(web), web)
	settle(nodes...)
	s.Restore(kept)
	h2.Lost(errors.New("no answer"), *h2.now)
	if h2.list() || h2.Status().Lost != "rolled back" {
		t.Errorf("h2 is %+v", h2.Status())
	}
	for range 5 { // somebody writes, so that the revision is as high as it was
		if _, err := s.Txn(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: "/elsewhere", Value: []byte("x")}}}); err != nil {
			t.Fatal(err)
		}
	}
	h1.Lost(errors.New("no answer"), *h1.now)
	if h1.list() || h1.Status().Lost == "" {
		t.Errorf("h1, whose record is missing, is %+v", h1.Status())
	}
	if err := h1.Restore(); err != nil {
		t.Fatal(err)
	}
}

// TestMoveIsCompared holds that a card that two hosts say is here at a time counts as
// moved to one of them, and that the guest that moved is where it moved to.
func TestMoveIsCompared(t *testing.T) {
	_, nodes := lab(t, "10.50.0.255", 28, "h1", "h2", "h3")
	h1, h2 := nodes[0], nodes[1]
	h1.SetPort(web, cluster.Port{UUID: "1", Owner: "web", Here: true})
	h2.SetPort(web, cluster.Port{UUID: "2", Owner: "web"})
	h2.arrive(h2.ask()) // it is about to move here
	h2.look()
	h2.SetPort(web, cluster.Port{UUID: "2", Owner: "web", Here: true})
	late := h2.ask()
	h1.look()
	if !h1.arrive(h1.ask()) {
		t.Fatal("h1 can't say that the card is here")
	}
	if h2.arrive(late) {
		t.Error("two hosts say that the card has moved there once")
	}
	settle(nodes...)
	for _, n := range nodes {
		if at := n.Where(web); at.Host != "h2" || at.Lost != (n == h1) {
			t.Errorf("%s says that the card is on %+v, want h2", n.name, at)
		}
	}
	h2.DropPort(web)
	settle(nodes...)
	if at := h1.Where(web); at.Host != "h1" || at.Lost {
		t.Errorf("the card is on %+v once its port on h2 is gone, want where there is one", at)
	}
}

// TestMoveKeepsTheName has a guest have its name while it moves: no host says that it goes
// without.
func TestMoveKeepsTheName(t *testing.T) {
	_, nodes := lab(t, "10.50.0.255", 28, "h1", "h2")
	nodes[0].SetPort(web, cluster.Port{UUID: "1", Owner: "web", Name: "web", Here: true})
	settle(nodes...)
	for _, here := range []bool{false, true} {
		nodes[1].SetPort(web, cluster.Port{UUID: "2", Owner: "web", Name: "web", Here: here})
		settle(nodes...)
		for _, n := range nodes {
			for _, f := range n.Faults() {
				if f.Kind == "name" {
					t.Errorf("%s says %q", n.name, f.Text)
				}
			}
		}
	}
}

// reserve has hosts know for which cards addresses are reserved.
func reserve(t *testing.T, all map[string]cluster.Guest, nodes ...*node) {
	t.Helper()
	s := cluster.Span{Network: "apps", Pools: []cluster.Pool{{First: netip.MustParseAddr("10.50.0.0"), Last: netip.MustParseAddr("10.50.0.63"), Bits: 28}}}
	for a, g := range all {
		s.Reserved = append(s.Reserved, cluster.Reservation{Addr: at(a).Addr, Cards: []record.MAC{g.MAC}})
		s.Pools[0].Excluded = append(s.Pools[0].Excluded, at(a).Addr)
	}
	for _, n := range nodes {
		if err := n.SetSpan(s); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReserved has an address reserved for a card that is in a block of a host which is cut off,
// and has given it: nobody else does until that lease is over, and the host knows.
func TestReserved(t *testing.T) {
	_, nodes := lab(t, "10.50.0.63", 28, "h1", "h2", "h3")
	h1, h2, h3 := nodes[0], nodes[1], nodes[2]
	a := h3.free(sql)
	out := at("10.50.9.9") // in no block
	h3.Lost(errors.New("cut off"), *h3.now)
	h3.promise(a, sql)
	all := map[string]cluster.Guest{a.Addr.String(): web, out.Addr.String(): web}
	reserve(t, all, h1, h2)
	h1.SetPort(web, cluster.Port{UUID: "1", Owner: "web", Here: true})
	settle(h1, h2)
	if h1.MayLease(a, web.MAC) {
		t.Error("an address is given that a host which is cut off has given")
	}
	if !h1.MayLease(out, web.MAC) || h2.MayLease(out, web.MAC) {
		t.Error("a reserved address that is in no block is not given where its client is, and there alone")
	}
	settle(nodes...)
	if h1.MayLease(a, web.MAC) {
		t.Error("an address is given that a host gave which does not know that it is reserved")
	}
	reserve(t, all, h3)
	settle(nodes...)
	if h1.MayLease(a, web.MAC) {
		t.Error("an address is given whose lease is not over")
	}
	h3.EndLease(a)
	settle(nodes...)
	if !h1.MayLease(a, web.MAC) || h3.MayLease(a, sql.MAC) || h3.MayLease(a, web.MAC) {
		t.Error("the address is not given to whom it is reserved for, where that is, and there alone")
	}
	h1.promise(a, web)
	h1.Lost(errors.New("cut off"), *h1.now)
	h1.EndLease(a)
	if !h1.MayLease(a, web.MAC) {
		t.Error("a guest whose address this host has the right to give is not given it while the store is away")
	}
	settle(nodes...)
	h1.DropPort(web)
	h2.SetPort(web, cluster.Port{UUID: "2", Owner: "web", Here: true})
	settle(nodes...)
	if h1.MayLease(a, web.MAC) || !h2.MayLease(a, web.MAC) {
		t.Error("the right to give the address does not follow the guest")
	}
	reserve(t, nil, nodes...)
	settle(nodes...)
	if h2.MayLease(a, web.MAC) || !h3.MayLease(a, sql.MAC) {
		t.Error("the address that is reserved no more is not again its block's owner's to give")
	}
}

// TestReservationWaits tells of addresses that are reserved and that a host may give which is silent, as
// long as it is.
func TestReservationWaits(t *testing.T) {
	s, nodes := lab(t, "10.50.0.63", 28, "h1", "h2")
	h1, h2 := nodes[0], nodes[1]
	waits := func(when string, want ...cluster.Address) {
		t.Helper()
		var got []cluster.Address
		for _, f := range h1.Faults() {
			if f.Kind == "reservation" && strings.Contains(f.Text, "host h2") {
				got = append(got, cluster.Address{Network: f.Network, Addr: netip.MustParseAddr(f.Subject)})
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v wait, want %v", when, got, want)
		}
	}
	inBlock, out := h2.free(sql), at("10.50.9.9") // which is in no block
	all := map[string]cluster.Guest{inBlock.Addr.String(): sql, out.Addr.String(): web}
	reserve(t, map[string]cluster.Guest{out.Addr.String(): web}, h1, h2)
	h2.SetPort(web, cluster.Port{UUID: "1", Owner: "web", Here: true})
	settle(nodes...)
	s.Expire(h2.session)
	h2.session = 0
	h2.Lost(errors.New("cut off"), *h2.now)
	settle(h1)
	waits("of a guest of the silent host")
	reserve(t, all, h1)
	settle(h1)
	waits("in a block of a host that does not know", inBlock)
	h1.SetPort(web, cluster.Port{UUID: "2", Owner: "web", Here: true})
	settle(h1)
	waits("of a guest that has come from there", inBlock, out)
	h1.Lost(errors.New("away"), *h1.now)
	waits("while nobody knows who is silent")
	h2.DropPort(web)
	reserve(t, all, h2)
	settle(nodes...)
	waits("once the host is back")
}

// TestReservedByWish has an address be reserved for a client whose card is not known before it
// asks.
func TestReservedByWish(t *testing.T) {
	_, nodes := lab(t, "10.50.0.63", 28, "h1", "h2")
	h1, h2 := nodes[0], nodes[1]
	a := at("10.50.9.9")
	for _, n := range nodes {
		if err := n.SetSpan(cluster.Span{Network: "apps", Reserved: []cluster.Reservation{{Addr: a.Addr, Open: true}}}); err != nil {
			t.Fatal(err)
		}
	}
	h1.SetPort(web, cluster.Port{UUID: "1", Owner: "web", Here: true})
	h1.Want(a, web.MAC, *h1.now)
	h2.Want(a, sql.MAC, *h2.now)
	settle(nodes...)
	if h1.MayLease(a, web.MAC) == h2.MayLease(a, sql.MAC) {
		t.Error("not exactly one of two hosts that want it gives the address")
	}
	*h1.now = h1.now.Add(2 * time.Minute)
	settle(nodes...)
	if h1.MayLease(a, web.MAC) || h2.MayLease(a, sql.MAC) {
		t.Error("the right to give an address is kept for who has long not asked again")
	}
}

// TestManyReserved has more addresses of a block be reserved than one record has room for.
func TestManyReserved(t *testing.T) {
	s, nodes := lab(t, "10.50.3.255", 22, "h1")
	span := cluster.Span{Network: "apps", Pools: []cluster.Pool{{First: netip.MustParseAddr("10.50.0.0"), Last: netip.MustParseAddr("10.50.3.255"), Bits: 22}}}
	for i := range 1000 {
		span.Reserved = append(span.Reserved, cluster.Reservation{Addr: record.Add(netip.MustParseAddr("10.50.0.0"), uint64(i), 0), Cards: []record.MAC{{2, 5, byte(i >> 8), byte(i)}}})
	}
	h1 := nodes[0]
	if err := h1.SetSpan(span); err != nil {
		t.Fatal(err)
	}
	settle(nodes...)
	l, err := s.List(t.Context(), "/vnetd/1/lab/b/", 0)
	if err != nil || len(l.KVs) != 4 {
		t.Errorf("there are %d blocks, %v: want four, each with room for what is reserved in it", len(l.KVs), err)
	}
	if h1.MayLease(at("10.50.3.10"), sql.MAC) || !h1.MayLease(at("10.50.3.240"), sql.MAC) {
		t.Error("of a block is not given what is not reserved, and that alone")
	}
}

// TestClocks has a guest move between hosts whose clocks are hours apart: it keeps its lease for
// at least as long as it was given.
func TestClocks(t *testing.T) {
	for _, ahead := range []time.Duration{5 * time.Hour, -5 * time.Hour} {
		_, nodes := lab(t, "10.50.0.255", 28, "h1", "h2")
		h1, h2 := nodes[0], nodes[1]
		theirs := h1.now.Add(ahead)
		h2.now = &theirs
		a := h1.free(web)
		h1.SetPort(web, cluster.Port{UUID: "1", Owner: "web", Here: true})
		h1.SetLease(a, record.Lease{MAC: web.MAC, End: h1.now.Add(time.Hour).Unix(), Seconds: 3600})
		settle(nodes...)
		h2.SetPort(web, cluster.Port{UUID: "2", Owner: "web"})
		h2.SetPort(web, cluster.Port{UUID: "2", Owner: "web", Here: true})
		settle(nodes...)
		h1.DropPort(web)
		h1.EndLease(a)
		settle(nodes...)
		l, host := h2.Lease(a)
		if left := l.End - h2.now.Unix(); host != "h2" || left < 3600 || left > 3700 {
			t.Errorf("with its clock %v ahead h2 has the lease for %d s, of %s: want an hour", ahead, left, host)
		}
		if h1.MayLease(a, sql.MAC) || !h2.MayLease(a, web.MAC) {
			t.Errorf("with its clock %v ahead h2 does not have the address", ahead)
		}
	}
}

// TestLengths has hosts take on leases whose records are odd.
func TestLengths(t *testing.T) {
	for seconds, want := range map[int64]int64{0: 120, -1 << 63: 120, 1<<63 - 1: 1<<32 - 1} {
		_, nodes := lab(t, "10.50.0.255", 28, "h1", "h2")
		h1, h2 := nodes[0], nodes[1]
		a := h1.free(web)
		h1.SetPort(web, cluster.Port{UUID: "1", Owner: "web", Here: true})
		h1.SetLease(a, record.Lease{MAC: web.MAC, End: 1, Seconds: seconds})
		settle(nodes...)
		h2.SetPort(web, cluster.Port{UUID: "2", Owner: "web", Here: true})
		settle(nodes...)
		if l, host := h2.Lease(a); host != "h2" || l.End != h2.now.Unix()+want {
			t.Errorf("of %d seconds %d are left on %s, want %d", seconds, l.End-h2.now.Unix(), host, want)
		}
	}
}

// TestLargestSeq has a member say that a card has moved as often as a number can say, which it
// has not: who has the card goes on moving it.
func TestLargestSeq(t *testing.T) {
	s, nodes := lab(t, "10.50.0.255", 28, "h1", "h2", "h3")
	forged := record.Encode(&record.Port{UUID: "x", Owner: "web", Seq: 1<<64 - 1, State: record.Here})
	if _, err := s.Txn(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: "/vnetd/1/lab/h/h9/p/apps/" + web.MAC.String(), Value: forged}}}); err != nil {
		t.Fatal(err)
	}
	settle(nodes...)
	for i := range 4 {
		n := nodes[i%3]
		n.SetPort(web, cluster.Port{UUID: string(rune('a' + i)), Owner: "web"})
		settle(nodes...)
		n.SetPort(web, cluster.Port{UUID: string(rune('a' + i)), Owner: "web", Here: true})
		settle(nodes...)
		nodes[(i+2)%3].DropPort(web)
		settle(nodes...)
		for _, other := range nodes {
			if at := other.Where(web); at.Host != n.name {
				t.Errorf("%s says that the card is on %q after move %d, want %s", other.name, at.Host, i+1, n.name)
			}
		}
	}
	l, err := s.List(t.Context(), "/vnetd/1/lab/h/h1/p/", 0)
	var p record.Port
	if err != nil || len(l.KVs) != 1 || record.Decode(l.KVs[0].Value, &p) != nil || p.Seq != 1<<64-1 {
		t.Errorf("h1 says %+v, %v: want the largest number", l.KVs, err)
	}
}

// TestCovers has a host have promised addresses before its network was shared: the blocks that
// they are in become its own. An address of a block of another host is told as a clash. Once the host has the
// network no more, it has no blocks of it.
func TestCovers(t *testing.T) {
	_, nodes := lab(t, "10.50.0.63", 28, "h2")
	h2 := nodes[0]
	first := h2.Pool("apps")
	n := &node{t: t, store: h2.store, name: "h1", now: h2.now}
	n.start("10.50.0.63", 28)
	var mine []netip.Addr
	for last := range byte(64) {
		a := netip.AddrFrom4([4]byte{10, 50, 0, last})
		if last%5 != 0 || first[0].Contains(a) {
			continue
		}
		mine = append(mine, a)
		n.SetLease(cluster.Address{Network: "apps", Addr: a}, record.Lease{MAC: record.MAC{2, 0, 0, 0, 0, last}})
	}
	settle(h2, n)
	if left := n.Uncovered("apps"); left != 0 || len(n.Pool("apps")) != 3 {
		t.Errorf("%d addresses are not covered by %v", left, n.Pool("apps"))
	}
	for _, a := range mine {
		if got, found := h2.Clash(cluster.Address{Network: "apps", Addr: a}, record.MAC{9}); !found || got.Host != "h1" {
			t.Errorf("a card of another host would have %v as well: %+v", a, got)
		}
	}
	at := cluster.Address{Network: "apps", Addr: first[0].Addr()}
	if got, found := n.Clash(at, record.MAC{9}); !found || got.Host != "h2" || got.Block != first[0] {
		t.Errorf("%v is of a block of another host: %+v", at.Addr, got)
	}
	if got, found := h2.Clash(at, record.MAC{9}); found {
		t.Errorf("%v is of this host's own block: %+v", at.Addr, got)
	}
	for _, a := range mine {
		n.EndLease(cluster.Address{Network: "apps", Addr: a})
	}
	n.DropSpan("apps")
	settle(h2, n)
	if got := n.Pool("apps"); len(got) > 0 {
		t.Errorf("a host that has the network no more has %v", got)
	}
}
