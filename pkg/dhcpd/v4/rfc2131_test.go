package v4_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// RFC 2131, section 3.1: DISCOVER, OFFER, REQUEST, ACK.
func TestRFC2131Section31FourWay(t *testing.T) {
	both(t, testConfig, func(t *testing.T, e *env) {
		a := e.discover(mac(2))
		if len(e.srv.Leases()) != 0 || len(e.store.Addrs()) != 0 {
			t.Errorf("an offer made a lease: %v", e.srv.Leases())
		}
		e.want(e.selecting(mac(2), a, hostname("guest")), fmt.Sprint("ACK ", a))
		l, ok := e.store.Lease(t, a)
		if !ok || l.MAC.String() != mac(2).String() || l.Hostname != "guest" || l.State != dhcpd.StateBound {
			t.Errorf("stored %+v, want a lease of guest", l)
		}
		if got := e.srv.Leases(); len(got) != 1 || got[0].Addr != a {
			t.Errorf("leases are %v, want that of %v", got, a)
		}
		e.want(e.renew(mac(2), a), fmt.Sprint("ACK ", a))
		e.release(mac(2), a)
		want := []string{
			fmt.Sprintf("bound %v %v", a, mac(2)), fmt.Sprintf("renewed %v %v", a, mac(2)),
			fmt.Sprintf("released %v %v", a, mac(2)), fmt.Sprintf("bound %v %v", probeAddr, probeMAC),
		}
		if diff := cmp.Diff(want, e.events.Take()); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

// RFC 2131, section 3.1, step 4: another server was chosen.
func TestRFC2131Section31OtherServer(t *testing.T) {
	both(t, oneAddress, func(t *testing.T, e *env) {
		a := e.discover(mac(2))
		e.send(dhcpv4.MessageTypeDiscover, mac(3))
		e.quiet() // the only address is held
		e.send(dhcpv4.MessageTypeRequest, mac(2), requested(ip(7)), serverID(ip(66)))
		e.quiet()
		e.want(e.ask(dhcpv4.MessageTypeDiscover, mac(3)), fmt.Sprint("OFFER ", a))
		others := e.srv.Foreign()
		if len(others) != 1 || others[0].Addr != ip(66) || others[0].Client.String() != mac(2).String() {
			t.Errorf("servers that were chosen: %v", others)
		}
	})
}

// Guests can make up servers: the last few are remembered.
func TestForeignServersAreBounded(t *testing.T) {
	simulated(t, oneAddress, func(t *testing.T, e *env) {
		for i := range 20 {
			e.send(dhcpv4.MessageTypeRequest, mac(2), requested(ip(7)), serverID(ip(byte(100+i))))
			e.quiet()
		}
		others := e.srv.Foreign()
		if len(others) != 8 || others[7].Addr != ip(119) {
			t.Errorf("servers that were chosen: %v", others)
		}
	})
}

// oneAddress is a pool of one address.
func oneAddress() v4.Config {
	c := testConfig()
	c.Ranges = []dhcpd.Range{{Start: ip(100), End: ip(100)}}
	return c
}

// RFC 2131, section 4.1: where replies go.
func TestRFC2131Section41Destination(t *testing.T) {
	const all = "ff:ff:ff:ff:ff:ff 255.255.255.255:68"
	where := func(r reply) string { return fmt.Sprint(r.sent.HW, " ", r.sent.Dst) }
	both(t, testConfig, func(t *testing.T, e *env) {
		a := e.discover(mac(2))
		framed := fmt.Sprintf("%v %v:68", mac(2), a)
		for _, c := range []struct{ name, got, want string }{
			{"no broadcast flag", where(e.ask(dhcpv4.MessageTypeDiscover, mac(2))), framed},
			{"broadcast flag", where(e.ask(dhcpv4.MessageTypeDiscover, mac(2), broadcastFlag)), all},
			{"ACK", where(e.selecting(mac(2), a)), framed},
			{"ACK to an odd ciaddr", where(e.selecting(mac(2), a, ciaddr(ip(50)))), framed},
			{"NAK", where(e.selecting(mac(2), ip(1))), all},
			{"ACK to ciaddr", e.renew(mac(2), a).sent.Dst.String(), netip.AddrPortFrom(a, 68).String()},
			{"NAK of ciaddr", where(e.renew(mac(2), ip(50))), all},
		} {
			if c.got != c.want {
				t.Errorf("%s: sent to %s, want %s", c.name, c.got, c.want)
			}
		}
		if r := e.selecting(mac(2), ip(1)); !r.IsBroadcast() || r.ServerIPAddr.String() != "0.0.0.0" {
			t.Errorf("a NAK has flags %x and siaddr %v", r.Flags, r.ServerIPAddr)
		}
	})
}

// RFC 2131, section 4.1: a relay gets the reply, if it is the sender.
func TestRFC2131Section41Relay(t *testing.T) {
	relay := func(a netip.Addr) mod {
		return func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = a.AsSlice() }
	}
	simulated(t, testConfig, func(t *testing.T, e *env) {
		m := e.message(dhcpv4.MessageTypeDiscover, mac(2), relay(ip(9)), opt(dhcpv4.OptionRelayAgentInformation, 1, 1, 7))
		e.wire.send(t, m.ToBytes(), mac(2), ip(9), serverAddr)
		r := e.receive()
		if r.sent.Framed || r.sent.Dst.String() != "192.0.2.9:67" || r.GatewayIPAddr.String() != "192.0.2.9" ||
			string(r.Options.Get(dhcpv4.OptionRelayAgentInformation)) != "\x01\x01\x07" {
			t.Errorf("got %v to %v", r.Summary(), r.sent.Dst)
		}
		for _, giaddr := range []netip.Addr{ip(9), ip(0), ip(255), serverAddr, netip.MustParseAddr("198.51.100.9")} {
			src := giaddr
			if giaddr == ip(9) {
				src = ip(10) // a guest names another one as its relay
			}
			m := e.message(dhcpv4.MessageTypeDiscover, mac(2), relay(giaddr))
			e.wire.send(t, m.ToBytes(), mac(2), src, serverAddr)
		}
		e.quiet()
		if n := e.srv.Stats().Malformed; n != 5 {
			t.Errorf("%d messages of odd relays dropped, want 5", n)
		}
	})
}

// RFC 2131, section 4.3.1: which address is offered.
func TestRFC2131Section431Choice(t *testing.T) {
	both(t, testConfig, func(t *testing.T, e *env) {
		first := e.discover(mac(2))
		if again := e.discover(mac(2)); again != first {
			t.Errorf("offered %v, then %v", first, again)
		}
		free := ip(100)
		if first == free {
			free = ip(101)
		}
		if got := e.discover(mac(3), requested(free)); got != free {
			t.Errorf("%v was requested and free, %v was offered", free, got)
		}
		if got := e.discover(mac(4), requested(free)); got == free {
			t.Errorf("%v was offered to two clients", free)
		}
		for _, a := range []netip.Addr{serverAddr, ip(0), ip(255), probeAddr, ip(50), netip.MustParseAddr("198.51.100.1")} {
			if got := e.discover(mac(5), requested(a)); got.Less(ip(100)) || ip(109).Less(got) {
				t.Errorf("%v was requested, %v offered, which is in no range", a, got)
			}
		}
	})
}

// RFC 2131, section 4.3.1: an offer waits for its client, but not for ever.
func TestRFC2131Section431OfferLapses(t *testing.T) {
	simulated(t, oneAddress, func(t *testing.T, e *env) {
		a := e.discover(mac(2))
		time.Sleep(dhcpd.OfferHold - time.Second)
		e.send(dhcpv4.MessageTypeDiscover, mac(3))
		e.quiet()
		e.want(e.selecting(mac(3), a), "NAK address in use")
		time.Sleep(2 * time.Second)
		if got := e.lease(mac(3)); got != a {
			t.Errorf("leased %v, want %v", got, a)
		}
		e.want(e.selecting(mac(2), a), "NAK address in use")
		if n := e.srv.Stats().Exhausted; n != 1 {
			t.Errorf("%d clients found the pool exhausted, want 1", n)
		}
	})
}

// RFC 2131, section 4.3.1: the lease time.
func TestRFC2131Section431LeaseTime(t *testing.T) {
	cfg := func() v4.Config {
		c := testConfig()
		c.Ranges[0].LeaseTime = 10 * time.Minute
		c.Reservations = append(c.Reservations,
			dhcpd.Reservation{MAC: mac(8), Addr: ip(8)},
			dhcpd.Reservation{MAC: mac(9), Addr: ip(9), LeaseTime: dhcpd.Infinite})
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		for _, c := range []struct {
			name  string
			mac   byte
			asked []byte
			want  string // lease time, T1, T2 in seconds
		}{
			{"of the range", 2, nil, "600 300 525"},
			{"shorter", 2, []byte{0, 0, 0, 200}, "200 100 175"},
			{"below the floor", 2, []byte{0, 0, 0, 1}, "120 60 105"},
			{"longer", 2, []byte{255, 255, 255, 255}, "600 300 525"},
			{"malformed", 2, []byte{1}, "600 300 525"},
			{"default", 8, nil, "3600 1800 3150"},
			{"infinite", 9, nil, "4294967295 - -"},
		} {
			var mods []mod
			if c.asked != nil {
				mods = append(mods, opt(dhcpv4.OptionIPAddressLeaseTime, c.asked...))
			}
			for _, r := range []reply{
				e.ask(dhcpv4.MessageTypeDiscover, mac(c.mac), mods...),
				e.selecting(mac(c.mac), e.discover(mac(c.mac)), mods...),
			} {
				if got := times(r); got != c.want {
					t.Errorf("%s: %v has times %s, want %s", c.name, r.MessageType(), got, c.want)
				}
			}
		}
		time.Sleep(1000 * time.Hour)
		if got := e.srv.Leases(); len(got) != 1 || got[0].Addr != ip(9) || !got[0].Expiry.IsZero() {
			t.Errorf("after 1000 hours the leases are %v, want the infinite one", got)
		}
	})
}

// times are options 51, 58 and 59 in seconds, "-" where absent.
func times(r reply) string {
	var s [3]string
	for i, code := range []dhcpv4.OptionCode{
		dhcpv4.OptionIPAddressLeaseTime, dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue,
	} {
		s[i] = "-"
		if v := r.Options.Get(code); len(v) == 4 {
			s[i] = fmt.Sprint(uint(v[0])<<24 | uint(v[1])<<16 | uint(v[2])<<8 | uint(v[3]))
		}
	}
	return fmt.Sprintf("%s %s %s", s[0], s[1], s[2])
}

// nakConfig has one reservation inside the range and one outside.
func nakConfig() v4.Config {
	c := testConfig()
	c.Reservations = append(c.Reservations,
		dhcpd.Reservation{MAC: mac(0x20), Addr: ip(105)}, dhcpd.Reservation{MAC: mac(0x21), Addr: ip(50)})
	return c
}

// RFC 2131, section 4.3.2, SELECTING.
func TestRFC2131Section432Selecting(t *testing.T) {
	both(t, nakConfig, func(_ *testing.T, e *env) {
		taken := e.lease(mac(2))
		free := ip(100)
		if taken == free {
			free = ip(101)
		}
		e.want(e.selecting(mac(3), taken), "NAK address in use")
		e.want(e.selecting(mac(3), netip.MustParseAddr("198.51.100.7")), "NAK wrong network")
		e.want(e.selecting(mac(3), ip(51)), "NAK address not available")
		e.want(e.selecting(mac(3), ip(50)), "NAK address not available")
		e.want(e.selecting(mac(3), ip(105)), "NAK address reserved")
		for _, a := range []netip.Addr{ip(0), ip(1), ip(255)} {
			e.want(e.selecting(mac(3), a), "NAK address not available")
		}
		// An address that was never offered is as good.
		e.want(e.selecting(mac(3), free), fmt.Sprint("ACK ", free))
		e.want(e.selecting(mac(0x20), ip(109)), "NAK wrong address")
		e.want(e.selecting(mac(0x20), ip(105)), "ACK 192.0.2.105")
		e.send(dhcpv4.MessageTypeRequest, mac(3), serverID(serverAddr)) // without an address
		e.quiet()
	})
}

// RFC 2131, section 4.3.2, INIT-REBOOT.
func TestRFC2131Section432InitReboot(t *testing.T) {
	both(t, nakConfig, func(_ *testing.T, e *env) {
		taken := e.lease(mac(2))
		free := ip(100)
		if taken == free {
			free = ip(101)
		}
		e.want(e.initReboot(mac(2), taken), fmt.Sprint("ACK ", taken))
		for _, a := range []netip.Addr{free, ip(0), ip(1), ip(255), ip(50)} {
			e.want(e.initReboot(mac(2), a), "NAK wrong address")
		}
		e.want(e.initReboot(mac(3), netip.MustParseAddr("198.51.100.7")), "NAK wrong network")
		e.want(e.initReboot(mac(3), taken), "NAK address in use")
		e.want(e.initReboot(mac(3), ip(105)), "NAK address reserved")
		e.want(e.initReboot(mac(3), ip(51)), "NAK address not available")
		e.want(e.initReboot(mac(3), free), fmt.Sprint("ACK ", free))
	})
}

// RFC 2131, section 4.3.2, RENEWING and REBINDING.
func TestRFC2131Section432RenewingRebinding(t *testing.T) {
	both(t, nakConfig, func(t *testing.T, e *env) {
		taken, other := e.lease(mac(2)), e.lease(mac(3))
		free := ip(100)
		for free == taken || free == other {
			free = free.Next()
		}
		rebind := func(n byte, a netip.Addr) reply { return e.ask(dhcpv4.MessageTypeRequest, mac(n), ciaddr(a)) }
		e.want(e.renew(mac(2), taken), fmt.Sprint("ACK ", taken))
		e.want(rebind(2, taken), fmt.Sprint("ACK ", taken))
		e.want(e.renew(mac(2), free), "NAK lease not found")
		e.want(rebind(4, taken), "NAK address in use")
		e.want(rebind(4, ip(105)), "NAK address reserved")
		e.send(dhcpv4.MessageTypeRequest, mac(2), ciaddr(other))
		e.quiet()
		e.want(e.renew(mac(4), free), fmt.Sprint("ACK ", free)) // a lost lease is made again
		if got := len(e.srv.Leases()); got != 4 {
			t.Errorf("%d leases, want 4", got)
		}
	})
}

// RFC 2131, section 4.3.3.
func TestRFC2131Section433Decline(t *testing.T) {
	simulated(t, testConfig, func(t *testing.T, e *env) {
		a := e.lease(mac(2))
		e.send(dhcpv4.MessageTypeDecline, mac(3), requested(a), serverID(serverAddr)) // not its own
		e.quiet()
		e.want(e.renew(mac(2), a), fmt.Sprint("ACK ", a))
		e.send(dhcpv4.MessageTypeDecline, mac(2), requested(a), serverID(serverAddr))
		e.quiet()
		for _, l := range e.srv.Leases() {
			if l.Addr == a {
				t.Errorf("the declined lease is still listed")
			}
		}
		for _, n := range []byte{2, 3} {
			if got := e.discover(mac(n), requested(a)); got == a {
				t.Errorf("client %d was offered the declined address", n)
			}
			e.want(e.selecting(mac(n), a), "NAK address in use")
		}
		time.Sleep(dhcpd.DeclineHold + 2*time.Second)
		e.want(e.initReboot(mac(3), a), fmt.Sprint("ACK ", a))
	})
}

// RFC 2131, section 4.3.3: a declined address is not lost to the pool, not even
// over a restart.
func TestRFC2131Section433DeclineEnds(t *testing.T) {
	store := dhcpdtest.NewStore(dhcpd.Lease{
		Addr: ip(100), MAC: mac(2), State: dhcpd.StateDeclined, Expiry: time.Unix(1, 0),
	})
	cfg := func() v4.Config {
		c := oneAddress()
		c.Store = store
		return c
	}
	both(t, cfg, func(_ *testing.T, e *env) { e.lease(mac(3)) })
	simulated(t, oneAddress, func(t *testing.T, e *env) {
		a := e.lease(mac(2))
		e.send(dhcpv4.MessageTypeDecline, mac(2), requested(a))
		e.quiet()
		time.Sleep(dhcpd.DeclineHold + 2*time.Second)
		e.lease(mac(3))
	})
}

// RFC 2131, section 4.3.4.
func TestRFC2131Section434Release(t *testing.T) {
	both(t, testConfig, func(t *testing.T, e *env) {
		a := e.lease(mac(2))
		e.release(mac(3), a) // not its own
		e.sendTo(serverAddr, dhcpv4.MessageTypeRelease, mac(2), ciaddr(a), serverID(ip(66)))
		e.quiet()
		if got := e.srv.Leases(); len(got) != 2 {
			t.Errorf("leases are %v, want two", got)
		}
		e.release(mac(2), a)
		if got := e.srv.Leases(); len(got) != 1 {
			t.Errorf("after the release the leases are %v, want one", got)
		}
		for n := byte(10); n < 19; n++ {
			if got := e.discover(mac(n)); got == a {
				t.Errorf("a released address was given to another client before unused ones")
			}
		}
		if again := e.lease(mac(2)); again != a {
			t.Errorf("after the release the client gets %v, had %v", again, a)
		}
	})
}

// RFC 2131, section 4.3.5.
func TestRFC2131Section435Inform(t *testing.T) {
	both(t, testConfig, func(t *testing.T, e *env) {
		e.sendTo(serverAddr, dhcpv4.MessageTypeInform, mac(0x32), ciaddr(ip(0x32)))
		r := e.receive()
		e.want(r, "ACK 0.0.0.0")
		if got := times(r); got != "- - -" {
			t.Errorf("an INFORM is answered with times %s", got)
		}
		if r.sent.Dst.String() != "192.0.2.50:68" || r.Options.Get(dhcpv4.OptionRouter) == nil {
			t.Errorf("answered to %v with %v", r.sent.Dst, r.Options)
		}
		for _, a := range []netip.Addr{serverAddr, ip(255)} {
			e.send(dhcpv4.MessageTypeInform, mac(2), ciaddr(a))
		}
		e.send(dhcpv4.MessageTypeInform, mac(2))
		e.quiet()
		if len(e.store.Addrs()) != 1 {
			t.Errorf("an INFORM made a lease: %v", e.store.Addrs())
		}
	})
}

// RFC 1534, section 2: BOOTP clients.
func TestRFC1534BOOTP(t *testing.T) {
	both(t, nakConfig, func(t *testing.T, e *env) {
		r := e.ask(dhcpv4.MessageTypeNone, mac(0x21))
		if r.yiaddr() != ip(50) || times(r) != "- - -" || r.MessageType() != dhcpv4.MessageTypeNone || len(r.sent.Payload) != 300 {
			t.Errorf("got %v of %d bytes", r.Summary(), len(r.sent.Payload))
		}
		if l, ok := e.store.Lease(t, ip(50)); !ok || !l.Expiry.IsZero() {
			t.Errorf("stored %+v, want a lease for ever", l)
		}
		e.send(dhcpv4.MessageTypeNone, mac(2))
		e.quiet()
	})
}
