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

// The chains that look at frames to groups.
const (
	groupControl = "group_control" // reserved for bridges and switches
	groupRate    = "group_rate"    // how fast they come
)

// common are the chains of all networks.
func common() (all []chain) {
	for _, k := range firewall.GuardKinds() {
		all = append(all, chain{name: dropping(k), rules: []rule{count(stoppedSet(k)).drop()}})
	}
	for _, k := range firewall.GuardKinds() {
		all = append(all, chain{name: untagged(k), rules: tagged(k)})
	}
	control, rate := dropping(firewall.GuardControl), dropping(firewall.GuardRate)
	return append(all,
		chain{name: groupControl, rules: []rule{
			masked(etherDest, expr.CmpOpEq, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xf0}, []byte{0x01, 0x80, 0xc2, 0, 0, 0}).to(control),
			is(etherDest, 0x01, 0, 0x0c, 0xcc, 0xcc, 0xcc).to(control),
			is(etherDest, 0x01, 0, 0x0c, 0xcc, 0xcc, 0xcd).to(control),
		}},
		chain{name: groupRate, rules: []rule{
			and(is(etherDest, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), over(setBroadcasts, broadcasts)).to(rate),
			and(isNot(etherDest, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), over(setMulticasts, multicasts)).to(rate),
		}})
}

// tagged lets frames of a kind pass in VLANs, and drops others. In the VLAN of a port's frames
// without a tag the bridge takes the tag off. Answers of DHCP servers pass in VLANs alone that are
// known to be the port's: clients that read a packet socket get them without the tag where their
// host has no such VLAN.
func tagged(k firewall.GuardKind) (rules []rule) {
	for _, as := range []uint16{unix.ETH_P_8021Q, unix.ETH_P_8021AD} {
		other := masked(vlanTag, expr.CmpOpNeq, []byte{0x0f, 0xff}, []byte{0, 0})
		if k == firewall.GuardDHCP {
			other = inVLAN(setVLANs, false)
		}
		rules = append(rules, and(isTagged(as), inVLAN(setNatives, false)).to(dropping(k)), and(isTagged(as), other).pass())
	}
	return append(rules, rule{}.to(dropping(k)))
}

func isTagged(as uint16) rule { return is(etherType, uint16be(as)...) }

// inVLAN matches a tag whose VLAN a set has of the port, or with inverted has not.
func inVLAN(set string, inverted bool) rule {
	return append(keys(iif), vlanTag.load(reg+1),
		&expr.Bitwise{SourceRegister: reg + 1, DestRegister: reg + 1, Len: 2, Mask: []byte{0x0f, 0xff}, Xor: []byte{0, 0}},
		&expr.Lookup{SourceRegister: reg, SetName: set, Invert: inverted})
}

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

// chains are the profile's: which they are is of its guard alone. The first is the one with its
// name. They are few, since each commit to nftables goes through all chains there are.
func (p profile) chains() []chain {
	all := []chain{
		{name: p.name(), rules: slices.Concat(p.tags(), p.cards(), []rule{rule{}.to(p.sub("packets"))})},
		{name: p.sub("packets"), rules: p.packets()},
		{name: p.sub("ip4"), rules: slices.Concat(p.toHost(v4), p.spoofed(v4), p.servers4(), p.parts(v4), p.sources(v4))},
		{name: p.sub("ip6"), rules: slices.Concat(p.toHost(v6), p.spoofed(v6), p.icmp6(), p.parts(v6), p.sources(v6))},
		{name: p.sub("arp"), rules: p.arp()},
		{name: p.sub("nd"), rules: p.nd()},
	}
	if p.strict(firewall.GuardIP) {
		all = append(all, chain{name: p.sub(v4.unseen), rules: p.unseen(v4)}, chain{name: p.sub(v6.unseen), rules: p.unseen(v6)})
	}
	if p.strict(firewall.GuardND) {
		all = append(all,
			chain{name: p.sub("claim6"), rules: p.claims(v6, firewall.GuardND, ndTarget)},
			chain{name: p.sub("ask6"), rules: p.claims(v6, firewall.GuardND, ip6Source)})
	}
	if p.isolated {
		for _, f := range []family{v4, v6} {
			all = append(all, chain{name: p.sub(f.known), rules: p.toHost(f)}, chain{name: p.sub(f.host), rules: p.upward(f)})
		}
	}
	return all
}

