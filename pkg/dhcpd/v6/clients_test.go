package v6_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/ra"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
)

// clientEnv6 is a running DHCPv6 server and a router on br0, opened before the
// bridge is up, and a guest with a link-local address.
func clientEnv6(t *testing.T, hw string) (*env6, *nstest.NS) {
	t.Helper()
	return clientEnvOf6(t, testConfig6(), hw)
}

// clientEnvOf6 is clientEnv6 with a server of that configuration.
func clientEnvOf6(t *testing.T, cfg v6.Config, hw string) (*env6, *nstest.NS) {
	t.Helper()
	dhcpdtest.MakeBridge6(t)
	e := &env6{t: t, cfg: cfg, events: new(dhcpdtest.EventLog)}
	e.store = e.cfg.Store.(*dhcpdtest.Store)
	e.start(e.cfg, v6.Open)
	runRouter(t)
	nstest.IP(t, "link set br0 up")
	guest := nstest.Guest(t, "br0", "g1", hw)
	nstest.Eventually(t, dhcpdtest.ClientLimit, "the guest has a link-local address and a router", func() error {
		got := guest.IP("-6 addr show dev eth0") + guest.IP("-6 route show default")
		if strings.Contains(got, "tentative") || !strings.Contains(got, "default via fe80::") {
			return errors.New(got)
		}
		return nil
	})
	if got := guest.IP("-6 addr show dev eth0"); strings.Contains(got, "2001:db8") {
		t.Errorf("the guest made an address by itself:\n%s", got)
	}
	return e, guest
}

// runRouter advertises that addresses come from DHCPv6 until the test ends.
func runRouter(t *testing.T) {
	t.Helper()
	srv, err := ra.Open(ra.Config{
		Network: "test", Interface: "br0", MAC: mac(1),
		Prefixes: []ra.Prefix{{Prefix: prefix6, DHCP: true, Managed: true}},
		Router:   true, DNS: true, Domain: "vm.example", MTU: 1500,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("advertising: %v", err)
		}
	})
}

// wantLease fails the test unless the one lease is hw's, with that name.
func (e *env6) wantLease(hw, name string) dhcpd.Lease {
	e.t.Helper()
	got := e.srv.Leases()
	if len(got) != 1 || got[0].MAC.String() != hw || got[0].Hostname != name {
		e.t.Fatalf("leases are %+v, want one of %s, name %q", got, hw, name)
	}
	return got[0]
}

// gone waits until there is no lease.
func (e *env6) gone() {
	e.t.Helper()
	nstest.Eventually(e.t, dhcpdtest.ClientLimit, "the lease is released", func() error {
		if len(e.srv.Leases()) != 0 {
			return errors.New("there is a lease")
		}
		return nil
	})
}

func TestDhclient6(t *testing.T) {
	const hw = "00:00:5e:00:53:43"
	nstest.Run(t, func(t *testing.T) {
		e, guest := clientEnv6(t, hw)
		dir := t.TempDir()
		conf := filepath.Join(dir, "conf")
		text := "send fqdn.fqdn \"isc\";\nrequest dhcp6.name-servers, dhcp6.domain-search, dhcp6.fqdn;\n"
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		leases := filepath.Join(dir, "leases")
		args := []string{
			"-6", "-v", "-1", "-cf", conf, "-sf", "/bin/true", "-lf", leases, "-pf", filepath.Join(dir, "pid"), "eth0",
		}
		dhcpdtest.RunClient(t, guest, "dhclient", args...)
		first := e.wantLease(hw, "isc")
		noted, err := os.ReadFile(leases)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{first.Addr.String(), "dhcp6.name-servers 2001:db8:1::1", "dhcp6.domain-search \"vm.example.\""} {
			if !strings.Contains(string(noted), want) {
				t.Errorf("the client did not note %q:\n%s", want, noted)
			}
		}
		dhcpdtest.RunClient(t, guest, "dhclient", append([]string{"-x"}, args...)...)
		guest.IP("-6 addr add " + first.Addr.String() + "/128 dev eth0 nodad") // as the script would
		// It remembers its lease: Confirm or Rebind.
		dhcpdtest.RunClient(t, guest, "dhclient", args...)
		if again := e.wantLease(hw, "isc"); again.Addr != first.Addr || !bytes.Equal(again.DUID, first.DUID) {
			t.Errorf("got %+v, had %+v", again, first)
		}
		dhcpdtest.RunClient(t, guest, "dhclient", append([]string{"-r"}, args...)...)
		e.gone()
	})
}

