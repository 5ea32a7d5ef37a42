package v4_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// lentBy is a configuration of a server that gives what l has given this host.
func lentBy(l *dhcpdtest.Lender) func() v4.Config {
	return func() v4.Config {
		c := testConfig()
		c.Lender = l
		return c
	}
}

// TestLender gives new addresses of this host's blocks alone, and renews what guests brought
// along from other hosts; a lease is known to all before its client is told.
func TestLender(t *testing.T) {
	l := dhcpdtest.NewLender()
	simulated(t, lentBy(l), func(t *testing.T, e *env) {
		e.send(dhcpv4.MessageTypeDiscover, mac(2)) // there is no block yet
		e.quiet()
		if l.Wanted() == 0 {
			t.Error("nobody learns that a client goes without an address")
		}
		l.Block("192.0.2.104/31", ip(104))
		if err := e.srv.Reconfigure(testConfig()); err == nil {
			t.Error("a running server ends to share its addresses")
		}
		next := lentBy(l)()
		if err := e.srv.Reconfigure(next); err != nil {
			t.Fatal(err)
		}
		if m := e.receive(); m.MessageType() != dhcpv4.MessageTypeOffer || m.YourIPAddr.String() != ip(105).String() {
			t.Errorf("the client that waits is told %v, want an offer", m.Summary())
		}
		if a := e.lease(mac(2)); a != ip(105) || l.Holds(a) != dhcpd.HWAddr(mac(2)) {
			t.Errorf("the client has %v, and %v holds it: want the one of the block that no other host has given", a, l.Holds(a))
		}
		e.send(dhcpv4.MessageTypeDiscover, mac(3))
		e.quiet()
		e.want(e.initReboot(mac(3), ip(101)), "NAK address in use") // of another host's block
		// A guest that moved here has an address of another host's block.
		l.Keep(&dhcpd.Lease{Addr: ip(101), MAC: mac(4)})
		e.want(e.renew(mac(4), ip(101)), "ACK 192.0.2.101")
		e.want(e.renew(mac(2), ip(105)), "ACK 192.0.2.105")
		e.release(mac(2), ip(105))
		e.quiet()
		if l.Holds(ip(105)) != (dhcpd.HWAddr{}) {
			t.Error("an address that was given back is held")
		}
		// What is another host's by now is refused to its client.
		e.srv.Revoke(ip(101))
		e.quiet()
		l.Block("192.0.2.106/31", ip(101))
		e.want(e.renew(mac(4), ip(101)), "NAK address in use")
		if l.Holds(probeAddr) != dhcpd.HWAddr(probeMAC) {
			t.Error("the others do not know that a reserved address is in use")
		}
	})
}

// TestRelend gives addresses of blocks that come, each once, and none of those that go, while
// leases stay as they are.
func TestRelend(t *testing.T) {
	l := dhcpdtest.NewLender()
	simulated(t, lentBy(l), func(t *testing.T, e *env) {
		l.Block("192.0.2.104/31")
		e.srv.Relend()
		had := []netip.Addr{e.lease(mac(2)), e.lease(mac(3))}
		l.Keep(&dhcpd.Lease{Addr: ip(106), MAC: mac(5)}) // of a guest that moved here
		e.want(e.renew(mac(5), ip(106)), "ACK 192.0.2.106")
		e.send(dhcpv4.MessageTypeDiscover, mac(4))
		e.quiet()
		l.Block("192.0.2.106/31")
		l.Block("192.0.2.102/31")
		e.srv.Relend()
		if m := e.receive(); m.MessageType() != dhcpv4.MessageTypeOffer {
			t.Errorf("the client that waits is told %v, want an offer", m.Summary())
		}
		has := make(map[netip.Addr]byte)
		for _, n := range []byte{4, 10, 11} {
			a := e.lease(mac(n))
			had, has[a] = append(had, a), n
		}
		slices.SortFunc(had, netip.Addr.Compare)
		if want := []netip.Addr{ip(102), ip(103), ip(104), ip(105), ip(107)}; !slices.Equal(had, want) {
			t.Errorf("clients have %v, want %v", had, want)
		}
		e.release(mac(has[ip(102)]), ip(102))
		e.quiet()
		l.Unblock("192.0.2.102/31")
		e.srv.Relend()
		e.send(dhcpv4.MessageTypeDiscover, mac(20)) // of a block that has gone
		e.quiet()
		e.want(e.renew(mac(has[ip(107)]), ip(107)), "ACK 192.0.2.107")
		l.Block("192.0.2.102/31")
		e.srv.Relend()
		if m := e.receive(); m.MessageType() != dhcpv4.MessageTypeOffer || m.YourIPAddr.String() != ip(102).String() {
			t.Errorf("the client that waits is told %v, want an offer of the address that another one gave back", m.Summary())
		}
	})
}

// TestLenderFailure takes a promise back that was not stored.
func TestLenderFailure(t *testing.T) {
	l := dhcpdtest.NewLender()
	l.Block("192.0.2.104/30")
	simulated(t, lentBy(l), func(t *testing.T, e *env) {
		a := e.discover(mac(2))
		e.store.FailWith(errors.New("disk full"))
		e.send(dhcpv4.MessageTypeRequest, mac(2), requested(a), serverID(serverAddr))
		synctest.Wait()
		e.store.FailWith(nil)
		if got := l.Holds(a); got != (dhcpd.HWAddr{}) {
			t.Errorf("%v is held for %v, whose lease was not stored", a, got)
		}
	})
}
