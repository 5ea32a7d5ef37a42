package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/guardtest"
)

// framesXML is the network whose guests send frames of every kind.
const framesXML = `<network xmlns:vnetd='urn:vnetd:network:1'>
  <name>gateway</name><forward mode='nat'/><bridge name='vb-gateway' stp='on' delay='0'/><mac address='52:54:00:00:00:01'/>
  <ip address='192.0.2.1' netmask='255.255.255.0'><dhcp><range start='192.0.2.10' end='192.0.2.49'/></dhcp></ip>
  <ip family='ipv6' address='2001:db8::1' prefix='64'><dhcp><range start='2001:db8::10' end='2001:db8::4f'/></dhcp></ip>
  <vnetd:guard level='%s'/>
</network>`

// framesGateway is the network's own side.
var framesGateway = guardtest.Card{MAC: firewall.MAC{0x52, 0x54, 0, 0, 0, 1}, V4: netip.MustParseAddr("192.0.2.1"), V6: netip.MustParseAddr("2001:db8::1")}

// sender is a guest that sends frames.
type sender struct {
	*nstest.NS
	guardtest.Card
	port string // UUID
	fd   int    // of a packet socket on its card
}

// sender has a machine with a lease of each family.
func (s *street) sender(ns *nstest.NS, port string, mac firewall.MAC) *sender {
	s.t.Helper()
	g := &sender{NS: ns, port: port, Card: guardtest.Card{MAC: mac}}
	dhcpdtest.NewSystemOn(s.t, "networkd", ns, mac.String(), "").Start("")
	nstest.Eventually(s.t, limit, "leases of "+ns.Name, func() error {
		leases, err := s.client.Network("gateway").Leases(s.t.Context())
		for _, l := range leases {
			switch {
			case l.MAC != mac.String():
			case l.Address.Is4():
				g.V4 = l.Address
			default:
				g.V6 = l.Address
			}
		}
		if err == nil && (!g.V4.IsValid() || !g.V6.IsValid()) {
			err = fmt.Errorf("leases are %+v", leases)
		}
		return err
	})
	g.fd = packetSocket(s.t, ns)
	return g
}

// packetSocket is one on the card of a machine, for all protocols.
func packetSocket(t *testing.T, ns *nstest.NS) (fd int) {
	t.Helper()
	err := ns.Do(func() error {
		card, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, int(all)); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: card.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// stopped is what the guard of a guest's port has stopped, by kind.
func (s *street) stopped(g *sender) map[string]uint64 {
	s.t.Helper()
	p, err := s.client.Port(g.port).Get(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return p.Stopped
}

// countersAge is more than how old counters of stopped frames may be.
const countersAge = 1100 * time.Millisecond

// drain forgets the frames that a guest has had.
func (g *sender) drain() {
	for frame := make([]byte, 2048); ; {
		if _, err := unix.Read(g.fd, frame); err != nil {
			return
		}
	}
}

// gets reports whether a guest soon has a frame of the experimental protocol from a card.
func (g *sender) gets(from firewall.MAC) bool {
	frame := make([]byte, 2048)
	for end := time.Now().Add(countersAge); time.Now().Before(end); {
		n, err := unix.Read(g.fd, frame)
		switch {
		case err != nil:
			time.Sleep(time.Millisecond)
		case n >= 14 && firewall.MAC(frame[6:12]) == from && frame[12] == 0x88 && frame[13] == 0xb5:
			return true
		}
	}
	return false
}

// TestFramesOfPorts sends frames of every kind past a port of vnetd's own and past one that
// libvirt registered, at each level: the same are stopped, and counted.
func TestFramesOfPorts(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newStreet(t)
		define := func(level firewall.GuardLevel) {
			t.Helper()
			if err := s.VnetctlInput(t.Context(), fmt.Sprintf(framesXML, level), "define", "-").Err(); err != nil {
				t.Fatal(err)
			}
		}
		define(firewall.GuardOff)
		vnetctl(t, s.Lab, "start", "gateway")
		own := func(name string, mac firewall.MAC) *sender {
			ns, port := s.own("gateway", name, mac.String())
			return s.sender(ns, port, mac)
		}
		cardOf := func(n byte) firewall.MAC { return firewall.MAC{0x52, 0x54, 0, 1, 1, n} }
		other := own("other", cardOf(1))
		libvirts := s.register("gateway", "vnet90", cardOf(3).String())
		tap, err := nstest.OpenTAP("vnet90")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tap.Close() }()
		s.plug("gateway", "vnet90", cardOf(3).String())
		guests := []*sender{own("own", cardOf(2)), s.sender(nstest.Machine(t, "libvirts", cardOf(3).String(), tap), libvirts, cardOf(3))}
		further := guardtest.Card{V4: netip.MustParseAddr("192.0.2.77"), V6: netip.MustParseAddr("2001:db8::77")}
		for level := firewall.GuardOff; level <= firewall.GuardStrict; level++ {
			define(level)
			for _, g := range guests {
				s.judges(level, g, other, further)
			}
		}
	})
}

// judges sends frames of every kind past the port of g at a level, and sees what becomes of
// them.
func (s *street) judges(level firewall.GuardLevel, g, other *sender, further guardtest.Card) {
	s.t.Helper()
	segment := guardtest.Segment{Gateway: framesGateway, Guest: g.Card, Other: other.Card, Further: further}
	want := s.stopped(g)
	if want == nil {
		want = make(map[string]uint64)
	}
	for _, f := range segment.Frames() {
		if _, err := unix.Write(g.fd, f.Bytes); err != nil {
			s.t.Fatal(err)
		}
		if level >= f.At {
			want[f.Kind.String()]++
		}
	}
	time.Sleep(countersAge)
	got := s.stopped(g)
	if got == nil {
		got = make(map[string]uint64)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("%s: frames of the port %s that were stopped (-want +got):\n%s", level, g.Name, diff)
	}
	g.drain() // also of what it sent
	// At off the bridge believes whoever posed as the other guest last.
	if _, err := unix.Write(other.fd, guardtest.Ether(guardtest.Everybody, other.MAC, 0x88b5, nil)); err != nil || !g.gets(other.MAC) {
		s.t.Fatalf("the other guest is not heard by the port %s (%v)", g.Name, err)
	}
	for from, passes := range map[firewall.MAC]bool{g.MAC: true, framesGateway.MAC: level == firewall.GuardOff} {
		other.drain()
		if _, err := unix.Write(g.fd, segment.From(from)); err != nil {
			s.t.Fatal(err)
		}
		if other.gets(from) != passes {
			s.t.Errorf("%s: a frame of the port %s from %s passes: %v", level, g.Name, from, !passes)
		}
	}
}
