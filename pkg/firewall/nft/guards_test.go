package nft_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/guardtest"
	"github.com/vnetd/vnetd/pkg/firewall/nft"
)

func TestMain(m *testing.M) { os.Exit(m.Run()) }

var (
	gatewayMAC = firewall.MAC{0x52, 0x54, 0, 0, 0, 1}
	guestMAC   = firewall.MAC{0x52, 0x54, 0, 0, 0, 0x11}
	otherMAC   = firewall.MAC{0x52, 0x54, 0, 0, 0, 0x12}
	nestedMAC  = guardtest.NestedMAC

	gateway4, gateway6 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	guest4, guest6     = netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("2001:db8::11")
	other4, other6     = netip.MustParseAddr("192.0.2.12"), netip.MustParseAddr("2001:db8::12")
	further4, further6 = netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("2001:db8::77")
	lan4, lan6         = guardtest.LAN4, guardtest.LAN6
)

// segment is a bridge with two guests, which are the other ends of its ports.
type segment struct {
	t       *testing.T
	guards  *nft.Guards
	network firewall.GuardedNetwork
	guest   firewall.GuardedPort
	other   firewall.GuardedPort
	socket  map[string]int // packet sockets of the guests' ends, of the first one's port and of the bridge
}

func link(t *testing.T, name string) int {
	t.Helper()
	l, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Index
}

func newSegment(t *testing.T) *segment {
	t.Helper()
	for _, args := range []string{
		"link add br0 address 52:54:00:00:00:01 type bridge", "link set br0 up",
		"link add p1 type veth peer name g1", "link set p1 master br0 up", "link set g1 address 52:54:00:00:00:11 up",
		"link add p2 type veth peer name g2", "link set p2 master br0 up", "link set g2 address 52:54:00:00:00:12 up",
	} {
		nstest.IP(t, args)
	}
	s := &segment{t: t, guards: nft.NewGuards(slog.New(slog.DiscardHandler)), socket: make(map[string]int)}
	t.Cleanup(func() { _ = s.guards.Close() })
	s.network = firewall.GuardedNetwork{
		Bridge: "br0", Index: link(t, "br0"), MAC: gatewayMAC, Gateway: []netip.Addr{gateway4, gateway6},
		Subnets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")}, DHCP: true, DHCP6: true, RA: true,
	}
	s.guest = firewall.GuardedPort{Bridge: "br0", IfName: "p1", Index: link(t, "p1"), MACs: []firewall.MAC{guestMAC}, Bound: true, Addrs: []netip.Addr{guest4, guest6}}
	s.other = firewall.GuardedPort{Bridge: "br0", IfName: "p2", Index: link(t, "p2"), MACs: []firewall.MAC{otherMAC}, Bound: true, Addrs: []netip.Addr{other4, other6}}
	for _, name := range []string{"g1", "g2", "p1", "br0"} {
		s.socket[name] = packetSocket(t, link(t, name))
	}
	return s
}

func packetSocket(t *testing.T, index int) int {
	t.Helper()
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, int(all))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// set has everything as it is in s.
func (s *segment) set(guard firewall.Guard) {
	s.t.Helper()
	s.guest.Guard = guard
	for _, err := range []error{s.guards.SetNetwork(s.network), s.guards.SetPort(s.guest), s.guards.SetPort(s.other)} {
		if err != nil {
			s.t.Fatal(err)
		}
	}
	if err := s.guards.Release(); err != nil {
		s.t.Fatal(err)
	}
}

// passes reports whether a frame of the first guest gets past its port.
func (s *segment) passes(frame []byte) bool {
	s.t.Helper()
	before := s.total()
	drain(s.socket["p1"])
	if _, err := unix.Write(s.socket["g1"], frame); err != nil {
		s.t.Fatal(err)
	}
	// A packet socket sees it just before the guard does, on the same processor.
	if !s.sees("p1", frame, 30*time.Second) {
		s.t.Fatalf("a frame never came to its port: %x", frame)
	}
	time.Sleep(3 * time.Millisecond)
	return s.total() == before
}

// total is how many frames of the first guest were stopped.
func (s *segment) total() (n uint64) {
	nft.Recount(s.guards)
	for _, frames := range s.guards.Stopped()[s.guest.Index] {
		n += frames
	}
	return n
}

