package firewall_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/flows"
)

// servicePorts are the ports on which all places answer by TCP and UDP.
var servicePorts = []uint16{echoPort, echoPort + 1}

// serve answers all that is sent to ports in ns, in the test's own namespace for nil, by
// what it was.
func (h *host) serve(ns *nstest.NS) {
	h.Helper()
	within := func(f func() error) error { return f() }
	if ns != nil {
		within = ns.Do
	}
	var running sync.WaitGroup
	var open []io.Closer
	for _, port := range servicePorts {
		at := fmt.Sprintf(":%d", port)
		if err := within(func() error {
			datagrams, err := net.ListenPacket("udp", at)
			if err != nil {
				return err
			}
			streams, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			open = append(open, datagrams, streams)
			running.Go(func() { answerDatagrams(datagrams) })
			running.Go(func() { answerStreams(streams, &running) })
			return nil
		}); err != nil {
			h.Fatal(err)
		}
	}
	h.Cleanup(func() {
		for _, c := range open {
			_ = c.Close()
		}
		running.Wait()
	})
}

func answerDatagrams(c net.PacketConn) {
	b := make([]byte, 64)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = c.WriteTo([]byte(from.(*net.UDPAddr).IP.String()+" "+string(b[:n])), from)
	}
}

// answerStreams sends back what comes, until the other end closes or ten seconds later.
func answerStreams(l net.Listener, running *sync.WaitGroup) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		running.Go(func() {
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = c.Write([]byte(c.RemoteAddr().(*net.TCPAddr).IP.String() + " "))
			_, _ = io.Copy(c, c)
			_ = c.Close()
		})
	}
}

// dial opens a connection from ns and sends a byte; it says who the other end takes the
// sender for, or that it was rejected or lost.
func dial(ns *nstest.NS, protocol, to string, port uint16, patience time.Duration) (conn net.Conn, fate string, err error) {
	within := func(f func() error) error { return f() }
	if ns != nil {
		within = ns.Do
	}
	err = within(func() (err error) {
		conn, err = (&net.Dialer{Timeout: patience}).Dial(protocol, net.JoinHostPort(to, fmt.Sprint(port)))
		return err
	})
	n, b := 0, make([]byte, 64)
	if err == nil {
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err = conn.Write([]byte("?")); err == nil {
			n, err = conn.Read(b)
		}
	}
	var late interface{ Timeout() bool }
	switch {
	case err == nil:
		who, _, _ := strings.Cut(string(b[:n]), " ")
		return conn, who, nil
	case conn != nil:
		_ = conn.Close()
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, rejected, nil
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &late) && late.Timeout():
		return nil, lost, nil
	}
	return nil, "", err
}

// fate is dial of a connection that is closed at once; what is lost is tried again.
func fate(ns *nstest.NS, protocol, to string, port uint16) (string, error) {
	for tries := 0; ; tries++ {
		conn, is, err := dial(ns, protocol, to, port, 400*time.Millisecond)
		if conn != nil {
			_ = conn.Close()
		}
		if err != nil || is != lost || tries == 2 {
			return is, err
		}
	}
}

// macOf is the guest's MAC address.
func (h *host) macOf(p place) net.HardwareAddr {
	h.Helper()
	m := regexp.MustCompile(`link/ether (\S+)`).FindStringSubmatch(p.ns.IP("-o link show eth0"))
	if m == nil {
		h.Fatal("a guest has no MAC address")
	}
	mac, err := net.ParseMAC(m[1])
	if err != nil {
		h.Fatal(err)
	}
	return mac
}

// ending starts a process' worth of firewall that ends connections.
func (h *host) ending() *firewall.Firewall {
	h.Helper()
	f := firewall.New(h.newWriter(false), firewall.Config{Flows: flows.Table{}, Logger: slog.New(slog.NewTextHandler(h.log, nil))})
	h.Cleanup(func() {
		if err := f.Close(); err != nil {
			h.Errorf("Close: %v", err)
		}
	})
	return f
}