func TestDhcpcd6(t *testing.T) {
	const hw = "00:00:5e:00:53:44"
	nstest.Run(t, func(t *testing.T) {
		e, _ := clientEnv6(t, "00:00:5e:00:53:46")
		s := dhcpdtest.NewSystem(t, "dhcpcd6", "g2", hw, "")
		s.Start("")
		nstest.Eventually(t, dhcpdtest.ClientLimit, "the guest has its address", func() error {
			if got := s.Guest.IP("-6 addr show dev eth0 -tentative"); !strings.Contains(got, "2001:db8:1::10") {
				return errors.New(got + s.Read("log"))
			}
			return nil
		})
		l := e.wantLease(hw, "roy")
		if !strings.Contains(s.Guest.IP("-6 addr show dev eth0"), l.Addr.String()) {
			t.Errorf("the guest does not have %v", l.Addr)
		}
		s.Stop(true)
		e.gone()
		if noted := s.Read("notes"); !strings.Contains(noted, "2001:db8:1::1") {
			t.Errorf("the client's hook was told %s; log:\n%s", noted, s.Read("log"))
		}
	})
}

// The socket receives what is sent to the group, and a second server on the
// bridge is noticed.
func TestBusyPort6(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge6(t)
		first, err := v6.Open(testConfig6())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v6.Open(testConfig6()); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a second server on the bridge: %v", err)
		}
		if err := errors.Join(first.Close(), first.Close()); err != nil {
			t.Error(err)
		}
		cfg := testConfig6()
		cfg.Interface = "nosuch"
		if _, err := v6.Open(cfg); err == nil {
			t.Error("opened on an interface that is not there")
		}
	})
}

// What can't be meant is refused.
func TestValidate6(t *testing.T) {
	if err := new(v6.Config).Validate(); err == nil {
		t.Error("the zero Config6 is valid")
	}
	for _, c := range []struct {
		name string
		mod  func(c *v6.Config)
		want string // in the error, empty for none
	}{
		{"good", func(*v6.Config) {}, ""},
		{"IPv4", func(c *v6.Config) { c.Prefix, c.Server = netip.PrefixFrom(ip(0), 24), ip(1) }, "prefix: "},
		{"server elsewhere", func(c *v6.Config) { c.Server = netip6("2001:db8:2::1") }, "server: "},
		{"range elsewhere", func(c *v6.Config) { c.Ranges[0].End = netip6("2001:db8:2::1") }, "range 0: "},
		{"DNS", func(c *v6.Config) { c.DNS[0] = ip(1) }, "dns: "},
		{"domain", func(c *v6.Config) { c.Domain = strings.Repeat("a.", 200) }, "domain: "},
		{"lease time", func(c *v6.Config) { c.LeaseTime = -time.Second }, "lease time: "},
		{"nobody's reservation", func(c *v6.Config) { c.Reservations = []dhcpd.Reservation{{Addr: ip6(3)}} }, "reservation 0: "},
		{"reservation of IPv4", func(c *v6.Config) { c.Reservations = []dhcpd.Reservation{{Name: "a", Addr: ip(3)}} }, "reservation 0: "},
	} {
		cfg := testConfig6()
		c.mod(&cfg)
		err := cfg.Validate()
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// systemd-networkd asks for an address because the router says so, renews it, and has
// it again after a reboot. It gives back none.
func TestNetworkd6(t *testing.T) {
	const hw = "00:00:5e:00:53:45"
	nstest.Run(t, func(t *testing.T) {
		cfg := testConfig6()
		cfg.LeaseTime = dhcpdtest.ShortLease
		e, _ := clientEnvOf6(t, cfg, "00:00:5e:00:53:46")
		s := dhcpdtest.NewSystem(t, "networkd", "g2", hw, "")
		only := []*dhcpdtest.System{s}
		s.Start("")
		had := addr6(s, e)
		dhcpdtest.Expect(t, e.events, "renewed", only)
		s.Stop(false)
		s.Start("")
		e.events.Take()
		dhcpdtest.Expect(t, e.events, "renewed or bound", only)
		if got := addr6(s, e); got != had {
			t.Errorf("the guest has %v after a reboot, had %v", got, had)
		}
		if got := e.srv.Stats(); got.Renew == 0 {
			t.Errorf("counters %+v, want a Renew", got)
		}
	})
}

// addr6 waits until the machine has set the address that it was leased.
func addr6(s *dhcpdtest.System, e *env6) (leased netip.Addr) {
	e.t.Helper()
	nstest.Eventually(e.t, dhcpdtest.ClientLimit, "the guest has its address", func() error {
		held, set := e.srv.Leases(), s.Guest.IP("-6 addr show dev eth0 -tentative")
		if len(held) != 1 || held[0].MAC.String() != s.HW || !strings.Contains(set, held[0].Addr.String()+"/") {
			return fmt.Errorf("leases are %+v, addresses\n%s\n%s", held, set, s.Read("log"))
		}
		leased = held[0].Addr
		return nil
	})
	return leased
}