// reaches reports whether the other guest sees a frame of the first one.
func (s *segment) reaches(frame []byte) bool {
	s.t.Helper()
	drain(s.socket["g2"])
	if _, err := unix.Write(s.socket["g1"], frame); err != nil {
		s.t.Fatal(err)
	}
	return s.sees("g2", frame, time.Second)
}

// sees reports whether a frame between the same two cards comes to a socket.
func (s *segment) sees(socket string, frame []byte, patience time.Duration) bool {
	buffer := make([]byte, 4096)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		n, err := unix.Read(s.socket[socket], buffer)
		if err == nil && bytes.Equal(buffer[:min(n, 12)], frame[:12]) { // the kernel takes tags out
			return true
		}
		if err != nil {
			time.Sleep(time.Millisecond)
		}
	}
	return false
}

func drain(fd int) {
	buffer := make([]byte, 4096)
	for {
		if _, err := unix.Read(fd, buffer); err != nil {
			return
		}
	}
}

// The frames, by short names.
var (
	everybody          = guardtest.Everybody
	ether, tagged, udp = guardtest.Ether, guardtest.Tagged, guardtest.UDP
	arp, ip, nd, from  = everyone.ARP, everyone.IP, everyone.ND, everyone.From
	everyone           = guardtest.Segment{
		Gateway: guardtest.Card{MAC: gatewayMAC, V4: gateway4, V6: gateway6}, Guest: guardtest.Card{MAC: guestMAC, V4: guest4, V6: guest6},
		Other: guardtest.Card{MAC: otherMAC, V4: other4, V6: other6}, Further: guardtest.Card{V4: further4, V6: further6},
	}
)

// TestFrames sends one frame of each kind past a port of each level.
func TestFrames(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		for level := firewall.GuardOff; level <= firewall.GuardStrict; level++ {
			s.set(firewall.GuardAt(level))
			s.judges(level)
			s.lists()
		}
		// So many addresses that a packet's is looked up.
		for i := range byte(10) {
			s.guest.Addrs = append(s.guest.Addrs, netip.AddrFrom4([4]byte{192, 0, 2, 100 + i}))
		}
		s.set(firewall.GuardAt(firewall.GuardStrict))
		s.judges(firewall.GuardStrict)
		s.lists()
		if !s.reaches(from(guestMAC)) || s.reaches(from(gatewayMAC)) {
			t.Error("what is counted is not what the other guest gets")
		}
	})
}

// lists has nft(8), which aborts at some rules that the kernel takes, list the guards.
func (s *segment) lists() {
	s.t.Helper()
	for _, args := range [][]string{{"list", "ruleset"}, {"--json", "list", "ruleset"}} {
		nstest.Exec(s.t, "nft", args...)
	}
}

// judges sends one frame of each kind past the guest's port at a level.
func (s *segment) judges(level firewall.GuardLevel) {
	s.t.Helper()
	for _, f := range everyone.Frames() {
		before := s.guards.Stopped()[s.guest.Index][f.Kind]
		if got, want := s.passes(f.Bytes), level < f.At; got != want {
			s.t.Errorf("%s: %s passes: %v, want %v", level, f.Name, got, want)
		} else if n := s.guards.Stopped()[s.guest.Index][f.Kind]; !want && n != before+1 {
			s.t.Errorf("%s: %s is not counted as %s: %v", level, f.Name, f.Kind, s.guards.Stopped()[s.guest.Index])
		}
	}
}

// TestKindsByThemselves switches each kind off, and on, alone.
func TestKindsByThemselves(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		spoof, claim := from(gatewayMAC), arp(2, guestMAC, gateway4)
		for _, c := range []struct {
			guard       string
			spoof, arps bool
		}{{"gateway,mac=off", true, false}, {"off,mac=gateway", false, true}, {"strict,arp=off", false, true}} {
			g, err := firewall.ParseGuard(c.guard)
			if err != nil {
				t.Fatal(err)
			}
			s.set(g)
			if got := s.passes(spoof); got != c.spoof {
				t.Errorf("%s: the gateway's card passes: %v", c.guard, got)
			}
			if got := s.passes(claim); got != c.arps {
				t.Errorf("%s: the gateway's ARP passes: %v", c.guard, got)
			}
		}
	})
}

