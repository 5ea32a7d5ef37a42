package clustertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// limit is how long anything may take, however busy the machine is.
const limit = 60 * time.Second

// Target is a store that is tested. All keys of a test begin with a word of its own.
type Target struct {
	Store   cluster.Store
	Open    func() cluster.Store // another client of the same store, for a host of its own
	Compact func(revision int64) error
	Expire  func(lease int64) // ends a session as if nobody had heard of it
}

// Conform holds that a store does what cluster.Store says.
func Conform(t *testing.T, target Target) {
	for _, test := range []struct {
		name string
		body func(t *testing.T, target Target, top string)
	}{
		{"Txn", txn},
		{"TxnRange", txnRange},
		{"TxnLimits", txnLimits},
		{"List", list},
		{"Watch", watch},
		{"WatchPast", watchPast},
		{"Session", session},
		{"Compact", compact},
		{"Members", members},
	} {
		t.Run(test.name, func(t *testing.T) { test.body(t, target, "/test/"+strings.ToLower(test.name)+"/") })
	}
}

// must carries out a transaction that holds, and returns the revision.
func must(t *testing.T, s cluster.Store, txn cluster.Txn) int64 {
	t.Helper()
	r, err := s.Txn(t.Context(), txn)
	if err != nil || !r.OK {
		t.Fatalf("transaction %+v: %+v, %v", txn, r, err)
	}
	return r.Revision
}

// mustNot carries out a transaction that does not hold.
func mustNot(t *testing.T, s cluster.Store, txn cluster.Txn) {
	t.Helper()
	if r, err := s.Txn(t.Context(), txn); err != nil || r.OK || r.Revision == 0 {
		t.Fatalf("transaction %+v: %+v, %v; should not hold", txn, r, err)
	}
}

func put(key, value string) cluster.Op { return cluster.Op{Key: key, Value: []byte(value)} }

// listed is what stands below a prefix, as text.
func listed(t *testing.T, s cluster.Store, prefix string, revision int64) string {
	t.Helper()
	l, err := s.List(t.Context(), prefix, revision)
	if err != nil {
		t.Fatalf("listing %s at %d: %v", prefix, revision, err)
	}
	var b strings.Builder
	for _, kv := range l.KVs {
		fmt.Fprintf(&b, "%s=%s ", strings.TrimPrefix(kv.Key, prefix), kv.Value)
	}
	return strings.TrimSpace(b.String())
}

func is(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Fatalf("is %q, want %q", got, want)
	}
}

func txn(t *testing.T, target Target, top string) {
	s, a, b := target.Store, top+"a", top+"b"
	first := must(t, s, cluster.Txn{If: []cluster.Compare{{Key: a}, {Key: b}}, Then: []cluster.Op{put(a, "1"), put(b, "1")}})
	mustNot(t, s, cluster.Txn{If: []cluster.Compare{{Key: a}}, Then: []cluster.Op{put(a, "2")}})
	mustNot(t, s, cluster.Txn{If: []cluster.Compare{{Key: a, Mod: first}, {Key: b}}, Then: []cluster.Op{put(a, "2")}})
	second := must(t, s, cluster.Txn{If: []cluster.Compare{{Key: a, Mod: first}}, Then: []cluster.Op{put(a, "2")}})
	if second <= first {
		t.Errorf("revision %d after %d", second, first)
	}
	l, err := s.List(t.Context(), top, 0)
	if err != nil || len(l.KVs) != 2 || l.Revision < second {
		t.Fatalf("list %+v, %v", l, err)
	}
	if kv := l.KVs[0]; kv.Key != a || string(kv.Value) != "2" || kv.Create != first || kv.Mod != second {
		t.Errorf("a is %+v, want 2, created at %d, changed at %d", kv, first, second)
	}
	if kv := l.KVs[1]; kv.Create != first || kv.Mod != first {
		t.Errorf("b is %+v, want both revisions %d", kv, first)
	}
	must(t, s, cluster.Txn{If: []cluster.Compare{{Key: b, Mod: first}}, Then: []cluster.Op{{Key: b}}})
	is(t, listed(t, s, top, 0), "a=2")
	must(t, s, cluster.Txn{If: []cluster.Compare{{Key: b}}, Then: []cluster.Op{{Key: b}, put(top+"c", "3")}})
	must(t, s, cluster.Txn{Then: []cluster.Op{{Key: top, Prefix: true}}})
	is(t, listed(t, s, top, 0), "")
}

