package nft

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// How fast what may come, and how many addresses a port may have that are not known
// to be its own: 64 at once, and as many every five minutes, for which the bridge
// keeps them.
var (
	newAddresses = pace{1, 64}
	broadcasts   = pace{200, 400}
	multicasts   = pace{1000, 2000}
	resolutions  = pace{200, 400} // ARP and neighbour discovery
)

// dropping is the chain that counts and drops frames of one kind.
func dropping(k firewall.GuardKind) string { return "drop_" + k.String() }

// untagged is the chain that drops a kind of frames where they belong to no VLAN:
// in one, guests have servers and gateways of their own.
func untagged(k firewall.GuardKind) string { return "untagged_" + k.String() }

// common are the chains of all networks.
func common() (all []chain) {
	for _, k := range firewall.GuardKinds() {
		all = append(all, chain{name: dropping(k), rules: []rule{count(stoppedSet(k)).drop()}})
	}
	for _, k := range firewall.GuardKinds() {
		all = append(all, chain{name: untagged(k), rules: []rule{
			and(isTagged(unix.ETH_P_8021Q), masked(vlanTag, expr.CmpOpNeq, []byte{0x0f, 0xff}, []byte{0, 0})).pass(),
			and(isTagged(unix.ETH_P_8021AD), masked(vlanTag, expr.CmpOpNeq, []byte{0x0f, 0xff}, []byte{0, 0})).pass(),
			rule{}.to(dropping(k)),
		}})
	}
	return all
}

func isTagged(as uint16) rule { return is(etherType, uint16be(as)...) }

// profile is the rules that ports of one network with one guard have in common.
type profile struct {
	network  *firewall.GuardedNetwork
	guard    firewall.Guard
	isolated bool
}

// name is the chain to which such ports lead. Others have it with a suffix.
func (p profile) name() string {
	text := fmt.Sprintf("net%d_", p.network.Index)
	for _, l := range p.guard {
		text += l.String()[:1]
	}
	if p.isolated {
		text += "i"
	}
	return text
}

func (p profile) sub(suffix string) string { return subChain(p.name(), suffix) }

func subChain(profile, suffix string) string { return profile + "_" + suffix }

// stops is the chain for frames of a kind that is guarded at a level.
func (p profile) stops(k firewall.GuardKind) string {
	if p.guard[k] == firewall.GuardStrict {
		return dropping(k)
	}
	return untagged(k)
}

func (p profile) on(k firewall.GuardKind) bool     { return p.guard[k] >= firewall.GuardGateway }
func (p profile) strict(k firewall.GuardKind) bool { return p.guard[k] == firewall.GuardStrict }

// hidden sends packets of which guards of some kinds can't see what they are to where those of
// the first that is on end.
func (p profile) hidden(r rule, kinds ...firewall.GuardKind) (rules []rule) {
	if i := slices.IndexFunc(kinds, p.on); i >= 0 {
		rules = append(rules, r.to(p.stops(kinds[i])))
	}
	return rules
}

// chains are the profile's, a pure function of it. The first is the one with its
// name.
func (p profile) chains() []chain {
	return []chain{
		{name: p.name(), rules: p.shortcuts()},
		{name: p.sub("slow"), rules: slices.Concat(p.tags(), p.cards(), []rule{rule{}.to(p.sub("packets"))})},
		{name: p.sub("known4"), rules: p.known(v4)},
		{name: p.sub("known6"), rules: p.known(v6)},
		{name: p.sub("group"), rules: p.groups()},
		{name: p.sub("packets"), rules: p.packets()},
		{name: p.sub("ip4"), rules: slices.Concat(p.toHost(v4), p.spoofed(v4), p.servers4(), p.sources(v4))},
		{name: p.sub("ip6"), rules: slices.Concat(p.toHost(v6), p.spoofed(v6), p.icmp6(), []rule{rule{}.via(p.sub("part6"))}, p.sources(v6))},
		{name: p.sub("part6"), rules: p.parts()},
		{name: p.sub("host4"), rules: p.upward(v4)},
		{name: p.sub("host6"), rules: p.upward(v6)},
		{name: p.sub("from4"), rules: p.origins(v4)},
		{name: p.sub("from6"), rules: p.origins(v6)},
		{name: p.sub("arp"), rules: p.arp()},
		{name: p.sub("claim4"), rules: p.claims(v4, firewall.GuardARP, arpSenderIP)},
		{name: p.sub("nd"), rules: p.nd()},
		{name: p.sub("claim6"), rules: p.claims(v6, firewall.GuardND, ndTarget)},
		{name: p.sub("ask6"), rules: p.claims(v6, firewall.GuardND, ip6Source)},
	}
}

