package nft

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// networksTable is the table of networks' rules, one of each family. It is vnetd's own.
const networksTable = firewall.NetworksTable

// The sets and maps of a family's table, in which a network is elements. Ranges are looked
// for one by one, or laid out anew at each change: so a subnet is a single key of a set for
// all subnets with prefixes of that length, whose number ends the set's name. An address
// stands first where there are ranges all the same: so the kernel finds what is taken out
// sooner. No map leads to a chain that looks into another large one, since kernels
// before Linux 6.19 follow every way through a table when it changes.
//
// By its bridge a packet is led to one network's own chains, which compare it with the
// few subnets of that: cheaper than to look for it among all networks' ranges.
const (
	setBridges        = "bridges"          // bridge
	mapInbound        = "inbound"          // bridge: what is forwarded into it
	mapOutbound       = "outbound"         // bridge: what is forwarded out of it
	setKept           = "untranslated_"    // source . destination, for each length
	setTranslation    = "translation_"     // source, for each length
	setTranslationDev = "translation_dev_" // source . device of the LAN, for each length
	setRedirection    = "redirection"      // bridge . destination . protocol . port
)

// The chains to which networks' own chains lead.
const (
	chainRejected = "rejected"
	chainAnswered = "answered" // what peers answer, if there are any
)

// section is chains and sets that are there together, as long as any network needs them.
type section struct {
	name   string
	sets   []nfnetlink.Set
	chains []stage
	// into is a chain of another section, empty for none, in which more stands as well.
	into string
	more []clause
	own  bool // one network's, which has what stands in its only chain change
	// of are the rules for which the clauses of an own chain stand, the zero value for those
	// that are not counted.
	of []firewall.Rule
}

// The names of sections. Each treatment of sources is another one.
const (
	sectionFilter      = "filter"
	sectionTranslation = "translation"
	sectionRedirection = "redirection"
)

// fixedSections are those that are the same for all networks, made once.
var fixedSections = sync.OnceValue(func() map[firewall.Family]map[string]section {
	all := map[firewall.Family]map[string]section{}
	for f, is := range families {
		all[f] = map[string]section{}
		for _, s := range []section{is.filter(), is.translation(), is.redirection(), is.forwards(), is.hairpins(), is.looping()} {
			all[f][s.name] = s
		}
		for _, s := range is.policies() {
			all[f][s.name] = s
		}
		for bits := range 8*is.source.size + 1 {
			for _, s := range []section{is.translated(bits), is.translatedDev(bits)} {
				all[f][s.name] = s
			}
		}
	}
	return all
})

// fixed is one of the family's fixed sections.
func (f ipFamily) fixed(name string) section { return fixedSections()[f.family][name] }

// ipFamily is what differs between IPv4 and IPv6.
type ipFamily struct {
	family       firewall.Family
	number       uint8 // NFPROTO_…
	source, dest key
	addr         nftables.SetDatatype
	name         string // of the protocol in nft(8)
}

var families = map[firewall.Family]ipFamily{
	firewall.IPv4: {firewall.IPv4, unix.NFPROTO_IPV4, ip4Source, ip4Dest, nftables.TypeIPAddr, "ip"},
	firewall.IPv6: {firewall.IPv6, unix.NFPROTO_IPV6, ip6Source, ip6Dest, nftables.TypeIP6Addr, "ip6"},
}

// The fields that networks' rules look at, beside addresses.
var (
	iifname = meta(expr.MetaKeyIIFNAME, nameSize)
	oifname = meta(expr.MetaKeyOIFNAME, nameSize)
)

// dataType is what nft(8) calls types one behind the other.
func dataType(types ...nftables.SetDatatype) nfnetlink.DataType {
	if len(types) == 1 { // alone it is not padded
		return nfnetlink.DataType{Number: types[0].GetNFTMagic(), Size: types[0].Bytes}
	}
	all := nftables.MustConcatSetType(types...)
	return nfnetlink.DataType{Number: all.GetNFTMagic(), Size: all.Bytes}
}

// named is a set of keys of those types.
func named(name string, types ...nftables.SetDatatype) nfnetlink.Set {
	s := nfnetlink.Set{Name: name, Key: dataType(types...)}
	if len(types) > 1 {
		for _, t := range types {
			s.Fields = append(s.Fields, t.Bytes)
		}
	}
	return s
}

