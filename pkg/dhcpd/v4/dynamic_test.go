package v4_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// TestDynamicAddress gives a guest an address outside the pool that nobody else
// gets, over a change of the configuration, until it is taken back.
func TestDynamicAddress(t *testing.T) {
	both(t, testConfig, func(t *testing.T, e *env) {
		before := e.lease(mac(2), clientID("disk"))
		setDynamic(t, e.srv, dhcpd.DynamicReservation{MAC: mac(2), Addr: ip(50), Name: "web"})
		e.want(e.renew(mac(2), before, clientID("disk")), "NAK wrong address")
		if a := e.lease(mac(2), clientID("disk")); a != ip(50) {
			t.Errorf("the guest got %v, want the address that it was given", a)
		}
		if l, _ := e.store.Lease(t, ip(50)); l.Hostname != "web" {
			t.Errorf("stored %+v, want the name that it was given", l)
		}
		if err := e.srv.Reconfigure(e.cfg); err != nil {
			t.Fatal(err)
		}
		e.want(e.renew(mac(2), ip(50), clientID("disk")), fmt.Sprint("ACK ", ip(50)))
		if a := e.lease(mac(3), requested(ip(50)), hostname("web")); a == ip(50) {
			t.Error("another client got the address")
		}
		for _, l := range e.srv.Leases() {
			if l.MAC.String() == mac(3).String() && l.Hostname != "" {
				t.Errorf("another client got the name: %+v", l)
			}
		}
		e.events.Take()
		e.srv.DropDynamic(mac(2))
		e.quiet() // a round trip: the end is committed
		want := []string{fmt.Sprintf("released %v %v", ip(50), mac(2)), fmt.Sprintf("bound %v %v", probeAddr, probeMAC)}
		if diff := cmp.Diff(want, e.events.Take()); diff != "" {
			t.Errorf("events of the end (-want +got):\n%s", diff)
		}
		if _, left := e.store.Lease(t, ip(50)); left {
			t.Error("a record of the address is left, though nobody can have it")
		}
		if a := e.lease(mac(2), clientID("disk")); a == ip(50) {
			t.Error("the guest still gets the address")
		}
		setDynamic(t, e.srv, dhcpd.DynamicReservation{MAC: mac(4), Addr: ip(50)})
	})
}

// TestDynamicName gives a guest a name alone.
func TestDynamicName(t *testing.T) {
	both(t, testConfig, func(t *testing.T, e *env) {
		setDynamic(t, e.srv, dhcpd.DynamicReservation{MAC: mac(2), Name: "web"})
		r := e.ask(dhcpv4.MessageTypeDiscover, mac(2))
		if got := r.HostName(); got != "web" {
			t.Errorf("offered the name %q, want web", got)
		}
		a := e.lease(mac(2), hostname("localhost"))
		e.srv.DropDynamic(mac(2))
		if again := e.lease(mac(2), hostname("mine")); again != a {
			t.Errorf("got %v after its end, had %v", again, a)
		}
		if l, _ := e.store.Lease(t, a); l.Hostname != "mine" {
			t.Errorf("stored %+v, want the guest's own name", l)
		}
	})
}

func TestDynamicRefused(t *testing.T) {
	simulated(t, testConfig, func(t *testing.T, e *env) {
		leased := e.lease(mac(3))
		setDynamic(t, e.srv, dhcpd.DynamicReservation{MAC: mac(4), Addr: ip(60)})
		for a, taken := range map[netip.Addr]bool{
			leased: true, probeAddr: true, ip(60): true,
			serverAddr: false, ip(0): false, ip(255): false, netip.MustParseAddr("198.51.100.1"): false,
		} {
			err := e.srv.SetDynamic(dhcpd.DynamicReservation{MAC: mac(2), Addr: a})
			if err == nil || errors.Is(err, dhcpd.ErrTaken) != taken {
				t.Errorf("%v: %v, want taken: %v", a, err, taken)
			}
		}
		if err := e.srv.SetDynamic(dhcpd.DynamicReservation{MAC: probeMAC, Addr: ip(61)}); !errors.Is(err, dhcpd.ErrTaken) {
			t.Errorf("another address than the network reserves for the client: %v", err)
		}
		// What failed changed nothing.
		if err := e.srv.SetDynamic(dhcpd.DynamicReservation{MAC: mac(4), Addr: leased}); !errors.Is(err, dhcpd.ErrTaken) {
			t.Errorf("a leased address: %v", err)
		}
		if a := e.lease(mac(4)); a != ip(60) {
			t.Errorf("got %v, want what it had", a)
		}
	})
}

// setDynamic must succeed.
func setDynamic(t *testing.T, srv interface {
	SetDynamic(dhcpd.DynamicReservation) error
}, l dhcpd.DynamicReservation,
) {
	t.Helper()
	if err := srv.SetDynamic(l); err != nil {
		t.Fatalf("giving %v to %v: %v", l.Addr, l.MAC, err)
	}
}
