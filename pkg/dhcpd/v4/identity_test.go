package v4_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// TestIdentity is the table of docs/dhcp.md: who has a lease, who asks, and which
// identities give the second the address of the first.
func TestIdentity(t *testing.T) {
	const none, rom, disk, other = "", "\x00rom", "\xffdisk", "\xffother"
	own := "\x01" + string(mac(2))
	all := []dhcpd.Identity{dhcpd.ByBoth, dhcpd.ByClientID, dhcpd.ByMAC}
	for _, c := range []struct {
		name   string
		first  string // the client identifier of the lease of mac(2)
		ended  bool   // that lease is released
		hw     byte   // who asks
		second string
		same   []dhcpd.Identity
	}{
		{"again", disk, false, 2, disk, all},
		{"firmware without identifier, then a system with one", none, false, 2, disk, all},
		{"firmware with its address as identifier, then a system with one", own, false, 2, disk, all},
		{"identifier left out", disk, false, 2, none, all},
		{"a system with an identifier, then firmware with its address", disk, false, 2, own, all},
		{"two identifiers at a time", rom, false, 2, disk, []dhcpd.Identity{dhcpd.ByMAC}},
		{"two identifiers one after the other", rom, true, 2, disk, all},
		{"copies of a disk", disk, false, 3, disk, []dhcpd.Identity{dhcpd.ByClientID}},
		{"a copy of a disk that is gone", disk, true, 3, disk, []dhcpd.Identity{dhcpd.ByClientID}},
		{"another machine", disk, false, 3, other, nil},
		{"another machine without an identifier", none, false, 3, none, nil},
	} {
		for _, identity := range all {
			t.Run(c.name+"/"+string(identity), func(t *testing.T) {
				cfg := func() v4.Config {
					cfg := testConfig()
					cfg.Identity = identity
					return cfg
				}
				simulated(t, cfg, func(t *testing.T, e *env) {
					first := e.lease(mac(2), withID(c.first)...)
					if c.ended {
						e.release(mac(2), first, withID(c.first)...)
					}
					second := e.lease(mac(c.hw), withID(c.second)...)
					if want := slices.Contains(c.same, identity); (second == first) != want {
						t.Errorf("the first has %v, the second %v: one address is %v, want %v", first, second, second == first, want)
					}
				})
			})
		}
	}
	cfg := testConfig()
	cfg.Identity = "name"
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), `identity: "name"`) {
		t.Errorf("identity \"name\": %v", err)
	}
}

// withID has a message send a client identifier, none when it is empty.
func withID(id string) []mod {
	if id == "" {
		return nil
	}
	return []mod{clientID(id)}
}

// A client that leaves its identifier out when it renews is the client that it was, and
// does not stop to be: one with another identifier on its card remains another.
func TestIdentifierLeftOutInRenewals(t *testing.T) {
	both(t, testConfig, func(t *testing.T, e *env) {
		one := e.lease(mac(2), clientID("\x00one"))
		two := e.lease(mac(2), clientID("\x00two"))
		if one == two {
			t.Fatalf("both have %v", one)
		}
		for _, a := range []netip.Addr{one, two} {
			e.want(e.renew(mac(2), a), fmt.Sprint("ACK ", a))
			e.want(e.initReboot(mac(2), a), fmt.Sprint("ACK ", a))
		}
		if third := e.lease(mac(2), clientID("\x00three")); third == one || third == two {
			t.Errorf("a third client on the card has %v as well", third)
		}
		e.want(e.renew(mac(2), one, clientID("\x00one")), fmt.Sprint("ACK ", one))
		e.want(e.renew(mac(2), one, clientID("\x00two")), "NAK lease not found")
		e.release(mac(2), one)
		for _, l := range e.srv.Leases() {
			if l.Addr == one {
				t.Errorf("a release without the identifier left %+v", l)
			}
		}
	})
}

// One card and, one after the other, the systems that people install on one.
func TestOneMachineOneAddress(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge(t)
		e := start(t, testConfig(), nil, v4.Open)
		const hw = "00:00:5e:00:53:45"
		first := netip.Addr{}
		for n, step := range []struct {
			kind, id string
			release  bool
		}{
			{"udhcpc", "", false}, // as an initramfs
			{"dhclient", "", false},
			{"networkd", "duid", true},
			{"dhcpcd", "", false},
			{"dhclient", "", false},
		} {
			s := dhcpdtest.NewSystem(t, step.kind, fmt.Sprint("g", n), hw, step.id)
			s.Start(step.id)
			var a netip.Addr
			nstest.Eventually(t, dhcpdtest.ClientLimit, step.kind+" has a lease", func() error {
				for _, l := range e.srv.Leases() {
					if l.MAC.String() == hw && slices.ContainsFunc(e.events.Take(), isGrant) {
						a = l.Addr
						return nil
					}
				}
				return fmt.Errorf("none; its log:\n%s", s.Read("log"))
			})
			t.Logf("%s has %v, leases %+v", step.kind, a, e.srv.Leases())
			if n > 0 && a != first || len(e.srv.Leases()) != 1 {
				t.Errorf("%s has %v, the machine had %v; leases %+v", step.kind, a, first, e.srv.Leases())
			}
			first = a
			s.Stop(step.release)
			if step.release { // which waits for the neighbour's address before it goes
				nstest.Eventually(t, dhcpdtest.ClientLimit, step.kind+" gave its lease back", func() error {
					if n := len(e.srv.Leases()); n > 0 {
						return fmt.Errorf("%d leases", n)
					}
					return nil
				})
			}
			s.Guest.IP("link set eth0 down")
		}
	})
}

// isGrant reports whether an event of an EventLog gives or prolongs a lease.
func isGrant(event string) bool {
	return strings.HasPrefix(event, "bound") || strings.HasPrefix(event, "renewed")
}

// Leases of two identifiers that another server gave to one card are two, and a
// machine's that is known under one here is its own.
func TestImportKnowsTheMachine(t *testing.T) {
	simulated(t, testConfig, func(t *testing.T, e *env) {
		a := e.lease(mac(2))
		taken, refused, err := e.srv.Import(t.Context(), []dhcpd.Lease{{
			Addr: a, MAC: net.HardwareAddr(mac(2)), ClientID: []byte("\x00id"), Expiry: time.Now().Add(9 * time.Hour), State: dhcpd.StateBound,
		}})
		if taken != 1 || len(refused) > 0 || err != nil {
			t.Fatalf("taken %d, refused %v, %v", taken, refused, err)
		}
		e.want(e.renew(mac(2), a, clientID("\x00id")), fmt.Sprint("ACK ", a))
	})
}