// ranges has keys of a set be intervals.
func ranges(s nfnetlink.Set) nfnetlink.Set {
	s.Intervals = true
	return s
}

// verdicts has a set lead to verdicts.
func verdicts(s nfnetlink.Set) nfnetlink.Set {
	s.Map, s.Verdicts = true, true
	return s
}

// The hooks at which the kernel asks chains, with the usual priorities.
var (
	hookForward     = &nfnetlink.Hook{Number: unix.NF_INET_FORWARD, Type: "filter"}
	hookPrerouting  = &nfnetlink.Hook{Number: unix.NF_INET_PRE_ROUTING, Priority: -100, Type: "nat"}
	hookPostrouting = &nfnetlink.Hook{Number: unix.NF_INET_POST_ROUTING, Priority: 100, Type: "nat"}
)

// filter is what every network needs. A network's chain of what is forwarded into its
// bridge returns what the network from which it comes is to be asked for, if it is one.
func (f ipFamily) filter() section {
	byName := func(name string) nfnetlink.Set { return verdicts(named(name, nftables.TypeIFName)) }
	return section{
		name: sectionFilter,
		sets: []nfnetlink.Set{named(setBridges, nftables.TypeIFName), byName(mapInbound), byName(mapOutbound)},
		chains: []stage{
			{name: "forward", hook: hookForward, clauses: []clause{
				lookUp(clause{keys(oifname), "oifname"}, mapInbound),
				lookUp(clause{keys(iifname), "iifname"}, mapOutbound),
			}},
			{name: chainAnswered},
			{name: chainRejected, clauses: []clause{both(clause{rule{&expr.Counter{}}, "counter"}, clause{f.reject(), "reject"})}},
		},
	}
}

// reject answers with "port unreachable".
func (f ipFamily) reject() rule {
	r := &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3} // RFC 792
	if f.number == unix.NFPROTO_IPV6 {
		r.Code = 4 // RFC 4443 section 3.1
	}
	return rule{r}
}

// reply matches packets of connections that began elsewhere, or related to one.
func reply() clause {
	const established, related = 2, 4 // NF_CT_STATE_BIT of linux/netfilter/nf_conntrack_common.h
	mask := binaryutil.NativeEndian.PutUint32(established | related)
	return clause{rule{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: make([]byte, 4)},
	}, "ct state established,related"}
}

// chainPostrouting is asked how sources are rewritten.
const chainPostrouting = "postrouting"

// translation is what networks need whose sources are rewritten. What goes to groups of
// the link, and by broadcast, keeps its own.
func (f ipFamily) translation() section {
	var clauses []clause
	for _, p := range firewall.Untranslated(f.family) {
		clauses = append(clauses, both(inPrefix(f.name+" daddr", f.dest, p), back()))
	}
	return section{name: sectionTranslation, chains: []stage{{name: chainPostrouting, hook: hookPostrouting, clauses: clauses}}}
}

// byLength is the name of a section for prefixes of a length: the longest are asked first.
func byLength(bits int) string { return fmt.Sprintf("%s/%03d", sectionTranslation, 128-bits) }

// translated is what networks need whose subnets have prefixes of that length.
func (f ipFamily) translated(bits int) section {
	suffix := strconv.Itoa(bits)
	source, dest := f.prefix("saddr", f.source, bits), f.prefix("daddr", f.dest, bits)
	sources := verdicts(named(setTranslation+suffix, f.addr))
	sources.NetworkOrder = true
	return section{
		name: byLength(bits), into: chainPostrouting,
		sets: []nfnetlink.Set{named(setKept+suffix, f.addr, f.addr), sources},
		more: []clause{
			both(f.lookFor(setKept+suffix, false, source, dest), back()),
			f.lookFor(setTranslation+suffix, true, source),
		},
	}
}

// translatedDev is what those need besides that do so by one device of the LAN alone.
func (f ipFamily) translatedDev(bits int) section {
	name := setTranslationDev + strconv.Itoa(bits)
	return section{
		name: byLength(bits) + "-dev", into: chainPostrouting,
		sets: []nfnetlink.Set{verdicts(named(name, f.addr, nftables.TypeIFName))},
		more: []clause{f.lookFor(name, true, f.prefix("saddr", f.source, bits), loaded{key: oifname, text: "oifname"})},
	}
}

