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

// forwardsTo are forwards of every form to a guest.
func forwardsTo(guest netip.Addr, host, sender netip.Addr, first uint16) (all []firewall.Forward) {
	port := func(n uint16) firewall.PortRange { return firewall.PortRange{Start: first + n, End: first + n} }
	nobody := netip.MustParsePrefix("198.18.0.0/15")
	if guest.Is6() {
		nobody = netip.MustParsePrefix("2001:db8:dead::/48")
	}
	return []firewall.Forward{
		{Protocol: "udp", Ports: port(0), To: guest, ToPort: echoPort},
		{Protocol: "udp", Address: host, Ports: port(1), To: guest, ToPort: echoPort},
		{Protocol: "udp", Ports: port(2), From: []netip.Prefix{netip.PrefixFrom(sender, sender.BitLen())}, To: guest, ToPort: echoPort},
		{Protocol: "udp", Ports: port(3), From: []netip.Prefix{nobody}, To: guest, ToPort: echoPort},
		{Protocol: "udp", Ports: firewall.PortRange{Start: first + 4, End: first + 6}, To: guest, ToPort: echoPort - 1},
		{Protocol: "tcp", Ports: port(7), To: guest, ToPort: echoPort},
	}
}

// sendTo is ask to a port, from an unprivileged one.
func sendTo(ns *nstest.NS, to string, port uint16, patience time.Duration) (string, error) {
	var conn net.Conn
	dial := func() (err error) {
		conn, err = net.Dial("udp", net.JoinHostPort(to, fmt.Sprint(port)))
		return err
	}
	var err error
	if ns == nil {
		err = dial()
	} else {
		err = ns.Do(dial)
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	b := make([]byte, 64)
	n := 0
	if _, err = conn.Write([]byte("?")); err == nil {
		n, err = conn.Read(b)
	}
	switch {
	case err == nil:
		return netip.MustParseAddrPort(string(b[:n])).Addr().Unmap().String(), nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused", nil
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.EINVAL):
		return lost, nil
	}
	return "", err
}

