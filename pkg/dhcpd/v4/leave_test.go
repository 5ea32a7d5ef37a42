package v4_test

import (
	"fmt"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// TestLeave has one server take over the socket of another, with the message of a
// client that came in between: one that asks, and one whose acknowledgement may be lost.
func TestLeave(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge(t)
		w := newVethWire(t)
		e := start(t, testConfig(), w, v4.Open)
		held := e.lease(mac(7))
		left := dhcpdtest.Leave(t, e.srv, e.stop)
		e.send(dhcpv4.MessageTypeDiscover, mac(7))
		e.send(dhcpv4.MessageTypeRequest, mac(7), requested(held), serverID(serverAddr))
		e.cfg.Left = left
		next := start(t, e.cfg, w, v4.Open)
		dhcpdtest.CloseAll(left)
		if r := next.receive(); r.MessageType() != dhcpv4.MessageTypeOffer || r.yiaddr() != held {
			t.Errorf("got %v, want an offer of %v", r, held)
		}
		next.want(next.receive(), fmt.Sprint("ACK ", held))
		next.lease(mac(8))
	})
}
