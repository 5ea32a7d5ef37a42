package ra_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/ndp"

	"github.com/vnetd/vnetd/internal/golden"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/ra"
)

var (
	prefix6  = netip.MustParsePrefix("2001:db8:1::/64")
	allNodes = netip.IPv6LinkLocalAllNodes()
)

func raConfig() ra.Config {
	return ra.Config{
		Network: "test", Interface: "br0", MAC: dhcpdtest.MAC(1),
		Prefixes: []ra.Prefix{{Prefix: prefix6, Autonomous: true}},
		Router:   true, DNS: true, Domain: "vm.example", MTU: 1500,
		Logger: slog.New(slog.DiscardHandler),
	}
}

// startRA runs srv until the test ends or stop is called.
func startRA(t *testing.T, srv *ra.Server, err error) (stop func() error) {
	t.Helper()
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return errors.Join(<-ended, srv.Close(), srv.Close())
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("running: %v", err)
		}
	})
	return stop
}

// advert is an advertisement, understood.
func advert(t *testing.T, a ra.Advert) *ndp.RouterAdvertisement {
	t.Helper()
	m, err := ndp.ParseMessage(a.Payload)
	if err != nil {
		t.Fatalf("parsing an advertisement: %v", err)
	}
	return m.(*ndp.RouterAdvertisement)
}

// solicitation is a guest's message.
func solicitation(t testing.TB, opts ...ndp.Option) []byte {
	t.Helper()
	b, err := ndp.MarshalMessage(&ndp.RouterSolicitation{Options: opts})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What guests get, byte by byte.
func TestAdvertisementBytes(t *testing.T) {
	stateful := func(c *ra.Config) {
		c.Prefixes[0] = ra.Prefix{Prefix: c.Prefixes[0].Prefix, DHCP: true, Managed: true}
	}
	for _, c := range []struct {
		name string
		mod  func(c *ra.Config)
	}{
		{"slaac", func(*ra.Config) {}},
		{"dhcp", stateful},
		{"dhcp-and-slaac", func(c *ra.Config) { c.Prefixes[0].DHCP, c.Prefixes[0].Managed = true, true }},
		{"dhcp-not-managed", func(c *ra.Config) { c.Prefixes[0].DHCP = true }},
		{"long-prefix", func(c *ra.Config) { c.Prefixes[0] = ra.Prefix{Prefix: netip.MustParsePrefix("2001:db8:2::/80")} }},
		{"isolated", func(c *ra.Config) { c.Router = false }},
		{"bare", func(c *ra.Config) { c.DNS, c.Domain, c.MTU = false, "", 0 }},
		{"odd-domain", func(c *ra.Config) { c.Domain = "odd..domain" }},
		{"two-prefixes", func(c *ra.Config) {
			stateful(c)
			c.Prefixes = append(c.Prefixes, ra.Prefix{Prefix: netip.MustParsePrefix("2001:db8:2::1/64"), Autonomous: true})
		}},
		{"routes", func(c *ra.Config) { c.Routes = []netip.Prefix{netip.MustParsePrefix("2001:db8:8000::/33")} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := raConfig()
				c.mod(&cfg)
				link := ra.NewLink()
				link.Up()
				srv, err := ra.OpenOn(cfg, link)
				startRA(t, srv, err)
				got := hex.Dump((<-link.Adverts()).Payload)
				if err := srv.Retire(); err != nil {
					t.Fatal(err)
				}
				got += "last:\n" + hex.Dump((<-link.Adverts()).Payload)
				golden.Compare(t, filepath.Join("testdata", "ra", c.name+".txt"), got)
			})
		})
	}
}

// RFC 4861, section 6.2.4: when advertisements to all are sent. The link can't
// send at first.
func TestRFC4861Section624Intervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		link := ra.NewLink()
		srv, err := ra.OpenOn(raConfig(), link)
		startRA(t, srv, err)
		time.Sleep(time.Hour)
		if n := srv.Stats().Multicast; n != 0 {
			t.Errorf("%d advertisements over a link that can't send", n)
		}
		began := time.Now()
		link.Up()
		last := began
		for i := range 10 {
			a := <-link.Adverts()
			if a.Dst != allNodes {
				t.Errorf("advertised to %v", a.Dst)
			}
			lo, hi := 450*time.Second, 600*time.Second
			switch {
			case i == 0:
				lo, hi = 0, 2*time.Second
			case i < 3:
				lo, hi = 3*time.Second, 16*time.Second
			}
			if d := a.At.Sub(last); d < lo || d > hi {
				t.Errorf("advertisement %d came after %v, want %v to %v", i, d, lo, hi)
			}
			last = a.At
		}
	})
}

