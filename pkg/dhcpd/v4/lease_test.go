package v4_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

func TestExpiry(t *testing.T) {
	simulated(t, oneAddress, func(t *testing.T, e *env) {
		a := e.lease(mac(2))
		time.Sleep(v4.DefaultLeaseTime / 2)
		e.want(e.renew(mac(2), a), fmt.Sprint("ACK ", a))
		time.Sleep(v4.DefaultLeaseTime - time.Second)
		if got := e.srv.Leases(); len(got) != 1 {
			t.Errorf("a renewed lease ended early: %v", got)
		}
		e.events.Take()
		time.Sleep(3 * time.Second)
		if got := e.srv.Leases(); len(got) != 0 {
			t.Errorf("leases after the expiry: %v", got)
		}
		want := []string{fmt.Sprintf("expired %v %v", a, mac(2))}
		if diff := cmp.Diff(want, e.events.Take()); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		// The client comes back, and then another one takes its place.
		e.want(e.renew(mac(2), a), fmt.Sprint("ACK ", a))
		time.Sleep(2 * v4.DefaultLeaseTime)
		if got := e.lease(mac(3)); got != a {
			t.Errorf("the expired address was not given again")
		}
		e.want(e.renew(mac(2), a), "NAK address in use")
	})
}

func TestFullPoolReusesTheOldest(t *testing.T) {
	simulated(t, testConfig, func(t *testing.T, e *env) {
		var order []netip.Addr
		for n := byte(2); n < 12; n++ {
			order = append(order, e.lease(mac(n)))
		}
		e.send(dhcpv4.MessageTypeDiscover, mac(20))
		e.quiet()
		e.release(mac(5), order[3])
		time.Sleep(time.Second)
		e.release(mac(4), order[2])
		for n, want := range []netip.Addr{order[3], order[2]} {
			if got := e.lease(mac(byte(20 + n))); got != want {
				t.Errorf("newcomer %d got %v, want %v, which was given up longest ago", n, got, want)
			}
		}
		e.send(dhcpv4.MessageTypeDiscover, mac(5))
		e.quiet()
	})
}

func TestSameAddressFromAnEmptyDatabase(t *testing.T) {
	var had netip.Addr
	for range 2 {
		simulated(t, testConfig, func(t *testing.T, e *env) {
			a := e.lease(mac(7))
			if had.IsValid() && a != had {
				t.Errorf("got %v, had %v before the leases were lost", a, had)
			}
			had = a
		})
	}
}

func TestRestart(t *testing.T) {
	store := dhcpdtest.NewStore()
	cfg := func() v4.Config {
		c := testConfig()
		c.Store = store
		return c
	}
	var rebooted, renewed, gone netip.Addr
	simulated(t, cfg, func(_ *testing.T, e *env) {
		rebooted, renewed, gone = e.lease(mac(2), hostname("two")), e.lease(mac(3), clientID("three")), e.lease(mac(4))
		e.release(mac(4), gone)
	})
	simulated(t, cfg, func(t *testing.T, e *env) {
		if got := e.srv.Leases(); len(got) != 3 {
			t.Errorf("leases after the restart are %v, want three", got)
		}
		e.want(e.initReboot(mac(2), rebooted), fmt.Sprint("ACK ", rebooted))
		e.want(e.renew(mac(3), renewed, clientID("three")), fmt.Sprint("ACK ", renewed))
		e.want(e.selecting(mac(9), renewed), "NAK address in use")
		if got := e.lease(mac(4)); got != gone {
			t.Errorf("a released client gets %v after the restart, had %v", got, gone)
		}
	})
}

