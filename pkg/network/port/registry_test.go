package port_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/store"
)

// mac is the nth address of a card, uuid the nth of a port.
func mac(n int) net.HardwareAddr { return net.HardwareAddr{0x52, 0x54, 0, 0, 0, byte(n)} }
func uuid(n int) string          { return fmt.Sprintf("77777777-0000-4000-8000-%012d", n) }

// record is the nth port of a user on network "one", as vnetd writes it.
func record(n int, owner uint32) store.Port {
	return store.Port{
		UUID: uuid(n), Network: "one's", MAC: mac(n), IfName: fmt.Sprintf("vnet%d", n), Index: 10 + n,
		Lifetime: api.LifetimePersistent, Owner: owner, Created: time.Unix(1700000000, 0), MadeUp: true,
	}
}

// libvirts is the nth port as libvirt registers it.
func libvirts(n int) *netdef.Port {
	return &netdef.Port{
		UUID: uuid(n), MAC: mac(n), Owner: netdef.Owner{Name: "vm", UUID: uuid(90)},
		Plug: &netdef.Plug{Type: netdef.PlugNetwork, Bridge: "br1"},
	}
}

func load(t *testing.T, r *port.Registry, kind port.Kind, network string, s store.Port) *port.Port {
	t.Helper()
	p, err := r.Load(kind, network, s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func wants(t *testing.T, what string, err error, kind api.Kind) {
	t.Helper()
	if got, _ := api.KindOf(err); got != kind {
		t.Errorf("%s: %v, want %s", what, err, kind)
	}
}

// TestOnePortOfEveryKind finds ports of every kind by all that they are known by, until
// they end.
func TestOnePortOfEveryKind(t *testing.T) {
	r := port.NewRegistry()
	named := record(1, 1000)
	named.Name, named.Aliases, named.ID, named.Holder = "Web", []string{"www"}, "my id", ":1.7"
	own := load(t, r, port.Own, "one", named)
	orphan := load(t, r, port.Orphan, "", record(2, 1000))
	other, err := r.Register("one", "one's", libvirts(3), 1001, port.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	other.SetDevice(bridge.Link{Name: "vnet9", Index: 99})
	r.AddForeign("one", 99)
	_, err = r.Register("two", "two's", libvirts(1), 0, port.Limits{})
	wants(t, "a UUID that is taken", err, api.Exists)
	for _, find := range []struct {
		by        string
		got, want *port.Port
	}{
		{"UUID in capitals", r.UUID("77777777-0000-4000-8000-000000000001"), own},
		{"device", r.Find("vnet9"), other},
		{"orphan's device", r.Find("vnet2"), orphan},
		{"ifindex", r.Index(11), own},
		{"id", r.ID(1000, "my id"), own},
		{"id of another's", r.ID(1001, "my id"), nil},
		{"name", one(r.Named("one", "wEB")), own},
		{"alias", one(r.Named("one", "WWW")), own},
		{"name on another network", one(r.Named("two", "web")), nil},
		{"name of libvirt's", one(r.Named("one", "VM")), other},
		{"address", r.MAC("one", mac(3)), other},
		{"address of an orphan", r.MAC("", mac(2)), nil},
		{"guest", r.Guest("one", mac(1)), own},
		{"guest of libvirt's", r.Guest("one", mac(3)), nil},
		{"holder", r.HeldBy(":1.7")[0], own},
	} {
		if find.got != find.want {
			t.Errorf("by %s: %v, want %v", find.by, find.got, find.want)
		}
	}
	if n := r.Count("one", port.Own, port.External, port.Foreign); n != 3 {
		t.Errorf("%d ports on one, want 3", n)
	}
	for _, p := range r.All(port.Own, port.External, port.Orphan) {
		if err := p.End(func() error { return nil }, func() {}); err != nil {
			t.Fatal(err)
		}
	}
	r.DropForeign("one", 99)
	if got, want := fmt.Sprintf("%+v", r), fmt.Sprintf("%+v", port.NewRegistry()); got != want {
		t.Errorf("left in the registry: %s, want %s", got, want)
	}
}

// TestAdmission counts what a user has, of whatever kind.
func TestAdmission(t *testing.T) {
	r, limits := port.NewRegistry(), port.Limits{Ports: 2, Queues: 3}
	web := port.Spec{Owner: 1000, ID: "web"}
	if err := r.Admit(&web, limits); err != nil {
		t.Fatal(err)
	}
	wants(t, "the same port at the same time", r.Admit(&web, limits), api.Busy)
	wants(t, "too many queues", r.Admit(&port.Spec{Owner: 1000, Queues: 3}, limits), api.LimitExceeded)
	p, err := r.Register("one", "one's", libvirts(1), 1000, limits)
	if err != nil {
		t.Fatal(err)
	}
	wants(t, "a third port", r.Admit(&port.Spec{Owner: 1000}, limits), api.LimitExceeded)
	if err := r.Admit(&port.Spec{Owner: 0, Queues: 200}, limits); err != nil {
		t.Errorf("root is limited: %v", err)
	}
	r.Remove(p)
	r.Dismiss(&web)
	if err := r.Admit(&port.Spec{Owner: 1000, Queues: 3, ID: "web"}, limits); err != nil {
		t.Errorf("after all have ended: %v", err)
	}
}

// TestLearn has a port learn the address of a card once, and unlearn it.
func TestLearn(t *testing.T) {
	r := port.NewRegistry()
	p := load(t, r, port.Own, "one", record(1, 0))
	a := netip.MustParseAddr("192.0.2.7")
	learns := func(card net.HardwareAddr, want bool) {
		t.Helper()
		if _, ok := p.Learn(card); ok != want {
			t.Errorf("learns %s: %v, want %v", card, ok, want)
		}
	}
	if _, err := r.Register("one", "one's", libvirts(6), 0, port.Limits{}); err != nil {
		t.Fatal(err)
	}
	learns(mac(6), false) // libvirt's
	learns(mac(7), true)
	r.Lease("one", mac(7), a, true)
	learns(mac(8), false) // it has learned
	p.Opened(true)
	p.Opened(false)
	if former, ok := p.Learn(mac(8)); !ok || len(former) != 1 || former[0] != a {
		t.Errorf("when its guest has left: %v with %v", ok, former)
	}
	if got := r.Guest("one", mac(8)); got != p || p.Info().MAC != mac(8).String() {
		t.Errorf("by the address of its card: %v, %s", got, p.Info().MAC)
	}
	load(t, r, port.Own, "one", record(8, 0))
	if p.CardAddr().String() != mac(1).String() {
		t.Errorf("the address of another port: %s", p.CardAddr())
	}
}

// TestFailedEnd keeps a port whose device can't be deleted, and its orphan's adoption.
func TestFailedEnd(t *testing.T) {
	r := port.NewRegistry()
	orphan := load(t, r, port.Orphan, "", record(1, 0))
	p, err := r.Adopt(orphan, "one")
	if err != nil || r.UUID(uuid(1)) != p || p.Kind != port.Own || r.Count("", port.Orphan) != 0 {
		t.Fatalf("adopted: %+v (%v)", p, err)
	}
	no := errors.New("no")
	if err := p.End(func() error { return no }, func() { t.Error("it is told of as gone") }); !errors.Is(err, no) {
		t.Errorf("ended: %v", err)
	}
	if r.UUID(uuid(1)) != p || !errors.Is(p.Status().Failed, no) {
		t.Errorf("a port that could not be ended: %v, %v", r.UUID(uuid(1)), p.Status().Failed)
	}
	ends := 0
	for range 2 {
		if err := p.End(func() error { return nil }, func() { ends++ }); err != nil {
			t.Error(err)
		}
	}
	if ends != 1 {
		t.Errorf("it ended %d times", ends)
	}
}

// TestWaitForAddress wakes who waits, by a lease and by the port's end.
func TestWaitForAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := port.NewRegistry()
		a := netip.MustParseAddr("192.0.2.7")
		p := load(t, r, port.Own, "one", record(1, 0))
		waiting := make(chan error)
		wait := func() { _, err := r.WaitForAddress(t.Context(), uuid(1)); waiting <- err }
		go wait()
		synctest.Wait()
		p.Lease(a)
		if err := <-waiting; err != nil {
			t.Errorf("with an address: %v", err)
		}
		r.Lease("one", mac(1), a, false)
		go wait()
		synctest.Wait()
		r.Remove(p)
		wants(t, "when the port has ended", <-waiting, api.NotFound)
	})
}

