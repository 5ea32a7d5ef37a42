package v4_test

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// narrowed is c with the subnet's end cut off, and a pool in what is left.
func narrowed(c v4.Config) v4.Config {
	c.Prefix = netip.MustParsePrefix("192.0.2.0/26")
	c.Ranges = []dhcpd.Range{{Start: ip(10), End: ip(19)}}
	return c
}

// changes are the ways in which a server comes to another configuration.
var changes = map[string]func(e *env, cfg v4.Config){
	"in place": func(e *env, cfg v4.Config) {
		if err := e.srv.Reconfigure(cfg); err != nil {
			e.t.Fatal(err)
		}
	},
	"opened anew": func(e *env, cfg v4.Config) {
		if err := e.stop(); err != nil {
			e.t.Fatal(err)
		}
		link := dhcpdtest.NewSimLink(256)
		next := start(e.t, cfg, simWire{link}, func(c v4.Config) (*v4.Server, error) { return v4.OpenOn(c, link) })
		e.srv, e.wire, e.stop, e.events = next.srv, next.wire, next.stop, next.events
	},
}

// eachChange runs body for each of changes.
func eachChange(t *testing.T, cfg func() v4.Config, body func(t *testing.T, e *env, change func(*env, v4.Config))) {
	t.Helper()
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			simulated(t, cfg, func(t *testing.T, e *env) { body(t, e, change) })
		})
	}
}

// holders fails the test unless those and no others have leases.
func (e *env) holders(when string, want map[netip.Addr]string) {
	e.t.Helper()
	got := make(map[netip.Addr]string)
	for _, l := range e.srv.Leases() {
		got[l.Addr] = l.MAC.String()
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		e.t.Errorf("leases %s (-want +got):\n%s", when, diff)
	}
}

// TestLeaseOutlivesItsSubnet takes the subnet away from under a lease and gives it
// back.
func TestLeaseOutlivesItsSubnet(t *testing.T) {
	eachChange(t, oneAddress, func(t *testing.T, e *env, change func(*env, v4.Config)) {
		a := e.lease(mac(2))
		change(e, narrowed(e.cfg))
		e.holders("without the subnet", map[netip.Addr]string{a: mac(2).String()})
		e.want(e.renew(mac(2), a), "NAK wrong network")
		change(e, e.cfg)
		e.holders("once it is back", map[netip.Addr]string{a: mac(2).String()})
		e.send(dhcpv4.MessageTypeDiscover, mac(4), requested(a))
		e.quiet()
		e.want(e.selecting(mac(4), a), "NAK address in use")
		e.want(e.renew(mac(2), a), fmt.Sprint("ACK ", a))
	})
}

// TestLeaseOutsideEnds ends leases outside the subnet in every way in which leases
// end.
func TestLeaseOutsideEnds(t *testing.T) {
	for name, end := range map[string]func(e *env, a netip.Addr){
		"by time": func(*env, netip.Addr) { time.Sleep(2 * v4.DefaultLeaseTime) },
		"by RELEASE": func(e *env, a netip.Addr) {
			e.send(dhcpv4.MessageTypeRelease, mac(2), ciaddr(a), serverID(ip(99))) // as the server was then
		},
		"with another address": func(e *env, _ netip.Addr) { e.lease(mac(2)) },
		"with the guest":       func(e *env, _ netip.Addr) { e.srv.DropDynamic(mac(2)) },
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, oneAddress, func(t *testing.T, e *env) {
				a := e.lease(mac(2))
				changes["in place"](e, narrowed(e.cfg))
				e.events.Take()
				end(e, a)
				synctest.Wait()
				if l, left := e.store.Lease(t, a); left {
					t.Errorf("stored is %+v, want nothing", l)
				}
				if got := e.events.Take(); len(got) == 0 || got[len(got)-1] != fmt.Sprintf("expired %v %v", a, mac(2)) &&
					got[0] != fmt.Sprintf("released %v %v", a, mac(2)) {
					t.Errorf("told was %q, want the end of the lease", got)
				}
				changes["in place"](e, e.cfg)
				if got := e.lease(mac(4)); got != a {
					t.Errorf("another client got %v, want %v, which is free", got, a)
				}
			})
		})
	}
}

// TestReservationWaits reserves an address that somebody else leases: its own client
// gets another one until it is free.
func TestReservationWaits(t *testing.T) {
	eachChange(t, testConfig, func(t *testing.T, e *env, change func(*env, v4.Config)) {
		a := e.lease(mac(2))
		cfg := e.cfg
		cfg.Reservations = append(cfg.Reservations, dhcpd.Reservation{MAC: mac(3), Addr: a})
		change(e, cfg)
		mine := e.lease(mac(3))
		if mine == a {
			t.Fatal("an address that is leased was given to another client")
		}
		contested := e.srv.Contested()
		if len(contested) != 1 || contested[0].Lease.Addr != a || contested[0].Lease.MAC.String() != mac(2).String() ||
			contested[0].For != mac(3).String() {
			t.Errorf("contested is %+v", contested)
		}
		e.holders("while it waits", map[netip.Addr]string{a: mac(2).String(), mine: mac(3).String()})
		time.Sleep(v4.DefaultLeaseTime / 2)
		e.want(e.renew(mac(3), mine), fmt.Sprint("ACK ", mine))
		time.Sleep(v4.DefaultLeaseTime/2 + 2*time.Second) // the lease of a ends
		e.want(e.renew(mac(3), mine), "NAK wrong address")
		if got := e.lease(mac(3)); got != a {
			t.Errorf("got %v, want the reservation %v", got, a)
		}
		if contested := e.srv.Contested(); len(contested) != 0 {
			t.Errorf("contested is %+v, want nothing", contested)
		}
	})
}

// TestOwnAddressIsLeased gives the server the address that a client has.
func TestOwnAddressIsLeased(t *testing.T) {
	simulated(t, oneAddress, func(t *testing.T, e *env) {
		a := e.lease(mac(2))
		moved := e.cfg
		moved.Server = a
		changes["opened anew"](e, moved)
		if got := e.srv.Contested(); len(got) != 1 || got[0].Lease.Addr != a || got[0].For != "" {
			t.Errorf("contested is %+v", got)
		}
		changes["opened anew"](e, e.cfg)
		e.want(e.selecting(mac(4), a), "NAK address in use")
		e.want(e.renew(mac(2), a), fmt.Sprint("ACK ", a))
	})
}
