package firewall

import (
	"fmt"
	"net/netip"
	"slices"
)

// DefaultPrefix is what libvirt's chain names start with.
const DefaultPrefix = "LIBVIRT_"

// The tables in which the chains stand, in the order in which they are written.
const (
	tableFilter = "filter"
	tableNAT    = "nat"
	tableMangle = "mangle"
)

// The chains without their prefix: packets to the host (INP), from the host
// (OUT), forwarded within one bridge (FWX), into a bridge (FWI), out of a
// bridge (FWO), and after routing (PRT; in nat and in mangle).
const (
	chainFWI = "FWI"
	chainFWO = "FWO"
	chainFWX = "FWX"
	chainINP = "INP"
	chainOUT = "OUT"
	chainPRT = "PRT"
)

// Rule is one rule of one chain.
type Rule struct {
	Family Family
	Table  string
	Chain  string
	// Args is the rule as iptables-save prints it after "-A CHAIN ".
	Args string
}

// String is the rule as a command of iptables or ip6tables without the
// program's name.
func (r Rule) String() string {
	return "-t " + r.Table + " -A " + r.Chain + " " + r.Args
}

// Render is the pure function from a network's intent to its rules. They are
// grouped by chain, in the order in which iptables-save lists the chains of
// filter, nat and mangle, IPv4 first; within a chain they stand in the order in
// which a packet meets them. The text is exactly what iptables-save prints, so
// that a listing can be compared with it. prefix is that of the chain names,
// normally DefaultPrefix. Modes without rules render none.
func Render(n Network, prefix string) []Rule {
	if !n.Mode.filtered() {
		return nil
	}
	rules := n.render(IPv4, prefix)
	if n.IPv6 || len(n.subnets(IPv6)) > 0 {
		rules = append(rules, n.render(IPv6, prefix)...)
	}
	return rules
}

// Jumps are the rules of the built-in chains that lead to ours, for both
// families, each parent's in the order in which they must stand. In FORWARD
// that is FWX, FWI, FWO: traffic within a bridge is accepted before the rules
// that reject what enters or leaves it.
func Jumps(prefix string) []Rule {
	var rules []Rule
	for _, f := range []Family{IPv4, IPv6} {
		for _, j := range []struct{ table, parent, chain string }{
			{tableFilter, "INPUT", chainINP},
			{tableFilter, "FORWARD", chainFWX},
			{tableFilter, "FORWARD", chainFWI},
			{tableFilter, "FORWARD", chainFWO},
			{tableFilter, "OUTPUT", chainOUT},
			{tableNAT, "POSTROUTING", chainPRT},
			{tableMangle, "POSTROUTING", chainPRT},
		} {
			rules = append(rules, Rule{f, j.table, j.parent, "-j " + prefix + j.chain})
		}
	}
	return rules
}

// render is the network's part in one family.
func (n Network) render(f Family, prefix string) []Rule {
	var rules []Rule
	for _, c := range []struct {
		table, chain string
		args         []string
	}{
		{tableFilter, chainFWI, n.inbound(f)},
		{tableFilter, chainFWO, n.outbound(f)},
		{tableFilter, chainFWX, []string{"-i " + n.Bridge + " -o " + n.Bridge + " -j ACCEPT"}},
		{tableFilter, chainINP, accept("-i "+n.Bridge, n.requests(f))},
		{tableFilter, chainOUT, accept("-o "+n.Bridge, n.replies(f))},
		{tableNAT, chainPRT, n.translation(f)},
		{tableMangle, chainPRT, n.checksum(f)},
	} {
		for _, args := range c.args {
			rules = append(rules, Rule{f, c.table, prefix + c.chain, args})
		}
	}
	return append(rules, n.redirects(f)...)
}

// subnets are the network's distinct subnets of one family without host bits,
// the last of the XML first: libvirt inserts each <ip>'s rules at the head.
func (n Network) subnets(f Family) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range n.Subnets {
		s = s.Masked()
		if s.Addr().Is4() == (f == IPv4) && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	slices.Reverse(out)
	return out
}

// translated tells whether sources of the family are rewritten.
func (n Network) translated(f Family) bool {
	return n.Mode == ModeNAT && (f == IPv4 || n.NATIPv6)
}

// via is the match on the forward device, with -i or -o as flag.
func (n Network) via(flag string) string {
	if n.Dev == "" {
		return ""
	}
	return " " + flag + " " + n.Dev
}

// unreachable is the REJECT that ends each bridge's part of FWI and FWO.
func unreachable(f Family) string {
	if f == IPv6 {
		return "-j REJECT --reject-with icmp6-port-unreachable"
	}
	return "-j REJECT --reject-with icmp-port-unreachable"
}