func txnRange(t *testing.T, target Target, top string) {
	s := target.Store
	free := cluster.Txn{If: []cluster.Compare{{Key: top + "b", To: top + "d"}}, Then: []cluster.Op{put(top+"b5", "x")}}
	must(t, s, cluster.Txn{Then: []cluster.Op{put(top+"a", "1"), put(top+"d", "1")}})
	must(t, s, free)
	mustNot(t, s, free)
	must(t, s, cluster.Txn{Then: []cluster.Op{{Key: top + "b5"}, put(top+"b", "1")}})
	mustNot(t, s, free)
}

func txnLimits(t *testing.T, target Target, top string) {
	var full cluster.Txn
	for i := range cluster.MaxOps {
		key := fmt.Sprintf("%s%03d", top, i)
		full.If, full.Then = append(full.If, cluster.Compare{Key: key}), append(full.Then, put(key, "x"))
	}
	must(t, target.Store, full)
	for what, txn := range map[string]cluster.Txn{
		"operations":  {Then: append(full.Then, put(top+"x", "x"))},
		"comparisons": {If: append(full.If, cluster.Compare{Key: top + "x"}), Then: full.Then[:1]},
		"puts":        {Then: []cluster.Op{put(top+"y", "1"), put(top+"y", "2")}},
		"lease":       {Then: []cluster.Op{{Key: top + "z", Value: []byte("1"), Lease: 4711}}},
	} {
		if r, err := target.Store.Txn(t.Context(), txn); err == nil {
			t.Errorf("too many, or wrong %s: %+v, want an error", what, r)
		}
	}
}

func list(t *testing.T, target Target, top string) {
	s := target.Store
	must(t, s, cluster.Txn{Then: []cluster.Op{put(top+"b", "1"), put(top+"a", "1"), put(top+"c/d", "1")}})
	then := must(t, s, cluster.Txn{Then: []cluster.Op{put(top+"a", "2")}})
	must(t, s, cluster.Txn{Then: []cluster.Op{{Key: top + "b"}, put(top+"e", "3")}})
	is(t, listed(t, s, top, 0), "a=2 c/d=1 e=3")
	is(t, listed(t, s, top, then), "a=2 b=1 c/d=1")
	is(t, listed(t, s, top+"c", 0), "/d=1")
}

// heard reads batches until there are so many events.
func heard(t *testing.T, w <-chan cluster.Batch, events int) (batches []cluster.Batch) {
	t.Helper()
	late := time.After(limit)
	for n := 0; n < events; {
		select {
		case b, ok := <-w:
			if !ok || b.Err != nil {
				t.Fatalf("the watch ended with %v", b.Err)
			}
			batches, n = append(batches, b), n+len(b.Events)
		case <-late:
			t.Fatalf("heard %+v", batches)
		}
	}
	return batches
}

func describe(batches []cluster.Batch, top string) string {
	var b strings.Builder
	for _, batch := range batches {
		for _, e := range batch.Events {
			if e.Deleted {
				b.WriteString("-")
			}
			fmt.Fprintf(&b, "%s%s ", strings.TrimPrefix(e.Key, top), e.Value)
		}
	}
	return strings.TrimSpace(b.String())
}