// RFC 4861, section 6.2.6: solicitations are answered, but not without limit.
func TestRFC4861Section626Solicited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		link := ra.NewLink()
		link.Up()
		srv, err := ra.OpenOn(raConfig(), link)
		startRA(t, srv, err)
		first := <-link.Adverts()
		guest := netip.MustParseAddr("fe80::2%br0")
		for range 100 {
			link.Solicit(solicitation(t), guest, 255)
		}
		for range 100 { // duplicate address detection is not over yet
			link.Solicit(solicitation(t), netip.IPv6Unspecified(), 255)
		}
		synctest.Wait()
		if got := srv.Stats(); got.Solicited != 200 || got.Unicast != 4 || got.Limited != 96 || got.Multicast != 1 {
			t.Errorf("counted %+v", got)
		}
		for range 4 {
			if a := <-link.Adverts(); a.Dst != guest || advert(t, a).RouterLifetime == 0 {
				t.Errorf("answered to %v", a.Dst)
			}
		}
		if a := <-link.Adverts(); a.Dst != allNodes || a.At.Sub(first.At) != 3*time.Second {
			t.Errorf("answered to %v after %v, want to all after 3s", a.Dst, a.At.Sub(first.At))
		}
		for n := range 5000 {
			link.Solicit(solicitation(t), netip.AddrFrom16([16]byte{0xfe, 0x80, 14: byte(n >> 8), 15: byte(n)}), 255)
		}
		synctest.Wait()
		if got := srv.Stats(); got.Unicast > 300 {
			t.Errorf("%d answers at once to a flood", got.Unicast)
		}
	})
}

// Solicitations over the limit are answered by one advertisement to all, so that nobody goes
// without because others ask much.
func TestSolicitedByTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		link := ra.NewLink()
		link.Up()
		srv, err := ra.OpenOn(raConfig(), link)
		startRA(t, srv, err)
		first := <-link.Adverts()
		for n := range 2000 {
			link.Solicit(solicitation(t), netip.AddrFrom16([16]byte{0xfe, 0x80, 14: byte(n >> 8), 15: byte(n)}), 255)
		}
		synctest.Wait()
		for got := srv.Stats().Unicast; got > 0; got-- {
			<-link.Adverts()
		}
		if a := <-link.Adverts(); a.Dst != allNodes || a.At.Sub(first.At) != 3*time.Second {
			t.Errorf("answered to %v after %v, want to all after 3s", a.Dst, a.At.Sub(first.At))
		}
		synctest.Wait() // it is counted after it is sent
		if got := srv.Stats(); got.Multicast != 2 || got.Limited < 1500 {
			t.Errorf("counted %+v, want one answer to all", got)
		}
	})
}

// RFC 4861, section 6.1.1: what is no valid solicitation is dropped.
func TestRFC4861Section611Validation(t *testing.T) {
	lla := &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: dhcpdtest.MAC(2)}
	guest := netip.MustParseAddr("fe80::2")
	other, err := ndp.MarshalMessage(&ndp.NeighborSolicitation{TargetAddress: guest})
	if err != nil {
		t.Fatal(err)
	}
	code := solicitation(t)
	code[1] = 1
	for _, c := range []struct {
		name string
		data []byte
		src  netip.Addr
		hops int
		good bool
	}{
		{"good", solicitation(t, lla), guest, 255, true},
		{"without a source", solicitation(t), netip.IPv6Unspecified(), 255, true},
		{"forwarded", solicitation(t, lla), guest, 254, false},
		{"source option without a source", solicitation(t, lla), netip.IPv6Unspecified(), 255, false},
		{"code", code, guest, 255, false},
		{"short", solicitation(t)[:7], guest, 255, false},
		{"empty", nil, guest, 255, false},
		{"empty option", append(solicitation(t), 1, 0), guest, 255, false},
		{"another message", other, guest, 255, false},
	} {
		if err := ra.CheckSolicit(c.data, c.src, c.hops); (err == nil) != c.good {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestReconfigureRA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		link := ra.NewLink()
		link.Up()
		srv, err := ra.OpenOn(raConfig(), link)
		startRA(t, srv, err)
		<-link.Adverts()
		cfg := raConfig()
		cfg.Router = false
		if err := srv.Reconfigure(cfg); err != nil {
			t.Fatal(err)
		}
		if a := advert(t, <-link.Adverts()); a.RouterLifetime != 0 {
			t.Error("the change was not advertised")
		}
		cfg.Interface = "br1"
		if srv.Reconfigure(cfg) == nil {
			t.Error("moved to another interface")
		}
		cfg = raConfig()
		cfg.Prefixes = nil
		if srv.Reconfigure(cfg) == nil {
			t.Error("took settings without a prefix")
		}
	})
}