// TestWhereNobodyServes lets guests be servers and routers on a network without any.
func TestWhereNobodyServes(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		s.network.DHCP, s.network.DHCP6, s.network.RA = false, false, false
		answer := ip(everybody, guest4, netip.MustParseAddr("255.255.255.255"), unix.IPPROTO_UDP, udp(67, 68))
		advertisement := nd(134, guestMAC.LinkLocal(), netip.IPv6Unspecified())
		s.set(firewall.GuardAt(firewall.GuardGateway))
		if !s.passes(answer) || !s.passes(advertisement) {
			t.Error("gateway: a router guest is stopped where vnetd serves nothing")
		}
		s.set(firewall.GuardAt(firewall.GuardStrict))
		if s.passes(answer) || s.passes(advertisement) {
			t.Error("strict: a router guest passes")
		}
		s.network.DHCP = true
		s.set(firewall.GuardAt(firewall.GuardGateway))
		if s.passes(answer) || !s.passes(advertisement) {
			t.Error("gateway: what vnetd has begun to serve is not guarded, or what it does not serve is")
		}
	})
}

// TestVLANs has guests be servers and gateways in VLANs of their own, and in none in which the bridge
// or a client takes what they send for what has no tag.
func TestVLANs(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		s.guest.VLANs, s.guest.Natives = []uint16{42}, []uint16{1}
		answer := ip(everybody, guest4, netip.MustParseAddr("255.255.255.255"), unix.IPPROTO_UDP, udp(67, 68))
		claim, advertisement := arp(2, guestMAC, gateway4), nd(134, guestMAC.LinkLocal(), netip.IPv6Unspecified())
		s.set(firewall.GuardAt(firewall.GuardGateway))
		for _, c := range []struct {
			name  string
			frame []byte
			want  bool
		}{
			{"DHCP answer in a VLAN of the port", tagged(answer, 42), true},
			{"DHCP answer in another VLAN", tagged(answer, 43), false},
			{"DHCP answer in that of frames without a tag", tagged(answer, 1), false},
			{"ARP of the gateway in another VLAN", tagged(claim, 43), true},
			{"ARP of the gateway in that of frames without a tag", tagged(claim, 1), false},
			{"the same with a priority", tagged(claim, 0x6001), false},
			{"router advertisement in that of frames without a tag", tagged(advertisement, 1), false},
			{"a frame in that of frames without a tag", tagged(from(guestMAC), 1), true},
		} {
			if got := s.passes(c.frame); got != c.want {
				t.Errorf("%s passes: %v, want %v", c.name, got, c.want)
			}
		}
	})
}

// TestAddressesComeAndGo has what a port may use change while frames go.
func TestAddressesComeAndGo(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		s.set(firewall.GuardAt(firewall.GuardStrict))
		leased := ip(otherMAC, further4, other4, unix.IPPROTO_UDP, udp(1, 9))
		if s.passes(leased) {
			t.Error("an address that nobody gave passes")
		}
		s.guest.Addrs = append(s.guest.Addrs, further4)
		s.set(s.guest.Guard)
		if !s.passes(leased) || !s.passes(arp(2, guestMAC, further4)) {
			t.Error("an address that was leased is stopped")
		}
		s.guest.Addrs = s.guest.Addrs[:2]
		s.guest.Prefixes = []netip.Prefix{netip.MustParsePrefix("192.0.2.72/29"), netip.MustParsePrefix("2001:db8:1::/56")}
		s.guest.VLANs = []uint16{42}
		s.guest.MACs = append(s.guest.MACs, nestedMAC)
		s.set(s.guest.Guard)
		for name, frame := range map[string][]byte{
			"prefix": leased, "prefix of IPv6": ip(otherMAC, netip.MustParseAddr("2001:db8:1:7f::3"), other6, unix.IPPROTO_UDP, udp(1, 9)),
			"VLAN": tagged(from(guestMAC), 42), "card": from(nestedMAC),
		} {
			if !s.passes(frame) {
				t.Errorf("an additional %s is stopped", name)
			}
		}
		if s.passes(tagged(from(guestMAC), 43)) || s.passes(ip(otherMAC, netip.MustParseAddr("192.0.2.80"), other4, unix.IPPROTO_UDP, udp(1, 9))) {
			t.Error("more than the additional VLAN and prefix passes")
		}
		s.guest.Bound = false
		s.set(s.guest.Guard)
		if !s.passes(from(firewall.MAC{0x52, 0x54, 0, 1, 2, 3})) || s.passes(from(otherMAC)) {
			t.Error("a card is refused before the guest's is known, or another port's is not")
		}
	})
}