// loaded is a field in registers, and which bits of it are kept there.
type loaded struct {
	key
	mask []byte // nil: all
	text string
}

// prefix are the first bits of an address.
func (f ipFamily) prefix(text string, at key, bits int) loaded {
	l := loaded{key: at, text: f.name + " " + text}
	if bits < 8*at.size {
		l.mask = net.CIDRMask(bits, 8*at.size)
		mask, _ := netip.AddrFromSlice(l.mask)
		l.text += " & " + mask.String()
	}
	return l
}

// lookFor looks for fields in a set or, with leads, goes where a map says.
func (f ipFamily) lookFor(set string, leads bool, all ...loaded) clause {
	var c clause
	at := uint32(reg)
	for i, l := range all {
		if i > 0 {
			c.text += " . "
		}
		c.text += l.text
		c.rule = append(c.rule, l.load(at))
		if l.mask != nil {
			c.rule = append(c.rule, &expr.Bitwise{SourceRegister: at, DestRegister: at, Len: uint32(l.size), Mask: l.mask, Xor: make([]byte, l.size)})
		}
		at += uint32(l.size+3) / 4
	}
	look := &expr.Lookup{SourceRegister: reg, SetName: set}
	if leads {
		look.IsDestRegSet, look.DestRegister = true, unix.NFT_REG_VERDICT
		c.text += " vmap"
	}
	c.rule = append(c.rule, look)
	c.text += " @" + set
	return c
}

// redirection is what networks need whose guests' queries are led to another port.
func (f ipFamily) redirection() section {
	s := named(setRedirection, nftables.TypeIFName, f.addr, nftables.TypeInetProto, nftables.TypeInetService)
	s.Map, s.Value = true, dataType(nftables.TypeInetService)
	lead := append(keys(iifname, f.dest, l4, destPort), &expr.Lookup{SourceRegister: reg, IsDestRegSet: true, DestRegister: unix.NFT_REG_1, SetName: setRedirection},
		&expr.Redir{RegisterProtoMin: unix.NFT_REG_1})
	var clauses []clause
	for _, protocol := range []string{"tcp", "udp"} {
		text := "meta l4proto " + protocol + " redirect to :iifname . " + f.name + " daddr . meta l4proto . " + protocol + " dport map @redirection"
		clauses = append(clauses, clause{and(is(l4, protocols[protocol]), lead), text})
	}
	return section{
		name: sectionRedirection, sets: []nfnetlink.Set{s},
		chains: []stage{{name: "prerouting", hook: hookPrerouting, clauses: clauses}},
	}
}

// treatment is how sources are rewritten.
type treatment struct {
	addrs firewall.AddrRange // zero: the address of the device by which packets leave
	ports firewall.PortRange // of TCP and UDP; zero: any
}

// name is the chain that does it, the same for all networks that ask for it.
func (t treatment) name() string {
	text := "masquerade"
	if t.addrs.Start.IsValid() {
		text = "snat_" + t.addrs.Start.String()
		if end := t.addrs.End; end.IsValid() && end != t.addrs.Start {
			text += "-" + end.String()
		}
	}
	if t.ports != (firewall.PortRange{}) {
		text += fmt.Sprintf("_%d-%d", t.ports.Start, t.ports.End)
	}
	return text
}

// section is what the treatment needs.
func (t treatment) section(f ipFamily) section {
	var clauses []clause
	if t.ports != (firewall.PortRange{}) {
		for _, protocol := range []string{"tcp", "udp"} {
			clauses = append(clauses, both(clause{is(l4, protocols[protocol]), "meta l4proto " + protocol}, rewrite(f, t.addrs, t.ports)))
		}
	}
	clauses = append(clauses, rewrite(f, t.addrs, firewall.PortRange{}))
	return section{name: t.name(), chains: []stage{{name: t.name(), clauses: clauses}}}
}

// What forwards add to a family's table. Their maps lead to a guest's address, or to that
// and a port: of the latter each port is an element.
const (
	setArriving  = "arriving"  // source . destination . protocol . ports of this host
	setDeparting = "departing" // the same, of what this host sends
	setLed       = "led"       // guest . bridge . protocol . ports
	setLedAsked  = "led_asked" // the same, of a network with a device of the LAN
	setLedDev    = "led_dev"   // guest . bridge . protocol . ports . device of the LAN
	setHairpins  = "hairpins"  // source . destination . bridge
	setLooping   = "looping"   // bridges whose guests are kept from loopback addresses

	localSuffix = "_local" // of maps for any of this host's addresses
	portSuffix  = "_port"  // of maps that lead to a port as well
)

