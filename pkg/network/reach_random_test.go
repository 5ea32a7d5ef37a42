package network_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// How many documents TestReachIsTrue makes, and how many pairs it asks for of each. They take
// other numbers from the environment, as does the seed of the first.
const (
	reachDocuments = 8
	reachPairs     = 25
)

// The port that all listen on, and those of the host that may lead to guests.
const (
	echoPort     = 7777
	forwardPort  = 8080
	forwardPorts = 3
	foreignPort  = 9090
)

// reachNetworks are the networks that there may be. The last is not in all documents, so that
// peerings wait for it.
var reachNetworks = []string{"one", "two", "three"}

// number is a number of the environment, or another one.
func number(name string, otherwise uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return otherwise
}

// TestReachIsTrue asks for pairs by chance on documents by chance, beside rules of others by
// chance, and sends the packets.
func TestReachIsTrue(t *testing.T) {
	seed := number("VNETD_REACH_SEED", rand.Uint64())
	t.Setenv("VNETD_REACH_SEED", fmt.Sprint(seed)) // for the test's own process in namespaces
	for i := range number("VNETD_REACH_DOCUMENTS", reachDocuments) {
		t.Run(fmt.Sprint(i), func(t *testing.T) { reachDocument(t, seed+i) })
	}
}

// reachDocument does so for one seed.
func reachDocument(t *testing.T, seed uint64) {
	nstest.Run(t, func(t *testing.T) {
		t.Logf("to do this again: VNETD_REACH_SEED=%d VNETD_REACH_DOCUMENTS=1", seed)
		g := &reachLab{T: t, Rand: rand.New(rand.NewPCG(seed, 1))}
		g.make()
		g.compare(int(number("VNETD_REACH_PAIRS", reachPairs)))
	})
}

// reachLab is a host with networks, guests and a LAN, all by chance.
type reachLab struct {
	*testing.T
	*rand.Rand
	hub     *hub
	ends    []reachNode
	setting []string // what was done, for who looks at a failure
}

// reachNode is somebody who sends and listens.
type reachNode struct {
	name    string
	ns      *nstest.NS // nil: the host
	network string
	port    string
	addrs   []netip.Addr
}

func (g *reachLab) of(choices ...string) string { return choices[g.IntN(len(choices))] }

func (g *reachLab) chance(n int) bool { return g.IntN(n) == 0 }

// do runs a command on the host, and notes it.
func (g *reachLab) do(words ...string) {
	g.Helper()
	g.setting = append(g.setting, strings.Join(words, " "))
	nstest.Exec(g, words[0], words[1:]...)
}

// make makes all.
func (g *reachLab) make() {
	lan := nstest.NewLAN(g)
	g.hub = newHub(g.T, g.TempDir(), hubOptions{nftables: g.chance(2)})
	networks := reachNetworks[:2+g.IntN(2)]
	for i, name := range networks {
		xml := g.document(name, i)
		g.setting = append(g.setting, xml)
		n := g.hub.started(xml)
		for j := range 2 + g.IntN(2) {
			g.guest(n, i, j)
		}
		lan.IP(fmt.Sprintf("route add 192.0.%d.0/24 via %s", i+2, nstest.Uplink))
		lan.IP(fmt.Sprintf("-6 route add 2001:db8:%d::/64 via %s", i+1, nstest.Uplink6))
	}
	g.ends = append(
		g.ends,
		reachNode{name: "the outside", ns: lan, addrs: []netip.Addr{netip.MustParseAddr(nstest.LANHost), netip.MustParseAddr(nstest.LANHost6)}},
		reachNode{name: "this host", addrs: hostAddrs(len(networks))},
	)
	for _, e := range g.ends {
		g.listen(e)
	}
	for range g.IntN(4) {
		g.foreign()
	}
}

