package v4_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/packet"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// evil is the card of a guest that speaks for others.
var evil = mac(0x66)

// from sends a message of the client hw in a frame from another card, nil for one whose
// frame nobody sees.
func (e *env) from(card net.HardwareAddr, dst netip.Addr, typ dhcpv4.MessageType, hw net.HardwareAddr, mods ...mod) {
	e.t.Helper()
	m := e.message(typ, hw, mods...)
	src := netip.IPv4Unspecified()
	if a, ok := netip.AddrFromSlice(m.ClientIPAddr.To4()); ok {
		src = a
	}
	link := e.wire.(simWire).link
	if card == nil {
		link.DeliverHidden(m.ToBytes(), netip.AddrPortFrom(src, 68), dst)
		return
	}
	link.DeliverFrom(card, m.ToBytes(), netip.AddrPortFrom(src, 68), dst)
}

// held says who has which address, under which name.
func (e *env) held() string {
	s := ""
	for _, l := range e.srv.Leases() {
		if l.Addr != probeAddr {
			s += fmt.Sprint(l.MAC, " ", l.Addr, " ", l.Hostname, ";")
		}
	}
	return s
}

// What ends, prolongs or renames a lease is taken from the card that got it alone, and what
// ends it from its port.
func TestNeighboursLeases(t *testing.T) {
	simulated(t, testConfig, func(t *testing.T, e *env) {
		victim := mac(7)
		own := func(typ dhcpv4.MessageType, dst netip.Addr, mods ...mod) { e.from(victim, dst, typ, victim, mods...) }
		own(dhcpv4.MessageTypeDiscover, broadcast)
		a := e.receive().yiaddr()
		own(dhcpv4.MessageTypeRequest, broadcast, requested(a), serverID(serverAddr), hostname("victim"))
		e.want(e.receive(), fmt.Sprint("ACK ", a))
		want := fmt.Sprint(victim, " ", a, " victim;")

		for name, card := range map[string]net.HardwareAddr{"another card": evil, "a hidden frame": nil} {
			e.from(card, serverAddr, dhcpv4.MessageTypeRelease, victim, ciaddr(a), serverID(serverAddr))
			e.from(card, broadcast, dhcpv4.MessageTypeDecline, victim, requested(a), serverID(serverAddr))
			e.from(card, serverAddr, dhcpv4.MessageTypeRequest, victim, ciaddr(a), hostname("stolen"))
			e.from(card, broadcast, dhcpv4.MessageTypeRequest, victim, requested(a), hostname("stolen"))
			e.from(card, broadcast, dhcpv4.MessageTypeRequest, victim, requested(ip(109)), serverID(serverAddr))
			e.from(card, broadcast, dhcpv4.MessageTypeDiscover, victim, opt(dhcpv4.OptionRapidCommit), hostname("stolen"))
			e.quiet()
			if got := e.held(); got != want {
				t.Errorf("after messages of %s: %s, want %s", name, got, want)
			}
		}

		// Another card behind the same port.
		e.wire.(simWire).link.Plug(evil, 5)
		e.wire.(simWire).link.Plug(victim, 5)
		own(dhcpv4.MessageTypeRequest, serverAddr, ciaddr(a))
		e.want(e.receive(), fmt.Sprint("ACK ", a))
		e.from(evil, serverAddr, dhcpv4.MessageTypeRequest, victim, ciaddr(a), hostname("renamed"))
		e.from(evil, serverAddr, dhcpv4.MessageTypeRelease, victim, ciaddr(a), serverID(serverAddr))
		e.quiet()
		if got := e.held(); got != want {
			t.Errorf("after messages by the same port: %s, want %s", got, want)
		}
		// The card itself, as far as its frames say, at another port.
		e.wire.(simWire).link.Plug(victim, 6)
		own(dhcpv4.MessageTypeRelease, serverAddr, ciaddr(a), serverID(serverAddr))
		e.quiet()
		if e.held() == "" {
			t.Error("a release from another port ended the lease")
		}
		e.wire.(simWire).link.Plug(victim, 5)
		own(dhcpv4.MessageTypeRelease, serverAddr, ciaddr(a), serverID(serverAddr))
		e.quiet()
		if got := e.held(); got != "" {
			t.Errorf("the client's own release left %s", got)
		}
	})
}

