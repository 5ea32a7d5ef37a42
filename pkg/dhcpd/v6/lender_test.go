package v6_test

import (
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
)

// TestLender gives new addresses of this host's blocks alone, and renews what guests brought
// along from other hosts; a lease is known to all before its client is told.
func TestLender(t *testing.T) {
	l := dhcpdtest.NewLender()
	cfg := testConfig6()
	cfg.Lender = l
	simulated6(t, cfg, func(t *testing.T, e *env6) {
		e.want(e.ask(dhcpv6.MessageTypeSolicit, 2, iana6(1)), "ADVERTISE 1:NoAddrsAvail")
		if l.Wanted() == 0 {
			t.Error("nobody learns that a client goes without an address")
		}
		l.Block("2001:db8:1::104/127", ip6(0x104))
		if err := e.srv.Reconfigure(cfg); err != nil {
			t.Fatal(err)
		}
		if a := e.lease(2); a != ip6(0x105) || l.Holds(a) != dhcpd.HWAddr(mac(2)) {
			t.Errorf("the client has %v, and %v holds it: want the one of the block that no other host has given", a, l.Holds(a))
		}
		// Of another host's block: a guest that did not bring it along gets none, one that did goes on.
		e.want(e.ask(dhcpv6.MessageTypeRebind, 3, iana6(1, ip6(0x101))), "REPLY 1:2001:db8:1::101(gone)")
		moved := dhcpd.Lease{Addr: ip6(0x101), MAC: mac(4), DUID: duid(4).ToBytes(), IAID: 1, State: dhcpd.StateBound}
		l.Keep(&moved)
		if n, refused, err := e.srv.Import(t.Context(), []dhcpd.Lease{moved}); n != 1 || err != nil {
			t.Fatalf("the lease of a guest that moved here is refused: %v, %v", refused, err)
		}
		e.want(e.ask(dhcpv6.MessageTypeRenew, 4, ours, iana6(1, ip6(0x101))), "REPLY 1:2001:db8:1::101")
		e.want(e.ask(dhcpv6.MessageTypeRebind, 4, iana6(1, ip6(0x101))), "REPLY 1:2001:db8:1::101")
		e.want(e.ask(dhcpv6.MessageTypeRelease, 2, ours, iana6(1, ip6(0x105))), "REPLY Success")
		e.quiet()
		if l.Holds(ip6(0x105)) != (dhcpd.HWAddr{}) {
			t.Error("an address that was given back is held")
		}
		// What is another host's by the time that it is asked for is not given.
		a := e.advertised(5)
		l.Keep(&dhcpd.Lease{Addr: a, MAC: mac(9)})
		e.want(e.ask(dhcpv6.MessageTypeRequest, 5, ours, iana6(1, a)), "REPLY 1:NoAddrsAvail")
		e.srv.Revoke(ip6(0x101))
		e.quiet()
		l.Keep(&dhcpd.Lease{Addr: ip6(0x101), MAC: mac(9)})
		e.want(e.ask(dhcpv6.MessageTypeRenew, 4, ours, iana6(1, ip6(0x101))), "REPLY 1:NoBinding")
	})
}

// TestLenderOfManyAddresses has a block be as large as one can be.
func TestLenderOfManyAddresses(t *testing.T) {
	l := dhcpdtest.NewLender()
	l.Block("2001:db8:1::7:0/112")
	cfg := testConfig6()
	cfg.Lender = l
	cfg.Ranges = []dhcpd.Range{{Start: netip6("2001:db8:1::1:0"), End: netip6("2001:db8:1::ffff:ffff:ffff:ffff")}}
	simulated6(t, cfg, func(t *testing.T, e *env6) {
		if a := e.lease(2); !netip.MustParsePrefix("2001:db8:1::7:0/112").Contains(a) {
			t.Errorf("the client has %v, want one of the block", a)
		}
	})
}
