package firewall_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/golden"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// place is somebody in the matrix of who reaches whom.
type place struct {
	name   string
	ns     *nstest.NS
	v4, v6 string
}

// matrixNetworks are networks of every kind, whose guests' addresses end in 2 and whose
// prefixes are of 24 and 64 bits.
func matrixNetworks() []firewall.Network {
	lan := netip.MustParseAddr(nstest.Uplink)
	return []firewall.Network{
		{Name: "nat", Bridge: "nat", Mode: firewall.ModeNAT, NATIPv6: true, Subnets: subnets("10.0.1.1/24", "fd00:1::1/64")},
		{Name: "nat-v6-routed", Bridge: "natr6", Mode: firewall.ModeNAT, Subnets: subnets("10.0.2.1/24", "fd00:2::1/64")},
		{Name: "nat-v6-closed", Bridge: "natc6", Mode: firewall.ModeNAT, NoInboundIPv6: true, Subnets: subnets("10.0.3.1/24", "fd00:3::1/64")},
		{
			Name: "nat-by-dev", Bridge: "natdev", Mode: firewall.ModeNAT, Dev: "eno1", Subnets: subnets("10.0.4.1/24", "fd00:4::1/64"),
			NATAddrs: firewall.AddrRange{Start: lan, End: lan}, NATPorts: firewall.PortRange{Start: 5000, End: 5099},
		},
		{Name: "route", Bridge: "route", Mode: firewall.ModeRoute, Subnets: subnets("10.0.5.1/24", "fd00:5::1/64")},
		{Name: "route-by-dev", Bridge: "routedev", Mode: firewall.ModeRoute, Dev: "eno1", NoInboundIPv6: true, Subnets: subnets("10.0.6.1/24", "fd00:6::1/64")},
		{Name: "isolated", Bridge: "isolated", Mode: firewall.ModeIsolated, Subnets: subnets("10.0.7.1/24", "fd00:7::1/64")},
		{Name: "open", Bridge: "open", Mode: firewall.ModeOpen, Subnets: subnets("10.0.8.1/24", "fd00:8::1/64")},
		{Name: "nat-v4-alone", Bridge: "nat4", Mode: firewall.ModeNAT, Isolated: true, Subnets: subnets("10.0.9.1/24")},
	}
}

// guestIn plugs a guest into the network's bridge, which is made.
func (h *host) guestIn(n firewall.Network) place {
	h.Helper()
	p := place{name: n.Name}
	nstest.IP(h, "link add "+n.Bridge+" type bridge")
	nstest.IP(h, "link set "+n.Bridge+" up")
	p.ns = nstest.Guest(h, n.Bridge, "g-"+n.Bridge, "")
	p.ns.Exec("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
	for _, s := range n.Subnets {
		nodad := ""
		if s.Addr().Is6() {
			nodad = " nodad"
		}
		nstest.IP(h, "addr add "+s.String()+" dev "+n.Bridge+nodad)
		at := s.Addr().Next()
		p.ns.IP("addr add " + netip.PrefixFrom(at, s.Bits()).String() + " dev eth0" + nodad)
		if s.Addr().Is4() {
			p.v4 = at.String()
		} else {
			p.v6 = at.String()
		}
		p.ns.IP("route add default via " + s.Addr().String())
	}
	return p
}

// mirror answers every datagram with the address and the port that it came from.
func (h *host) mirror(ns *nstest.NS) {
	h.Helper()
	var conn net.PacketConn
	if err := ns.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", fmt.Sprintf(":%d", echoPort))
		return err
	}); err != nil {
		h.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		b := make([]byte, 64)
		for {
			_, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo([]byte(from.String()), from)
		}
	})
	h.Cleanup(func() { _ = conn.Close(); running.Wait() })
}

// ask sends a datagram from a privileged port, and says what became of it: where the
// other end saw it come from, or that it was rejected or lost.
func ask(from place, to string) (string, error) {
	var conn *net.UDPConn
	err := from.ns.Do(func() (err error) {
		conn, err = net.DialUDP("udp", &net.UDPAddr{Port: 600}, &net.UDPAddr{IP: net.ParseIP(to), Port: echoPort})
		return err
	})
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(400 * time.Millisecond)); err != nil {
		return "", err
	}
	b := make([]byte, 64)
	n := 0
	if _, err = conn.Write([]byte("?")); err == nil {
		n, err = conn.Read(b)
	}
	switch {
	case err == nil:
		at := netip.MustParseAddrPort(string(b[:n]))
		port := "600"
		switch {
		case at.Port() >= 5000 && at.Port() < 5100 && from.name == "nat-by-dev":
			port = "50xx"
		case at.Port() >= 1024:
			port = "high"
		case at.Port() != 600:
			port = "low"
		}
		return at.Addr().Unmap().String() + " " + port, nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return rejected, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return lost, nil
	}
	return "", err
}

// matrixOf is what becomes of what one of the places sends to all others.
func (h *host) matrixOf(places []place, i int) string {
	var b strings.Builder
	from := places[i]
	for j, to := range places {
		for _, at := range []string{to.v4, to.v6} {
			if i == j || at == "" || from.v6 == "" && strings.Contains(at, ":") {
				continue
			}
			fate, err := lost, error(nil)
			for range 4 { // of the kernel's answers some are not sent, for their number
				if fate, err = ask(from, at); err != nil || fate != lost {
					break
				}
			}
			if err != nil {
				h.Errorf("from %s to %s: %v", from.name, at, err)
			}
			fmt.Fprintf(&b, "%-14s to %-14s %-26s %s\n", from.name, to.name, at, fate)
		}
	}
	return b.String()
}

// Who reaches whom, and as whom, is the same by every writer.
func TestMatrix(t *testing.T) {
	byEachWriter(t, func(h *host) {
		lan := nstest.NewLAN(h)
		places := []place{{name: "lan", ns: lan, v4: nstest.LANHost, v6: nstest.LANHost6}}
		lan.IP("route add 10.0.0.0/16 via " + nstest.Uplink)
		lan.IP("-6 route add fd00::/16 via " + nstest.Uplink6)
		f := h.firewall(false)
		for _, n := range matrixNetworks() {
			places = append(places, h.guestIn(n))
			h.set(f, n)
		}
		h.routing()
		for _, p := range places {
			h.mirror(p.ns)
		}
		texts := make([]string, len(places))
		var running sync.WaitGroup
		for i := range places {
			running.Go(func() { texts[i] = h.matrixOf(places, i) })
		}
		running.Wait()
		got := strings.Join(texts, "")
		golden.Compare(h, "testdata/matrix.golden", got)
	})
}