// TestFormerResolver changes what guests are told of names: what they know is taken back.
func TestFormerResolver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		link := ra.NewLink()
		link.Up()
		srv, err := ra.OpenOn(raConfig(), link)
		startRA(t, srv, err)
		told := func() (s string) {
			for _, o := range advert(t, <-link.Adverts()).Options {
				switch o := o.(type) {
				case *ndp.RecursiveDNSServer:
					s += fmt.Sprint("resolver ", o.Lifetime > 0, "; ")
				case *ndp.DNSSearchList:
					s += fmt.Sprint(o.DomainNames, " ", o.Lifetime > 0, "; ")
				}
			}
			return s
		}
		want := "resolver true; [vm.example] true; "
		if got := told(); got != want {
			t.Errorf("at first %q, want %q", got, want)
		}
		for _, c := range []struct {
			dns    bool
			domain string
			want   string
		}{
			{true, "new.example", "resolver true; [vm.example] false; [new.example] true; "},
			{false, "", "resolver false; [vm.example new.example] false; "},
			{false, "odd..domain", "resolver false; [vm.example new.example] false; "},
			{true, "VM.example.", "resolver true; [new.example] false; [VM.example] true; "},
			{true, "a.example", "resolver true; [new.example VM.example] false; [a.example] true; "},
			{true, "b.example", "resolver true; [new.example VM.example a.example] false; [b.example] true; "},
			{true, "c.example", "resolver true; [VM.example a.example b.example] false; [c.example] true; "},
		} {
			cfg := raConfig()
			cfg.DNS, cfg.Domain = c.dns, c.domain
			if err := srv.Reconfigure(cfg); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if got := told(); got != c.want {
					t.Errorf("domain %q: got %q, want %q", c.domain, got, c.want)
				}
			}
		}
		if err := srv.Retire(); err != nil {
			t.Fatal(err)
		}
		want = "resolver false; [VM.example a.example b.example] false; [c.example] false; "
		if got := told(); got != want {
			t.Errorf("at last %q, want %q", got, want)
		}
	})
}

// A server that retired says so once, and nothing any more.
func TestRetire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		link := ra.NewLink()
		link.Up()
		srv, err := ra.OpenOn(raConfig(), link)
		stop := startRA(t, srv, err)
		<-link.Adverts()
		if err := srv.Retire(); err != nil {
			t.Fatal(err)
		}
		if a := <-link.Adverts(); a.Dst != allNodes || advert(t, a).RouterLifetime != 0 {
			t.Errorf("the last advertisement is %+v", advert(t, a))
		}
		link.Solicit(solicitation(t), netip.MustParseAddr("fe80::2"), 255)
		time.Sleep(time.Hour)
		if err := stop(); err != nil {
			t.Error(err)
		}
		if n := len(link.Adverts()); n != 0 {
			t.Errorf("%d advertisements after the last", n)
		}
	})
}

