package diagnose_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv6"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
)

// lab is a host with a network of two guests and a LAN, whose every packet is the
// test's own.
type lab struct {
	*testing.T
	network            firewall.Network
	guest, second, lan *tap
	bridge             *tap
}

// witness counts what the last hook before this host's sockets lets pass, and keeps
// the kernel from answering by itself.
const witness = `
table inet witness {
	counter dns-udp { }
	counter dns-tcp { }
	counter dhcp { }
	counter dhcpv6 { }
	counter router-solicitation { }
	counter neighbour-solicitation { }
	chain input {
		type filter hook input priority 2147483000;
		meta l4proto udp th dport 53 counter name dns-udp
		meta l4proto tcp th dport 53 counter name dns-tcp
		udp dport 67 counter name dhcp
		udp dport 547 counter name dhcpv6
		icmpv6 type 133 counter name router-solicitation
		icmpv6 type 135 counter name neighbour-solicitation
		ct mark 0x7fffffff
	}
	chain silent {
		type filter hook output priority -400;
		tcp flags & rst == rst drop
		icmp type destination-unreachable drop
		icmpv6 type destination-unreachable drop
	}
}
table arp witness {
	counter question { }
	chain input {
		type filter hook input priority 2147483000;
		counter name question
	}
}
`

// setting is what a file of the corpus says of its laboratory.
type setting struct {
	mode     firewall.Mode
	subnets  int  // of each family
	bridgeNF bool // packets within the bridge pass iptables
}

// settings reads lines such as "# laboratory: route subnets=2 bridge-nf".
func settings(text string) setting {
	s := setting{mode: firewall.ModeNAT, subnets: 1}
	if m := regexp.MustCompile(`(?m)^# laboratory: (.*)$`).FindStringSubmatch(text); m != nil {
		for _, word := range strings.Fields(m[1]) {
			switch word {
			case "subnets=2":
				s.subnets = 2
			case "bridge-nf":
				s.bridgeNF = true
			default:
				s.mode = firewall.Mode(word)
			}
		}
	}
	return s
}

// newLab makes it, with the rules of vnetd.
func newLab(t *testing.T, s setting) *lab {
	t.Helper()
	l := &lab{T: t, network: firewall.Network{
		Bridge: "virbr0", Mode: s.mode, DHCP: true, DHCPv6: true,
		Subnets: []netip.Prefix{
			netip.MustParsePrefix("192.168.122.1/24"), netip.MustParsePrefix("2001:db8:1::1/64"),
			netip.MustParsePrefix("192.168.123.1/24"), netip.MustParsePrefix("2001:db8:2::1/64"),
		}[:2*s.subnets],
	}}
	bridgeNF := "0"
	if s.bridgeNF {
		bridgeNF = "1"
	}
	lan := nstest.NewLAN(t)
	nstest.IP(t, "link set eno1 address "+mac(uplinkMAC))
	lan.IP("link set lan0 address " + mac(lanMAC))
	nstest.IP(t, "link add virbr0 address "+mac(bridgeMAC)+" type bridge mcast_snooping 0")
	for i, s := range l.network.Subnets {
		nodad := []string{"", " nodad"}[i%2]
		nstest.IP(t, "addr add "+s.String()+" dev virbr0"+nodad)
	}
	for _, args := range []string{
		"addr add fe80::5054:ff:fe00:1/64 dev virbr0 nodad",
		"link set virbr0 addrgenmode none", "link set virbr0 up",
		"neigh add 192.168.122.2 lladdr " + mac(guestMAC) + " dev virbr0", "neigh add 2001:db8:1::2 lladdr " + mac(guestMAC) + " dev virbr0",
		"neigh add 192.168.123.2 lladdr " + mac(guestMAC) + " dev virbr0", "neigh add 2001:db8:2::2 lladdr " + mac(guestMAC) + " dev virbr0",
		"neigh add fe80::5054:ff:fe00:2 lladdr " + mac(guestMAC) + " dev virbr0",
		"neigh add " + nstest.LANHost + " lladdr " + mac(lanMAC) + " dev eno1", "neigh add " + nstest.LANHost6 + " lladdr " + mac(lanMAC) + " dev eno1",
	} {
		nstest.IP(t, args)
	}
	if s.mode == firewall.ModeBridge {
		nstest.IP(t, "link set eno1 master virbr0")
	}
	guest, second := nstest.Guest(t, "virbr0", "g1", mac(guestMAC)), nstest.Guest(t, "virbr0", "g2", mac(secondMAC))
	for path, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/eno1/rp_filter": "0",
		"bridge/bridge-nf-call-iptables": bridgeNF, "bridge/bridge-nf-call-ip6tables": bridgeNF, "bridge/bridge-nf-call-arptables": "0",
	} {
		if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	for _, ns := range []*nstest.NS{lan, guest, second} {
		ns.Exec("nft", "add table inet q; add chain inet q o { type filter hook output priority 0; policy drop; }; add chain inet q i { type filter hook input priority 0; policy drop; }")
	}
	l.guest, l.second, l.lan = newTap(t, guest, "eth0"), newTap(t, second, "eth0"), newTap(t, lan, "lan0")
	l.bridge = newTap(t, nil, "virbr0")
	nstest.Eventually(t, 30*time.Second, "no address of the bridge is tentative", func() error {
		if out := nstest.IP(t, "-6 addr show dev virbr0 tentative"); out != "" {
			return errors.New(out)
		}
		return nil
	})
	l.listen()
	l.own()
	return l
}