// TestIsolated has isolated ports reach the gateway and what is beyond, and not each other through it.
func TestIsolated(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		s.guest.Isolated = true
		device, err := net.InterfaceByName("p1")
		if err != nil {
			t.Fatal(err)
		}
		for level := firewall.GuardOff; level <= firewall.GuardStrict; level++ {
			s.set(firewall.GuardAt(level))
			s.lists()
			for _, c := range []struct {
				name string
				to   firewall.MAC
				src  netip.Addr
				dst  netip.Addr
				want bool
			}{
				{"IPv4 to the gateway", gatewayMAC, guest4, gateway4, true},
				{"IPv6 to the gateway", gatewayMAC, guest6, gateway6, true},
				{"IPv4 to the LAN", gatewayMAC, guest4, lan4, true},
				{"IPv6 to the LAN", gatewayMAC, guest6, lan6, true},
				{"IPv4 to a guest by the gateway", gatewayMAC, guest4, other4, false},
				{"IPv6 to a guest by the gateway", gatewayMAC, guest6, other6, false},
				{"IPv4 to a guest by the gateway, as the gateway", gatewayMAC, gateway4, other4, false},
				{"IPv4 to a guest by the port's own device", firewall.MAC(device.HardwareAddr), guest4, other4, false},
			} {
				if got := s.passes(ip(c.to, c.src, c.dst, unix.IPPROTO_UDP, udp(1, 9))); got != c.want {
					t.Errorf("%s: %s passes: %v", level, c.name, got)
				}
			}
		}
	})
}

// TestManyAddresses bounds how many addresses a bridge learns of one port, and lets
// a nested bridge be.
func TestManyAddresses(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		s.set(firewall.GuardAt(firewall.GuardGateway))
		for i := range 2000 {
			if _, err := unix.Write(s.socket["g1"], from(firewall.MAC{0x52, 0x54, 9, 9, byte(i >> 8), byte(i)})); err != nil {
				t.Fatal(err)
			}
		}
		learned := func() int {
			return bytes.Count([]byte(nstest.Exec(t, "bridge", "fdb", "show", "br", "br0")), []byte("52:54:09:09"))
		}
		nstest.Eventually(t, 30*time.Second, "the bridge learns some addresses", func() error {
			if n := learned(); n < 3 {
				return fmt.Errorf("it knows %d", n)
			}
			return nil
		})
		if n := learned(); n > 128 {
			t.Errorf("the bridge learned %d addresses of one port, want at most 128", n)
		}
		if !s.passes(from(firewall.MAC{0x52, 0x54, 9, 9, 0, 1})) || !s.passes(from(guestMAC)) {
			t.Error("addresses that were there before are stopped")
		}
	})
}

// TestRates bounds what a strict port sends to all.
func TestRates(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		s.set(firewall.GuardAt(firewall.GuardStrict))
		for name, frame := range map[string][]byte{
			"broadcasts": ether(everybody, guestMAC, 0x88b5, nil), "multicasts": ether(firewall.MAC{1, 0, 0x5e, 0, 0, 9}, guestMAC, 0x88b5, nil),
			"ARP": arp(1, guestMAC, guest4), "ND": nd(135, guest6, gateway6),
		} {
			before := s.total()
			for range 5000 {
				if _, err := unix.Write(s.socket["g1"], frame); err != nil {
					t.Fatal(err)
				}
			}
			nstest.Eventually(t, 30*time.Second, name+" are stopped", func() error {
				if n := s.total() - before; n < 1000 {
					return fmt.Errorf("%d of 5000 were", n)
				}
				return nil
			})
			if n := s.total() - before; n >= 5000 {
				t.Errorf("%d of 5000 %s were stopped", n, name)
			}
		}
	})
}