// The sections of forwards.
const (
	sectionForwards = "forwards"
	sectionHairpins = "hairpins"
	sectionLooping  = "looping"
)

// led matches packets of connections whose destination was rewritten.
func led() clause {
	const dnat = 1 << 5 // IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h
	return clause{rule{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(dnat), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: make([]byte, 4)},
	}, "ct status dnat"}
}

// local matches packets to an address of this host.
func local() clause {
	return clause{rule{
		&expr.Fib{Register: reg, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}, "fib daddr type local"}
}

// lead gives packets the destination that a map has for them.
func (f ipFamily) lead(set string, port bool) clause {
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.number), RegAddrMin: reg}
	if port {
		nat.Specified, nat.RegProtoMin = true, reg+f.addr.Bytes/4
	}
	look := &expr.Lookup{SourceRegister: reg, IsDestRegSet: true, DestRegister: reg, SetName: set}
	text := "dnat to " + f.name + " saddr . " + f.name + " daddr . meta l4proto . th dport map @" + set
	return clause{append(keys(f.source, f.dest, l4, destPort), look, nat), text}
}

// forwards is what networks need of which ports of this host lead to guests.
func (f ipFamily) forwards() section {
	name, port := nftables.TypeIFName, []nftables.SetDatatype{f.addr, nftables.TypeIFName, nftables.TypeInetProto, nftables.TypeInetService}
	s := section{name: sectionForwards, sets: []nfnetlink.Set{
		ranges(named(setLed, port...)), ranges(named(setLedAsked, port...)), ranges(named(setLedDev, append(port, name)...)),
	}}
	for _, at := range []struct {
		set  string
		hook *nfnetlink.Hook
	}{{setArriving, hookArriving}, {setDeparting, hookDeparting}} {
		sets, clauses := f.destinations(at.set)
		s.sets = append(s.sets, sets...)
		s.chains = append(s.chains, stage{name: at.set, hook: at.hook, clauses: clauses})
	}
	return s
}

// destinations are the maps that begin with a name, and the rules that look into them.
func (f ipFamily) destinations(name string) (sets []nfnetlink.Set, clauses []clause) {
	for _, suffix := range []string{localSuffix, ""} {
		for _, port := range []string{"", portSuffix} {
			set := ranges(named(name+suffix+port, f.addr, f.addr, nftables.TypeInetProto, nftables.TypeInetService))
			set.Map, set.Value = true, dataType(f.addr)
			if port != "" {
				set.Value = dataType(f.addr, nftables.TypeInetService)
			}
			sets = append(sets, set)
			for _, protocol := range []string{"tcp", "udp", "sctp"} {
				c := clause{is(l4, protocols[protocol]), "meta l4proto " + protocol}
				if suffix != "" {
					c = both(local(), c)
				}
				clauses = append(clauses, both(c, f.lead(set.Name, port != "")))
			}
		}
	}
	return sets, clauses
}

// ledBy matches packets whose destination was rewritten and is in a set of those that were
// led to guests. more are further fields of its keys.
func (f ipFamily) ledBy(set string, more ...key) clause {
	text := f.name + " daddr . oifname . meta l4proto . th dport"
	if len(more) > 0 {
		text += " . iifname"
	}
	return both(led(), clause{in(set, append([]key{f.dest, oifname, l4, destPort}, more...)...), text + " @" + set})
}

// coming matches packets that come by a network's bridge.
func coming() clause { return clause{in(setBridges, iifname), "iifname @" + setBridges} }

// hairpins is what networks need where guests would answer senders directly.
func (f ipFamily) hairpins() section {
	pairs := f.name + " saddr . " + f.name + " daddr . oifname @" + setHairpins
	return section{
		name: sectionHairpins, sets: []nfnetlink.Set{ranges(named(setHairpins, f.addr, f.addr, nftables.TypeIFName))},
		chains: []stage{{name: setHairpins, hook: hookHairpins, clauses: []clause{
			both(both(led(), clause{in(setHairpins, f.source, f.dest, oifname), pairs}), rewrite(f, firewall.AddrRange{}, firewall.PortRange{})),
		}}},
	}
}