// randomServices, randomPrefixes and randomRules are what rules may be about.
func randomServices(r *rand.Rand) (all []firewall.Service) {
	for range r.IntN(3) {
		s := firewall.Service{Protocol: []string{"tcp", "udp", "", "icmp"}[r.IntN(4)]}
		if s.Protocol == "tcp" || s.Protocol == "udp" {
			s.Ports = []firewall.PortRange{{}, {Start: echoPort}, {Start: echoPort + 1, End: echoPort + 1}, {Start: 1, End: echoPort}}[r.IntN(4)]
		}
		all = append(all, s)
	}
	return all
}

func randomPrefixes(r *rand.Rand, places []place) (all []netip.Prefix) {
	for range r.IntN(3) {
		p := places[r.IntN(len(places))]
		a := netip.MustParseAddr([]string{p.v4, p.v6}[r.IntN(2)])
		bits := []int{a.BitLen(), 24, 16, 0}[r.IntN(4)]
		if a.Is6() && bits == 24 {
			bits = 64
		}
		all = append(all, netip.PrefixFrom(a, bits))
	}
	return all
}

func (h *host) randomPolicy(r *rand.Rand, own place, places []place) firewall.Policy {
	actions := []firewall.Action{firewall.ActionAllow, firewall.ActionReject, firewall.ActionDrop}
	fallback := []firewall.Action{"", "", firewall.ActionAllow, firewall.ActionReject}
	p := firewall.Policy{Egress: fallback[r.IntN(4)], Ingress: fallback[r.IntN(4)]}
	for i := range r.IntN(6) {
		rule := firewall.PolicyRule{
			Direction: []firewall.Direction{firewall.Egress, firewall.Ingress}[r.IntN(2)], Action: actions[r.IntN(3)],
			Services: randomServices(r), Remote: randomPrefixes(r, places), Log: r.IntN(3) == 0, Label: fmt.Sprint("rule ", i+1),
		}
		if r.IntN(4) == 0 {
			rule.Guest = &firewall.Guest{MACs: []firewall.MAC{firewall.MAC(h.macOf(own))}, Addrs: []netip.Addr{netip.MustParseAddr(own.v4), netip.MustParseAddr(own.v6)}}
		}
		p.Rules = append(p.Rules, rule)
	}
	return p
}

// policyNetworks are networks of every mode that rules are about.
func policyNetworks() []firewall.Network {
	return []firewall.Network{
		{Name: "nat", Bridge: "nat", Mode: firewall.ModeNAT, NATIPv6: true, Subnets: subnets("10.0.1.1/24", "fd00:1::1/64")},
		{Name: "nat-v6-routed", Bridge: "natr6", Mode: firewall.ModeNAT, Subnets: subnets("10.0.2.1/24", "fd00:2::1/64")},
		{Name: "route", Bridge: "route", Mode: firewall.ModeRoute, Subnets: subnets("10.0.3.1/24", "fd00:3::1/64")},
		{Name: "isolated", Bridge: "isolated", Mode: firewall.ModeIsolated, Subnets: subnets("10.0.4.1/24", "fd00:4::1/64")},
		{Name: "closed", Bridge: "closed", Mode: firewall.ModeIsolated, Subnets: subnets("10.0.5.1/24", "fd00:5::1/64")},
	}
}

// policyPlaces are guests of networks, behind the LAN's host and this one, which answer.
func (h *host) policyPlaces(networks []firewall.Network) []place {
	h.Helper()
	lan := nstest.NewLAN(h)
	nstest.IP(h, "link set lo up")
	lan.IP("route add 10.0.0.0/16 via " + nstest.Uplink)
	lan.IP("-6 route add fd00::/16 via " + nstest.Uplink6)
	places := []place{{name: "lan", ns: lan, v4: nstest.LANHost, v6: nstest.LANHost6}, {name: "host", v4: nstest.Uplink, v6: nstest.Uplink6}}
	for _, n := range networks {
		places = append(places, h.guestIn(n))
	}
	h.routing()
	for _, p := range places {
		h.serve(p.ns)
	}
	return places
}