// inbound is what may enter the bridge: anything for a routed subnet, replies
// alone for a translated one, nothing else.
func (n Network) inbound(f Family) []string {
	state := ""
	if n.translated(f) {
		state = " -m conntrack --ctstate RELATED,ESTABLISHED"
	}
	var args []string
	if n.Mode != ModeIsolated {
		for _, s := range n.subnets(f) {
			args = append(args, "-d "+s.String()+n.via("-i")+" -o "+n.Bridge+state+" -j ACCEPT")
		}
	}
	return append(args, "-o "+n.Bridge+" "+unreachable(f))
}

// outbound is what may leave the bridge: packets with a source in one of the
// network's subnets.
func (n Network) outbound(f Family) []string {
	var args []string
	if n.Mode != ModeIsolated {
		for _, s := range n.subnets(f) {
			args = append(args, "-s "+s.String()+" -i "+n.Bridge+n.via("-o")+" -j ACCEPT")
		}
	}
	return append(args, "-i "+n.Bridge+" "+unreachable(f))
}

// service is a protocol and the port to which packets of it go.
type service struct {
	proto string
	port  int
}

// dns is the name service: RFC 1035 section 4.2 has it on both transports.
func dns() []service {
	return []service{{"udp", 53}, {"tcp", 53}}
}

// requests are what guests may ask this host. DHCP stands here for TCP too
// because libvirt's driver has always opened both.
func (n Network) requests(f Family) []service {
	if f == IPv6 {
		return n.ifSubnets6(slices.Concat([]service{{"udp", 547}}, dns(), n.otherDNS(f)))
	}
	return slices.Concat(n.tftp(), dns(), []service{{"udp", 67}, {"tcp", 67}}, n.otherDNS(f))
}

// replies are what this host may send to guests unasked by conntrack.
func (n Network) replies(f Family) []service {
	if f == IPv6 {
		return n.ifSubnets6(slices.Concat([]service{{"udp", 546}}, dns()))
	}
	return slices.Concat(n.tftp(), dns(), []service{{"udp", 68}, {"tcp", 68}})
}

// ifSubnets6 drops the services where the network has no IPv6 subnet: with
// ipv6='yes' alone the host has no address on the bridge to serve from.
func (n Network) ifSubnets6(s []service) []service {
	if len(n.subnets(IPv6)) == 0 {
		return nil
	}
	return s
}

// tftp is the boot file service, for networks that have it.
func (n Network) tftp() []service {
	if !n.TFTP {
		return nil
	}
	return []service{{"udp", 69}}
}

// accept renders one rule per service for packets that match device.
func accept(device string, services []service) []string {
	var args []string
	for _, s := range services {
		args = append(args, fmt.Sprintf("%s -p %s -m %s --dport %d -j ACCEPT", device, s.proto, s.proto, s.port))
	}
	return args
}

// translation is the nat part: link-local multicast and broadcast keep their
// source, everything that leaves the subnet gets another one.
func (n Network) translation(f Family) []string {
	if !n.translated(f) {
		return nil
	}
	kept := []string{"224.0.0.0/24", "255.255.255.255/32"}
	if f == IPv6 {
		kept = []string{"ff02::/16"}
	}
	target, ported := n.source(f)
	var args []string
	for _, s := range n.subnets(f) {
		for _, d := range kept {
			args = append(args, fmt.Sprintf("-s %s -d %s%s -j RETURN", s, d, n.via("-o")))
		}
		leaving := fmt.Sprintf("-s %s ! -d %s%s", s, s, n.via("-o"))
		args = append(args,
			leaving+" -p tcp -j "+ported,
			leaving+" -p udp -j "+ported,
			leaving+" -j "+target)
	}
	return args
}

// source is the target that rewrites the source address, and the one for TCP
// and UDP that picks the port as well. Ports below 1024 are not kept, so that a
// guest can't pose as a privileged client of, say, an NFS server.
func (n Network) source(f Family) (target, ported string) {
	ports := n.ports()
	if f == IPv6 || !n.NATAddrs.Start.IsValid() {
		return "MASQUERADE", "MASQUERADE --to-ports " + ports
	}
	target = "SNAT --to-source " + n.NATAddrs.Start.String()
	if end := n.NATAddrs.End; end.IsValid() && end != n.NATAddrs.Start {
		target += "-" + end.String()
	}
	return target, target + ":" + ports
}

// ports is the port range as iptables prints it: a range of one as one number.
func (n Network) ports() string {
	p := n.NATPorts
	if p == (PortRange{}) {
		p = PortRange{Start: 1024, End: 65535}
	}
	if p.Start == p.End {
		return fmt.Sprint(p.Start)
	}
	return fmt.Sprintf("%d-%d", p.Start, p.End)
}

// checksum fills in the UDP checksum of DHCP replies: a guest's raw socket sees
// packets whose checksum was left to hardware that a bridge does not have.
func (n Network) checksum(f Family) []string {
	if f == IPv6 || !n.DHCP {
		return nil
	}
	return []string{"-o " + n.Bridge + " -p udp -m udp --dport 68 -j CHECKSUM --checksum-fill"}
}