// hostAddrs are the host's: of the uplink, and of its networks, of both families in turn.
func hostAddrs(networks int) (all []netip.Addr) {
	texts := []string{nstest.Uplink, nstest.Uplink6, "192.0.2.1", "2001:db8:1::1", "192.0.3.1", "2001:db8:2::1", "192.0.4.1", "2001:db8:3::1"}
	for _, text := range texts[:2+2*networks] {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// document is a network.
func (g *reachLab) document(name string, i int) string {
	mode := g.of(
		"<forward mode='nat'/>", "<forward mode='nat'/>", "<forward mode='nat'><nat ipv6='yes'/></forward>", "<forward mode='nat' dev='eno1'/>",
		"<forward mode='route'/>", "<forward mode='route' dev='eno1'/>", "<forward mode='open'/>", "",
	)
	var more string
	if strings.Contains(mode, "nat") && !strings.Contains(mode, "<nat") && g.chance(3) {
		more += "<vnetd:ipv6 inbound='" + g.of("yes", "no") + "'/>"
	}
	if strings.Contains(mode, "nat") || strings.Contains(mode, "route") {
		for f := range forwardPorts {
			if g.chance(2) {
				from := g.of("", "", "", " from='203.0.113.0/24'", " from='192.0.3.0/24 2001:db8:2::/64'")
				to := fmt.Sprintf("%s%d", name, g.IntN(2))
				address := g.of("", "", "", fmt.Sprintf(" address='%s'", nstest.Uplink))
				if address != "" {
					from = g.of("", " from='203.0.113.0/24'")
				}
				more += fmt.Sprintf("<vnetd:forward proto='%s' port='%d'%s to='%s' to-port='%d'%s/>", g.of("tcp", "udp"), forwardPort+f+i*forwardPorts, address, to, echoPort, from)
			}
		}
	}
	if !strings.Contains(mode, "open") {
		more += g.peers(name) + g.rules()
	}
	isolated := ""
	if g.chance(5) {
		isolated = "<port isolated='yes'/>"
	}
	return fmt.Sprintf("<network xmlns:vnetd='urn:vnetd:network:1'><name>%[1]s</name>%[2]s<bridge name='%[1]s'/>%[3]s"+
		"<ip address='192.0.%[4]d.1' netmask='255.255.255.0'><dhcp><range start='192.0.%[4]d.100' end='192.0.%[4]d.200'/></dhcp></ip>"+
		"<ip family='ipv6' address='2001:db8:%[5]d::1' prefix='64'><dhcp><range start='2001:db8:%[5]d::100' end='2001:db8:%[5]d::200'/></dhcp></ip>%[6]s</network>",
		name, mode, isolated, i+2, i+1, more)
}

// services are what a peering or a rule is about, empty for everything.
func (g *reachLab) services() string {
	return g.of("", "", "tcp", "udp", "icmp", "tcp/7777", "tcp/7000-8000", "udp/7777", "udp/53,7777", "tcp/22 icmp")
}

// peers are peerings with the other networks, to which those often say the other half.
func (g *reachLab) peers(name string) (xml string) {
	for _, other := range reachNetworks {
		if other == name || g.chance(3) {
			continue
		}
		ports := g.services()
		if ports != "" {
			ports = fmt.Sprintf(" ports='%s'", ports)
		}
		xml += fmt.Sprintf("<vnetd:peer network='%s'%s direction='%s'/>", other, ports, g.of("out", "in", "both", "both"))
	}
	return xml
}

// rules are a network's. None logs: that would go to the log of the machine.
func (g *reachLab) rules() string {
	if g.chance(3) {
		return ""
	}
	var xml string
	for _, direction := range []string{"egress", "ingress"} {
		if g.chance(2) {
			xml += fmt.Sprintf(" %s='%s'", direction, g.of("allow", "reject", "drop"))
		}
	}
	xml = "<vnetd:rules" + xml + "><vnetd:set name='some'>192.0.2.0/25 203.0.113.0/24 2001:db8:3::/64</vnetd:set>"
	for range g.IntN(5) {
		xml += g.policyRule()
	}
	return xml + "</vnetd:rules>"
}

// policyRule is one rule of a network.
func (g *reachLab) policyRule() string {
	direction, to := "egress", "to"
	if g.chance(2) {
		direction, to = "ingress", "from"
	}
	where := g.of("", "", "@some", nstest.LANHost, "192.0.2.10 192.0.3.0/24", "192.0.4.0/24 2001:db8:1::/64", "2001:db8::/32", "0.0.0.0/0")
	if where != "" {
		where = fmt.Sprintf(" %s='%s'", to, where)
	}
	what := g.of("", "", " proto='icmp'", " proto='tcp'", " proto='udp'", " proto='tcp' ports='7777'", " proto='tcp' ports='53 7000-8000'", " proto='udp' ports='7777'")
	return fmt.Sprintf("<vnetd:rule direction='%s' action='%s'%s%s/>", direction, g.of("allow", "allow", "reject", "drop"), what, where)
}

// guest is the j-th guest of the i-th network.
func (g *reachLab) guest(n *network.Network, i, j int) {
	name := fmt.Sprintf("%s%d", n.Name(), j)
	addrs := []netip.Addr{netip.MustParseAddr(fmt.Sprintf("192.0.%d.1%d", i+2, j)), netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::1%d", i+1, j))}
	ns := g.plug(n, name, addrs)
	ns.IP(fmt.Sprintf("route add default via 192.0.%d.1", i+2))
	ns.IP(fmt.Sprintf("-6 route add default via 2001:db8:%d::1 metric 7", i+1))
}

// plug gives a guest a port of a network.
func (g *reachLab) plug(n *network.Network, name string, addrs []netip.Addr) *nstest.NS {
	o := network.PortOptions{Name: name, Addrs: addrs, Isolated: g.chance(3), Guard: g.of("", "off", "gateway", "strict")}
	info, file := g.hub.port(n, o)
	g.setting = append(g.setting, fmt.Sprintf("port %s of %s: %v, isolated=%v, guard=%s", info.IfName, name, addrs, o.Isolated, o.Guard))
	ns := nstest.Machine(g, name, info.MAC, file)
	ns.IP("addr add " + addrs[0].String() + "/24 dev eth0")
	ns.IP("-6 addr add " + addrs[1].String() + "/64 dev eth0 nodad")
	g.ends = append(g.ends, reachNode{name: name, ns: ns, network: n.Name(), port: info.IfName, addrs: addrs})
	return ns
}

// foreign does what others do to a host.
func (g *reachLab) foreign() {
	d := deed{reachLab: g, e: g.ends[g.IntN(len(g.ends)-1)], ipt: "iptables", fam: "ip", family: "-4"}
	d.a, d.direction, d.protocol, d.target = d.e.addrs[0], g.of("-s", "-d"), g.of("tcp", "udp", "icmp"), g.of("DROP", "REJECT", "ACCEPT")
	if g.chance(3) {
		d.a, d.ipt, d.fam, d.family = d.e.addrs[1], "ip6tables", "ip6", "-6"
		d.protocol = strings.Replace(d.protocol, "icmp", "ipv6-icmp", 1)
	}
	all := []func(){
		d.policy, d.forward, d.local, d.mangle, d.otherChain, d.bridgeChain,
		d.destination, d.sourceRouting, d.marks, d.ingress, d.sets, d.masquerade,
		d.untracked, d.bridgeNetfilter, d.elsewhere, d.chainOfRates, d.early,
	}
	all[g.IntN(len(all))]()
}

// deed is what others do to a host, mostly about one node.
type deed struct {
	*reachLab
	e                           reachNode
	a                           netip.Addr
	ipt, fam, family            string // iptables and ip, or ip6tables and ip6; -4 or -6
	direction, protocol, target string
}

// table makes a table of nftables, unless it is there.
func (d *deed) table(family string) {
	if _, err := runHere("nft", "list", "table", family, "chance"); err != nil {
		d.do("nft", "add", "table", family, "chance")
	}
}

func (d *deed) policy() {
	d.do(d.ipt, "-P", "FORWARD", "DROP")
}

func (d *deed) forward() {
	d.do(d.ipt, "-I", "FORWARD", d.direction, d.a.String(), "-p", d.protocol, "-j", d.target)
}

func (d *deed) local() {
	d.do(d.ipt, "-I", d.of("INPUT", "OUTPUT"), d.direction, d.a.String(), "-p", d.protocol, "-j", d.target)
}

func (d *deed) mangle() {
	d.do(d.ipt, "-t", "mangle", "-A", "PREROUTING", "-s", d.a.String(), "-p", d.protocol, "-j", "DROP")
}

func (d *deed) otherChain() {
	d.table(d.fam)
	d.do("nft", "add", "chain", d.fam, "chance", "f", "{ type filter hook forward priority 10; policy "+d.of("accept", "drop")+"; }")
	d.do("nft", "add", "rule", d.fam, "chance", "f", "ct state established,related accept")
	d.do("nft", "add", "rule", d.fam, "chance", "f", d.fam, "saddr", d.a.String(), d.of("accept", "drop", "reject", "counter"))
}

func (d *deed) bridgeChain() {
	d.table("bridge")
	chain := d.of("forward", "input", "output")
	d.do("nft", "add", "chain", "bridge", "chance", chain, "{ type filter hook "+chain+" priority 0; }")
	d.do("nft", "add", "rule", "bridge", "chance", chain, d.fam, d.of("saddr", "daddr"), d.a.String(), "drop")
}

func (d *deed) destination() {
	if d.e.network != "" {
		to := d.a.String()
		if d.fam == "ip6" {
			to = "[" + to + "]"
		}
		d.do(d.ipt, "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", fmt.Sprint(foreignPort), "-j", "DNAT", "--to-destination", fmt.Sprintf("%s:%d", to, echoPort))
	}
}

func (d *deed) sourceRouting() {
	d.rule(d.family, "from", d.a.String(), "lookup", "99", "priority", "90")
	d.do("ip", d.family, "route", "replace", d.of("unreachable", "blackhole", "prohibit"), "default", "table", "99")
}

func (d *deed) marks() {
	d.do("nft", "add", "table", "inet", "marks")
	d.do("nft", "add", "chain", "inet", "marks", "p", "{ type filter hook prerouting priority -150; }")
	d.do("nft", "add", "rule", "inet", "marks", "p", d.fam, "saddr", d.a.String(), "meta mark set 0x7")
	d.rule(d.family, "fwmark", "7", "lookup", "98", "priority", "91")
	d.do("ip", d.family, "route", "replace", "unreachable", "default", "table", "98")
}

func (d *deed) ingress() {
	if d.e.port != "" {
		d.do("nft", "add", "table", "netdev", "chance")
		d.do("nft", "add", "chain", "netdev", "chance", d.e.port, "{ type filter hook ingress device "+d.e.port+" priority 0; }")
		d.do("nft", "add", "rule", "netdev", "chance", d.e.port, "meta l4proto", d.of("tcp", "udp", "icmp"), "drop")
	}
}

func (d *deed) sets() {
	d.do("nft", "add", "table", "inet", "sets")
	d.do("nft", "add", "set", "inet", "sets", "who", "{ type ipv4_addr . inet_proto . inet_service; flags interval; }")
	d.do("nft", "add", "element", "inet", "sets", "who", fmt.Sprintf("{ %s . tcp . 7000-8000, 192.0.2.0/25 . udp . 7777 }", d.e.addrs[0]))
	d.do("nft", "add", "chain", "inet", "sets", "f", "{ type filter hook forward priority -1; }")
	d.do("nft", "add", "rule", "inet", "sets", "f", "ip", d.of("saddr", "daddr"), ". meta l4proto . th dport @who", d.of("drop", "reject", "accept"))
}

func (d *deed) masquerade() {
	d.do("nft", "add", "table", d.fam, "source")
	d.do("nft", "add", "chain", d.fam, "source", "p", "{ type nat hook postrouting priority 90; }")
	d.do("nft", "add", "rule", d.fam, "source", "p", d.fam, "daddr", d.a.String(), "masquerade")
}

func (d *deed) untracked() {
	d.do(d.ipt, "-t", "raw", "-A", d.of("PREROUTING", "OUTPUT"), d.direction, d.a.String(), "-p", d.protocol, "-j", "CT", "--notrack")
	if d.chance(2) {
		d.do(d.ipt, "-I", "FORWARD", "-m", "conntrack", "--ctstate", d.of("INVALID", "UNTRACKED", "NEW"), "-j", "DROP")
	}
}

func (d *deed) bridgeNetfilter() {
	d.do("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables="+d.of("0", "1"), "net.bridge.bridge-nf-call-ip6tables="+d.of("0", "1"))
}

func (d *deed) elsewhere() {
	d.do("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
	if d.e.network != "" {
		d.do("ip", "route", "add", d.e.addrs[0].String()+"/32", "via", nstest.LANHost)
	}
}

func (d *deed) chainOfRates() {
	_, _ = runHere(d.ipt, "-N", "CHAIN")
	d.do(d.ipt, "-A", "CHAIN", "-p", d.protocol, "-m", "limit", "--limit", "500/sec", "-j", "RETURN")
	d.do(d.ipt, "-A", "CHAIN", "-m", "mac", "--mac-source", "02:00:00:00:00:01", "-j", "DROP")
	d.do(d.ipt, "-A", "CHAIN", d.direction, d.a.String(), "-j", d.target)
	d.do(d.ipt, "-I", d.of("FORWARD", "INPUT"), "-m", "conntrack", "--ctstate", "NEW", "-j", "CHAIN")
}

func (d *deed) early() {
	d.do("nft", "add", "table", "inet", "early")
	d.do("nft", "add", "chain", "inet", "early", "p", "{ type filter hook prerouting priority -110; policy "+d.of("accept", "accept", "drop")+"; }")
	d.do("nft", "add", "rule", "inet", "early", "p", "ct state vmap { established : accept, related : accept, invalid : drop }")
	d.do("nft", "add", "rule", "inet", "early", "p", "meta l4proto { icmp, ipv6-icmp } accept")
	d.do("nft", "add", "rule", "inet", "early", "p", "iifname", d.of("one", "two", "eno1"), "th dport { 7777, 8080-8082 }", d.of("accept", "drop", "accept"))
}

// rule adds a rule of routing, unless it is there.
func (g *reachLab) rule(family string, words ...string) {
	g.setting = append(g.setting, "ip "+family+" rule add "+strings.Join(words, " "))
	if out, err := runHere("ip", append([]string{family, "rule", "add"}, words...)...); err != nil && !strings.Contains(out, "File exists") {
		g.Fatalf("%v: %s", err, out)
	}
}

// runHere runs a command on the host that may fail.
func runHere(name string, args ...string) (string, error) {
	out, err := exec.CommandContext(context.Background(), name, args...).CombinedOutput()
	return string(out), err
}

// within calls f in the namespace of a node.
func (e *reachNode) within(f func() error) error {
	if e.ns == nil {
		return f()
	}
	return e.ns.Do(f)
}

// listen has a node answer with its name.
func (g *reachLab) listen(e reachNode) {
	g.Helper()
	err := e.within(func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", echoPort))
		if err != nil {
			return err
		}
		g.Cleanup(func() { _ = l.Close() })
		for _, a := range e.addrs { // what answers for any of them answers from another
			c, err := net.ListenPacket("udp", netip.AddrPortFrom(a, echoPort).String())
			if err != nil {
				return err
			}
			g.Cleanup(func() { _ = c.Close() })
			go e.answer(c)
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer func() { _ = conn.Close() }()
					_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
					if _, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
						_, _ = fmt.Fprintln(conn, e.name)
					}
				}()
			}
		}()
		return nil
	})
	if err != nil {
		g.Fatal(err)
	}
}