// TestAllAtOnce makes, leases, lists and ends ports on one registry from many sides.
func TestAllAtOnce(t *testing.T) {
	r := port.NewRegistry()
	a := netip.MustParseAddr("192.0.2.7")
	var all sync.WaitGroup
	for n := range 16 {
		all.Go(func() {
			for range 50 {
				own, err := r.Load(port.Own, "one", record(n, uint32(n)))
				if err != nil {
					t.Error(err)
					return
				}
				other, err := r.Register("one", "one's", libvirts(100+n), uint32(n), port.Limits{})
				if err != nil {
					t.Error(err)
					return
				}
				go r.Lease("one", mac(n), a, true)
				if held, err := r.WaitForAddress(context.Background(), uuid(n)); err != nil || len(held) != 1 {
					t.Errorf("held: %v (%v)", held, err)
				}
				other.SetDevice(bridge.Link{Name: fmt.Sprint("tap", n), Index: 1000 + n})
				for _, p := range r.On("one", port.Own, port.External) {
					p.Info()
					p.Record()
				}
				r.AddForeign("one", 1000+n)
				r.DropForeign("one", 1000+n)
				for _, p := range []*port.Port{own, other} {
					if err := p.End(func() error { return nil }, func() {}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	if n := r.Count("one", port.Own, port.External, port.Foreign); n != 0 {
		t.Errorf("%d ports are left", n)
	}
}

// one is the only port of a list, nil if there is none.
func one(ports []*port.Port) *port.Port {
	if len(ports) != 1 {
		return nil
	}
	return ports[0]
}

// TestRuled has ports of vnetd's own be found by their having rules, as those come and go.
func TestRuled(t *testing.T) {
	r := port.NewRegistry()
	ruled := record(2, 7)
	ruled.Rules = []string{"egress deny"}
	plain, p, other := load(t, r, port.Own, "one", record(1, 7)), load(t, r, port.Own, "one", ruled), load(t, r, port.Own, "two", record(3, 7))
	lists := func(when string, want ...*port.Port) {
		t.Helper()
		if got := port.Ruled(r, "one"); !slices.Equal(got, want) {
			t.Errorf("%s: %d ports with rules, want %d", when, len(got), len(want))
		}
	}
	set := func(p *port.Port, rules ...string) {
		p.Set(func(s *port.Settings, _ *uint32) { s.Rules = rules })
	}
	lists("at first", p)
	set(other, "egress deny")
	set(plain, "ingress deny")
	lists("once another has some", plain, p)
	set(p)
	lists("once one has none any more", plain)
	r.Remove(plain)
	set(plain, "egress deny")
	lists("once it is gone")
}