// What has ended and no longer fits the network is dropped from the store; what runs
// is not.
func TestRestartElsewhere(t *testing.T) {
	old := netip.MustParseAddr("198.51.100.9")
	store := dhcpdtest.NewStore(
		dhcpd.Lease{Addr: old, MAC: mac(2), State: dhcpd.StateBound},
		dhcpd.Lease{Addr: old.Next(), MAC: mac(2), State: dhcpd.StateBound, Expiry: time.Unix(1, 0)},
		dhcpd.Lease{Addr: old.Next().Next(), MAC: mac(6), State: dhcpd.StateReleased},
		dhcpd.Lease{Addr: serverAddr, MAC: mac(3), State: dhcpd.StateBound},
		dhcpd.Lease{Addr: ip(9), MAC: mac(4), State: dhcpd.StateReleased},
		dhcpd.Lease{Addr: ip(10), MAC: mac(5), State: dhcpd.StateBound},
	)
	cfg := func() v4.Config {
		c := testConfig()
		c.Store = store
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		if diff := cmp.Diff([]netip.Addr{serverAddr, ip(10), old}, store.Addrs(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("the store has other leases than those that run (-want +got):\n%s", diff)
		}
		e.want(e.renew(mac(5), ip(10)), "NAK address not available")
	})
}

func TestReservationByMAC(t *testing.T) {
	both(t, nakConfig, func(t *testing.T, e *env) {
		for _, id := range []string{"", "\x00rom", "\xffsystem"} {
			if got := e.lease(mac(0x21), clientID(id), requested(ip(100))); got != ip(50) {
				t.Errorf("client %q got %v, not what is reserved for its MAC address", id, got)
			}
		}
		for n := byte(2); n < 11; n++ {
			if got := e.lease(mac(n)); got == ip(105) {
				t.Errorf("a reserved address was given to another client")
			}
		}
		e.send(dhcpv4.MessageTypeDiscover, mac(11))
		e.quiet()
		if got := e.lease(mac(0x20)); got != ip(105) {
			t.Errorf("got %v, want the reservation", got)
		}
	})
}

func TestReservationByName(t *testing.T) {
	cfg := func() v4.Config {
		c := testConfig()
		c.Reservations = append(c.Reservations, dhcpd.Reservation{Name: "H3", Addr: ip(33)})
		return c
	}
	fqdn := func(s string) mod { return opt(dhcpv4.OptionFQDN, append([]byte{0, 0, 0}, s...)...) }
	wired := opt(dhcpv4.OptionFQDN, 5, 0, 0, 2, 'h', '3', 2, 'v', 'm', 7, 'e', 'x', 'a', 'm', 'p', 'l', 'e', 0)
	for _, c := range []struct {
		name string
		mod  mod
		want bool
	}{
		{"plain", hostname("h3"), true},
		{"with the domain", hostname("h3.VM.example"), true},
		{"with another domain", hostname("h3.other.example"), false},
		{"another name", hostname("h33"), false},
		{"option 81", fqdn("h3.vm.example"), true},
		{"option 81 in wire format", wired, true},
		{"option 81 malformed", opt(dhcpv4.OptionFQDN, 4, 0, 0, 63, 'h'), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulated(t, cfg, func(t *testing.T, e *env) {
				if got := e.lease(mac(2), c.mod); (got == ip(33)) != c.want {
					t.Errorf("got %v, want the reservation: %v", got, c.want)
				}
			})
		})
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		e.lease(mac(2), hostname("h3"))
		second := e.lease(mac(3), hostname("h3"))
		if l, _ := e.store.Lease(t, second); second == ip(33) || l.Hostname != "" {
			t.Errorf("a second client of that name got %+v", l)
		}
	})
}

