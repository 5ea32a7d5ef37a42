package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/packet"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// probe asks stations by one protocol, from device eth0 of a namespace.
type probe struct {
	net.PacketConn
	ask  func(c net.PacketConn, station netip.Addr) error
	told func(body []byte, from net.Addr) (station netip.Addr, ok bool)
	of   func(station int) netip.Addr
}

// probes are those of all protocols. They open their socket in the namespace of the thread.
var probes = map[string]func() (probe, error){"ARP": arpProbe, "IPv4": echo4Probe, "IPv6": echo6Probe, "DHCP": dhcpProbe}

func address4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, 0, byte(n)}) }
func address6(n int) netip.Addr { return netip.AddrFrom16([16]byte{0xfd, 0, 0, 9, 15: byte(n)}) }

// on has sockets send and hear on device eth0 alone, and by broadcast.
func on(device string) net.ListenConfig {
	return net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		ctl := c.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
		})
		return errors.Join(ctl, err)
	}}
}

// arpProbe asks who has an address (RFC 826).
func arpProbe() (probe, error) {
	ifi, err := net.InterfaceByName("eth0")
	if err != nil {
		return probe{}, err
	}
	c, err := packet.Listen(ifi, packet.Datagram, unix.ETH_P_ARP, nil)
	if err != nil {
		return probe{}, err
	}
	everybody := &packet.Addr{HardwareAddr: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	return probe{
		PacketConn: c, of: address4,
		ask: func(c net.PacketConn, station netip.Addr) error {
			m := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, ifi.HardwareAddr...)
			m = append(append(m, address4(200).AsSlice()...), make([]byte, 6)...)
			_, err := c.WriteTo(append(m, station.AsSlice()...), everybody)
			return err
		},
		told: func(body []byte, _ net.Addr) (netip.Addr, bool) {
			if len(body) < 28 || body[7] != 2 { // a reply
				return netip.Addr{}, false
			}
			return netip.AddrFromSlice(body[14:18])
		},
	}, nil
}

func echo4Probe() (probe, error) {
	return echoProbe("ip4:icmp", ipv4.ICMPTypeEcho, byte(ipv4.ICMPTypeEchoReply), address4)
}

func echo6Probe() (probe, error) {
	return echoProbe("ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest, byte(ipv6.ICMPTypeEchoReply), address6)
}

// echoProbe pings.
func echoProbe(network string, request icmp.Type, reply byte, of func(int) netip.Addr) (probe, error) {
	lc := on("eth0")
	c, err := lc.ListenPacket(context.Background(), network, "")
	return probe{
		PacketConn: c, of: of,
		ask: func(c net.PacketConn, station netip.Addr) error {
			m, err := (&icmp.Message{Type: request, Body: &icmp.Echo{ID: 42, Data: []byte("vlan")}}).Marshal(nil)
			if err == nil {
				_, err = c.WriteTo(m, &net.IPAddr{IP: station.AsSlice()})
			}
			return err
		},
		told: func(body []byte, from net.Addr) (netip.Addr, bool) {
			a, ok := netip.AddrFromSlice(from.(*net.IPAddr).IP)
			return a.Unmap(), ok && len(body) > 0 && body[0] == reply
		},
	}, err
}

// dhcpProbe looks for DHCP servers; the server's address tells which.
func dhcpProbe() (probe, error) {
	lc := on("eth0")
	c, err := lc.ListenPacket(context.Background(), "udp4", ":68")
	return probe{
		PacketConn: c, of: address4,
		ask: func(c net.PacketConn, _ netip.Addr) error {
			m, err := dhcpv4.NewDiscovery(net.HardwareAddr{2, 0, 0, 0, 0, 1}, dhcpv4.WithBroadcast(true))
			if err == nil {
				_, err = c.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67})
			}
			return err
		},
		told: func(body []byte, _ net.Addr) (netip.Addr, bool) {
			m, err := dhcpv4.FromBytes(body)
			if err != nil || m.MessageType() != dhcpv4.MessageTypeOffer {
				return netip.Addr{}, false
			}
			a, ok := netip.AddrFromSlice(m.ServerIdentifier())
			return a.Unmap(), ok
		},
	}, err
}

// serveDHCP has a station offer addresses on a device, until the test ends. The socket is
// of the namespace of the thread.
func serveDHCP(t *testing.T, device string, station netip.Addr) error {
	lc := on(device)
	c, err := lc.ListenPacket(context.Background(), "udp4", ":67")
	if err != nil {
		return err
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			ask, err := dhcpv4.FromBytes(buf[:n])
			if err != nil {
				continue
			}
			offer, err := dhcpv4.NewReplyFromRequest(ask, dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer), dhcpv4.WithServerIP(station.AsSlice()),
				dhcpv4.WithOption(dhcpv4.OptServerIdentifier(station.AsSlice())))
			if err == nil {
				_, _ = c.WriteTo(offer.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 68})
			}
		}
	}()
	return nil
}

// How long probes ask at least, for answers that shall not come, and at most for those
// that shall, and how often.
const (
	probeLeast = 1500 * time.Millisecond
	probeMost  = 30 * time.Second
	probePause = 300 * time.Millisecond
)

// answers asks all stations from a namespace, and returns those that answer.
func answers(ns *nstest.NS, protocol string, want []string) (got map[string]bool, err error) {
	var p probe
	if err := ns.Do(func() (err error) {
		p, err = probes[protocol]()
		return err
	}); err != nil {
		return nil, fmt.Errorf("opening a socket: %w", err)
	}
	defer func() { _ = p.Close() }()
	got = make(map[string]bool)
	begin := time.Now()
	for time.Since(begin) < probeMost {
		for i := range stations {
			// What nobody has answered for makes sending fail, too.
			_ = p.ask(p, p.of(i+1))
		}
		if err := p.hear(got); err != nil {
			return nil, err
		}
		missing := len(want)
		for _, station := range want {
			if got[station] {
				missing--
			}
		}
		if missing == 0 && time.Since(begin) > probeLeast {
			break
		}
	}
	return got, nil
}

// hear notes who answers for a while.
func (p *probe) hear(got map[string]bool) error {
	if err := p.SetReadDeadline(time.Now().Add(probePause)); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := p.ReadFrom(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			continue // an error of what was sent
		}
		a, ok := p.told(buf[:n], from)
		for i, station := range stations {
			if ok && a == p.of(i+1) {
				got[station] = true
			}
		}
	}
}
