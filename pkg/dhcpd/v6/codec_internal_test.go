package v6

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// replied are a Request read and answered by this package, and the same by the
// library.
func replied(tb testing.TB) (ours, theirs func() []byte) {
	tb.Helper()
	server, addr := netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("2001:db8:1::100")
	cfg := Config{
		Settings: dhcpd.Settings{
			Network:   "test",
			Interface: "br0",
			MAC:       net.HardwareAddr{0, 0, 0x5e, 0, 0x53, 1},
			Server:    server,
			Prefix:    netip.MustParsePrefix("2001:db8:1::/64"),
			DNS:       []netip.Addr{server},
			Domain:    "vm.example",
		},
	}
	p := newPlan(&cfg, slog.New(slog.DiscardHandler))
	id := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: cfg.MAC}
	ia := func(preferred, valid time.Duration) *dhcpv6.OptIANA {
		return &dhcpv6.OptIANA{
			IaId: [4]byte{3: 1}, T1: preferred / 2, T2: preferred * 7 / 8,
			Options: dhcpv6.IdentityOptions{Options: dhcpv6.Options{&dhcpv6.OptIAAddress{
				IPv6Addr: addr.AsSlice(), PreferredLifetime: preferred, ValidLifetime: valid,
			}}},
		}
	}
	m := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeRequest, TransactionID: dhcpv6.TransactionID{1, 2, 3}}
	m.AddOption(dhcpv6.OptClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr{0, 0, 0x5e, 0, 0x53, 2}}))
	m.AddOption(dhcpv6.OptServerID(id))
	m.AddOption(ia(0, 0))
	raw := m.ToBytes()
	d := dhcpd.Datagram{Payload: raw, Src: netip.MustParseAddrPort("[fe80::2]:546"), Dst: netip.MustParseAddr(allServersAndRelays)}
	c := new(request)
	ours = func() []byte {
		if err := c.read(d, p, time.Now()); err != nil {
			tb.Fatal(err)
		}
		opts := options{c.ias[0].option([]iaAddr{{addr: addr, preferred: time.Hour, valid: time.Hour}}, iana.StatusSuccess)}
		return p.reply(c, dhcpv6.MessageTypeReply, p.linkOptions(opts, c, "")).Payload
	}
	theirs = func() []byte {
		m, err := dhcpv6.MessageFromBytes(raw)
		if err != nil {
			tb.Fatal(err)
		}
		r, err := dhcpv6.NewReplyFromMessage(m, dhcpv6.WithServerID(id), dhcpv6.WithOption(ia(time.Hour, time.Hour)),
			dhcpv6.WithDNS(server.AsSlice()), dhcpv6.WithDomainSearchList("vm.example"))
		if err != nil {
			tb.Fatal(err)
		}
		return r.ToBytes()
	}
	return ours, theirs
}

// TestReplyIsTheLibrarys: what is written by hand is what the library writes.
func TestReplyIsTheLibrarys(t *testing.T) {
	ours, theirs := replied(t)
	if string(ours()) != string(theirs()) {
		t.Errorf("got  %x\nwant %x", ours(), theirs())
	}
}

// BenchmarkReply is a Request read and answered, by hand and by the library.
func BenchmarkReply(b *testing.B) {
	ours, theirs := replied(b)
	for name, reply := range map[string]func() []byte{"hand": ours, "library": theirs} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				reply()
			}
		})
	}
}

// TestTimesOfLongLeases has T1 and T2 of leases for decades be parts of them.
func TestTimesOfLongLeases(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, lease := range []time.Duration{year, 41 * year, 42 * year, dhcpd.Infinite - time.Second} {
		got := appendTimes(nil, []iaAddr{{preferred: lease}})
		if want := appendSeconds(appendSeconds(nil, lease/2), lease/8*7); !bytes.Equal(got, want) {
			t.Errorf("of %v T1 and T2 are %x, want %x", lease, got, want)
		}
	}
}