// Who reaches whom under rules and peers of any kind is what they say, by every writer.
func TestPoliciesAtRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatal(err)
		}
	}
	byEachWriter(t, func(h *host) {
		h.Logf("SEED=%d", seed)
		r := rand.New(rand.NewPCG(seed, 0))
		networks := policyNetworks()
		places := h.policyPlaces(networks)
		f := h.ending()
		for round := range 4 {
			for i := range networks {
				n := &networks[i]
				n.Policy, n.Peers = firewall.Policy{}, nil
				if r.IntN(4) > 0 {
					n.Policy = h.randomPolicy(r, places[i+2], places)
				}
				for j, peer := range networks {
					if j != i && r.IntN(3) == 0 {
						n.Peers = append(n.Peers, firewall.Peer{Bridge: peer.Bridge, Name: peer.Name, Subnets: peer.Subnets, Services: randomServices(r)})
					}
				}
			}
			order := r.Perm(len(networks))
			for _, i := range order {
				h.delete(f, networks[i])
				h.set(f, networks[i])
			}
			h.policiesHold(round, networks, places)
			next := h.ending() // of the next process
			for _, i := range order {
				next.Adopt(networks[i])
			}
			for _, process := range []*firewall.Firewall{f, next} {
				if report, err := process.Repair(h.Context()); err != nil || report.Repaired() {
					h.Errorf("round %d: a repair of what is whole: %+v, %v", round, report, err)
				}
			}
			f = next
			if h.Failed() {
				return
			}
		}
	})
}

// policiesHold fails the test unless what everybody sends to everybody arrives or not as
// the networks' rules say.
func (h *host) policiesHold(round int, networks []firewall.Network, places []place) {
	h.Helper()
	// What the round before let through would pass in this one, from the same port.
	if err := (flows.Table{}).End(func(*firewall.Flow) bool { return true }); err != nil {
		h.Fatal(err)
	}
	of := func(i int) *firewall.Network {
		if i < 2 {
			return nil
		}
		return &networks[i-2]
	}
	var running sync.WaitGroup
	for i, from := range places {
		for j, to := range places {
			running.Go(func() {
				if j == 1 && i > 1 { // what this host sends from there it would send from elsewhere
					own := of(i).Subnets
					to.v4, to.v6 = own[0].Addr().String(), own[1].Addr().String()
				}
				if i == j || i < 2 && j < 2 {
					return
				}
				for _, family := range [][2]string{{from.v4, to.v4}, {from.v6, to.v6}} {
					for k := range 2 * len(servicePorts) {
						protocol, port := []string{"tcp", "udp"}[k%2], servicePorts[k/2]
						flow := firewall.Flow{Protocol: protocol, Port: port, Source: netip.MustParseAddr(family[0]), Destination: netip.MustParseAddr(family[1])}
						want := i == 1 || firewall.Lets(of(i), of(j), j == 1, &flow)
						if is := h.arrives(from, to, &flow, want); is != "" {
							h.Errorf("round %d: %s from %s to %s %s:%d: %s, want reached: %v\n%+v\n%+v", round, protocol, from.name, to.name, family[1], port, is, want, of(i), of(j))
						}
					}
				}
			})
		}
	}
	running.Wait()
}

// arrives says what becomes of a connection, where that is not as wanted, else nothing.
func (h *host) arrives(from, to place, flow *firewall.Flow, want bool) string {
	is, err := fate(from.ns, flow.Protocol, flow.Destination.String(), flow.Port)
	if want && is == lost { // a busy machine takes longer
		var conn net.Conn
		if conn, is, err = dial(from.ns, flow.Protocol, flow.Destination.String(), flow.Port, mendLimit); conn != nil {
			_ = conn.Close()
		}
	}
	if err != nil {
		h.Errorf("from %s to %s: %v", from.name, to.name, err)
	}
	if arrived := is != rejected && is != lost; arrived != want {
		return is
	}
	return ""
}

// service is one port as a service.
func service(protocol string, port uint16) firewall.Service {
	return firewall.Service{Protocol: protocol, Ports: firewall.PortRange{Start: port}}
}

// byName are networks by their names.
func byName(all []firewall.Network) map[string]*firewall.Network {
	out := map[string]*firewall.Network{}
	for i := range all {
		out[all[i].Name] = &all[i]
	}
	return out
}

