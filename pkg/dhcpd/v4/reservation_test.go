package v4_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// reserving is a configuration with a reservation more.
func reserving(all ...dhcpd.Reservation) func() v4.Config {
	return func() v4.Config {
		c := testConfig()
		c.Reservations = append(c.Reservations, all...)
		return c
	}
}

// A machine with two cards has one address, on whichever asks last.
func TestReservationForSeveralCards(t *testing.T) {
	r := dhcpd.Reservation{MAC: mac(2), Cards: []dhcpd.Card{{MAC: mac(3)}}, Addr: ip(20), Name: "laptop"}
	both(t, reserving(r), func(t *testing.T, e *env) {
		for _, card := range []net.HardwareAddr{mac(2), mac(3), mac(2)} {
			if a := e.lease(card); a != ip(20) {
				t.Errorf("%v has %v", card, a)
			}
			if l := e.srv.Leases(); len(l) != 1 || l[0].MAC.String() != card.String() || l[0].Hostname != "laptop" {
				t.Errorf("after %v leases are %+v", card, l)
			}
		}
		e.want(e.renew(mac(3), ip(20)), "ACK 192.0.2.20") // awake again, and the one that asks
		if a := e.lease(mac(4)); a == ip(20) {
			t.Errorf("another machine has %v as well", a)
		}
	})
}

// Clients of one make have what is reserved for them; the address has the first one.
func TestReservationForOneMake(t *testing.T) {
	r := dhcpd.Reservation{MAC: mac(0), Mask: []byte{1, 1, 1, 1, 1, 0}, Addr: ip(20), LeaseTime: 10 * time.Minute}
	simulated(t, reserving(r), func(t *testing.T, e *env) {
		if a := e.lease(mac(2)); a != ip(20) {
			t.Errorf("the first one has %v", a)
		}
		if a := e.lease(mac(3)); a == ip(20) {
			t.Errorf("the second one has %v as well", a)
		}
	})
}

// A client that is to be ignored gets no answer, and can give back what it had.
func TestIgnoredClient(t *testing.T) {
	simulated(t, testConfig, func(t *testing.T, e *env) {
		a := e.lease(mac(2))
		if err := e.srv.Reconfigure(reserving(dhcpd.Reservation{MAC: mac(2), Ignore: true}, dhcpd.Reservation{Name: "printer", Ignore: true})()); err != nil {
			t.Fatal(err)
		}
		e.send(dhcpv4.MessageTypeDiscover, mac(2))
		e.quiet()
		e.send(dhcpv4.MessageTypeRequest, mac(2), requested(a))
		e.quiet()
		e.send(dhcpv4.MessageTypeDiscover, mac(3), hostname("Printer"))
		e.quiet()
		e.release(mac(2), a)
		for _, l := range e.srv.Leases() {
			if l.Addr == a {
				t.Errorf("after its release there is %+v", l)
			}
		}
		e.lease(mac(4))
	})
}

// A reservation without an address gives a name and a lease time, for which tags of the
// client may be wanted, and tags in turn.
func TestReservationWithoutAddress(t *testing.T) {
	cfg := func() v4.Config {
		c := reserving(
			dhcpd.Reservation{MAC: mac(2), Tags: []string{"pxe"}, Set: []string{"booting"}, Name: "firmware"},
			dhcpd.Reservation{MAC: mac(2), Name: "system", LeaseTime: 5 * time.Minute},
		)()
		c.Tags = []dhcpd.TagRule{{Tag: "pxe", Option: 60, Value: []byte("PXEClient")}}
		c.Options = []dhcpd.Option{{Code: 200, Value: []byte{1}, Tags: []string{"booting"}, Force: true}}
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		for _, c := range []struct {
			mods []mod
			want string
		}{
			{nil, "system 300 []"},
			{[]mod{opt(dhcpv4.OptionClassIdentifier, []byte("PXEClient:Arch")...)}, "firmware 3600 [1]"},
		} {
			r := e.ask(dhcpv4.MessageTypeDiscover, mac(2), c.mods...)
			if got := fmt.Sprint(r.HostName(), " ", r.IPAddressLeaseTime(0).Seconds(), " ", r.Options.Get(dhcpv4.GenericOptionCode(200))); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		}
	})
}

// A client whose identifier counts for nothing is its card, whatever it says.
func TestReservationWithoutIdentifier(t *testing.T) {
	simulated(t, reserving(dhcpd.Reservation{MAC: mac(2), NoID: true}), func(t *testing.T, e *env) {
		if one, two := e.lease(mac(2), clientID("\x00one")), e.lease(mac(2), clientID("\x00two")); one != two {
			t.Errorf("it has %v and %v", one, two)
		}
		if one, two := e.lease(mac(3), clientID("\x00one")), e.lease(mac(3), clientID("\x00two")); one == two {
			t.Errorf("others have both %v", one)
		}
	})
}

// T1 and T2 are as configured where that is within the lease, and in no answer that has
// none.
func TestTimersAsConfigured(t *testing.T) {
	cfg := func() v4.Config {
		c := testConfig()
		c.Options = []dhcpd.Option{{Code: 58, Value: []byte{0, 0, 2, 88}}, {Code: 59, Value: []byte{0, 0, 8, 0}}}
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		timers := func(r reply) string {
			return fmt.Sprint(r.Options.Get(dhcpv4.OptionRenewTimeValue), r.Options.Get(dhcpv4.OptionRebindingTimeValue))
		}
		if got := timers(e.ask(dhcpv4.MessageTypeDiscover, mac(2))); got != "[0 0 2 88] [0 0 8 0]" {
			t.Errorf("of an hour: %s", got)
		}
		short := opt(dhcpv4.OptionIPAddressLeaseTime, 0, 0, 0, 200)
		if got := timers(e.ask(dhcpv4.MessageTypeDiscover, mac(2), short)); got != "[0 0 0 100] [0 0 0 175]" {
			t.Errorf("of 200 s: %s", got)
		}
		e.sendTo(serverAddr, dhcpv4.MessageTypeInform, mac(2), ciaddr(ip(30)))
		if got := timers(e.receive()); got != "[] []" {
			t.Errorf("without a lease: %s", got)
		}
	})
}