// tags look at group addresses and VLANs.
func (p profile) tags() (rules []rule) {
	if p.on(firewall.GuardControl) {
		rules = append(rules, group(destFirst).via(groupControl))
	}
	if p.strict(firewall.GuardRate) {
		rules = append(rules, group(destFirst).via(groupRate))
	}
	if !p.strict(firewall.GuardVLAN) {
		return rules
	}
	for _, as := range []uint16{unix.ETH_P_8021Q, unix.ETH_P_8021AD} {
		rules = append(rules, and(isTagged(as), masked(vlanTag, expr.CmpOpNeq, []byte{0x0f, 0xff}, []byte{0, 0}), inVLAN(setVLANs, true)).to(dropping(firewall.GuardVLAN)))
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
	drop, unknown := p.stops(firewall.GuardARP), notIn(setMACs, iif, arpSenderMAC)
	if p.strict(firewall.GuardARP) {
		rules = append(rules, and(unknown, in(setBound, iif)).to(drop))
	}
	rules = append(rules, and(unknown, in(ownedSet(p.network.Index), arpSenderMAC)).to(drop))
	return append(rules, p.claims(v4, firewall.GuardARP, arpSenderIP)...)
}

// servers4 look for answers of DHCP servers.
func (p profile) servers4() []rule {
	if !p.on(firewall.GuardDHCP) || !p.network.DHCP && !p.strict(firewall.GuardDHCP) {
		return nil
	}
	return []rule{answers4.to(p.stops(firewall.GuardDHCP))}
}

// icmp6 looks for answers of DHCPv6 servers and at ICMPv6.
func (p profile) icmp6() (rules []rule) {
	if p.on(firewall.GuardDHCP) && (p.network.DHCP6 || p.strict(firewall.GuardDHCP)) {
		rules = append(rules, answers6.to(p.stops(firewall.GuardDHCP)))
	}
	return append(rules, is(l4, unix.IPPROTO_ICMPV6).via(p.sub("nd")))
}

// parts look for what unseen drops, in a chain of its own where others follow.
func (p profile) parts(f family) []rule {
	if p.strict(firewall.GuardIP) {
		return []rule{rule{}.via(p.sub(f.unseen))}
	}
	return p.unseen(f)
}

// unseen drops packets of which nobody can tell here what they are, and is the end of all others:
// such whose length can't be true, which clients of DHCP read from a packet socket all the same, and
// of IPv6 first fragments whose headers go on in the next (RFC 7112).
func (p profile) unseen(f family) (rules []rule) {
	drop := p.hidden(rule{}, f.hides...)
	if drop == nil {
		return nil
	}
	if !f.is4 {
		part := func(op expr.CmpOp) rule { return masked(fragmentOffset, op, []byte{0xff, 0xf8}, []byte{0, 0}) }
		rules = slices.Concat([]rule{there(l4Header).back()}, p.hidden(part(expr.CmpOpEq), f.hides...), []rule{part(expr.CmpOpNeq).back()})
	}
	return slices.Concat(rules, []rule{told.back()}, drop)
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
		rules = append(rules, and(discovery, over(setResolutions, resolutions)).to(dropping(firewall.GuardRate)))
	}
	if p.on(firewall.GuardRA) && (p.network.RA || p.strict(firewall.GuardRA)) {
		rules = append(rules,
			is(icmpType, routerAdvertisement).to(p.stops(firewall.GuardRA)),
			is(icmpType, redirect).to(p.stops(firewall.GuardRA)))
	}
	if !p.on(firewall.GuardND) {
		return rules
	}
	// "Nodes MUST NOT employ IPv6 fragmentation for sending" these (RFC 6980, section 5): an
	// address may be in another part.
	rules = append(rules, and(discovery, is(isFragment, 1)).to(p.stops(firewall.GuardND)))
	for _, c := range []struct {
		message rule
		address key // that is claimed
		chain   string
	}{
		{is(icmpType, neighborAdvertisement), ndTarget, "claim6"},
		{and(is(icmpType, neighborSolicitation), is(ip6Source, make([]byte, 16)...)), ndTarget, "claim6"},
		{is(icmpType, neighborSolicitation), ip6Source, "ask6"},
		{is(icmpType, routerSolicitation), ip6Source, "ask6"},
	} {
		if p.strict(firewall.GuardND) {
			rules = append(rules, c.message.to(p.sub(c.chain)))
		} else {
			rules = append(rules, and(c.message, p.stolen(v6, c.address)).to(p.stops(firewall.GuardND)))
		}
	}
	return rules
}

// family is what differs between IPv4 and IPv6.
type family struct {
	name           string
	is4            bool
	source, dest   key
	unspecified    netip.Addr
	linkLocal      netip.Prefix
	addrs, ranges  string // sets of the port
	known          string // a set of it, and a chain
	taken          func(ifindex int) string
	host           string // a chain
	unspecifiedFor rule   // when a packet may have no source
	etherType      uint16
	whole          rule                 // it can be told what the packet is
	unseen         string               // a chain
	hides          []firewall.GuardKind // what a packet may be of which that can't be told
	special        []rule               // what is looked at though it comes from a port's own card and address
}