// TestTableComesBack has others take guards away, and a former process leave them.
func TestTableComesBack(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		s.set(firewall.GuardAt(firewall.GuardGateway))
		unwatch := watch(t, s.guards)
		spoof := from(gatewayMAC)
		for _, damage := range [][]string{
			{"flush", "ruleset"},
			{"delete", "table", "netdev", firewall.GuardTable("br0")},
			{"flush", "set", "netdev", firewall.GuardTable("br0"), "macs"},
			{"flush", "chain", "netdev", firewall.GuardTable("br0"), fmt.Sprintf("port%d", s.guest.Index)},
		} {
			before := s.total()
			nstest.Exec(t, "nft", damage...)
			nstest.Eventually(t, 30*time.Second, "the guard to come back", func() error {
				if s.reaches(spoof) || !s.reaches(from(guestMAC)) {
					return fmt.Errorf("after %v the gateway's card passes", damage)
				}
				return nil
			})
			if s.total() < before {
				t.Errorf("after %v the counters begin anew", damage)
			}
		}
		unwatch()
		next := nft.NewGuards(slog.New(slog.DiscardHandler))
		defer func() { _ = next.Close() }()
		if err := next.SetNetwork(s.network); err != nil {
			t.Fatal(err)
		}
		if s.reaches(spoof) {
			t.Error("a new process that has not all of its ports yet takes guards away")
		}
		if err := next.SetPort(s.guest); err != nil {
			t.Fatal(err)
		}
		if err := next.Release(); err != nil {
			t.Fatal(err)
		}
		if s.reaches(spoof) {
			t.Error("a new process has taken guards away")
		}
		if err := next.Purge(); err != nil {
			t.Fatal(err)
		}
		if rules := nstest.Exec(t, "nft", "list", "ruleset"); rules != "" {
			t.Errorf("left by a purge: %s", rules)
		}
	})
}

// TestSilence lets nothing out of guarded ports, neither what guards stop nor what they let through,
// until a purge, or until the next process where the one that silenced did not come so far.
func TestSilence(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		next := nft.NewGuards(slog.New(slog.DiscardHandler))
		defer func() { _ = next.Close() }()
		for _, c := range []struct {
			name string
			end  func() error
		}{{"until a purge", s.guards.Purge}, {"until the next process", next.Release}} {
			s.set(firewall.GuardAt(firewall.GuardGateway))
			if !s.reaches(from(guestMAC)) || s.reaches(from(gatewayMAC)) {
				t.Fatalf("%s: the guard is not as it should be before", c.name)
			}
			if err := s.guards.Silence(); err != nil {
				t.Fatal(err)
			}
			if s.reaches(from(guestMAC)) || s.reaches(from(gatewayMAC)) {
				t.Errorf("%s: a frame passes", c.name)
			}
			rules := nstest.Exec(t, "nft", "list", "ruleset")
			if strings.Contains(rules, firewall.GuardTable("br0")) || !names(rules, "p1") || names(rules, "br0") {
				t.Errorf("%s: beside what silences the guarded port there is %s", c.name, rules)
			}
			if err := c.end(); err != nil {
				t.Fatal(err)
			}
			if rules := nstest.Exec(t, "nft", "list", "ruleset"); rules != "" || !s.reaches(from(guestMAC)) {
				t.Errorf("%s: left when it has ended: %s", c.name, rules)
			}
		}
		if err := s.guards.Silence(); err != nil {
			t.Errorf("without guards: %v", err)
		}
		if rules := nstest.Exec(t, "nft", "list", "ruleset"); rules != "" {
			t.Errorf("without guards there is %s", rules)
		}
	})
}

// names reports whether rules as nft(8) lists them name a device, with quotes or without.
func names(rules, device string) bool {
	return regexp.MustCompile(`[ "]` + device + `[ ",]`).MatchString(rules)
}