// What is set aside for a card is given to no other, whoever that says it is; it gets no
// name by that either.
func TestNeighboursReservations(t *testing.T) {
	simulated(t, nakConfig, func(t *testing.T, e *env) {
		port := mac(0x41)
		if err := e.srv.SetDynamic(dhcpd.DynamicReservation{MAC: port, Name: "www"}); err != nil {
			t.Fatal(err)
		}
		for _, card := range []net.HardwareAddr{evil, nil} {
			for _, hw := range []net.HardwareAddr{port, mac(0x20), mac(0x21)} {
				e.from(card, broadcast, dhcpv4.MessageTypeRequest, hw, requested(ip(103)), clientID("\x00other"))
				e.from(card, broadcast, dhcpv4.MessageTypeRequest, hw, requested(ip(50)), hostname("www"))
			}
		}
		e.from(evil, broadcast, dhcpv4.MessageTypeRequest, evil, requested(ip(102)), hostname("www"), clientID("\x01"+string(port)))
		e.want(e.receive(), "ACK 192.0.2.102")
		e.quiet()
		if got, want := e.held(), fmt.Sprint(evil, " 192.0.2.102 ;"); got != want {
			t.Errorf("leased %s, want %s", got, want)
		}
	})
}

// Those behind one port have so many addresses, and no more, whoever they say they are;
// others have theirs.
func TestAddressesOfOnePort(t *testing.T) {
	cfg := func() v4.Config {
		c := testConfig()
		c.PerPort = 4
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		link := e.wire.(simWire).link
		for n := range byte(200) {
			card := net.HardwareAddr{2, 0, 0, 0, 0, n}
			link.Plug(card, 5)
			e.from(card, broadcast, dhcpv4.MessageTypeDiscover, card, clientID(fmt.Sprint("\x00first", n)))
			e.from(card, broadcast, dhcpv4.MessageTypeRequest, card, requested(ip(100+n%10)), clientID(fmt.Sprint("\x00second", n)))
			if n%16 == 0 {
				e.drain()
				time.Sleep(time.Second) // as many a second are not too many
			}
		}
		e.drain()
		if got := known(e); got > 4 {
			t.Errorf("one port has %d addresses, want 4", got)
		}
		if got := e.srv.Stats().Limited; got == 0 {
			t.Error("nothing was counted as limited")
		}
		for n := byte(10); n < 16; n++ {
			link.Plug(mac(n), int(n))
			e.from(mac(n), broadcast, dhcpv4.MessageTypeDiscover, mac(n))
			if r := e.receive(); r.MessageType() != dhcpv4.MessageTypeOffer {
				t.Errorf("got %v for a client of another port, want an offer", r)
			}
		}
	})
}

// A relay agent stands for many clients, and has as many addresses as they want, unless it is
// a guest behind a port that is known to be one's.
func TestAddressesOfRelay(t *testing.T) {
	for _, known := range []int{-1, 8} {
		cfg := func() v4.Config {
			c := testConfig()
			c.PerPort = 4
			c.OfPort = func(int) int { return known }
			c.Ranges = []dhcpd.Range{{Start: ip(20), End: ip(150)}}
			return c
		}
		simulated(t, cfg, func(t *testing.T, e *env) {
			link := e.wire.(simWire).link
			link.Plug(mac(1), 5)
			const clients = 80 // more than a port may bring at once
			for n := range byte(clients) {
				m := e.message(dhcpv4.MessageTypeDiscover, net.HardwareAddr{2, 0, 0, 0, 1, n})
				m.GatewayIPAddr = ip(200).AsSlice()
				link.DeliverFrom(mac(1), m.ToBytes(), netip.AddrPortFrom(ip(200), 67), ip(1))
			}
			e.drain()
			want := uint64(clients)
			if known > 0 {
				want = uint64(known)
			}
			if got := e.srv.Stats().Pool.Offered; got != want {
				t.Errorf("OfPort is %d: %d addresses are offered, want %d", known, got, want)
			}
		})
	}
}

// TestNeighboursOnBridge has guests on the ports of a bridge speak for each other: with frames
// from their own card, in fragments, and with frames from the other's card.
func TestNeighboursOnBridge(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge(t)
		w := newVethWire(t)
		other := newVethWireOf(t, "g2")
		e := start(t, testConfig(), w, v4.Open)
		victim := mac(7)
		a := e.lease(victim, hostname("victim"))
		want := fmt.Sprint(victim, " ", a, " victim;")

		forged := func(card net.HardwareAddr, typ dhcpv4.MessageType, dst netip.Addr, pad int, mods ...mod) {
			t.Helper()
			payload := append(e.message(typ, victim, mods...).ToBytes(), make([]byte, pad)...)
			for _, f := range fragments(clientFrame(card, mac(1), a, dst, payload), 1480-pad) {
				if _, err := other.conn.WriteTo(f, &packet.Addr{HardwareAddr: f[:6]}); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i, c := range []struct {
			name string
			card net.HardwareAddr
			pad  int
		}{
			{"its own card", evil, 0},
			{"its own card, in fragments", evil, 1400},
			{"the card of its neighbour", victim, 0},
		} {
			forged(c.card, dhcpv4.MessageTypeRelease, serverAddr, c.pad, ciaddr(a), serverID(serverAddr))
			forged(c.card, dhcpv4.MessageTypeDecline, broadcast, c.pad, requested(a), serverID(serverAddr))
			nstest.Eventually(t, dhcpdtest.ReplyLimit, "the messages have come", func() error {
				if s := e.srv.Stats(); s.Ignored < uint64(2*i+2) {
					return fmt.Errorf("%+v", s)
				}
				return nil
			})
			e.quiet()
			if got := e.held(); got != want {
				t.Fatalf("after messages of a neighbour with %s: %s, want %s", c.name, got, want)
			}
		}
		e.release(victim, a)
		if got := e.held(); got != "" {
			t.Errorf("the client's own release left %s", got)
		}
	})
}

