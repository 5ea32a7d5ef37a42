package resolved_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/internal/sysbus"
	"github.com/vnetd/vnetd/pkg/dnsd/resolved"
)

// The network of TestRegister, and how long its tests wait.
const (
	gateway  = "192.0.2.1"
	gateway6 = "2001:db8::1"
	limit    = time.Minute // after which something hangs
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// fakeResolved keeps what links were told, as systemd-resolved does.
type fakeResolved struct {
	conn  *sysbus.Conn
	mu    sync.Mutex
	links map[int32]map[string]string
}

type fakeDNS struct {
	Family  int32
	Address []byte
}

type fakeDomain struct {
	Name      string
	RouteOnly bool
}

// startResolved puts a fake on the bus.
func startResolved(t *testing.T) *fakeResolved {
	t.Helper()
	conn, err := sysbus.Connect(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeResolved{conn: conn, links: make(map[int32]map[string]string)}
	err = conn.ExportMethodTable(map[string]any{
		"SetLinkDNS":          func(i int32, v []fakeDNS) *dbus.Error { return f.set(i, "dns", v) },
		"SetLinkDomains":      func(i int32, v []fakeDomain) *dbus.Error { return f.set(i, "domains", v) },
		"SetLinkDefaultRoute": func(i int32, v bool) *dbus.Error { return f.set(i, "default", v) },
		"SetLinkDNSSEC":       func(i int32, v string) *dbus.Error { return f.set(i, "dnssec", v) },
		"SetLinkDNSOverTLS":   func(i int32, v string) *dbus.Error { return f.set(i, "tls", v) },
		"RevertLink":          f.revert,
	}, "/org/freedesktop/resolve1", "org.freedesktop.resolve1.Manager")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName("org.freedesktop.resolve1", dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fakeResolved) set(link int32, key string, value any) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.links[link] == nil {
		f.links[link] = make(map[string]string)
	}
	f.links[link][key] = fmt.Sprint(value)
	return nil
}

func (f *fakeResolved) revert(link int32) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.links, link)
	return nil
}

// becomes waits until the links are as wanted: also for a bus that is looked for
// again after 10 s.
func (f *fakeResolved) becomes(t *testing.T, what string, want map[int32]map[string]string) {
	t.Helper()
	nstest.Eventually(t, 6*limit, what, func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if diff := cmp.Diff(want, f.links); diff != "" {
			return fmt.Errorf("-want +got:\n%s", diff)
		}
		return nil
	})
}

// registered is what link 7 is told of the network of TestRegister.
var registered = map[int32]map[string]string{7: {
	"dns":     "[{2 [192 0 2 1]} {10 [32 1 13 184 0 0 0 0 0 0 0 0 0 0 0 1]}]",
	"domains": "[{vm.example true} {2.0.192.in-addr.arpa true} {0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa true}]",
	"default": "false",
	"dnssec":  "no",
	"tls":     "no",
}}

// register runs Register until stop is called.
func register(t *testing.T, client *resolved.Client, cfg resolved.Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- client.Register(ctx, cfg) }()
	return sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Register: %v", err)
			}
		case <-time.After(limit):
			t.Error("Register has not returned")
		}
	})
}

func registerConfig() resolved.Config {
	return resolved.Config{
		Ifindex:  7,
		Addrs:    []netip.Addr{addr(gateway), addr(gateway6)},
		Domain:   "vm.example.",
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::/64")},
	}
}

// TestRegister follows a resolved that comes, restarts and stays.
func TestRegister(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		client := new(resolved.Client)
		stopEarly := register(t, client, registerConfig())
		stopEarly() // no bus: no error
		nstest.StartBus(t)
		stop := register(t, client, registerConfig())
		defer stop()
		first := startResolved(t)
		first.becomes(t, "it is registered with a resolved that starts later", registered)
		_ = first.conn.Close()
		second := startResolved(t)
		second.becomes(t, "it is registered with the next one", registered)

		other := registerConfig()
		other.Ifindex, other.Domain, other.Prefixes = 8, "", nil
		stopOther := register(t, client, other)
		second.becomes(t, "there are two networks", map[int32]map[string]string{7: registered[7], 8: {
			"dns": registered[7]["dns"], "domains": "[]", "default": "false", "dnssec": "no", "tls": "no",
		}})
		stopOther()
		second.becomes(t, "the other one is taken back", registered)
		stop()
		second.becomes(t, "both are taken back", map[int32]map[string]string{})
		if err := client.Register(t.Context(), resolved.Config{Domain: "a b"}); err == nil {
			t.Error("a configuration with faults is taken")
		}
	})
}

// TestRegisterMany has more networks than a bus has connections for one user, and
// the bus start anew below them.
func TestRegisterMany(t *testing.T) {
	const networks = 300
	nstest.Run(t, func(t *testing.T) {
		nstest.StartBus(t)
		fake := startResolved(t)
		client := new(resolved.Client)
		want := make(map[int32]map[string]string)
		var stops []func()
		for i := range networks {
			cfg := registerConfig()
			cfg.Ifindex = i + 1
			stops = append(stops, register(t, client, cfg))
			want[int32(i+1)] = registered[7]
		}
		fake.becomes(t, "all are registered", want)
		if n := connections(t, fake); n > 3 { // the bus, the fake, and they
			t.Errorf("%d networks have %d connections to the bus", networks, n)
		}
		nstest.Exec(t, "sh", "-c", "kill $(pidof dbus-daemon)")
		nstest.Eventually(t, limit, "the bus is gone", func() error {
			if fake.conn.Connected() {
				return errors.New("it is there")
			}
			return nil
		})
		nstest.StartBus(t)
		fake = startResolved(t)
		fake.becomes(t, "all are registered again", want)
		var stopping sync.WaitGroup
		for _, stop := range stops {
			stopping.Go(stop)
		}
		stopping.Wait()
		fake.becomes(t, "all are taken back", map[int32]map[string]string{})
		nstest.Eventually(t, limit, "no connection is left", func() error {
			if n := connections(t, fake); n > 2 {
				return fmt.Errorf("there are %d", n)
			}
			return nil
		})
	})
}

// connections is the number of those to the bus.
func connections(t *testing.T, f *fakeResolved) int {
	t.Helper()
	var names []string
	if err := f.conn.BusObject().Call("org.freedesktop.DBus.ListNames", 0).Store(&names); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range names {
		if name == "org.freedesktop.DBus" || strings.HasPrefix(name, ":") {
			n++
		}
	}
	return n
}

// TestReverseZones: of a subnet that is no zone those are registered that make
// it up, if they are not too many.
func TestReverseZones(t *testing.T) {
	for prefix, want := range map[string][]string{
		"192.0.2.0/24":      {"2.0.192.in-addr.arpa."},
		"198.18.0.0/15":     {"18.198.in-addr.arpa.", "19.198.in-addr.arpa."},
		"192.0.2.4/30":      {"4.2.0.192.in-addr.arpa.", "5.2.0.192.in-addr.arpa.", "6.2.0.192.in-addr.arpa.", "7.2.0.192.in-addr.arpa."},
		"192.0.2.128/25":    {"2.0.192.in-addr.arpa."},
		"2001:db8:0:4::/63": {"4.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", "5.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."},
		"2001:db8:ff::/48":  {"f.f.0.0.8.b.d.0.1.0.0.2.ip6.arpa."},
		"2001:db8:fe::/47":  {"e.f.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", "f.f.0.0.8.b.d.0.1.0.0.2.ip6.arpa."},
	} {
		if diff := cmp.Diff(want, resolved.ReverseZones(netip.MustParsePrefix(prefix))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", prefix, diff)
		}
	}
}