// looping is what networks need that lead loopback addresses to guests.
func (f ipFamily) looping() section {
	loopback := firewall.Loopback(f.family)
	bridge := clause{in(setLooping, iifname), "iifname @" + setLooping}
	to := both(bridge, inPrefix(f.name+" daddr", f.dest, loopback))
	return section{
		name: sectionLooping, sets: []nfnetlink.Set{named(setLooping, nftables.TypeIFName)},
		chains: []stage{{name: "input", hook: hookInput, clauses: []clause{
			both(to, both(reply(), verdict(accepted))),
			both(to, verdict(chainRejected)),
			both(both(bridge, inPrefix(f.name+" saddr", f.source, loopback)), verdict(chainRejected)),
		}}},
	}
}

// The hooks of forwards, with the usual priorities; hairpins come before what translates
// sources.
var (
	hookArriving  = &nfnetlink.Hook{Number: unix.NF_INET_PRE_ROUTING, Priority: -100, Type: "nat"}
	hookDeparting = &nfnetlink.Hook{Number: unix.NF_INET_LOCAL_OUT, Priority: -100, Type: "nat"}
	hookHairpins  = &nfnetlink.Hook{Number: unix.NF_INET_POST_ROUTING, Priority: 99, Type: "nat"}
	hookInput     = &nfnetlink.Hook{Number: unix.NF_INET_LOCAL_IN, Type: "filter"}
)

// What peers and policies add to a family's table. By its bridge a packet is led to the
// one network's chain that says more, named after the map and the bridge.
const (
	mapLeaving  = "leaving"  // bridge: what its guests may not open
	mapEntering = "entering" // bridge: what may not be opened to its guests
	mapAsking   = "asking"   // bridge: what its guests may not open to this host
	mapExempt   = "exempt"   // bridge: what is sent to its guests and keeps its source
	setPeered   = "peered"   // source . destination . bridge . bridge: answers of peers
)

// sectionPeers is what answers of peers need.
const sectionPeers = "peers"

// The hooks of policies: before networks' own rules, and for peers' sources before those that
// rewrite them.
var (
	hookLeaving  = &nfnetlink.Hook{Number: unix.NF_INET_FORWARD, Priority: -2, Type: "filter"}
	hookEntering = &nfnetlink.Hook{Number: unix.NF_INET_FORWARD, Priority: -1, Type: "filter"}
	hookAsking   = &nfnetlink.Hook{Number: unix.NF_INET_LOCAL_IN, Priority: -1, Type: "filter"}
	hookExempt   = &nfnetlink.Hook{Number: unix.NF_INET_POST_ROUTING, Priority: 98, Type: "nat"}
)

// policies are the sections that lead from hooks to networks' chains.
func (f ipFamily) policies() (all []section) {
	from, to := clause{keys(iifname), "iifname"}, clause{keys(oifname), "oifname"}
	for _, p := range []struct {
		name string
		hook *nfnetlink.Hook
		by   clause
	}{{mapLeaving, hookLeaving, from}, {mapEntering, hookEntering, to}, {mapAsking, hookAsking, from}, {mapExempt, hookExempt, to}} {
		all = append(all, section{
			name: p.name, sets: []nfnetlink.Set{verdicts(named(p.name, nftables.TypeIFName))},
			chains: []stage{{name: p.name, hook: p.hook, clauses: []clause{lookUp(p.by, p.name)}}},
		})
	}
	answers := clause{
		in(setPeered, f.source, f.dest, iifname, oifname),
		f.name + " saddr . " + f.name + " daddr . iifname . oifname @" + setPeered,
	}
	return append(all, section{
		name: sectionPeers,
		sets: []nfnetlink.Set{ranges(named(setPeered, f.addr, f.addr, nftables.TypeIFName, nftables.TypeIFName))},
		into: chainAnswered,
		more: []clause{both(reply(), both(answers, verdict(accepted)))},
	})
}

// lookUp goes where a map of verdicts says for what by has loaded.
func lookUp(by clause, name string) clause {
	look := &expr.Lookup{SourceRegister: reg, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT, SetName: name}
	return clause{and(by.rule, rule{look}), by.text + " vmap @" + name}
}