// elsewhere is an address that no server has.
var elsewhere = netip.MustParseAddr("203.0.113.9")

// damaged is a frame with another UDP checksum than its own, which the kernel drops.
func damaged(frame []byte) []byte {
	frame[40] ^= 1 // RFC 768: clientFrame has none
	return frame
}

// TestFramesOfOthers has a guest send more packets to the server's port than there is room for,
// of which the server gets none, and another one reboot with its address.
func TestFramesOfOthers(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge(t)
		w, other := newVethWire(t), newVethWireOf(t, "g2")
		e := start(t, testConfig(), w, v4.Open)
		victim := mac(7)
		a := e.lease(victim)
		for _, f := range [][]byte{
			clientFrame(evil, mac(1), ip(66), elsewhere, make([]byte, 16)),
			damaged(clientFrame(evil, mac(1), ip(66), broadcast, make([]byte, 16))),
		} {
			for range 30000 {
				if _, err := other.conn.WriteTo(f, &packet.Addr{HardwareAddr: f[:6]}); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(1100 * time.Millisecond) // a tick
			e.want(e.initReboot(victim, a), fmt.Sprint("ACK ", a))
			e.want(e.renew(victim, a), fmt.Sprint("ACK ", a))
		}
		if s := e.srv.Stats(); s.Ignored != 0 {
			t.Errorf("%d messages were ignored", s.Ignored)
		}
	})
}

// TestSameFrameAhead has a guest send what another one is about to say, as a packet that the server
// does not get: the lease that is made is none of its own, so it can't end it.
func TestSameFrameAhead(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge(t)
		w, other := newVethWire(t), newVethWireOf(t, "g2")
		e := start(t, testConfig(), w, v4.Open)
		for n, frame := range []func(payload []byte) []byte{
			func(b []byte) []byte { return clientFrame(evil, mac(1), netip.IPv4Unspecified(), elsewhere, b) },
			func(b []byte) []byte {
				return damaged(clientFrame(evil, mac(1), netip.IPv4Unspecified(), broadcast, b))
			},
		} {
			victim := mac(byte(7 + n))
			a := e.discover(victim)
			m := e.message(dhcpv4.MessageTypeRequest, victim, requested(a), serverID(serverAddr)).ToBytes()
			if _, err := other.conn.WriteTo(frame(m), &packet.Addr{HardwareAddr: mac(1)}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond) // it has come
			w.send(t, m, victim, netip.Addr{}, broadcast)
			e.want(e.receive(), fmt.Sprint("ACK ", a))
			want := e.held()
			other.send(t, e.message(dhcpv4.MessageTypeRelease, victim, ciaddr(a), serverID(serverAddr)).ToBytes(), evil, a, serverAddr)
			nstest.Eventually(t, dhcpdtest.ReplyLimit, "the release has come", func() error {
				if s := e.srv.Stats(); s.Ignored != uint64(n+1) && s.Release != uint64(n+1) {
					return fmt.Errorf("%+v", s)
				}
				return nil
			})
			e.quiet()
			if got := e.held(); got != want {
				t.Errorf("after the release of another card: %s, want %s", got, want)
			}
			e.release(victim, a)
			if got := e.held(); got != "" {
				t.Errorf("the client's own release left %s", got)
			}
		}
	})
}

// fragments are frames that carry the packet of a frame, with so many bytes in each.
func fragments(frame []byte, most int) (all [][]byte) {
	const head = 34
	for at := head; at < len(frame); at += most {
		part := frame[at:min(at+most, len(frame))]
		f := append(append([]byte{}, frame[:head]...), part...)
		binary.BigEndian.PutUint16(f[16:], uint16(20+len(part)))
		offset := uint16((at - head) / 8)
		if at+most < len(frame) {
			offset |= 0x2000 // more follow
		}
		binary.BigEndian.PutUint16(f[20:], offset)
		f[24], f[25] = 0, 0
		binary.BigEndian.PutUint16(f[24:], nstest.Checksum(f[14:head]))
		all = append(all, f)
	}
	return all
}