// TestManyAreSilenced has more ports than one chain has devices, of which some go meanwhile.
func TestManyAreSilenced(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		s.set(firewall.GuardAt(firewall.GuardGateway))
		for n := range 300 {
			name := fmt.Sprintf("many%d", n)
			nstest.IP(t, "link add "+name+" type veth")
			if err := s.guards.SetPort(firewall.GuardedPort{Bridge: "br0", IfName: name, Index: link(t, name), Guard: firewall.GuardAt(firewall.GuardGateway), MACs: []firewall.MAC{nestedMAC}}); err != nil {
				t.Fatal(err)
			}
		}
		nstest.IP(t, "link del many7")
		if err := s.guards.Silence(); err != nil {
			t.Fatal(err)
		}
		rules := nstest.Exec(t, "nft", "list", "table", "netdev", firewall.SilenceTable)
		for _, name := range []string{"p1", "many0", "many255", "many299"} {
			if !names(rules, name) {
				t.Errorf("%s is not silent: %s", name, rules)
			}
		}
		if err := s.guards.Purge(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestPortsComeAndGo leaves nothing of a port, whoever deleted its device.
func TestPortsComeAndGo(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		s.set(firewall.GuardAt(firewall.GuardGateway))
		empty := func() string { return nstest.Exec(t, "nft", "list", "table", "netdev", firewall.GuardTable("br0")) }
		s.guest.Guard = firewall.Guard{}
		s.set(firewall.Guard{})
		base := empty()
		for i := range 6 {
			nstest.IP(t, "link add p9 type veth peer name g9")
			nstest.IP(t, "link set p9 master br0 up")
			p := firewall.GuardedPort{Bridge: "br0", IfName: "p9", Index: link(t, "p9"), Guard: firewall.GuardAt(firewall.GuardGateway), MACs: []firewall.MAC{nestedMAC}, Addrs: []netip.Addr{further4}}
			if err := s.guards.SetPort(p); err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				nstest.IP(t, "link del p9")
			}
			if err := s.guards.RemovePort(p.Index); err != nil {
				t.Fatalf("removing a port, device gone %v: %v", i%2 == 0, err)
			}
			if i%2 != 0 {
				nstest.IP(t, "link del p9")
			}
			if now := empty(); now != base {
				t.Fatalf("left of a port: %s", cmp.Diff(base, now))
			}
		}
		if err := s.guards.RemoveNetwork("br0"); err != nil {
			t.Fatal(err)
		}
		if rules := nstest.Exec(t, "nft", "list", "ruleset"); rules != "" {
			t.Errorf("left of the network: %s", rules)
		}
	})
}

// What was counted of a port that is gone is not shown of the next one with its ifindex,
// and does not stay in the kernel.
func TestCountersEnd(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		s.set(firewall.GuardAt(firewall.GuardGateway))
		for range 2 {
			if err := s.guards.SetPort(s.guest); err != nil {
				t.Fatal(err)
			}
			if s.passes(from(otherMAC)) || s.total() != 1 {
				t.Fatalf("of one frame from another port %d were stopped", s.total())
			}
			if err := s.guards.RemovePort(s.guest.Index); err != nil {
				t.Fatal(err)
			}
		}
		nft.Tend(s.guards)
		if left := nstest.Exec(t, "nft", "list", "set", "netdev", firewall.GuardTable("br0"), "stopped_mac"); strings.Contains(left, "packets 1") {
			t.Errorf("left in the kernel: %s", left)
		}
	})
}

// Frames count once, in the process in which they were stopped: not again where the kernel refuses to
// have the table made anew, nor for the next process.
func TestCountersOfAProcess(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		s.set(firewall.GuardAt(firewall.GuardGateway))
		if s.passes(from(otherMAC)) || s.total() != 1 {
			t.Fatalf("of one frame from another port %d were stopped", s.total())
		}
		fillIngress(t, s.other.IfName)
		s.other.Guard = firewall.GuardAt(firewall.GuardGateway)
		if err := s.guards.SetPort(s.other); err == nil {
			t.Fatal("the kernel took one chain more at a device than it can")
		}
		for range 3 {
			nft.Tend(s.guards)
		}
		if s.total() != 1 {
			t.Errorf("where the table can't be made anew one frame is told of as %d", s.total())
		}
		if err := s.guards.Close(); err != nil {
			t.Fatal(err)
		}
		s.other.Guard = firewall.Guard{}
		s.guards = nft.NewGuards(slog.New(slog.DiscardHandler))
		s.set(firewall.GuardAt(firewall.GuardGateway))
		if s.total() != 0 {
			t.Errorf("%d frames that a former process has stopped are told of as this one's", s.total())
		}
	})
}