// A client with a lease from the pool moves when an address is reserved for it.
func TestReconfigure(t *testing.T) {
	both(t, testConfig, func(t *testing.T, e *env) {
		a, b := e.lease(mac(2)), e.lease(mac(3))
		cfg := e.cfg
		cfg.Ranges = []dhcpd.Range{{Start: ip(150), End: ip(159)}}
		cfg.Reservations = append(cfg.Reservations, dhcpd.Reservation{MAC: mac(2), Addr: ip(20), Name: "two"})
		if err := e.srv.Reconfigure(cfg); err != nil {
			t.Fatal(err)
		}
		if got := e.srv.Leases(); len(got) != 2 {
			t.Errorf("leases are %v, want the two that run", got)
		}
		e.want(e.renew(mac(2), a), "NAK address not available")
		if got := e.lease(mac(2)); got != ip(20) {
			t.Errorf("got %v, want the reservation", got)
		}
		if l, _ := e.store.Lease(t, ip(20)); l.Hostname != "two" {
			t.Errorf("stored %+v, want the reservation's name", l)
		}
		e.want(e.renew(mac(3), b), "NAK address not available")
		if got := e.lease(mac(3)); got.Less(ip(150)) {
			t.Errorf("got %v, which is in no range", got)
		}
		if got := e.srv.Leases(); len(got) != 2 {
			t.Errorf("leases are %v, want two: a client that moved has one", got)
		}
		cfg.Interface = "br1"
		if err := e.srv.Reconfigure(cfg); err == nil {
			t.Error("moved to another interface")
		}
	})
}

func TestReconfigureReservesATakenAddress(t *testing.T) {
	simulated(t, testConfig, func(t *testing.T, e *env) {
		a := e.lease(mac(2))
		mine := e.lease(mac(3))
		cfg := e.cfg
		cfg.Reservations = append(cfg.Reservations, dhcpd.Reservation{MAC: mac(3), Addr: a})
		if err := e.srv.Reconfigure(cfg); err != nil {
			t.Fatal(err)
		}
		e.want(e.renew(mac(3), mine), fmt.Sprint("ACK ", mine)) // not free yet
		e.want(e.renew(mac(2), a), "NAK address reserved")
		e.want(e.renew(mac(3), mine), fmt.Sprint("ACK ", mine)) // not given up yet
		e.lease(mac(2))
		e.want(e.renew(mac(3), mine), "NAK wrong address")
		if got := e.lease(mac(3)); got != a {
			t.Errorf("got %v, want the reservation %v", got, a)
		}
	})
}

func TestFailedCommit(t *testing.T) {
	var told []error
	cfg := func() v4.Config {
		c := oneAddress()
		c.OnStore = func(err error) { told = append(told, err) }
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		broken := errors.New("disk full")
		a := e.discover(mac(2))
		e.store.FailWith(broken)
		e.send(dhcpv4.MessageTypeRequest, mac(2), requested(a), serverID(serverAddr))
		synctest.Wait()
		e.store.FailWith(nil)
		e.quiet()
		if got := e.store.Addrs(); len(got) != 1 || len(e.srv.Leases()) != 1 {
			t.Errorf("stored %v, leases %v, want the probe's alone", got, e.srv.Leases())
		}
		if got := e.lease(mac(3)); got != a {
			t.Errorf("the address is lost")
		}
		before, _ := e.store.Lease(t, a)
		time.Sleep(time.Minute)
		e.events.Take()
		e.store.FailWith(broken)
		e.sendTo(serverAddr, dhcpv4.MessageTypeRequest, mac(3), ciaddr(a))
		e.sendTo(serverAddr, dhcpv4.MessageTypeRelease, mac(3), ciaddr(a))
		synctest.Wait()
		if got := e.events.Take(); len(got) != 0 {
			t.Errorf("told of %v, which is not stored", got)
		}
		if l := e.srv.Leases()[0]; !l.Expiry.Equal(before.Expiry) {
			t.Errorf("expiry is %v, stored is %v", l.Expiry, before.Expiry)
		}
		e.store.FailWith(nil)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(told) != 4 {
			t.Errorf("told of the store %v, not that it takes commits again, as nobody has asked", told)
		}
		e.want(e.renew(mac(3), a), fmt.Sprint("ACK ", a))
		if n := e.srv.Stats().CommitFailures; n == 0 {
			t.Error("failures are not counted")
		}
		want := []error{broken, nil, broken, nil} // once for each time it broke
		if diff := cmp.Diff(want, told, cmpopts.EquateErrors()); diff != "" {
			t.Errorf("told of the store (-want +got):\n%s", diff)
		}
	})
}

