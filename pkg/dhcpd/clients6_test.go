package dhcpd_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// clientEnv6 is a running DHCPv6 server and a router on br0, opened before the
// bridge is up, and a guest with a link-local address.
func clientEnv6(t *testing.T, hw string) (*env6, *nstest.NS) {
	t.Helper()
	return clientEnvOf6(t, testConfig6(), hw)
}

// clientEnvOf6 is clientEnv6 with a server of that configuration.
func clientEnvOf6(t *testing.T, cfg dhcpd.Config6, hw string) (*env6, *nstest.NS) {
	t.Helper()
	makeBridge6(t)
	e := &env6{t: t, cfg: cfg, events: new(eventLog)}
	e.store = e.cfg.Store.(*memStore)
	e.start(e.cfg, dhcpd.Open6)
	ra := raConfig()
	ra.Prefixes[0].DHCP = true
	srv, err := dhcpd.OpenRA(ra)
	startRA(t, srv, err)
	nstest.IP(t, "link set br0 up")
	guest := nstest.Guest(t, "br0", "g1", hw)
	nstest.Eventually(t, clientLimit, "the guest has a link-local address and a router", func() error {
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
	nstest.Eventually(e.t, clientLimit, "the lease is released", func() error {
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
		runClient(t, guest, "dhclient", args...)
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
		runClient(t, guest, "dhclient", append([]string{"-x"}, args...)...)
		guest.IP("-6 addr add " + first.Addr.String() + "/128 dev eth0 nodad") // as the script would
		// It remembers its lease: Confirm or Rebind.
		runClient(t, guest, "dhclient", args...)
		if again := e.wantLease(hw, "isc"); again.Addr != first.Addr || !bytes.Equal(again.DUID, first.DUID) {
			t.Errorf("got %+v, had %+v", again, first)
		}
		runClient(t, guest, "dhclient", append([]string{"-r"}, args...)...)
		e.gone()
	})
}

func TestDhcpcd6(t *testing.T) {
	const hw = "00:00:5e:00:53:44"
	nstest.Run(t, func(t *testing.T) {
		e, _ := clientEnv6(t, "00:00:5e:00:53:46")
		s := newSystem(t, "dhcpcd6", "g2", hw, "")
		s.start("")
		nstest.Eventually(t, clientLimit, "the guest has its address", func() error {
			if got := s.guest.IP("-6 addr show dev eth0 -tentative"); !strings.Contains(got, "2001:db8:1::10") {
				return errors.New(got + s.read("log"))
			}
			return nil
		})
		l := e.wantLease(hw, "roy")
		if !strings.Contains(s.guest.IP("-6 addr show dev eth0"), l.Addr.String()) {
			t.Errorf("the guest does not have %v", l.Addr)
		}
		s.stop(true)
		e.gone()
		if noted := s.read("notes"); !strings.Contains(noted, "2001:db8:1::1") {
			t.Errorf("the client's hook was told %s; log:\n%s", noted, s.read("log"))
		}
	})
}

// The socket receives what is sent to the group, and a second server on the
// bridge is noticed.
func TestBusyPort6(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		makeBridge6(t)
		first, err := dhcpd.Open6(testConfig6())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := dhcpd.Open6(testConfig6()); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a second server on the bridge: %v", err)
		}
		if err := errors.Join(first.Close(), first.Close()); err != nil {
			t.Error(err)
		}
		cfg := testConfig6()
		cfg.Interface = "nosuch"
		if _, err := dhcpd.Open6(cfg); err == nil {
			t.Error("opened on an interface that is not there")
		}
	})
}

// What can't be meant is refused.
func TestValidate6(t *testing.T) {
	if err := new(dhcpd.Config6).Validate(); err == nil {
		t.Error("the zero Config6 is valid")
	}
	for _, c := range []struct {
		name string
		mod  func(c *dhcpd.Config6)
		want string // in the error, empty for none
	}{
		{"good", func(*dhcpd.Config6) {}, ""},
		{"IPv4", func(c *dhcpd.Config6) { c.Prefix, c.Server = prefix, serverAddr }, "prefix: "},
		{"server elsewhere", func(c *dhcpd.Config6) { c.Server = netip6("2001:db8:2::1") }, "server: "},
		{"range elsewhere", func(c *dhcpd.Config6) { c.Ranges[0].End = netip6("2001:db8:2::1") }, "range 0: "},
		{"DNS", func(c *dhcpd.Config6) { c.DNS[0] = serverAddr }, "dns: "},
		{"domain", func(c *dhcpd.Config6) { c.Domain = strings.Repeat("a.", 200) }, "domain: "},
		{"lease time", func(c *dhcpd.Config6) { c.LeaseTime = -time.Second }, "lease time: "},
		{"nobody's reservation", func(c *dhcpd.Config6) { c.Reservations = []dhcpd.Reservation{{Addr: ip6(3)}} }, "reservation 0: "},
		{"reservation of IPv4", func(c *dhcpd.Config6) { c.Reservations = []dhcpd.Reservation{{Name: "a", Addr: ip(3)}} }, "reservation 0: "},
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
		cfg.LeaseTime = manyLease
		e, _ := clientEnvOf6(t, cfg, "00:00:5e:00:53:46")
		s := newSystem(t, "networkd", "g2", hw, "")
		only := []*system{s}
		s.start("")
		had := s.addr6(e)
		expect(t, e.events, "renewed", only)
		s.stop(false)
		s.start("")
		e.events.take()
		expect(t, e.events, "renewed or bound", only)
		if got := s.addr6(e); got != had {
			t.Errorf("the guest has %v after a reboot, had %v", got, had)
		}
		if got := e.srv.Stats(); got.Renew == 0 {
			t.Errorf("counters %+v, want a Renew", got)
		}
	})
}

// addr6 waits until the machine has set the address that it was leased.
func (s *system) addr6(e *env6) (leased netip.Addr) {
	s.t.Helper()
	nstest.Eventually(s.t, clientLimit, "the guest has its address", func() error {
		held, set := e.srv.Leases(), s.guest.IP("-6 addr show dev eth0 -tentative")
		if len(held) != 1 || held[0].MAC.String() != s.hw || !strings.Contains(set, held[0].Addr.String()+"/") {
			return fmt.Errorf("leases are %+v, addresses\n%s\n%s", held, set, s.read("log"))
		}
		leased = held[0].Addr
		return nil
	})
	return leased
}