// placesByName are places by their names.
func placesByName(all []place) map[string]place {
	out := map[string]place{}
	for _, p := range all {
		out[p.name] = p
	}
	return out
}

// fates fails the test unless what is sent meets the fates that are wanted, by sender,
// receiver and protocol; a wanted address is that for which the receiver takes the sender.
func (h *host) fates(places []place, want map[[3]string]string) {
	h.Helper()
	at := placesByName(places)
	got := map[[3]string]string{}
	for k := range want {
		protocol, family, _ := strings.Cut(k[2], " ")
		to := at[k[1]].v4
		if family == "v6" {
			to = at[k[1]].v6
		}
		// By IPv6, TCP heeds an error of ICMP as of its second segment, after a second.
		conn, is, err := dial(at[k[0]].ns, protocol, to, echoPort, mendLimit)
		if err != nil {
			h.Errorf("from %s to %s: %v", k[0], k[1], err)
		}
		if conn != nil {
			_ = conn.Close()
		}
		got[k] = is
	}
	if diff := cmp.Diff(want, got); diff != "" {
		h.Errorf("what was sent (-want +got):\n%s", diff)
	}
}

// Peers reach what was opened to them, both isolated or translated, as whom they are, in
// whichever order networks come and after repairs; nobody else does, by a peer's peer or by
// its address.
func TestPeers(t *testing.T) {
	byEachWriter(t, func(h *host) {
		networks := policyNetworks()
		places := h.policyPlaces(networks)
		at, n := placesByName(places), byName(networks)
		peer := func(name string, services ...firewall.Service) firewall.Peer {
			return firewall.Peer{Bridge: n[name].Bridge, Name: name, Subnets: n[name].Subnets, Services: services}
		}
		n["closed"].Peers = []firewall.Peer{peer("isolated", service("udp", echoPort)), peer("nat")}
		n["isolated"].Peers = []firewall.Peer{peer("route", service("udp", echoPort))}
		n["route"].Peers = []firewall.Peer{peer("nat", service("tcp", echoPort))}
		f := h.ending()
		want := map[[3]string]string{
			{"isolated", "closed", "udp"}:    at["isolated"].v4,
			{"isolated", "closed", "udp v6"}: at["isolated"].v6,
			{"isolated", "closed", "tcp"}:    rejected,
			{"isolated", "closed", "tcp v6"}: rejected,
			{"closed", "isolated", "tcp v6"}: rejected,
			{"nat", "isolated", "tcp v6"}:    rejected,
			{"closed", "isolated", "udp"}:    rejected,
			{"nat", "closed", "udp"}:         at["nat"].v4,
			{"nat", "closed", "tcp v6"}:      at["nat"].v6,
			{"closed", "nat", "tcp"}:         rejected,
			{"route", "isolated", "udp"}:     at["route"].v4,
			{"route", "closed", "udp"}:       rejected, // a peer's peer
			{"nat", "isolated", "udp"}:       rejected,
			{"nat", "route", "tcp"}:          at["nat"].v4,
			{"nat", "route", "tcp v6"}:       at["nat"].v6,
			{"nat", "route", "udp"}:          "10.0.3.1", // let out by the mode, and translated
			{"lan", "closed", "udp"}:         rejected,
			{"isolated", "lan", "udp"}:       rejected,
			{"nat", "lan", "udp"}:            nstest.Uplink,
		}
		for _, order := range [][]int{{0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}} {
			for _, i := range order {
				h.set(f, networks[i])
			}
			h.fates(places, want)
			h.delete(f, *n["nat"])
			h.set(f, *n["nat"])
			if h.writer == byNFTables {
				h.nft("flush ruleset")
			} else {
				h.batch("filter", "-F")
				h.batch("nat", "-F")
			}
			if _, err := f.Repair(h.Context()); err != nil {
				h.Fatal(err)
			}
			h.fates(places, want)
		}
		// A guest of another network with the address of one that may.
		heard := newEchoOn(h, at["closed"].ns, 4100)
		for _, from := range []string{"nat", "route", "isolated"} {
			n["closed"].Peers = []firewall.Peer{peer("isolated")}
			h.set(f, *n["closed"])
			if err := at[from].ns.Do(func() error { return forge(at["isolated"].v4, at["closed"].v4, 4100, 4100) }); err != nil {
				h.Fatal(err)
			}
			if from == "isolated" {
				nstest.Eventually(h, mendLimit, "what the peer sends arrives", func() error {
					if heard.count(at["isolated"].v4) == 0 {
						return errors.New("it does not")
					}
					return nil
				})
				continue
			}
			time.Sleep(100 * time.Millisecond)
			if heard.count(at["isolated"].v4) > 0 {
				h.Errorf("what a guest of %s sends as one of another network arrives", from)
			}
		}
		for i := range networks {
			networks[i].Peers = nil
			h.set(f, networks[i])
		}
		for k := range want {
			if k[1] == "closed" || k[1] == "isolated" {
				want[k] = rejected
			}
		}
		want[[3]string{"nat", "route", "tcp"}] = "10.0.3.1"
		want[[3]string{"nat", "route", "tcp v6"}] = "fd00:3::1"
		h.fates(places, want)
	})
}