func watch(t *testing.T, target Target, top string) {
	s := target.Store
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	from := must(t, s, cluster.Txn{Then: []cluster.Op{put(top+"old", "0")}}) + 1
	w := s.Watch(ctx, top, from)
	must(t, s, cluster.Txn{Then: []cluster.Op{put(top+"a", "1"), put(top+"b", "1")}})
	must(t, s, cluster.Txn{Then: []cluster.Op{put(strings.TrimSuffix(top, "/")+"else", "1")}})
	last := must(t, s, cluster.Txn{Then: []cluster.Op{{Key: top + "a"}, put(top+"b", "2")}})
	got := heard(t, w, 4)
	is(t, describe(got, top), "a1 b1 -a b2")
	end := got[len(got)-1]
	if end.Revision < last || end.Events[len(end.Events)-1].Mod != last {
		t.Errorf("the last batch is %+v, want revision %d", end, last)
	}
	seen := int64(0)
	for _, b := range got {
		if b.Events[0].Mod <= seen {
			t.Errorf("what happened at revision %d came in two batches", seen)
		}
		seen = b.Events[len(b.Events)-1].Mod
	}
	cancel()
	late := time.After(limit)
	for {
		select {
		case _, open := <-w:
			if !open {
				return
			}
		case <-late:
			t.Fatal("the watch does not end")
		}
	}
}

func watchPast(t *testing.T, target Target, top string) {
	s := target.Store
	from := must(t, s, cluster.Txn{Then: []cluster.Op{put(top+"a", "1")}})
	must(t, s, cluster.Txn{Then: []cluster.Op{put(top+"a", "2")}})
	must(t, s, cluster.Txn{Then: []cluster.Op{{Key: top + "a"}}})
	is(t, describe(heard(t, s.Watch(t.Context(), top, from), 3), top), "a1 a2 -a")
}

func session(t *testing.T, target Target, top string) {
	s := target.Store
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	mine, err := s.Session(ctx, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.Session(t.Context(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	from := must(t, s, cluster.Txn{Then: []cluster.Op{
		{Key: top + "mine", Value: []byte("1"), Lease: mine.Lease}, {Key: top + "other", Value: []byte("1"), Lease: other.Lease}, put(top+"fact", "1"),
	}}) + 1
	w := s.Watch(t.Context(), top, from)
	target.Expire(other.Lease)
	is(t, describe(heard(t, w, 1), top), "-other")
	select {
	case <-other.Done:
	case <-time.After(limit):
		t.Fatal("a session that has expired is not done")
	}
	is(t, listed(t, s, top, 0), "fact=1 mine=1")
	cancel()
	is(t, describe(heard(t, w, 1), top), "-mine")
	is(t, listed(t, s, top, 0), "fact=1")
	if _, err := s.Txn(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: top + "x", Value: []byte("1"), Lease: mine.Lease}}}); err == nil {
		t.Error("a key is put with a session that has ended")
	}
}

func compact(t *testing.T, target Target, top string) {
	s := target.Store
	first := must(t, s, cluster.Txn{Then: []cluster.Op{put(top+"a", "1")}})
	must(t, s, cluster.Txn{Then: []cluster.Op{put(top+"a", "2")}})
	last := must(t, s, cluster.Txn{Then: []cluster.Op{put(top+"a", "3")}})
	if err := target.Compact(last); err != nil {
		t.Fatal(err)
	}
	if _, err := s.List(t.Context(), top, first); !errors.Is(err, cluster.ErrCompacted) {
		t.Errorf("a list of what is not kept: %v, want ErrCompacted", err)
	}
	is(t, listed(t, s, top, 0), "a=3")
	w := s.Watch(t.Context(), top, first)
	select {
	case b := <-w:
		if !errors.Is(b.Err, cluster.ErrCompacted) {
			t.Errorf("a watch of what is not kept: %+v, want ErrCompacted", b)
		}
	case <-time.After(limit):
		t.Fatal("a watch of what is not kept says nothing")
	}
	must(t, s, cluster.Txn{Then: []cluster.Op{put(top+"a", "4")}})
	is(t, describe(heard(t, s.Watch(t.Context(), top, last+1), 1), top), "a4")
}