// shortcuts tell most frames from all others: those to one card that is not the port's
// device, of IPv4 or IPv6, without a tag, from a card of the port with an address of its
// own. No guard of a source is against them.
func (p profile) shortcuts() []rule {
	return []rule{
		isNot(pktType, unix.PACKET_OTHERHOST).to(p.sub("slow")),
		and(is(protocol, uint16be(unix.ETH_P_IP)...), in(setKnown4, iif, etherSourceType, ip4Source)).to(p.sub("known4")),
		and(is(protocol, uint16be(unix.ETH_P_IPV6)...), in(setKnown6, iif, etherSourceType, ip6Source)).to(p.sub("known6")),
		rule{}.to(p.sub("slow")),
	}
}

// known looks at what is left to be seen of frames that took a shortcut.
func (p profile) known(f family) (rules []rule) {
	if p.isolated {
		rules = p.toHost(f)
	}
	if f.is4 {
		return append(rules, p.servers4()...)
	}
	return slices.Concat(rules, p.icmp6(), p.parts())
}

// tags look at group addresses and VLANs.
func (p profile) tags() (rules []rule) {
	if p.on(firewall.GuardControl) || p.strict(firewall.GuardRate) {
		rules = append(rules, group(destFirst).via(p.sub("group")))
	}
	if !p.strict(firewall.GuardVLAN) {
		return rules
	}
	for _, as := range []uint16{unix.ETH_P_8021Q, unix.ETH_P_8021AD} {
		vlan := append(keys(iif), vlanTag.load(reg+1),
			&expr.Bitwise{SourceRegister: reg + 1, DestRegister: reg + 1, Len: 2, Mask: []byte{0x0f, 0xff}, Xor: []byte{0, 0}},
			&expr.Lookup{SourceRegister: reg, SetName: setVLANs, Invert: true})
		rules = append(rules, and(isTagged(as), masked(vlanTag, expr.CmpOpNeq, []byte{0x0f, 0xff}, []byte{0, 0}), vlan).to(dropping(firewall.GuardVLAN)))
	}
	return rules
}

// groups look at frames to groups.
func (p profile) groups() (rules []rule) {
	if p.on(firewall.GuardControl) {
		drop := dropping(firewall.GuardControl)
		rules = append(rules,
			masked(etherDest, expr.CmpOpEq, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xf0}, []byte{0x01, 0x80, 0xc2, 0, 0, 0}).to(drop),
			is(etherDest, 0x01, 0, 0x0c, 0xcc, 0xcc, 0xcc).to(drop), is(etherDest, 0x01, 0, 0x0c, 0xcc, 0xcc, 0xcd).to(drop))
	}
	if p.strict(firewall.GuardRate) {
		drop := dropping(firewall.GuardRate)
		rules = append(rules,
			and(is(etherDest, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), over(setBroadcasts, broadcasts)).to(drop),
			and(isNot(etherDest, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), over(setMulticasts, multicasts)).to(drop))
	}
	return rules
}