// mac is a hardware address as ip(8) takes it.
func mac(m eval.MAC) string { return net.HardwareAddr(m[:]).String() }

// listen has the host take part in what DHCPv6 sends.
func (l *lab) listen() {
	l.Helper()
	c, err := net.ListenPacket("udp6", "[::]:547")
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = c.Close() })
	ifi, err := net.InterfaceByName("virbr0")
	if err != nil {
		l.Fatal(err)
	}
	if err := ipv6.NewPacketConn(c).JoinGroup(ifi, &net.UDPAddr{IP: net.ParseIP("ff02::1:2")}); err != nil {
		l.Fatal(err)
	}
}

// own places vnetd's own rules.
func (l *lab) own() {
	l.Helper()
	w, err := iptables.New(l.Context(), iptables.Config{})
	if err != nil {
		l.Fatal(err)
	}
	f := firewall.New(w, firewall.Config{})
	l.Cleanup(func() { _ = f.Close() })
	if err := f.Set(l.Context(), l.network); err != nil {
		l.Fatal(err)
	}
	l.stdin(witness, "nft", "-f", "-")
}

// stdin runs a program with an input.
func (l *lab) stdin(text, name string, args ...string) {
	l.Helper()
	if out, err := run(text, name, args...); err != nil {
		l.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// run runs a program with an input, and returns what it says.
func run(text, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// rules are the host's rules, as read.
func (l *lab) rules() *ruleset.Ruleset {
	l.Helper()
	list := diagnose.Listing{
		NFT: nstest.Exec(l, "nft", "-j", "-s", "list", "ruleset"), Text: nstest.Exec(l, "nft", "-a", "-s", "-t", "list", "ruleset"),
		Saved: []diagnose.Saved{
			{Family: firewall.IPv4, Text: nstest.Exec(l, "iptables-nft-save")}, {Family: firewall.IPv6, Text: nstest.Exec(l, "ip6tables-nft-save")},
		},
	}
	for family, names := range map[firewall.Family]string{firewall.IPv4: "ip", firewall.IPv6: "ip6"} {
		text, _ := os.ReadFile("/proc/thread-self/net/" + names + "_tables_names")
		if len(text) > 0 {
			list.Saved = append(list.Saved, diagnose.Saved{Family: family, Legacy: true, Rival: true, Text: nstest.Exec(l, names+"tables-legacy-save")})
		}
	}
	rules, err := list.Rules()
	if err != nil {
		l.Fatal(err)
	}
	return rules
}

// probes are those of the network, by name and family.
func (l *lab) probes(facts *diagnose.Facts) map[string]diagnose.Probe {
	all := map[string]diagnose.Probe{}
	for _, p := range diagnose.Probes(l.network, facts) {
		if p.Name == "arp-reply" { // this host's own question passes the same hooks
			p.Packet.ARPOperation, p.Packet.Dst = 1, netip.MustParseAddr("192.168.122.77")
		}
		if p.Name == "lan-arp" {
			p.Packet.Dst = netip.MustParseAddr("192.168.122.77")
		}
		if p.Name == "dhcp-offer" { // told from the answer to a renewal
			p.Packet.Dst = netip.MustParseAddr("192.168.122.99")
		}
		name := fmt.Sprintf("%s/%04x", p.Name, p.Packet.Frame)
		if _, first := all[name]; first {
			name += "/second"
			if p.Name == "forward" || p.Name == "forward-reply" {
				secondPorts(&p.Packet)
			}
		}
		all[name] = p
	}
	return all
}

// secondPorts gives the second subnet's connections ports of their own: all are translated to
// one address.
func secondPorts(p *eval.Packet) {
	if p.SrcPort == before {
		p.SrcPort = beforeSecond
		return
	}
	p.DstPort = beforeSecond
	if r := p.Connection.Restored; r.IsValid() {
		p.Connection.Restored = netip.AddrPortFrom(r.Addr(), beforeSecond)
	}
}

// The source ports of connections that began before the rules came, and after.
const (
	before       = 49152
	after        = 49153
	beforeSecond = 49252
	afterSecond  = 49253
)

// warm begins the connections that replies belong to; there are no others then.
func (l *lab) warm(probes map[string]diagnose.Probe) {
	l.Helper()
	if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		l.Fatal(err)
	}
	for _, p := range probes {
		switch p.Name {
		case "forward", "dns-udp", "dns-tcp":
			l.guest.send(l.T, frame(p.Packet, guestMAC, bridgeMAC))
		case "lan":
			l.guest.send(l.T, frame(p.Packet, guestMAC, lanMAC))
		case "dhcp-reply":
			ask := p.Packet
			ask.Src, ask.Dst, ask.SrcPort, ask.DstPort = p.Packet.Dst, p.Packet.Src, 68, 67
			l.guest.send(l.T, frame(ask, guestMAC, bridgeMAC))
		}
	}
	time.Sleep(20 * time.Millisecond)
	for _, t := range []*tap{l.guest, l.second, l.lan, l.bridge} {
		t.received()
	}
}

// send sends a probe as its sender would.
func (l *lab) send(p diagnose.Probe) {
	l.Helper()
	packet := p.Packet
	if now, ok := map[uint16]uint16{before: after, beforeSecond: afterSecond}[packet.SrcPort]; ok && packet.Connection.State == eval.StateNew {
		packet.SrcPort = now
	}
	to := bridgeMAC
	switch {
	case packet.Cast == eval.Broadcast:
		to = eval.MAC{255, 255, 255, 255, 255, 255}
	case packet.Cast == eval.Multicast:
		b := packet.Dst.As16()
		to = eval.MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
	case p.Name == "within":
		to = secondMAC
	case p.Name == "lan":
		to = lanMAC
	}
	switch p.Name {
	case "lan-reply":
		l.lan.send(l.T, frame(packet, lanMAC, guestMAC))
	case "forward-in":
		l.lan.send(l.T, frame(packet, lanMAC, uplinkMAC))
	case "forward-reply":
		if r := packet.Connection.Restored; r.IsValid() {
			packet.Dst, packet.DstPort = r.Addr(), r.Port()
		}
		l.lan.send(l.T, frame(packet, lanMAC, uplinkMAC))
	case "dhcp-offer":
		l.bridge.send(l.T, frame(packet, bridgeMAC, guestMAC))
	case "arp-reply":
		nstest.IP(l, "neigh replace 192.168.122.77 dev virbr0 nud probe lladdr "+mac(guestMAC))
	case "dns-udp-reply", "dns-tcp-reply", "dhcp-reply", "dhcpv6-reply", "router-advertisement", "neighbour-advertisement":
		raw(l.T, packet, "virbr0")
	default:
		l.guest.send(l.T, frame(packet, guestMAC, to))
	}
}

// arrivals are the probes that have arrived.
type arrivals struct {
	*lab
	seen                   map[string]bool
	guest, second, outside []eval.Packet
}

// look takes note of what has come.
func (a *arrivals) look(probes map[string]diagnose.Probe) {
	a.guest, a.second, a.outside = append(a.guest, a.lab.guest.received()...), append(a.second, a.lab.second.received()...), append(a.outside, a.lan.received()...)
	counted := a.counters()
	for name, p := range probes {
		switch p.Name {
		case "dns-udp", "dns-tcp", "dhcp", "dhcpv6", "router-solicitation", "neighbour-solicitation", "arp":
			a.seen[name] = counted[strings.TrimSuffix(name, "/second")] > 0
		default:
			a.seen[name] = slices.ContainsFunc(a.where(p.Name), func(s eval.Packet) bool { return isProbe(&p, &s) })
		}
	}
}

// where lists what has come where a probe is to arrive.
func (a *arrivals) where(name string) []eval.Packet {
	switch name {
	case "within":
		return a.second
	case "forward", "lan", "lan-dhcp", "lan-arp":
		return a.outside
	}
	return a.guest
}

// isProbe reports whether a packet is a probe as send sends it.
func isProbe(p *diagnose.Probe, s *eval.Packet) bool {
	if s.Dst != p.Packet.Dst || s.DstPort != p.Packet.DstPort {
		return false
	}
	switch p.Name {
	case "within":
		return true
	case "forward", "lan", "forward-in":
		return s.SrcPort == p.Packet.SrcPort+1
	case "lan-dhcp", "lan-arp":
		return s.Src == p.Packet.Src
	}
	return s.SrcPort == p.Packet.SrcPort && s.Type == p.Packet.Type && s.Protocol == p.Packet.Protocol
}

var counter = regexp.MustCompile(`counter ([\w-]+) \{\s+packets (\d+)`)

// counters are the witness' counters of one family. Those of DNS count both: each
// family is sent by itself.
func (l *lab) counters() map[string]int {
	all := map[string]int{}
	for _, m := range counter.FindAllStringSubmatch(nstest.Exec(l, "nft", "list", "counters"), -1) {
		n, _ := strconv.Atoi(m[2])
		for _, family := range []string{"0800", "86dd", "0806"} {
			all[strings.Replace(m[1], "question", "arp", 1)+"/"+family] += n
		}
	}
	return all
}

// compare sends each probe and has what became of it agree with the evaluator's word.
// unknown are those of which it may know nothing; those that skip
// names are not sent. It returns the verdicts.
func (l *lab) compare(unknown func(name string) bool, skip ...string) map[string]eval.Verdict {
	l.Helper()
	facts := readFacts()
	probes := l.probes(&facts)
	rules := l.rules()
	said := map[string]eval.Result{}
	for name, p := range probes {
		if slices.Contains(skip, p.Name) {
			delete(probes, name)
			continue
		}
		said[name] = p.Ask(rules, eval.NewIndex(), &facts)
	}
	verdicts := map[string]eval.Verdict{}
	for _, family := range []string{"/0800", "/0806", "/86dd", "/0800/second", "/0806/second", "/86dd/second"} {
		some := map[string]diagnose.Probe{}
		for name, p := range probes {
			if strings.HasSuffix(name, family) {
				some[name] = p
			}
		}
		nstest.Exec(l, "nft", "reset", "counters")
		for _, p := range some {
			l.send(p)
		}
		a := &arrivals{lab: l, seen: map[string]bool{}}
		a.agree(some, said)
		for name := range some {
			verdicts[name] = said[name].Verdict
			if said[name].Verdict == eval.Unknown && !unknown(name) {
				l.Errorf("%s: unknown by %s; arrived: %v", name, cause(said[name]), a.seen[name])
			}
		}
	}
	return verdicts
}

// agree waits until what has arrived is what was said, and fails the test if it never is.
func (a *arrivals) agree(probes map[string]diagnose.Probe, said map[string]eval.Result) {
	a.Helper()
	compare := func() error {
		a.look(probes)
		var faults []error
		for name, p := range probes {
			r := said[name]
			if r.Verdict != eval.Unknown && a.seen[name] != (r.Verdict == eval.Accepted) {
				faults = append(faults, fmt.Errorf("%s: arrived %v, said %s by %s (%+v)", name, a.seen[name], r.Verdict, cause(r), p.Packet))
			}
		}
		return errors.Join(faults...)
	}
	deadline := time.Now().Add(arrivalLimit)
	err := compare()
	for ; err != nil && time.Now().Before(deadline); err = compare() {
		time.Sleep(20 * time.Millisecond)
	}
	if err == nil { // what was dropped does not come late
		time.Sleep(20 * time.Millisecond)
		err = compare()
	}
	if err != nil {
		a.Error(err)
	}
}

// arrivalLimit is how long a packet may take.
const arrivalLimit = 5 * time.Second

// cause is what a result says of its reason.
func cause(r eval.Result) string {
	switch {
	case r.Rule != nil:
		return fmt.Sprintf("%s %s %s: %s", r.Chain.Table.Family, r.Chain.Table.Name, r.Chain.Name, r.Rule.Text)
	case r.Chain != nil:
		return fmt.Sprintf("the policy of %s %s %s", r.Chain.Table.Family, r.Chain.Table.Name, r.Chain.Name)
	}
	return "nothing"
}

// load loads a file of the corpus by the program that its name's end tells.
func (l *lab) load(path string) {
	l.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		l.Fatal(err)
	}
	switch filepath.Ext(path) {
	case ".nft":
		l.stdin(string(text), "nft", "-f", "-")
	case ".iptables":
		l.stdin(string(text), "iptables-restore", "--noflush")
	case ".ip6tables":
		l.stdin(string(text), "ip6tables-restore", "--noflush")
	case ".legacy":
		l.stdin(string(text), "iptables-legacy-restore", "--noflush")
	case ".sh":
		l.stdin(string(text), "sh", "-e")
	default:
		l.Fatalf("nothing loads %s", path)
	}
}

// What the evaluator says of rule sets as users have them is what the kernel does.
func TestCorpus(t *testing.T) {
	files, err := filepath.Glob("testdata/corpus/*.*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				text, _ := os.ReadFile(path)
				l := newLab(t, settings(string(text)))
				facts := readFacts()
				l.warm(l.probes(&facts))
				l.load(path)
				unknown := regexp.MustCompile(`(?m)^# unknown: (.*)$`).FindSubmatch(text)
				verdicts := l.compare(func(name string) bool {
					return unknown != nil && slices.Contains(strings.Fields(string(unknown[1])), name)
				})
				dropped := regexp.MustCompile(`(?m)^# stopped: (.*)$`).FindSubmatch(text)
				var got []string
				for name, v := range verdicts {
					if v != eval.Accepted && v != eval.Unknown {
						got = append(got, name)
					}
				}
				slices.Sort(got)
				want := ""
				if dropped != nil {
					want = strings.TrimSpace(string(dropped[1]))
				}
				if joined := strings.Join(got, " "); joined != want {
					t.Errorf("stopped are %q, the file says %q", joined, want)
				}
			})
		})
	}
}

// readFacts are those of the laboratory's host.
func readFacts() diagnose.Facts { return diagnose.ReadFacts([]string{"virbr0"}) }
