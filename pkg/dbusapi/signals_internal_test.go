package dbusapi

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/internal/sysbus"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/network"
)

// TestSignalOfLeaseIsTheLease: a lease of a signal is what GetLeases returns of it.
func TestSignalOfLeaseIsTheLease(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.StartBus(t)
		join := func() *sysbus.Conn {
			conn, err := sysbus.Connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			return conn
		}
		a, hears := announcer{conn: join(), log: slog.New(slog.DiscardHandler)}, join()
		signals := make(chan *dbus.Signal, 8)
		hears.Signal(signals)
		if err := hears.AddMatchSignal(dbus.WithMatchMember("LeaseChanged")); err != nil {
			t.Fatal(err)
		}
		card := net.HardwareAddr{0x52, 0x54, 0, 0xab, 0, 1}
		all := []network.Lease{
			{Interface: "virbr0", PrefixLen: 24, Lease: dhcpd.Lease{
				Addr: netip.MustParseAddr("192.0.2.5"), MAC: card, ClientID: []byte{1, 0xfe}, Hostname: "web", Expiry: time.Unix(1<<33, 0),
			}},
			{Interface: "virbr0", PrefixLen: 64, Lease: dhcpd.Lease{
				Addr: netip.MustParseAddr("2001:db8::5"), MAC: card, DUID: make([]byte, dhcpd.MaxDUID), IAID: 1<<32 - 1, Expiry: time.Unix(1<<33, 0),
			}},
			{Interface: "virbr0", PrefixLen: 128, Lease: dhcpd.Lease{Addr: netip.MustParseAddr("2001:db8::6"), DUID: []byte{0, 4, 7}}},
			{Interface: "virbr0", PrefixLen: 32, Lease: dhcpd.Lease{Addr: netip.MustParseAddr("198.51.100.1"), MAC: card}},
		}
		const uuid = "6f72b9a6-61d8-4fab-86fa-17b25210cbcd"
		for i := range all {
			a.addLease(a.networkPath(uuid), "bound", &all[i])
		}
		a.flush()
		for _, l := range all {
			s := <-signals
			for s.Name != networkInterface+".LeaseChanged" { // the bus tells us of our name
				s = <-signals
			}
			var change string
			var got lease
			if err := dbus.Store(s.Body, &change, &got); err != nil {
				t.Fatal(err)
			}
			if want := busLease(l); got != want || change != "bound" || s.Path != pathOf(networkPaths, uuid) {
				t.Errorf("a signal of %v tells %q of %+v, want %+v", s.Path, change, got, want)
			}
		}
	})
}