// cards look at the source address of frames; that of a known card goes on at
// once.
func (p profile) cards() (rules []rule) {
	mac, fdb := p.on(firewall.GuardMAC), p.on(firewall.GuardFDB)
	if mac || fdb {
		rules = append(rules, in(setMACs, iif, etherSource).to(p.sub("packets")))
	}
	if mac {
		drop := dropping(firewall.GuardMAC)
		rules = append(rules, group(sourceFirst).to(drop))
		if p.strict(firewall.GuardMAC) {
			rules = append(rules, in(setBound, iif).to(drop))
		}
		rules = append(rules, in(ownedSet(p.network.Index), etherSource).to(drop))
	}
	if fdb {
		rules = append(rules,
			in(setSeen, iif, etherSource).to(p.sub("packets")),
			over(setFresh, newAddresses).to(dropping(firewall.GuardFDB)),
			note(setSeen, 0, iif, etherSource))
	}
	return rules
}

// packets tell protocols apart. What hides behind two tags of which the outer has
// no VLAN is read by hosts as if it had none, and what has its type behind headers of LLC and
// SNAP (RFC 1042, IEEE 802.1H) is by some as if it had it in its place.
func (p profile) packets() (rules []rule) {
	rules = []rule{
		is(protocol, uint16be(unix.ETH_P_IP)...).to(p.sub("ip4")),
		is(protocol, uint16be(unix.ETH_P_IPV6)...).to(p.sub("ip6")),
		is(protocol, uint16be(unix.ETH_P_ARP)...).to(p.sub("arp")),
	}
	for _, of := range []struct {
		protocol uint16
		kinds    []firewall.GuardKind
	}{
		{unix.ETH_P_IP, []firewall.GuardKind{firewall.GuardIP, firewall.GuardDHCP}},
		{unix.ETH_P_IPV6, []firewall.GuardKind{firewall.GuardIP, firewall.GuardRA, firewall.GuardND, firewall.GuardDHCP}},
		{unix.ETH_P_ARP, []firewall.GuardKind{firewall.GuardARP}},
	} {
		// Not of ETH_P_802_2: nft 1.0.6 aborts where it lists that beside raw fields.
		encapsulated := and(compare(protocol, expr.CmpOpLt, uint16be(unix.ETH_P_802_3_MIN)),
			masked(snap, expr.CmpOpEq, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0x07}, []byte{0xaa, 0xaa, 0x03, 0, 0, 0}), is(snapType, uint16be(of.protocol)...))
		rules = append(rules, p.hidden(encapsulated, of.kinds...)...)
	}
	if !p.on(firewall.GuardVLAN) {
		return rules
	}
	for _, as := range []uint16{unix.ETH_P_8021Q, unix.ETH_P_8021AD} {
		hidden := is(protocol, uint16be(as)...)
		if !p.strict(firewall.GuardVLAN) {
			hidden = and(hidden, masked(vlanTag, expr.CmpOpEq, []byte{0x0f, 0xff}, []byte{0, 0}))
		}
		rules = append(rules, hidden.to(dropping(firewall.GuardVLAN)))
	}
	return rules
}

// arp looks at the sender's card, and then at its address.
func (p profile) arp() (rules []rule) {
	if p.strict(firewall.GuardRate) {
		rules = append(rules, over(setResolutions, resolutions).to(dropping(firewall.GuardRate)))
	}
	if !p.on(firewall.GuardARP) {
		return rules
	}
	drop, claim := p.stops(firewall.GuardARP), p.sub("claim4")
	rules = append(rules, in(setMACs, iif, arpSenderMAC).to(claim))
	if p.strict(firewall.GuardARP) {
		rules = append(rules, in(setBound, iif).to(drop))
	}
	return append(rules, in(ownedSet(p.network.Index), arpSenderMAC).to(drop), rule{}.to(claim))
}

// servers4 look for answers of DHCP servers (RFC 2131, section 4.1).
func (p profile) servers4() []rule {
	if !p.on(firewall.GuardDHCP) || !p.network.DHCP && !p.strict(firewall.GuardDHCP) {
		return nil
	}
	return []rule{and(is(l4, unix.IPPROTO_UDP), is(destPort, uint16be(68)...)).to(p.stops(firewall.GuardDHCP))}
}