// A commit that fails undoes nothing that was decided after it.
func TestFailedCommitBeforeAGoodOne(t *testing.T) {
	simulated(t, oneAddress, func(_ *testing.T, e *env) {
		a := e.lease(mac(2))
		e.store.Gate, e.store.Began = make(chan struct{}), make(chan struct{}, 16)
		e.sendTo(serverAddr, dhcpv4.MessageTypeRequest, mac(2), ciaddr(a))
		<-e.store.Began
		e.sendTo(serverAddr, dhcpv4.MessageTypeRelease, mac(2), ciaddr(a))
		synctest.Wait()
		e.store.FailWith(errors.New("disk full"))
		e.store.Gate <- struct{}{}
		<-e.store.Began
		e.store.FailWith(nil)
		close(e.store.Gate)
		e.quiet()
		if got := e.lease(mac(3)); got != a {
			e.t.Errorf("the released address was not given again: got %v", got)
		}
	})
}

// gatedConfig has a store whose commits tell when they begin and wait for leave.
func gatedConfig() v4.Config {
	c := testConfig()
	store := dhcpdtest.NewStore()
	store.Gate, store.Began = make(chan struct{}), make(chan struct{}, 16)
	c.Store = store
	return c
}

// A slow store gets what came meanwhile in one call, and replies wait for it.
func TestGroupCommit(t *testing.T) {
	const clients = 100
	cfg := func() v4.Config {
		c := gatedConfig()
		c.Ranges = []dhcpd.Range{{Start: ip(2), End: ip(200)}}
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		request := func(n byte) {
			e.send(dhcpv4.MessageTypeRequest, net.HardwareAddr{2, 0, 0, 0, 0, n}, requested(ip(2+n)))
		}
		request(0)
		<-e.store.Began
		for n := byte(1); n < clients; n++ {
			request(n)
		}
		synctest.Wait()
		if got := e.srv.Stats(); got.Request != clients || got.Ack != 0 {
			t.Errorf("%d requests read and %d acknowledged while the store is busy, want %d and 0", got.Request, got.Ack, clients)
		}
		e.store.Gate <- struct{}{}
		e.store.Gate <- struct{}{}
		for n := range byte(clients) {
			e.want(e.receive(), fmt.Sprint("ACK ", ip(2+n)))
		}
		if diff := cmp.Diff([]int{1, clients - 1}, e.store.Commits); diff != "" {
			t.Errorf("records per commit (-want +got):\n%s", diff)
		}
	})
}

// Memory stays bounded when the store hangs.
func TestOverload(t *testing.T) {
	cfg := func() v4.Config {
		c := gatedConfig()
		c.Prefix = netip.MustParsePrefix("192.0.0.0/16")
		c.Ranges = []dhcpd.Range{{Start: netip.MustParseAddr("192.0.8.0"), End: netip.MustParseAddr("192.0.200.0")}}
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		a := netip.MustParseAddr("192.0.8.0")
		for n := range dhcpd.MaxPending + 11 {
			e.send(dhcpv4.MessageTypeRequest, net.HardwareAddr{2, 0, 0, 0, byte(n >> 8), byte(n)}, requested(a))
			a = a.Next()
			if n == 0 {
				<-e.store.Began
			}
		}
		synctest.Wait()
		if got := e.srv.Stats().Overload; got != 10 {
			t.Errorf("%d messages dropped, want 10", got)
		}
		e.store.Gate <- struct{}{}
		e.store.Gate <- struct{}{}
		synctest.Wait()
		if got := len(e.srv.Leases()); got != dhcpd.MaxPending+1 {
			t.Errorf("%d leases, want %d", got, dhcpd.MaxPending+1)
		}
	})
}