// A real guest makes its address and finds its router; the bridge comes up after
// the server.
func TestGuestTakesAdvertisement(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge6(t)
		srv, err := ra.Open(raConfig())
		startRA(t, srv, err)
		guest := nstest.Guest(t, "br0", "g1", dhcpdtest.MAC(2).String())
		nstest.IP(t, "link set br0 up")
		nstest.Eventually(t, dhcpdtest.ClientLimit, "the guest has address and route", func() error {
			got := guest.IP("-6 addr show dev eth0") + guest.IP("-6 route show default")
			for _, want := range []string{"2001:db8:1:0:200:5eff:fe00:5302/64", "default via fe80::200:5eff:fe00:5301"} {
				if !strings.Contains(got, want) || strings.Contains(got, "tentative") {
					return errors.New(got)
				}
			}
			return nil
		})
		got := guest.Exec("rdisc6", "-1", "-w", "10000", "eth0")
		for _, want := range []string{
			"Hop limit                 :           64", "Stateful address conf.    :           No",
			"Router lifetime           :         1800", "2001:db8:1::/64", "Autonomous address conf.:          Yes",
			"Valid time              :     infinite", "MTU                      :         1500",
			"Source link-layer address: 00:00:5E:00:53:01", "Recursive DNS server     : fe80::200:5eff:fe00:5301",
			"DNS search list          : vm.example", "from fe80::200:5eff:fe00:5301",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("rdisc6 does not say %q:\n%s", want, got)
			}
		}
		if err := srv.Retire(); err != nil {
			t.Fatal(err)
		}
		nstest.Eventually(t, dhcpdtest.ClientLimit, "the guest drops its route", func() error {
			if got := guest.IP("-6 route show default"); got != "" {
				return errors.New(got)
			}
			return nil
		})
	})
}

// A bridge that has another link-local address than it had is the router by that, at once
// and without a word in the log.
func TestRouterChangesAddress(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge6(t)
		var log bytes.Buffer
		cfg := raConfig()
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		srv, err := ra.Open(cfg)
		stop := startRA(t, srv, err)
		guest := nstest.Guest(t, "br0", "g1", dhcpdtest.MAC(2).String())
		nstest.IP(t, "link set br0 up")
		ask := func() string { return guest.Exec("rdisc6", "-1", "-w", "10000", "eth0") }
		nstest.Eventually(t, dhcpdtest.ClientLimit, "the guest has an address", func() error {
			if got := guest.IP("-6 addr show dev eth0 scope link"); !strings.Contains(got, "fe80") || strings.Contains(got, "tentative") {
				return errors.New(got)
			}
			return nil
		})
		if got := ask(); !strings.Contains(got, "from fe80::200:5eff:fe00:5301") {
			t.Errorf("at first rdisc6 says\n%s", got)
		}
		nstest.IP(t, "-6 addr add fe80::9/64 dev br0 nodad")
		nstest.IP(t, "-6 addr del fe80::200:5eff:fe00:5301/64 dev br0")
		before := srv.Stats().Unicast
		if got := ask(); !strings.Contains(got, "from fe80::9") || srv.Stats().Unicast == before {
			t.Errorf("of another address rdisc6 says\n%s", got)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if log.Len() > 0 {
			t.Errorf("the log has\n%s", &log)
		}
	})
}

// A server whose bridge is removed ends with an error when it notices.
func TestRABridgeGone(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge6(t)
		srv, err := ra.Open(raConfig())
		if err != nil {
			t.Fatal(err)
		}
		nstest.IP(t, "link del br0")
		if err := srv.Run(t.Context()); err == nil {
			t.Error("Run ended without an error")
		}
		if _, err := ra.Open(raConfig()); err == nil {
			t.Error("opened on an interface that is not there")
		}
	})
}

// FuzzSolicitation: no bytes make the check panic, and what passes is valid.
func FuzzSolicitation(f *testing.F) {
	f.Add(solicitation(f), 255)
	f.Add(solicitation(f, &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: dhcpdtest.MAC(2)}), 255)
	f.Add(solicitation(f, ndp.NewMTU(1500)), 255)
	f.Add(append(solicitation(f), 1, 0), 1)
	f.Fuzz(func(t *testing.T, data []byte, hops int) {
		before := bytes.Clone(data)
		err := ra.CheckSolicit(data, netip.MustParseAddr("fe80::2"), hops)
		if err == nil && (hops != 255 || len(data) < 8 || data[0] != 133 || data[1] != 0) {
			t.Errorf("%x with hop limit %d passed", data, hops)
		}
		if !bytes.Equal(before, data) {
			t.Error("the message was changed")
		}
	})
}