// answer answers datagrams with the node's name.
func (e *reachNode) answer(c net.PacketConn) {
	b := make([]byte, 100)
	for {
		_, from, err := c.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = c.WriteTo([]byte(e.name+"\n"), from)
		}
	}
}

// pair is a question and what became of it.
type pair struct {
	from     reachNode
	src, dst netip.Addr
	protocol string
	port     uint16
	said     api.ReachWay
	answered string // who has, empty for nobody
}

// question is what is asked.
func (p *pair) question() api.ReachQuestion {
	return api.ReachQuestion{From: p.src.String(), To: p.dst.String(), Protocol: p.protocol, Port: p.port}
}

// pair is one by chance.
func (g *reachLab) pair() *pair {
	from, to := g.ends[g.IntN(len(g.ends))], g.ends[g.IntN(len(g.ends))]
	i := g.IntN(2)
	p := &pair{from: from, src: from.addrs[i], dst: to.addrs[i], protocol: g.of("tcp", "tcp", "tcp", "udp", "udp", "icmp"), port: echoPort}
	if to.ns == nil {
		if g.chance(3) {
			p.dst = to.addrs[i+2*(1+g.IntN(len(to.addrs)/2-1))]
		}
		if !g.chance(3) {
			p.port = uint16(forwardPort + g.IntN(2*forwardPorts))
		}
		if g.chance(8) {
			p.port = foreignPort
		}
	}
	if p.protocol == "icmp" {
		p.port = 0
	}
	return p
}