// icmp6 looks for answers of DHCPv6 servers (RFC 8415, section 7.2) and at ICMPv6.
func (p profile) icmp6() (rules []rule) {
	if p.on(firewall.GuardDHCP) && (p.network.DHCP6 || p.strict(firewall.GuardDHCP)) {
		rules = append(rules, and(is(l4, unix.IPPROTO_UDP), is(destPort, uint16be(546)...)).to(p.stops(firewall.GuardDHCP)))
	}
	return append(rules, is(l4, unix.IPPROTO_ICMPV6).via(p.sub("nd")))
}

// parts drop the first fragment of a packet whose headers go on in the next: nobody can tell
// what it is before it is whole (RFC 7112).
func (p profile) parts() []rule {
	first := masked(fragmentOffset, expr.CmpOpEq, []byte{0xff, 0xf8}, []byte{0, 0})
	drop := p.hidden(first, firewall.GuardRA, firewall.GuardDHCP, firewall.GuardND, firewall.GuardIP)
	if drop == nil {
		return nil
	}
	return append([]rule{there(l4Header).back()}, drop...)
}

// Types of ICMPv6 messages (RFC 4861, section 4).
const (
	routerSolicitation    = 133
	routerAdvertisement   = 134
	neighborSolicitation  = 135
	neighborAdvertisement = 136
	redirect              = 137
)

// nd looks at neighbour discovery (RFC 4861). Who solicits tells its own address by
// the source, or looks with no source whether the target is free (RFC 4862); who
// advertises claims the target.
func (p profile) nd() (rules []rule) {
	if p.strict(firewall.GuardRate) {
		rules = append(rules, and(between(icmpType, routerSolicitation, redirect), over(setResolutions, resolutions)).to(dropping(firewall.GuardRate)))
	}
	if p.on(firewall.GuardRA) && (p.network.RA || p.strict(firewall.GuardRA)) {
		rules = append(rules,
			is(icmpType, routerAdvertisement).to(p.stops(firewall.GuardRA)),
			is(icmpType, redirect).to(p.stops(firewall.GuardRA)))
	}
	if !p.on(firewall.GuardND) {
		return rules
	}
	return append(rules,
		// "Nodes MUST NOT employ IPv6 fragmentation for sending" these (RFC 6980, section 5): an
		// address may be in another part.
		and(between(icmpType, routerSolicitation, redirect), is(isFragment, 1)).to(p.stops(firewall.GuardND)),
		is(icmpType, neighborAdvertisement).to(p.sub("claim6")),
		and(is(icmpType, neighborSolicitation), is(ip6Source, make([]byte, 16)...)).to(p.sub("claim6")),
		is(icmpType, neighborSolicitation).to(p.sub("ask6")),
		is(icmpType, routerSolicitation).to(p.sub("ask6")))
}

// family is what differs between IPv4 and IPv6.
type family struct {
	name           string
	is4            bool
	source, dest   key
	unspecified    netip.Addr
	linkLocal      netip.Prefix
	addrs, ranges  string // sets of the port
	taken          func(ifindex int) string
	host, from     string // chains
	unspecifiedFor rule   // when a packet may have no source
}

var (
	v4 = family{
		"4", true, ip4Source, ip4Dest, noIPSource, netip.MustParsePrefix("169.254.0.0/16"), setAddrs4, setRanges4, taken4Set, "host4", "from4",
		and(is(l4, unix.IPPROTO_UDP), is(destPort, uint16be(67)...)), // a client without an address
	}
	v6 = family{"6", false, ip6Source, ip6Dest, netip.IPv6Unspecified(), netip.MustParsePrefix("fe80::/10"), setAddrs6, setRanges6, taken6Set, "host6", "from6", nil}
)

