package v6_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
)

func TestLeave6(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge(t)
		nstest.IP(t, "-6 addr add fe80::1/64 dev br0 nodad")
		guest := nstest.Guest(t, "br0", "g1", "")
		guest.IP("-6 addr add fe80::7/64 dev eth0 nodad")
		var client net.PacketConn
		err := guest.Do(func() (err error) { client, err = net.ListenPacket("udp6", "[fe80::7%eth0]:546"); return err })
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		solicit, err := dhcpv6.NewSolicit(mac(7))
		if err != nil {
			t.Fatal(err)
		}
		group := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("[ff02::1:2]:547")) // by the device of fe80::7
		send := func() {
			if _, err := client.WriteTo(solicit.ToBytes(), group); err != nil {
				t.Fatal(err)
			}
		}
		receive := func() {
			t.Helper()
			b := make([]byte, 1500)
			if err := client.SetReadDeadline(time.Now().Add(dhcpdtest.ReplyLimit)); err != nil {
				t.Fatal(err)
			}
			n, _, err := client.ReadFrom(b)
			if err != nil {
				t.Fatal(err)
			}
			if m, err := dhcpv6.MessageFromBytes(b[:n]); err != nil || m.Type() != dhcpv6.MessageTypeAdvertise {
				t.Errorf("got %v, %v, want an advertisement", m, err)
			}
		}
		e := &env6{t: t, events: new(dhcpdtest.EventLog)}
		cfg := testConfig6()
		e.start(cfg, v6.Open)
		cfg.Left = dhcpdtest.Leave(t, e.srv, e.stop)
		send()
		e.start(cfg, v6.Open)
		dhcpdtest.CloseAll(cfg.Left)
		receive()
		send()
		receive()
	})
}