// fillIngress has as many chains at the ingress of a device as it can have (MAX_HOOK_COUNT of
// net/netfilter/core.c).
func fillIngress(t *testing.T, device string) {
	t.Helper()
	socket, err := nfnetlink.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	place := nfnetlink.Place{Family: unix.NFPROTO_NETDEV, Table: "full"}
	messages := [][]byte{place.NewTable(0, "")}
	for i := range 1024 {
		messages = append(messages, place.NewChain(fmt.Sprint("c", i), &nfnetlink.Hook{Number: unix.NF_NETDEV_INGRESS, Type: "filter", Device: device}))
	}
	if err := socket.Commit(messages, 0, nil); err != nil {
		t.Fatal(err)
	}
}

// watch has guards repaired until what it returns is called.
func watch(t *testing.T, g *nft.Guards) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	before := listeners(t)
	go func() { done <- g.Watch(ctx) }()
	nstest.Eventually(t, 30*time.Second, "the guards listen", func() error {
		if n := listeners(t); n == before {
			return fmt.Errorf("%d do", n)
		}
		return nil
	})
	return func() { cancel(); <-done }
}

// listeners counts the sockets of this namespace that are told of changes of nftables.
func listeners(t *testing.T) (n int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/net/netlink")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line) // sk, Eth, Pid, Groups and more
		if len(fields) < 4 || fields[1] != fmt.Sprint(unix.NETLINK_NETFILTER) {
			continue
		}
		if groups, err := strconv.ParseUint(fields[3], 16, 32); err == nil && groups&(1<<(unix.NFNLGRP_NFTABLES-1)) != 0 {
			n++
		}
	}
	return n
}

// TestOwnChanges has the kernel tell of so much that guards changed themselves that a
// socket of the usual size could not hold it: nothing is put back.
func TestOwnChanges(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		s.set(firewall.GuardAt(firewall.GuardGateway))
		var log bytes.Buffer
		guards := nft.NewGuards(slog.New(slog.NewTextHandler(&log, nil)))
		defer func() { _ = guards.Close() }()
		if err := guards.SetNetwork(s.network); err != nil {
			t.Fatal(err)
		}
		if err := guards.Release(); err != nil {
			t.Fatal(err)
		}
		unwatch := watch(t, guards)
		for i := range 20000 {
			s.guest.Addrs = append(s.guest.Addrs, netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}))
		}
		if err := guards.SetPort(s.guest); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
		unwatch()
		if strings.Contains(log.String(), "put back") {
			t.Errorf("guards fight with themselves: %s", log.String())
		}
	})
}

// TestNetworksComeAndGo takes a network away beside another in the same table: nothing of it is
// left, and nothing of the other is touched, as the handles of its chains show.
func TestNetworksComeAndGo(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		s.set(firewall.GuardAt(firewall.GuardGateway))
		beside := inTableOf("br0", true)
		list := func() string {
			return nstest.Exec(t, "nft", "--handle", "--terse", "list", "table", "netdev", firewall.GuardTable("br0"))
		}
		base := list()
		for _, deleted := range []bool{false, true} {
			nstest.IP(t, "link add "+beside+" type bridge")
			nstest.IP(t, "link add p9 type veth peer name g9")
			nstest.IP(t, "link set p9 master "+beside+" up")
			nstest.IP(t, "link set g9 master "+beside+" up")
			n := firewall.GuardedNetwork{Bridge: beside, Index: link(t, beside), MAC: nestedMAC, Gateway: []netip.Addr{further4}, DHCP: true}
			if err := s.guards.SetNetwork(n); err != nil {
				t.Fatal(err)
			}
			p := firewall.GuardedPort{Bridge: beside, IfName: "p9", Index: link(t, "p9"), Guard: firewall.GuardAt(firewall.GuardStrict), MACs: []firewall.MAC{otherMAC}, Addrs: []netip.Addr{other4}}
			q := p
			q.IfName, q.Index, q.MACs, q.Addrs = "g9", link(t, "g9"), nil, nil
			for _, p := range []firewall.GuardedPort{p, q} {
				if err := s.guards.SetPort(p); err != nil {
					t.Fatal(err)
				}
			}
			if deleted {
				nstest.IP(t, "link del p9")
			}
			if err := s.guards.RemoveNetwork(beside); err != nil {
				t.Fatalf("removing a network, device gone %v: %v", deleted, err)
			}
			if now := list(); now != base {
				t.Fatalf("after a network, device gone %v: %s", deleted, cmp.Diff(base, now))
			}
			nstest.IP(t, "link del "+beside)
			if !deleted {
				nstest.IP(t, "link del p9")
			}
		}
	})
}

