package v6_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// frame sends a message in a frame from a card, nil for one whose frame nobody sees.
func (e *env6) frame(card net.HardwareAddr, m *dhcpv6.Message) {
	src := netip.AddrPortFrom(ether.LinkLocal(mac(7)), 546)
	if card == nil {
		e.link.DeliverHidden(m.ToBytes(), src, groupAddr)
		return
	}
	e.link.DeliverFrom(card, m.ToBytes(), src, groupAddr)
}

// What ends, prolongs or renames a lease is taken from the card that got it alone, and what is
// set aside for a card is not given to others. In mode "client-id" a lease is one DUID's; it
// ends by the word of the card that got it last.
func TestNeighboursLeases6(t *testing.T) {
	for _, identity := range []dhcpd.Identity{dhcpd.ByBoth, dhcpd.ByClientID} {
		cfg := testConfig6()
		cfg.Identity = identity
		simulated6(t, cfg, func(t *testing.T, e *env6) {
			victim, evil := mac(7), mac(0x66)
			if err := e.srv.SetDynamic(dhcpd.DynamicReservation{MAC: mac(8), Name: "www"}); err != nil {
				t.Fatal(err)
			}
			e.frame(victim, e.message(solicit6, 7, iana6(1)))
			a := address(t, e.receive())
			e.frame(victim, e.message(dhcpv6.MessageTypeRequest, 7, ours, iana6(1, a), fqdn6("victim")))
			e.want(brief(e.receive()), "REPLY 1:"+a.String())

			for _, card := range []net.HardwareAddr{evil, nil} {
				e.frame(card, e.message(dhcpv6.MessageTypeRelease, 7, ours, iana6(1, a)))
				e.frame(card, e.message(dhcpv6.MessageTypeDecline, 7, ours, iana6(1, a)))
				if card == nil {
					e.frame(card, e.message(dhcpv6.MessageTypeRenew, 7, ours, iana6(1, a), fqdn6("stolen")))
					e.frame(card, e.message(dhcpv6.MessageTypeRequest, 8, ours, iana6(2), fqdn6("www")))
					e.frame(card, e.message(solicit6, 8, raw6(dhcpv6.OptionRapidCommit), iana6(2)))
				}
			}
			e.drain()
			kept := false
			for _, l := range e.srv.Leases() {
				if l.Addr == a && l.Hostname == "victim" && l.MAC.String() == victim.String() {
					kept = true
				} else if len(l.MAC) > 0 || l.Hostname != "" {
					t.Errorf("identity %s: a lease of others' names became %+v", identity, l)
				}
			}
			if !kept {
				t.Errorf("identity %s: the leases became %+v", identity, e.srv.Leases())
			}
			e.frame(victim, e.message(dhcpv6.MessageTypeRelease, 7, ours, iana6(1, a)))
			e.drain()
			for _, l := range e.srv.Leases() {
				if l.Addr == a {
					t.Errorf("identity %s: the client's own release left %+v", identity, l)
				}
			}
		})
	}
}

// Those behind one port have so many addresses, and no more, whoever they say they are;
// others have theirs.
func TestAddressesOfOnePort6(t *testing.T) {
	cfg := testConfig6()
	cfg.PerPort = 4
	simulated6(t, cfg, func(t *testing.T, e *env6) {
		for n := range byte(200) {
			card := net.HardwareAddr{2, 0, 0, 0, 0, n}
			e.link.Plug(card, 5)
			e.frame(card, e.message(solicit6, n, iana6(n), raw6(dhcpv6.OptionRapidCommit)))
			e.frame(card, e.message(dhcpv6.MessageTypeRebind, n, iana6(n, ip6(0x100+uint16(n%10)))))
			if n%16 == 0 {
				e.drain()
				time.Sleep(time.Second) // as many a second are not too many
			}
		}
		e.drain()
		if p := e.srv.Stats().Pool; p.Bound+p.Offered > 4 {
			t.Errorf("one port has %+v, want 4 addresses", p)
		}
		for n := byte(201); n < 207; n++ {
			e.link.Plug(mac(n), int(n))
			e.frame(mac(n), e.message(solicit6, n, iana6(1)))
			address(t, e.receive())
		}
	})
}

// A relay agent stands for many clients, and has as many addresses as they want, unless it is
// a guest behind a port that is known to be one's. One that names itself as who sent their
// messages says nothing of their cards.
func TestAddressesOfRelay6(t *testing.T) {
	for _, c := range []struct {
		known int
		peer  bool // it tells the clients' addresses
	}{{-1, true}, {-1, false}, {8, true}, {8, false}} {
		cfg := testConfig6()
		cfg.PerPort = 4
		cfg.OfPort = func(int) int { return c.known }
		cfg.Ranges = []dhcpd.Range{{Start: ip6(0x100), End: ip6(0xfff)}}
		simulated6(t, cfg, func(t *testing.T, e *env6) {
			card := net.HardwareAddr{2, 0, 0, 0, 0, 1}
			relay := ether.LinkLocal(card)
			e.link.Plug(card, 5)
			const clients = 600 // more than a card may send messages at once
			for n := range clients {
				client := net.HardwareAddr{2, 0, 0, 1, byte(n >> 8), byte(n)}
				m := e.message(solicit6, 1, iana6(1))
				m.UpdateOption(dhcpv6.OptClientID(&dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: client}))
				peer := relay
				if c.peer {
					peer = ether.LinkLocal(client)
				}
				relayed, err := dhcpv6.EncapsulateRelay(m, dhcpv6.MessageTypeRelayForward, prefix6.Addr().AsSlice(), peer.AsSlice())
				if err != nil {
					t.Fatal(err)
				}
				e.link.DeliverFrom(card, relayed.ToBytes(), netip.AddrPortFrom(relay, 547), groupAddr)
			}
			e.drain()
			want := uint64(clients)
			if c.known > 0 {
				want = uint64(c.known)
			}
			if got := e.srv.Stats().Pool.Offered; got != want {
				t.Errorf("%+v: %d addresses are offered, want %d", c, got, want)
			}
		})
	}
}