// Run ends only when what it began is stored and answered.
func TestRunEndsComplete(t *testing.T) {
	simulated(t, gatedConfig, func(t *testing.T, e *env) {
		e.send(dhcpv4.MessageTypeRequest, mac(2), requested(ip(100)))
		<-e.store.Began
		ended := make(chan error)
		go func() { ended <- e.stop() }()
		synctest.Wait()
		select {
		case <-ended:
			t.Error("Run ended during a commit")
		default:
		}
		e.store.Gate <- struct{}{}
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		e.want(e.receive(), "ACK 192.0.2.100")
	})
}

func TestBusyPort(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge(t)
		first, err := v4.Open(testConfig())
		if err != nil {
			t.Fatal(err)
		}
		_, err = v4.Open(testConfig())
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "dnsmasq") {
			t.Errorf("a second server on the bridge: %v", err)
		}
		nstest.IP(t, "link add br1 type bridge")
		c := testConfig()
		c.Interface = "br1"
		other, err := v4.Open(c)
		if err != nil {
			t.Fatalf("another bridge: %v", err)
		}
		if err := errors.Join(first.Close(), other.Close()); err != nil {
			t.Error(err)
		}
		if again, err := v4.Open(testConfig()); err != nil {
			t.Errorf("after Close: %v", err)
		} else if err := again.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A server whose bridge was removed ends with an error when it notices.
func TestBridgeGone(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge(t)
		cfg := gatedConfig()
		store := cfg.Store.(*dhcpdtest.Store)
		srv, err := v4.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- srv.Run(context.Background()) }()
		w := newVethWire(t)
		e := &env{t: t, wire: w}
		e.send(dhcpv4.MessageTypeRequest, mac(2), requested(ip(100)))
		<-store.Began
		nstest.IP(t, "link del br0")
		close(store.Gate)
		if err := <-ended; err == nil {
			t.Error("Run ended without an error")
		}
		if err := errors.Join(srv.Close(), srv.Close()); err != nil {
			t.Errorf("closing after Run: %v", err)
		}
	})
}

func TestValidate(t *testing.T) {
	none := v4.Config{}
	if err := none.Validate(); err == nil {
		t.Error("the zero Config is valid")
	}
	for _, c := range []struct {
		name string
		mod  func(c *v4.Config)
		want string // in the error, empty for none
	}{
		{"good", func(*v4.Config) {}, ""},
		{"server elsewhere", func(c *v4.Config) { c.Server = netip.MustParseAddr("198.51.100.1") }, "server: "},
		{"IPv6", func(c *v4.Config) { c.Prefix = netip.MustParsePrefix("2001:db8::/64") }, "prefix: "},
		{"router", func(c *v4.Config) { c.Router = netip.MustParseAddr("2001:db8::1") }, "router: "},
		{"range outside", func(c *v4.Config) { c.Ranges[0].End = netip.MustParseAddr("192.0.3.1") }, "range 0: "},
		{"range backwards", func(c *v4.Config) { c.Ranges[0].End = ip(99) }, "range 0: "},
		{"MTU", func(c *v4.Config) { c.MTU = 67 }, "mtu: "},
		{"nobody's reservation", func(c *v4.Config) { c.Reservations[0].MAC = nil }, "reservation 0: "},
		{"reservation outside", func(c *v4.Config) { c.Reservations[0].Addr = netip.MustParseAddr("198.51.100.1") }, ""},
		{"short MAC", func(c *v4.Config) { c.MAC = c.MAC[:5] }, "mac: "},
	} {
		cfg := testConfig()
		c.mod(&cfg)
		err := cfg.Validate()
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// The order of the leases is that of their addresses.
func TestLeasesAreSorted(t *testing.T) {
	simulated(t, testConfig, func(t *testing.T, e *env) {
		for n := byte(2); n < 10; n++ {
			e.lease(mac(n))
		}
		got := e.srv.Leases()
		if !slices.IsSortedFunc(got, func(a, b dhcpd.Lease) int { return a.Addr.Compare(b.Addr) }) || len(got) != 8 {
			t.Errorf("leases are %v", got)
		}
	})
}