// compare asks for pairs, and has what is said be what happens.
func (g *reachLab) compare(pairs int) {
	var all []*pair
	for len(all) < pairs {
		if p := g.pair(); p.src != p.dst || p.from.ns == nil { // else it never leaves the guest
			all = append(all, p)
		}
	}
	world, err := g.hub.World(g.Context())
	must(g.T, err)
	if world.Hidden != nil {
		g.Fatal(world.Hidden)
	}
	counts := map[api.ReachVerdict]int{}
	var probing sync.WaitGroup
	for _, p := range all {
		r, err := world.Ask(p.question())
		must(g.T, err)
		p.said = r.Ways[0]
		if counts[p.said.Verdict]++; p.said.Verdict == api.ReachUnknown {
			g.Logf("UNKNOWN %+v: %s", p.question(), p.said.Reason)
		}
		probing.Go(func() { p.probe(probeLimit) })
	}
	probing.Wait()
	g.Logf("DECIDED %v", decided(all))
	g.Logf("VERDICTS %v of %d", counts, len(all))
	for _, p := range all {
		if g.wrong(p) {
			p.probe(10 * probeLimit) // once more, alone
		}
		if g.wrong(p) {
			text, _ := json.MarshalIndent(p.said, "", " ")
			g.Errorf("%+v: answered by %q, said was %s", p.question(), p.answered, text)
		}
	}
	if counts[api.ReachUnknown]*5 > len(all) {
		g.Errorf("too little is known: %v", counts)
	}
	if g.Failed() {
		rules, _ := runHere("sh", "-c", "nft list ruleset ip; nft list ruleset ip6; nft list ruleset inet; nft list ruleset bridge; ip rule; ip -6 rule")
		g.Logf("it was made so:\n%s\n%s", strings.Join(g.setting, "\n"), rules)
	}
}