// What was let through goes on as rules change, and ends as they come to refuse it.
func TestRulesEndConnections(t *testing.T) {
	byEachWriter(t, func(h *host) {
		networks := policyNetworks()
		places := h.policyPlaces(networks)
		at, n := placesByName(places), byName(networks)
		f := h.ending()
		n["closed"].Peers = []firewall.Peer{{Bridge: "nat", Name: "nat", Subnets: n["nat"].Subnets}}
		n["isolated"].Policy.Rules = []firewall.PolicyRule{
			{Direction: firewall.Egress, Action: firewall.ActionAllow, Remote: subnets(nstest.LANHost + "/32")},
		}
		h.set(f, networks...)
		mark := byte('A')
		goesOn := func(what string, c net.Conn, want bool) {
			h.Helper()
			mark++
			patience := 500 * time.Millisecond
			if want {
				patience = mendLimit // a busy machine takes longer
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			_, err := c.Write([]byte{mark})
			for b := []byte{0}; err == nil && b[0] != mark; {
				_, err = c.Read(b)
			}
			if (err == nil) != want {
				h.Errorf("%s goes on: %v, want %v (%v)\n%s", what, err == nil, want, err, h.log)
			}
		}
		open := func(from, to, address string) net.Conn {
			h.Helper()
			c, is, err := dial(at[from].ns, "tcp", address, echoPort, mendLimit)
			if c == nil {
				h.Fatalf("from %s to %s: %s, %v", from, to, is, err)
			}
			h.Cleanup(func() { _ = c.Close() })
			return c
		}
		out, kept := open("nat", "lan", nstest.LANHost), open("nat", "route", at["route"].v4)
		peers, excepted := open("nat", "closed", at["closed"].v4), open("isolated", "lan", nstest.LANHost)
		own := open("nat", "host", "10.0.1.1")
		all := map[string]net.Conn{"to the LAN": out, "to another network": kept, "to a peer": peers, "out of an isolated network": excepted, "to this host": own}
		expect := func(when string, over ...string) {
			h.Helper()
			for what, c := range all {
				ends := slices.Contains(over, what)
				goesOn(when+", what leads "+what, c, !ends)
				if ends {
					delete(all, what)
				}
			}
		}
		expect("at first")
		n["nat"].Policy.Rules = []firewall.PolicyRule{
			{Direction: firewall.Egress, Action: firewall.ActionDrop, Remote: subnets("198.18.0.0/15")},
		}
		h.set(f, *n["nat"])
		expect("with a rule about something else")
		n["nat"].Policy.Rules = append(n["nat"].Policy.Rules, firewall.PolicyRule{
			Direction: firewall.Egress, Action: firewall.ActionReject, Services: []firewall.Service{service("tcp", echoPort)}, Remote: subnets(nstest.LANHost + "/24"),
		})
		h.set(f, *n["nat"])
		expect("with a rule against it", "to the LAN")
		n["nat"].Policy.Rules = slices.Clone(n["nat"].Policy.Rules)
		n["nat"].Policy.Rules[1].Remote = subnets("10.0.1.1/32")
		h.set(f, *n["nat"])
		expect("with a rule against this host", "to this host")
		n["closed"].Peers = nil
		h.set(f, *n["closed"])
		expect("without the peer", "to a peer")
		n["isolated"].Policy.Rules = nil
		h.set(f, *n["isolated"])
		expect("without the exception", "out of an isolated network")
		if len(all) != 1 {
			h.Errorf("%d connections are left, want that to another network", len(all))
		}
	})
}

// newEchoOn is newEcho at another port.
func newEchoOn(h *host, ns *nstest.NS, port uint16) *echo {
	h.Helper()
	var conn net.PacketConn
	err := ns.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		h.Fatal(err)
	}
	e := &echo{from: map[netip.Addr]int{}}
	var running sync.WaitGroup
	running.Go(func() { e.serve(conn) })
	h.Cleanup(func() { _ = conn.Close(); running.Wait() })
	return e
}

