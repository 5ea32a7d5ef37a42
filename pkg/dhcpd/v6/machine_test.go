package v6_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
)

// copied is the DUID-UUID (RFC 6355) that the copies of one disk have.
var copied = opt6(dhcpv6.OptClientID(&dhcpv6.DUIDUUID{UUID: [16]byte{1, 2, 3, 4}}))

// card is a guest whose link-local address and DUID tell nothing of its hardware
// address.
type card struct {
	conn *net.UDPConn
	to   *net.UDPAddr
}

// newCard plugs a guest into br0.
func newCard(t *testing.T, name string, n byte) *card {
	t.Helper()
	guest := nstest.Guest(t, "br0", name, mac(n).String())
	guest.IP("link set eth0 addrgenmode none")
	guest.IP("-6 addr flush dev eth0")
	guest.IP(fmt.Sprintf("-6 addr add fe80::1111:%x/64 dev eth0 nodad", n))
	c := new(card)
	err := guest.Do(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		c.to = &net.UDPAddr{IP: groupAddr.AsSlice(), Port: 547, Zone: "eth0"}
		c.conn, err = net.ListenUDP("udp6", &net.UDPAddr{IP: net.ParseIP(fmt.Sprintf("fe80::1111:%x", n)), Port: 546, Zone: ifi.Name})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.conn.Close() })
	return c
}

// ask sends a message until it is answered.
func (c *card) ask(t *testing.T, e *env6, typ dhcpv6.MessageType, mods ...mod6) *dhcpv6.Message {
	t.Helper()
	m := e.message(typ, 0, append([]mod6{copied}, mods...)...)
	m.Options.Options = m.Options.Options[1:] // of message's own
	buf := make([]byte, 2048)
	for range 30 {
		if _, err := c.conn.WriteTo(m.ToBytes(), c.to); err != nil {
			t.Fatal(err)
		}
		_ = c.conn.SetReadDeadline(time.Now().Add(time.Second))
		for {
			n, err := c.conn.Read(buf)
			if err != nil {
				break
			}
			if r, err := dhcpv6.MessageFromBytes(buf[:n]); err == nil && r.TransactionID == m.TransactionID {
				return r
			}
		}
	}
	t.Fatalf("no reply; counters %+v", e.srv.Stats())
	return nil
}

// lease takes the guest from nothing to a lease.
func (c *card) lease(t *testing.T, e *env6) netip.Addr {
	t.Helper()
	a := address(t, c.ask(t, e, dhcpv6.MessageTypeSolicit, iana6(1)))
	r := c.ask(t, e, dhcpv6.MessageTypeRequest, ours, iana6(1, a))
	e.want(brief(r), fmt.Sprintf("REPLY 1:%v", a))
	return a
}

// A guest sends more packets to the server's port than there is room for, of which the server gets
// none; another one renews its lease.
func TestFramesOfOthers6(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge6(t)
		nstest.IP(t, "link set br0 up")
		cfg := testConfig6()
		e := &env6{t: t, cfg: cfg, events: new(dhcpdtest.EventLog)}
		e.store = cfg.Store.(*dhcpdtest.Store)
		e.start(cfg, v6.Open)
		one, other := newCard(t, "g1", 2), newCard(t, "g2", 3)
		a := one.lease(t, e)
		for range 30000 {
			_, _ = other.conn.WriteTo([]byte("x"), &net.UDPAddr{IP: net.ParseIP("ff02::1:ff00:7777"), Port: 547, Zone: "eth0"})
		}
		time.Sleep(1100 * time.Millisecond) // a tick
		for range 3 {
			e.want(brief(one.ask(t, e, dhcpv6.MessageTypeRenew, ours, iana6(1, a))), fmt.Sprintf("REPLY 1:%v", a))
		}
		if s := e.srv.Stats(); s.Renew != 3 || s.Ignored != 0 {
			t.Errorf("%d messages to renew, %d ignored", s.Renew, s.Ignored)
		}
	})
}