// memory is a disk that forgets nothing while the test runs.
type memory struct{ saved cluster.Saved }

func (d *memory) Save(c cluster.Saving) error {
	d.saved.Take(c)
	return nil
}

// Start runs a host on a store until the test ends.
func Start(t *testing.T, s cluster.Store, name, host string, saved cluster.Saved) *cluster.Member {
	t.Helper()
	m := cluster.New(cluster.Config{
		Cluster: name, Host: host, Boot: host + "-1", Underlay: netip.MustParseAddr("10.0.0." + host[1:]), MTU: 1500, Version: "test",
		Rand: rand.New(rand.NewPCG(1, uint64(host[1]))),
	})
	m.Load(saved)
	if err := m.SetSpan(cluster.Span{Network: "apps", Pools: []cluster.Pool{{First: netip.MustParseAddr("10.50.0.2"), Last: netip.MustParseAddr("10.50.0.254"), Bits: 28}}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	r := &cluster.Runner{Member: m, Store: s, Disk: &memory{saved}, TTL: 15 * time.Second, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	go func() {
		defer close(done)
		r.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return m
}

// Eventually waits for something.
func Eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

// members has two hosts find each other by the store.
func members(t *testing.T, target Target, _ string) {
	name := "members"
	if err := cluster.Init(t.Context(), target.Store, name, "0b7c"); err != nil {
		t.Fatal(err)
	}
	h1, h2 := Start(t, target.Open(), name, "h1", cluster.Saved{}), Start(t, target.Open(), name, "h2", cluster.Saved{})
	Eventually(t, "both know each other", func() bool {
		p1, p2 := h1.Peers(), h2.Peers()
		return len(p1) == 1 && !p1[0].Silent && len(p2) == 1 && !p2[0].Silent && len(h1.Pool("apps")) == 1 && len(h2.Pool("apps")) == 1
	})
	g := cluster.Guest{Network: "apps", MAC: record.MAC{0x52, 0x54, 0, 0, 0, 1}}
	a := cluster.Address{Network: "apps", Addr: h1.Pool("apps")[0].Addr().Next().Next()}
	h1.SetPort(g, cluster.Port{UUID: "1", Owner: "guest", Name: "web", Here: true})
	h1.SetLease(a, record.Lease{MAC: g.MAC, End: time.Now().Add(time.Hour).Unix()})
	Eventually(t, "h2 knows the guest of h1, its name and its address", func() bool {
		_, addrs, ok := h2.Resolve(cluster.FQN{Network: "apps", Name: "web"})
		return h2.Where(g).Underlay.String() == "10.0.0.1" && ok && len(addrs) == 1 && addrs[0] == a.Addr
	})
	if h2.MayLease(a, g.MAC) {
		t.Error("h2 may give an address that it has not taken on")
	}
	h2.SetPort(g, cluster.Port{UUID: "2", Owner: "guest", Name: "web"})
	h2.SetPort(g, cluster.Port{UUID: "2", Owner: "guest", Name: "web", Here: true})
	Eventually(t, "the guest sends from h2, which has taken on its lease", func() bool {
		at := h1.Where(g)
		return at.Underlay.String() == "10.0.0.2" && at.Lost && h2.MayLease(a, g.MAC)
	})
	h1.DropPort(g)
	h1.EndLease(a)
	Eventually(t, "h1 has nothing of it any more", func() bool {
		s := listed(t, target.Store, record.HostPrefix(name, "h1"), 0)
		return !strings.Contains(s, "l/apps") && !strings.Contains(s, "p/apps")
	})
	if h1.MayLease(a, record.MAC{2}) {
		t.Error("h1 may give an address that a guest of h2 has")
	}
}