// Errors of ICMP come back to who sends, and path MTU discovery works, also in and out of an
// isolated network whose rules drop all else.
func TestErrorsPass(t *testing.T) {
	byEachWriter(t, func(h *host) {
		networks := policyNetworks()
		places := h.policyPlaces(networks)
		at, n := placesByName(places), byName(networks)
		lan := at["lan"].ns
		far := nstest.NewNS(h, "far")
		lan.IP("link add far type veth peer name eth0 netns far")
		lan.Exec("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
		lan.IP("link set far mtu 1280 up")
		far.IP("link set eth0 mtu 1280 up")
		for _, a := range [][2]string{{"198.18.9.1", "198.18.9.2"}, {"fd09::1", "fd09::2"}} {
			bits, nodad, via := "/24", "", nstest.LANHost
			if strings.Contains(a[0], ":") {
				bits, nodad, via = "/64", " nodad", nstest.LANHost6
			}
			lan.IP("addr add " + a[0] + bits + " dev far" + nodad)
			far.IP("addr add " + a[1] + bits + " dev eth0" + nodad)
			far.IP("route add default via " + a[0])
			nstest.IP(h, "route add "+netip.MustParsePrefix(a[1]+bits).Masked().String()+" via "+via)
		}
		both := []firewall.Service{service("udp", 0), {Protocol: "icmp"}}
		n["isolated"].Policy = firewall.Policy{Egress: firewall.ActionDrop, Ingress: firewall.ActionDrop, Rules: []firewall.PolicyRule{
			{Direction: firewall.Egress, Action: firewall.ActionAllow, Services: both},
			{Direction: firewall.Ingress, Action: firewall.ActionAllow, Services: both[:1]},
		}}
		f := h.ending()
		h.set(f, networks...)
		isolated := at["isolated"]
		for _, family := range []string{"4", "6"} {
			to, from, beyond := nstest.LANHost, isolated.v4, "198.18.9.2"
			if family == "6" {
				to, from, beyond = nstest.LANHost6, isolated.v6, "fd09::2"
			}
			const closed = echoPort + 9
			if is, err := fate(isolated.ns, "udp", to, closed); is != rejected {
				h.Errorf("IPv%s to a port of the LAN that nobody has: %s, %v", family, is, err)
			}
			if is, err := fate(lan, "udp", from, closed); is != rejected {
				h.Errorf("IPv%s to a port of the guest that nobody has: %s, %v", family, is, err)
			}
			if is, err := fate(lan, "tcp", from, echoPort); is != lost {
				h.Errorf("IPv%s to what no rule allows: %s, %v", family, is, err)
			}
			isolated.ns.Exec("ping", "-"+family, "-c", "1", "-W", "20", beyond)
			out, _ := isolated.ns.Command(h.Context(), "ping", "-"+family, "-M", "do", "-s", "1300", "-c", "2", "-W", "5", beyond).CombinedOutput()
			if !regexp.MustCompile(`mtu ?= ?1280`).Match(out) {
				h.Errorf("the guest does not learn the MTU of the path:\n%s", out)
			}
		}
	})
}

// TestRejectedAtOnce has a guest try again and again to open what a rule rejects, of TCP and of
// all protocols, and what a default does: it is told at once, before its kernel asks again,
// which that does after a second. A few times the machine may have had other work.
func TestRejectedAtOnce(t *testing.T) {
	byEachWriter(t, func(h *host) {
		networks := policyNetworks()
		places := h.policyPlaces(networks)
		at, n := placesByName(places), byName(networks)
		f := h.ending()
		for name, policy := range map[string]firewall.Policy{
			"a rule of TCP": {Rules: []firewall.PolicyRule{{Direction: firewall.Egress, Action: firewall.ActionReject, Services: []firewall.Service{{Protocol: "tcp"}}}}},
			"a rule of all": {Rules: []firewall.PolicyRule{{Direction: firewall.Egress, Action: firewall.ActionReject}}},
			"the default":   {Egress: firewall.ActionReject},
		} {
			n["nat"].Policy = policy
			h.set(f, networks...)
			for _, to := range []string{nstest.LANHost, nstest.LANHost6, "10.0.1.1"} {
				const times, most = 20, 4
				late := 0
				for i := range times {
					begun := time.Now()
					is, err := fate(at["nat"].ns, "tcp", to, echoPort)
					if is != rejected {
						h.Errorf("%s, %s for the %d. time: %s, %v", name, to, i+1, is, err)
						break
					}
					if time.Since(begun) > 900*time.Millisecond {
						late++
					}
				}
				if late > most {
					h.Errorf("%s, %s: told late %d of %d times", name, to, late, times)
				}
			}
		}
	})
}

// What rules and peers have met is told for each of them.
func TestCounts(t *testing.T) {
	byEachWriter(t, func(h *host) {
		networks := policyNetworks()
		places := h.policyPlaces(networks)
		at, n := placesByName(places), byName(networks)
		n["nat"].Policy.Rules = []firewall.PolicyRule{
			{Direction: firewall.Egress, Action: firewall.ActionAllow, Services: []firewall.Service{service("udp", echoPort)}, Log: true, Label: "rule 1"},
			{Direction: firewall.Egress, Action: firewall.ActionReject, Services: []firewall.Service{service("udp", echoPort+1)}},
			{Direction: firewall.Ingress, Action: firewall.ActionDrop},
		}
		n["nat"].Peers = []firewall.Peer{
			{Bridge: "closed", Subnets: n["closed"].Subnets}, {Bridge: "isolated", Subnets: n["isolated"].Subnets, Services: []firewall.Service{service("udp", echoPort)}},
		}
		f := h.ending()
		h.set(f, networks...)
		sent := map[uint16]uint64{}
		for _, port := range servicePorts {
			for _, to := range []string{nstest.LANHost, nstest.LANHost6, "10.0.1.1"} {
				conn, _, err := dial(at["nat"].ns, "udp", to, port, 400*time.Millisecond)
				if err != nil {
					h.Fatal(err)
				}
				if conn != nil {
					_ = conn.Close()
				}
				sent[port]++
			}
		}
		rules, peers, err := f.Counts(h.Context(), *n["nat"])
		if err != nil || len(rules) != 3 || rules[0].Packets != sent[echoPort] || rules[1].Packets != sent[echoPort+1] || rules[2] != (firewall.Count{}) || rules[0].Bytes == 0 {
			h.Errorf("rules have met %+v, %v; want the connections %v and none", rules, err, sent)
		}
		h.peersMet(peers, 0, 0)
		n["nat"].Policy.Rules = nil
		h.set(f, *n["nat"])
		if is, err := fate(at["isolated"].ns, "udp", at["nat"].v4, echoPort); is != at["isolated"].v4 {
			h.Errorf("by a peer: %s, %v", is, err)
		}
		if _, peers, err = f.Counts(h.Context(), *n["nat"]); err != nil {
			h.Error(err)
		}
		h.peersMet(peers, 0, 1)
	})
}

// peersMet fails the test unless so many packets of peers were counted.
func (h *host) peersMet(peers []firewall.Count, want ...uint64) {
	h.Helper()
	var got []uint64
	for _, c := range peers {
		got = append(got, c.Packets)
	}
	if !slices.Equal(got, want) {
		h.Errorf("peers have sent %d packets, want %d", got, want)
	}
}
