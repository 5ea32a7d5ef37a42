package v4

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// offered are an OFFER by this package and the same by the library.
func offered(tb testing.TB) (ours, theirs func() []byte) {
	tb.Helper()
	server, addr := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.100")
	cfg := Config{
		Settings: dhcpd.Settings{
			Network:   "test",
			Interface: "br0",
			MAC:       net.HardwareAddr{0, 0, 0x5e, 0, 0x53, 1},
			Server:    server,
			Prefix:    netip.MustParsePrefix("192.0.2.0/24"),
			DNS:       []netip.Addr{server},
			Domain:    "vm.example",
		},
		Router: server,
	}
	p := newPlan(&cfg, slog.New(slog.DiscardHandler))
	m, err := dhcpv4.NewDiscovery(net.HardwareAddr{0, 0, 0x5e, 0, 0x53, 2})
	if err != nil {
		tb.Fatal(err)
	}
	c, err := parse(dhcpd.Datagram{Payload: m.ToBytes()}, p, time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	ours = func() []byte {
		return p.leaseReply(c, dhcpv4.MessageTypeOffer, given{addr: addr, time: time.Hour}).Payload
	}
	theirs = func() []byte {
		r, err := dhcpv4.NewReplyFromRequest(m,
			dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer), dhcpv4.WithServerIP(server.AsSlice()), dhcpv4.WithYourIP(addr.AsSlice()),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server.AsSlice())), dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(time.Hour)),
			dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(time.Hour/2)), dhcpv4.WithOption(dhcpv4.OptRebindingTimeValue(time.Hour*7/8)),
			dhcpv4.WithOption(dhcpv4.OptSubnetMask(net.CIDRMask(24, 32))), dhcpv4.WithOption(dhcpv4.OptBroadcastAddress(net.IPv4(192, 0, 2, 255))),
			dhcpv4.WithOption(dhcpv4.OptRouter(server.AsSlice())), dhcpv4.WithOption(dhcpv4.OptDNS(server.AsSlice())),
			dhcpv4.WithOption(dhcpv4.OptDomainName("vm.example")))
		if err != nil {
			tb.Fatal(err)
		}
		return r.ToBytes()
	}
	return ours, theirs
}

// TestReplyIsTheLibrarys: what is written by hand is what the library writes.
func TestReplyIsTheLibrarys(t *testing.T) {
	ours, theirs := offered(t)
	if string(ours()) != string(theirs()) {
		t.Errorf("got  %x\nwant %x", ours(), theirs())
	}
}

// BenchmarkReply is an OFFER, by hand and by the library.
func BenchmarkReply(b *testing.B) {
	ours, theirs := offered(b)
	for name, offer := range map[string]func() []byte{"hand": ours, "library": theirs} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				offer()
			}
		})
	}
}

// TestTimersOfLongLeases has T1 and T2 of leases for decades be parts of them.
func TestTimersOfLongLeases(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, lease := range []time.Duration{year, 41 * year, 42 * year, dhcpd.Infinite - time.Second} {
		t1, t2 := new(linkInfo).timers(lease)
		if want := lease / 8 * 7; t1 != lease/2 || t2 < want || t2 > want+time.Second {
			t.Errorf("of %v T1 is %v, T2 %v", lease, t1, t2)
		}
	}
}