// A guest is known by the hardware address of its frames, whatever it says: copies of
// a disk have two addresses, and each what is reserved for it.
func TestFrameTellsTheMachine(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge6(t)
		nstest.IP(t, "link set br0 up")
		cfg := testConfig6()
		cfg.Reservations = []dhcpd.Reservation{{MAC: mac(4), Addr: ip6(0x40)}}
		e := &env6{t: t, cfg: cfg, events: new(dhcpdtest.EventLog)}
		e.store = cfg.Store.(*dhcpdtest.Store)
		e.start(cfg, v6.Open)
		one, two, reserved, port := newCard(t, "g1", 2), newCard(t, "g2", 3), newCard(t, "g3", 4), newCard(t, "g4", 5)
		setDynamic(t, e.srv, dhcpd.DynamicReservation{MAC: mac(5), Addr: ip6(0x50)})
		a, b := one.lease(t, e), two.lease(t, e)
		if a == b {
			t.Errorf("two copies of one disk have %v", a)
		}
		if got := reserved.lease(t, e); got != ip6(0x40) {
			t.Errorf("the guest with a reservation for its MAC address has %v", got)
		}
		if got := port.lease(t, e); got != ip6(0x50) {
			t.Errorf("the guest whose port has an address has %v", got)
		}
		for addr, n := range map[netip.Addr]byte{a: 2, b: 3, ip6(0x40): 4, ip6(0x50): 5} {
			if l, _ := e.store.Lease(t, addr); l.MAC.String() != mac(n).String() {
				t.Errorf("stored %+v, want the MAC address %v", l, mac(n))
			}
		}
		for addr, c := range map[netip.Addr]*card{a: one, b: two, ip6(0x40): reserved, ip6(0x50): port} {
			e.want(brief(c.ask(t, e, dhcpv6.MessageTypeRenew, ours, iana6(1, addr))), fmt.Sprintf("REPLY 1:%v", addr))
		}
		e.want(brief(one.ask(t, e, dhcpv6.MessageTypeDecline, ours, iana6(1, a))), "REPLY Success")
		if c := one.lease(t, e); c == a || c == b {
			t.Errorf("after it declined %v a guest has %v", a, c)
		}
	})
}

// from sends a message whose frame comes from a hardware address, zero for one that
// nobody saw, and says what the reply is.
func (e *env6) from(hw net.HardwareAddr, typ dhcpv6.MessageType, mods ...mod6) string {
	e.t.Helper()
	m := e.message(typ, 0, mods...)
	m.Options.Options = m.Options.Options[1:]
	e.link.DeliverFrom(hw, m.ToBytes(), netip.MustParseAddrPort("[fe80::99]:546"), groupAddr)
	return brief(e.receive())
}

// TestIdentity6 is the table of docs/dhcp.md for DHCPv6: copies of a disk are told apart
// once they are seen, and one whose frame was not seen is who it was.
func TestIdentity6(t *testing.T) {
	unseen := net.HardwareAddr(make([]byte, 6))
	madeOf := func(n byte) mod6 {
		return opt6(dhcpv6.OptClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac(n)}))
	}
	for _, c := range []struct {
		name          string
		identity      dhcpd.Identity
		first, second net.HardwareAddr
		duid          mod6
		same          bool
	}{
		{"again", "", mac(2), mac(2), copied, true},
		{"copies", "", mac(2), mac(3), copied, false},
		{"copies, by hardware address", dhcpd.ByMAC, mac(2), mac(3), copied, false},
		{"copies, by DUID alone", dhcpd.ByClientID, mac(2), mac(3), copied, true},
		{"copies, the DUID made of the first's address", "", mac(2), mac(3), madeOf(2), false},
		{"not seen, then seen", "", unseen, mac(2), copied, true},
		{"seen, then not seen", "", mac(2), unseen, copied, true},
		{"seen, then not seen, with the DUID of another card", "", mac(2), unseen, madeOf(9), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig6()
			cfg.Identity = c.identity
			simulated6(t, cfg, func(t *testing.T, e *env6) {
				want := fmt.Sprintf("REPLY 1:%v", ip6(0x105))
				e.want(e.from(c.first, dhcpv6.MessageTypeRequest, c.duid, ours, iana6(1, ip6(0x105))), want)
				if got := e.from(c.second, dhcpv6.MessageTypeRequest, c.duid, ours, iana6(1, ip6(0x105))); (got == want) != c.same {
					t.Errorf("the second gets %s, one client is %v", got, c.same)
				}
				// The first remains who it was.
				e.want(e.from(c.first, dhcpv6.MessageTypeRenew, c.duid, ours, iana6(1, ip6(0x105))), want)
			})
		})
	}
}

// A client that declines gets another address, whether it had a lease of the first or
// was advertised it, from the ranges or reserved for it.
func TestDeclineGetsAnotherAddress(t *testing.T) {
	cfg := testConfig6()
	cfg.Reservations = []dhcpd.Reservation{{MAC: mac(3), Addr: ip6(0x40)}}
	simulated6(t, cfg, func(t *testing.T, e *env6) {
		for n := byte(2); n < 4; n++ {
			a := e.lease(n)
			e.want(e.ask(decline6, n, ours, iana6(1, a)), "REPLY Success")
			// As NetworkManager and networkd do: with what they had as a hint, and without.
			if b := e.advertised(n, iana6(2, a)); b == a {
				t.Errorf("client %d is advertised %v again", n, a)
			}
			if b := e.lease(n); b == a {
				t.Errorf("client %d has %v again", n, a)
			}
		}
		a := e.advertised(5)
		e.want(e.ask(decline6, 5, ours, iana6(1, a)), "REPLY Success")
		if b := e.advertised(5); b == a {
			t.Errorf("%v is advertised again to the client that declined it", a)
		}
	})
}