// decided counts pairs by what of a network's peers and rules stopped them, or let them in.
func decided(all []*pair) map[string]int {
	counts := map[string]int{}
	for _, p := range all {
		rules := p.said.Accepted
		if p.said.Rule != nil {
			rules = append(slices.Clone(rules), *p.said.Rule)
		}
		for i := range rules {
			if _, what, named := strings.Cut(rules[i].Owner, ", "); named {
				counts[rules[i].Action+" by "+what]++
			}
		}
	}
	return counts
}

// wrong reports whether what was said did not come true.
func (g *reachLab) wrong(p *pair) bool {
	switch p.said.Verdict {
	case api.ReachUnknown:
		return false
	case api.ReachNo:
		return p.answered != ""
	}
	if p.protocol == "icmp" {
		return p.answered == ""
	}
	name := p.said.AnsweredBy
	for _, e := range g.ends { // those beyond are said by their addresses
		if slices.ContainsFunc(e.addrs, func(a netip.Addr) bool { return a.String() == name }) {
			name = e.name
		}
	}
	if p.answered == "" && name == "this host" && p.port != echoPort {
		return false // nobody listens
	}
	return p.answered != name
}

// probeLimit is how long an answer may take.
const probeLimit = 1500 * time.Millisecond

// probe sends what the pair is about.
func (p *pair) probe(limit time.Duration) {
	p.answered = ""
	if p.protocol == "icmp" {
		args := []string{"-c", "3", "-i", "0.3", "-W", "1", "-I", p.src.String(), p.dst.String()}
		cmd := exec.CommandContext(context.Background(), "ping", args...)
		if p.from.ns != nil {
			cmd = p.from.ns.Command(context.Background(), "ping", args...)
		}
		if cmd.Run() == nil {
			p.answered = "somebody"
		}
		return
	}
	var d net.Dialer
	if d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(p.src, 0)); p.protocol == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.src, 0))
	}
	deadline := time.Now().Add(limit)
	d.Deadline = deadline
	var conn net.Conn
	if err := p.from.within(func() (err error) {
		conn, err = d.Dial(p.protocol, netip.AddrPortFrom(p.dst, p.port).String())
		return err
	}); err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	answers := bufio.NewReader(conn)
	for time.Now().Before(deadline) {
		if _, err := fmt.Fprintln(conn, "who are you?"); err != nil {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		if line, err := answers.ReadString('\n'); err == nil {
			p.answered = strings.TrimSpace(line)
			return
		}
		if p.protocol == "tcp" && time.Now().After(deadline) {
			return
		}
	}
}
