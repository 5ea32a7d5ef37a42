package v6_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
)

// TestLeaseOutlivesItsSubnet6 is TestLeaseOutlivesItsSubnet for DHCPv6, whose
// clients are told in the answer what they have instead.
func TestLeaseOutlivesItsSubnet6(t *testing.T) {
	cfg := testConfig6()
	cfg.Ranges = []dhcpd.Range{{Start: ip6(0x100), End: ip6(0x100)}}
	simulated6(t, cfg, func(t *testing.T, e *env6) {
		a := e.lease(2)
		small := cfg
		small.Prefix = netip.PrefixFrom(server6, 120)
		small.Ranges = []dhcpd.Range{{Start: ip6(0x50), End: ip6(0x50)}}
		change := func(c v6.Config) {
			t.Helper()
			if err := e.srv.Reconfigure(c); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // away and back, twice
			change(small)
			if got := e.srv.Leases(); len(got) != 1 || got[0].Addr != a {
				t.Errorf("without the subnet the leases are %+v", got)
			}
			change(cfg)
			e.want(e.ask(request6, 3, ours, iana6(1, a)), "REPLY 1:NoAddrsAvail")
			e.want(e.ask(renew6, 2, ours, iana6(1, a)), fmt.Sprint("REPLY 1:", a))
		}
		change(small)
		e.want(e.ask(renew6, 2, ours, iana6(1, a)), fmt.Sprintf("REPLY 1:%v,%v(gone)", ip6(0x50), a))
		change(cfg)
		e.want(e.ask(request6, 3, ours, iana6(1, a)), fmt.Sprint("REPLY 1:", a))
	})
}

// TestReservationWaits6: a reservation by hardware address lets another system of
// its machine have the machine's address, and no other machine's.
func TestReservationWaits6(t *testing.T) {
	simulated6(t, testConfig6(), func(t *testing.T, e *env6) {
		a := e.lease(2)
		cfg := e.cfg
		cfg.Reservations = []dhcpd.Reservation{{MAC: mac(3), Addr: a}}
		if err := e.srv.Reconfigure(cfg); err != nil {
			t.Fatal(err)
		}
		if got := e.lease(3); got == a {
			t.Error("an address that is leased was given to another client")
		}
		if got := e.srv.Leases(); len(got) != 2 {
			t.Errorf("leases are %+v, want both clients'", got)
		}
		if got := e.srv.Contested(); len(got) != 1 || got[0].Lease.Addr != a || got[0].For != mac(3).String() {
			t.Errorf("contested is %+v", got)
		}
	})
}