// gateway are the network's own addresses of the family.
func (p profile) gateway(f family) (all []netip.Addr) {
	for _, a := range gatewayAddrs(p.network) {
		if a.Is4() == f.is4 {
			all = append(all, a)
		}
	}
	return all
}

func (p profile) of(f family, all []netip.Prefix) (out []netip.Prefix) {
	for _, s := range all {
		if s.Addr().Is4() == f.is4 {
			out = append(out, s.Masked())
		}
	}
	return out
}

// toHost has what this host receives looked at. It receives what is for the bridge,
// and by the address of the port's device what is for that.
func (p profile) toHost(f family) (rules []rule) {
	if !p.isolated && (!p.on(firewall.GuardIP) || p.network.Foreign) || p.network.MAC == (firewall.MAC{}) {
		return nil
	}
	return []rule{is(etherDest, p.network.MAC[:]...).via(p.sub(f.host)), is(pktType, unix.PACKET_HOST).via(p.sub(f.host))}
}

// upward looks at packets that this host receives: one from elsewhere is not
// answered, and one from an isolated port not routed back to the bridge.
func (p profile) upward(f family) (rules []rule) {
	if p.on(firewall.GuardIP) && !p.network.Foreign {
		rules = append(rules, rule{}.via(p.sub(f.from)))
	}
	if !p.isolated {
		return rules
	}
	for _, a := range p.gateway(f) {
		rules = append(rules, is(f.dest, a.AsSlice()...).back())
	}
	for _, s := range p.of(f, slices.Concat(p.network.Subnets, p.network.Behind)) {
		rules = append(rules, within(f.dest, s).to(dropping(firewall.GuardIsolated)))
	}
	return rules
}

// origins drop what comes from outside of the network.
func (p profile) origins(f family) (rules []rule) {
	for _, s := range append(p.of(f, slices.Concat(p.network.Subnets, p.network.Behind)), f.linkLocal, netip.PrefixFrom(f.unspecified, f.unspecified.BitLen())) {
		rules = append(rules, within(f.source, s).back())
	}
	return append(rules, rule{}.to(p.stops(firewall.GuardIP)))
}

// spoofed drop packets from the gateway's addresses.
func (p profile) spoofed(f family) (rules []rule) {
	if !p.on(firewall.GuardIP) || p.strict(firewall.GuardIP) {
		return nil
	}
	for _, a := range p.gateway(f) {
		rules = append(rules, is(f.source, a.AsSlice()...).to(p.stops(firewall.GuardIP)))
	}
	return rules
}

// sources let through, where only the port's own addresses may be, what has one.
func (p profile) sources(f family) []rule {
	if !p.strict(firewall.GuardIP) {
		return nil
	}
	return append(p.own(f, f.source, firewall.GuardIP),
		and(is(f.source, f.unspecified.AsSlice()...), f.unspecifiedFor).pass(),
		rule{}.to(dropping(firewall.GuardIP)))
}

// claims look at an address that a guest says is its own.
func (p profile) claims(f family, k firewall.GuardKind, at key) []rule {
	if !p.strict(k) {
		return []rule{
			in(f.addrs, iif, at).pass(),
			in(f.taken(p.network.Index), at).to(p.stops(k)),
		}
	}
	return append(p.own(f, at, k), is(at, f.unspecified.AsSlice()...).pass(), rule{}.to(dropping(k)))
}

// own lets the port's own addresses pass, and those that it may make up if nobody
// else has them.
func (p profile) own(f family, at key, k firewall.GuardKind) []rule {
	rules := []rule{
		in(f.addrs, iif, at).pass(),
		in(f.ranges, iif, at).pass(),
		in(f.taken(p.network.Index), at).to(dropping(k)),
		within(at, f.linkLocal).pass(),
	}
	for _, s := range p.of(f, p.network.Autoconf) {
		rules = append(rules, within(at, s).pass())
	}
	return rules
}
