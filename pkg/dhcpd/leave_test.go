package dhcpd_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// TestLeave has one server take over the socket of another, with the message of a
// client that came in between.
func TestLeave(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		makeBridge(t)
		w := newVethWire(t)
		e := start(t, testConfig(), w, dhcpd.Open)
		held := e.lease(mac(7))
		left := leave(t, e.srv, e.stop)
		e.send(dhcpv4.MessageTypeDiscover, mac(7))
		e.cfg.Left = left
		next := start(t, e.cfg, w, dhcpd.Open)
		closeAll(left)
		if r := next.receive(); r.MessageType() != dhcpv4.MessageTypeOffer || r.yiaddr() != held {
			t.Errorf("got %v, want an offer of %v", r, held)
		}
		next.lease(mac(8))
	})
}

func TestLeave6(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		makeBridge(t)
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
			if err := client.SetReadDeadline(time.Now().Add(replyLimit)); err != nil {
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
		e := &env6{t: t, events: new(eventLog)}
		cfg := testConfig6()
		e.start(cfg, dhcpd.Open6)
		cfg.Left = leave(t, e.srv, e.stop)
		send()
		e.start(cfg, dhcpd.Open6)
		closeAll(cfg.Left)
		receive()
		send()
		receive()
	})
}

// leave ends a server and returns what it leaves.
func leave(t *testing.T, srv interface {
	Leave(ctx context.Context) ([]*os.File, error)
}, stop func() error,
) []*os.File {
	t.Helper()
	left, err := srv.Leave(t.Context())
	if err != nil || len(left) != 1 {
		t.Fatalf("left %v, %v", left, err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	return left
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