// inTableOf is the name of another bridge whose guards are in the same table as those of bridge,
// or in another one.
func inTableOf(bridge string, same bool) string {
	for i := 0; ; i++ {
		if name := fmt.Sprintf("more%d", i); (firewall.GuardTable(name) == firewall.GuardTable(bridge)) == same {
			return name
		}
	}
}

// told has the kernel tell which tables of guards are changed, one after the other, until what
// it returns is called, which lists them.
func told(t *testing.T) (stop func() []string) {
	t.Helper()
	var commits netlink.Subscription
	if err := commits.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES); err != nil {
		t.Fatal(err)
	}
	return func() (tables []string) {
		t.Helper()
		defer commits.Close()
		if !commits.Read(func(m netlink.Message) bool {
			if name := nfnetlink.Table(m); firewall.IsGuardTable(name) {
				tables = append(tables, name)
			}
			return true
		}) {
			t.Fatal("more was told than could wait")
		}
		return slices.Compact(tables)
	}
}

// TestTablesOfGuards changes ports and networks beside others in another table, which is not
// touched: the kernel checks all of a table that is.
func TestTablesOfGuards(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		s.set(firewall.GuardAt(firewall.GuardGateway))
		elsewhere := inTableOf("br0", false)
		nstest.IP(t, "link add "+elsewhere+" type bridge")
		n := firewall.GuardedNetwork{Bridge: elsewhere, Index: link(t, elsewhere), MAC: nestedMAC, Gateway: []netip.Addr{further4}, DHCP: true}
		moved := s.guest
		moved.Bridge = elsewhere
		mine, other := firewall.GuardTable("br0"), firewall.GuardTable(elsewhere)
		for _, c := range []struct {
			what string
			do   func() error
			want []string
		}{
			{"a network", func() error { return s.guards.SetNetwork(n) }, []string{other}},
			{"an address", func() error { s.guest.Addrs = append(s.guest.Addrs, further4); return s.guards.SetPort(s.guest) }, []string{mine}},
			{"a port's end", func() error { return s.guards.RemovePort(s.other.Index) }, []string{mine}},
			{"a port", func() error { return s.guards.SetPort(s.other) }, []string{mine}},
			{"a port on another bridge", func() error { return s.guards.SetPort(moved) }, []string{other, mine}},
			{"the same port", func() error { return s.guards.SetPort(moved) }, nil},
			{"a network's end", func() error { return s.guards.RemoveNetwork(elsewhere) }, []string{other}},
		} {
			stop := told(t)
			if err := c.do(); err != nil {
				t.Fatalf("%s: %v", c.what, err)
			}
			if diff := cmp.Diff(c.want, stop()); diff != "" {
				t.Errorf("%s changes tables (-want +got):\n%s", c.what, diff)
			}
		}
		if _, there := s.guards.Port(moved.Index); there {
			t.Error("a port outlives its network")
		}
	})
}

// TestFormerTables has guards of a former process, such as had all of them in one table, be
// there until what takes their place is.
func TestFormerTables(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newSegment(t)
		const former = "vnetd_guard"
		unused := firewall.GuardTable(inTableOf("br0", false))
		for _, name := range []string{former, unused} {
			nstest.Exec(t, "nft", "add table netdev "+name)
			nstest.Exec(t, "nft", "add chain netdev "+name+" port { type filter hook ingress device p1 priority -100; }")
			nstest.Exec(t, "nft", "add rule netdev "+name+" port ether saddr 52:54:00:00:00:01 drop")
		}
		spoof := from(gatewayMAC)
		if s.reaches(spoof) {
			t.Fatal("the former guard stops nothing")
		}
		stop := told(t)
		s.set(firewall.GuardAt(firewall.GuardGateway))
		tables := stop()
		if len(tables) != 3 || tables[0] != firewall.GuardTable("br0") {
			t.Errorf("tables are changed in this order: %q", tables)
		}
		if s.reaches(spoof) || !s.reaches(from(guestMAC)) {
			t.Error("the guard that took the place does not do what it should")
		}
		if left := nstest.Exec(t, "nft", "list", "tables"); left != "table netdev "+firewall.GuardTable("br0")+"\n" {
			t.Errorf("there are %s", left)
		}
	})
}