var (
	v4 = family{
		name: "4", is4: true, source: ip4Source, dest: ip4Dest, unspecified: noIPSource, linkLocal: netip.MustParsePrefix("169.254.0.0/16"),
		addrs: setAddrs4, ranges: setRanges4, known: setKnown4, taken: taken4Set, host: "host4",
		unspecifiedFor: and(is(l4, unix.IPPROTO_UDP), is(destPort, uint16be(67)...)), // a client without an address
		etherType:      unix.ETH_P_IP,
		whole:          told,
		unseen:         "part4",
		hides:          []firewall.GuardKind{firewall.GuardDHCP, firewall.GuardIP},
		special:        []rule{answers4},
	}
	v6 = family{
		name: "6", source: ip6Source, dest: ip6Dest, unspecified: netip.IPv6Unspecified(), linkLocal: netip.MustParsePrefix("fe80::/10"),
		addrs: setAddrs6, ranges: setRanges6, known: setKnown6, taken: taken6Set, host: "host6",
		etherType: unix.ETH_P_IPV6,
		whole:     there(l4Header),
		unseen:    "part6",
		hides:     []firewall.GuardKind{firewall.GuardRA, firewall.GuardDHCP, firewall.GuardND, firewall.GuardIP},
		special:   []rule{answers6, and(is(l4, unix.IPPROTO_ICMPV6), discovery)},
	}
)

// told matches packets of which the kernel tells a protocol, but for one that is reserved (IANA, protocol
// numbers).
var told = isNot(l4, 255)

// What guards look at though it comes from a card with an address of its own.
var (
	answers4  = and(is(l4, unix.IPPROTO_UDP), is(destPort, uint16be(68)...))  // of DHCP servers (RFC 2131, section 4.1)
	answers6  = and(is(l4, unix.IPPROTO_UDP), is(destPort, uint16be(546)...)) // of DHCPv6 servers (RFC 8415, section 7.2)
	discovery = between(icmpType, routerSolicitation, redirect)               // RFC 4861
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

// toHost has what this host receives looked at: one from elsewhere is not answered. It receives
// what is for the bridge, by the address of the port's device what is for that, and by that of a
// group what is for one of the network's own addresses.
func (p profile) toHost(f family) (rules []rule) {
	if !p.isolated && !p.judgesOrigins() || p.network.MAC == (firewall.MAC{}) {
		return nil
	}
	all := []rule{is(etherDest, p.network.MAC[:]...), is(pktType, unix.PACKET_HOST)}
	for _, a := range p.gateway(f) {
		all = append(all, and(group(destFirst), is(f.dest, a.AsSlice()...)))
	}
	for _, received := range all {
		if p.isolated {
			rules = append(rules, received.via(p.sub(f.host)))
		} else {
			rules = append(rules, and(received, p.foreign(f)).to(p.stops(firewall.GuardIP)))
		}
	}
	return rules
}

// upward looks at packets that this host receives from an isolated port: none is routed back to the
// bridge.
func (p profile) upward(f family) (rules []rule) {
	if p.judgesOrigins() {
		rules = append(rules, p.foreign(f).to(p.stops(firewall.GuardIP)))
	}
	for _, a := range p.gateway(f) {
		rules = append(rules, is(f.dest, a.AsSlice()...).back())
	}
	for _, s := range p.of(f, slices.Concat(p.network.Subnets, p.network.Behind)) {
		rules = append(rules, within(f.dest, s).to(dropping(firewall.GuardIsolated)))
	}
	return rules
}

// judgesOrigins reports whether the host gets nothing from outside of the network.
func (p profile) judgesOrigins() bool { return p.on(firewall.GuardIP) && !p.network.Foreign }

// foreign matches what comes from outside of the network.
func (p profile) foreign(f family) (r rule) {
	for _, s := range append(p.of(f, slices.Concat(p.network.Subnets, p.network.Behind)), f.linkLocal, netip.PrefixFrom(f.unspecified, f.unspecified.BitLen())) {
		r = append(r, outside(f.source, s)...)
	}
	return r
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

// claims look at an address that a guest says is its own, as the end of what is looked at.
func (p profile) claims(f family, k firewall.GuardKind, at key) []rule {
	if !p.strict(k) {
		return []rule{p.stolen(f, at).to(p.stops(k))}
	}
	return append(p.own(f, at, k), is(at, f.unspecified.AsSlice()...).pass(), rule{}.to(dropping(k)))
}

// stolen matches an address that is somebody else's.
func (p profile) stolen(f family, at key) rule {
	return and(notIn(f.addrs, iif, at), in(f.taken(p.network.Index), at))
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