// fatesOf are the fates of what somebody sends to all ports of forwards.
func (h *host) fatesOf(from place) string {
	var b strings.Builder
	for _, first := range []uint16{7000, 7100} {
		for _, to := range []string{nstest.Uplink, nstest.Uplink6, "127.0.0.1", "::1", "10.0.3.1"} {
			at := netip.MustParseAddr(to)
			if at.IsLoopback() && from.ns != nil || at.Is6() && from.name == "isolated" {
				continue
			}
			fmt.Fprintf(&b, "%-8s to %-16s", from.name, to)
			for i := range uint16(7) {
				fate, err := lost, error(nil)
				for range 3 {
					if fate, err = sendTo(from.ns, to, first+i, 300*time.Millisecond); err != nil || fate != lost {
						break
					}
				}
				if err != nil {
					h.Errorf("from %s to %s: %v", from.name, to, err)
				}
				fmt.Fprintf(&b, " %d %s", first+i, fate)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// Who reaches a guest by forwards, and as whom, is the same by every writer, and nobody
// does any more once they are gone.
func TestForwards(t *testing.T) {
	byEachWriter(t, func(h *host) {
		lan := nstest.NewLAN(h)
		nstest.IP(h, "link set lo up")
		lan.IP("route add 10.0.0.0/16 via " + nstest.Uplink)
		lan.IP("-6 route add fd00::/16 via " + nstest.Uplink6)
		f := h.firewall(false)
		addr := netip.MustParseAddr
		networks := []firewall.Network{
			{Name: "nat", Bridge: "nat", Mode: firewall.ModeNAT, NATIPv6: true, Subnets: subnets("10.0.1.1/24", "fd00:1::1/64"), NoLoopback6: true},
			{Name: "by-dev", Bridge: "bydev", Mode: firewall.ModeRoute, Dev: "eno1", Subnets: subnets("10.0.2.1/24", "fd00:2::1/64"), NoLoopback6: true},
			{Name: "other", Bridge: "other", Mode: firewall.ModeNAT, Subnets: subnets("10.0.3.1/24", "fd00:3::1/64")},
			{Name: "isolated", Bridge: "isolated", Mode: firewall.ModeIsolated, Subnets: subnets("10.0.4.1/24")},
		}
		host4, host6, lan4, lan6 := addr(nstest.Uplink), addr(nstest.Uplink6), addr(nstest.LANHost), addr(nstest.LANHost6)
		for i, first := range []uint16{7000, 7100} {
			n := &networks[i]
			n.Forwards = append(forwardsTo(n.Subnets[0].Addr().Next(), host4, lan4, first), forwardsTo(n.Subnets[1].Addr().Next(), host6, lan6, first)...)
		}
		senders := []place{{name: "lan", ns: lan}, {name: "host"}}
		for _, n := range networks {
			p := h.guestIn(n)
			nstest.Exec(h, "sysctl", "-qw", "net.ipv4.conf."+n.Bridge+".route_localnet=1")
			senders = append(senders, p)
			h.set(f, n)
			h.mirror(p.ns)
		}
		h.routing()
		table := func() string {
			texts := make([]string, len(senders))
			var running sync.WaitGroup
			for i, from := range senders {
				running.Go(func() { texts[i] = h.fatesOf(from) })
			}
			running.Wait()
			return strings.Join(texts, "")
		}
		table() // neighbours are known then
		got := table()
		golden.Compare(h, "testdata/forwards.golden", got)
		if report, err := f.Repair(h.Context()); err != nil || report.Repaired() {
			h.Errorf("a repair of what is whole: %+v, %v", report, err)
		}
		for _, n := range networks {
			n.Forwards = nil
			h.set(f, n)
		}
		if left := h.listed(); strings.Contains(left, "7000") || strings.Contains(left, "7100") {
			h.Errorf("without forwards there is\n%s", left)
		}
	})
}

// Guests do not reach what listens at loopback addresses of the host while others have
// flushed the rules, and do not once the forwards are gone either; what the host asks of them
// by 127.0.0.1 is answered all the while.
func TestForwardsKeepGuestsFromLoopbackWithoutRules(t *testing.T) {
	byEachWriter(t, func(h *host) {
		nstest.IP(h, "link set lo up")
		f := h.firewall(false)
		guest := netip.MustParseAddr("10.0.1.2")
		n := firewall.Network{
			Name: "nat", Bridge: "nat", Mode: firewall.ModeNAT, Subnets: subnets("10.0.1.1/24"),
			Forwards: []firewall.Forward{{Protocol: "udp", Ports: firewall.PortRange{Start: 7000, End: 7000}, To: guest, ToPort: echoPort}},
		}
		p := h.guestIn(n)
		h.mirror(p.ns)
		h.routing()
		nstest.Exec(h, "sysctl", "-qw", "net.ipv4.conf.nat.route_localnet=1")
		h.set(f, n)
		secret, err := net.ListenPacket("udp4", "127.0.0.1:7777")
		if err != nil {
			h.Fatal(err)
		}
		h.Cleanup(func() { _ = secret.Close() })
		p.ns.Exec("sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1")
		p.ns.IP("route del table local local 127.0.0.0/8 dev lo")
		p.ns.IP("route del table local local 127.0.0.1 dev lo")
		p.ns.IP("route add 127.0.0.0/8 via 10.0.1.1")
		arrives := func(patience time.Duration) bool {
			_, _ = sendTo(p.ns, "127.0.0.1", 7777, 300*time.Millisecond)
			if err := secret.SetReadDeadline(time.Now().Add(patience)); err != nil {
				h.Fatal(err)
			}
			_, _, err := secret.ReadFrom(make([]byte, 10))
			return err == nil
		}
		answered := func(when string) {
			h.Helper()
			if fate, err := sendTo(nil, "127.0.0.1", 7000, mendLimit); err != nil || fate != "10.0.1.1" {
				h.Errorf("%s 127.0.0.1 is answered: %s, %v", when, fate, err)
			}
		}
		answered("with rules")
		if arrives(50 * time.Millisecond) {
			h.Error("with rules a guest reaches 127.0.0.1 of the host")
		}
		nstest.Exec(h, "nft", "flush", "ruleset")
		if arrives(50 * time.Millisecond) {
			h.Error("without rules a guest reaches 127.0.0.1 of the host")
		}
		if _, err := f.Repair(h.Context()); err != nil {
			h.Fatal(err)
		}
		answered("after a repair")
		if report, err := f.Repair(h.Context()); err != nil || report.Repaired() {
			h.Errorf("a repair of what is whole: %+v, %v", report, err)
		}
		n.Forwards = nil
		h.set(f, n)
		nstest.Exec(h, "nft", "flush", "ruleset")
		if !arrives(mendLimit) {
			h.Error("the guest has no way to 127.0.0.1 that could be closed")
		}
	})
}
