package nft

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// The sets of all ports, by ifindex.
const (
	setMACs        = "macs"      // a port's own addresses
	setBound       = "bound"     // ports of which these are all that they have
	setVLANs       = "vlans"     // that a port may use
	setNatives     = "natives"   // of a port's frames without a tag
	setKnown4      = "known4"    // a card with an address of its own, both the port's
	setKnown6      = "known6"    //
	setAddrs4      = "addrs4"    // a port's own addresses
	setAddrs6      = "addrs6"    //
	setRanges4     = "prefixes4" // what else it may use
	setRanges6     = "prefixes6" //
	setSeen        = "seen"      // addresses of frames that are not known to be a port's own
	setFresh       = "fresh"     // how fast new ones come
	setBroadcasts  = "broadcasts"
	setMulticasts  = "multicasts"
	setResolutions = "resolutions"
)

// stoppedSet counts frames of a kind that were dropped, by ifindex.
func stoppedSet(k firewall.GuardKind) string { return "stopped_" + k.String() }

// The sets of a network, by the ifindex of its bridge: what belongs to the gateway
// or to a port.
func ownedSet(index int) string  { return fmt.Sprintf("owned_net%d", index) }
func taken4Set(index int) string { return fmt.Sprintf("taken4_net%d", index) }
func taken6Set(index int) string { return fmt.Sprintf("taken6_net%d", index) }

// byPort is a set by ifindex and what follows.
func byPort(name string, more ...nftables.SetDatatype) nfnetlink.Set {
	return named(name, append([]nftables.SetDatatype{nftables.TypeIFIndex}, more...)...)
}

// passing has elements of a set, which rules add, end by themselves.
func passing(s nfnetlink.Set, after time.Duration, size uint32) nfnetlink.Set {
	s.Dynamic, s.Timeout, s.Size = true, uint64(after.Milliseconds()), size
	return s
}

// seenFor is how long an address is not counted again: the bridge's ageing time.
const seenFor = 5 * time.Minute

// Bounds of what frames add to sets.
const (
	maxPorts = 1 << 16
	maxSeen  = 1 << 18
)

// commonSets are the sets of all networks.
func commonSets() []nfnetlink.Set {
	all := []nfnetlink.Set{
		byPort(setMACs, nftables.TypeEtherAddr), byPort(setBound),
		byPort(setKnown4, nftables.TypeEtherAddr, nftables.TypeIPAddr), byPort(setKnown6, nftables.TypeEtherAddr, nftables.TypeIP6Addr),
		byPort(setVLANs, nftables.TypeInetService), byPort(setNatives, nftables.TypeInetService),
		byPort(setAddrs4, nftables.TypeIPAddr), byPort(setAddrs6, nftables.TypeIP6Addr),
		ranges(byPort(setRanges4, nftables.TypeIPAddr)), ranges(byPort(setRanges6, nftables.TypeIP6Addr)),
		passing(byPort(setSeen, nftables.TypeEtherAddr), seenFor, maxSeen),
	}
	for _, name := range []string{setFresh, setBroadcasts, setMulticasts, setResolutions} {
		all = append(all, passing(byPort(name), seenFor, maxPorts))
	}
	for _, k := range firewall.GuardKinds() {
		s := byPort(stoppedSet(k))
		s.Dynamic, s.Size, s.Counter = true, maxPorts, true
		all = append(all, s)
	}
	return all
}

// networkSets are the sets of one network.
func networkSets(n *firewall.GuardedNetwork) (all []nfnetlink.Set) {
	for _, s := range []nfnetlink.Set{
		named(ownedSet(n.Index), nftables.TypeEtherAddr), named(taken4Set(n.Index), nftables.TypeIPAddr), named(taken6Set(n.Index), nftables.TypeIP6Addr),
	} {
		s.NetworkOrder, s.Comment = true, n.Bridge
		all = append(all, s)
	}
	return all
}

// takenBy is what a network's sets have of an address that somebody has.
func takenBy(index int, a netip.Addr) element {
	if a.Is4() {
		return element{set: taken4Set(index), from: string(a.AsSlice())}
	}
	return element{set: taken6Set(index), from: string(a.AsSlice())}
}

// gatewayAddrs are the network's own addresses.
func gatewayAddrs(n *firewall.GuardedNetwork) []netip.Addr {
	all := slices.Clone(n.Gateway)
	if n.MAC != (firewall.MAC{}) {
		if local := n.MAC.LinkLocal(); !slices.Contains(all, local) {
			all = append(all, local)
		}
	}
	return all
}

// networkElements are what sets have of a network.
func networkElements(n *firewall.GuardedNetwork) (all []element) {
	if n.MAC != (firewall.MAC{}) {
		all = append(all, element{set: ownedSet(n.Index), from: string(n.MAC[:])})
	}
	for _, a := range gatewayAddrs(n) {
		all = append(all, takenBy(n.Index, a))
	}
	return all
}

// portElements are what sets have of a port on the network.
func portElements(n *firewall.GuardedNetwork, p *firewall.GuardedPort) (all []element) {
	port := string(ifindex(p.Index))
	for _, mac := range p.MACs {
		local := mac.LinkLocal()
		all = append(all,
			element{set: setMACs, from: port + padded(mac[:])}, element{set: ownedSet(n.Index), from: string(mac[:])},
			element{set: setAddrs6, from: port + string(local.AsSlice())}, takenBy(n.Index, local))
	}
	if p.Bound {
		all = append(all, element{set: setBound, from: port})
	}
	for _, a := range p.Addrs {
		name := setAddrs4
		if a.Is6() {
			name = setAddrs6
		}
		all = append(all, element{set: name, from: port + string(a.AsSlice())}, takenBy(n.Index, a))
	}
	for _, s := range p.Prefixes {
		name := setRanges4
		if s.Addr().Is6() {
			name = setRanges6
		}
		all = append(all, element{set: name, from: port + string(s.Masked().Addr().AsSlice()), to: port + string(last(s).AsSlice())})
	}
	for _, v := range p.VLANs {
		all = append(all, element{set: setVLANs, from: port + padded(uint16be(v))})
	}
	for _, v := range p.Natives {
		all = append(all, element{set: setNatives, from: port + padded(uint16be(v))})
	}
	slices.SortFunc(all, compareElements)
	return slices.Compact(all)
}

// Up to how many pairs of a card and an address a port is let through by: those that stand
// in its own chain, and those that are looked up.
const (
	maxOwn   = 4
	maxKnown = 64
)

// pair is a card with an address, both a port's.
type pair struct {
	mac firewall.MAC
	ip  netip.Addr
}

// source is the pair's card with the protocol behind it, as frames have them.
func (k pair) source() []byte {
	if k.ip.Is4() {
		return append(k.mac[:], uint16be(unix.ETH_P_IP)...)
	}
	return append(k.mac[:], uint16be(unix.ETH_P_IPV6)...)
}

// set is where it is looked up.
func (k pair) set() string {
	if k.ip.Is4() {
		return setKnown4
	}
	return setKnown6
}

// element is the pair in a set, of the port with that ifindex.
func (k pair) element(index int) element {
	return element{set: k.set(), from: string(ifindex(index)) + string(k.source()) + string(k.ip.AsSlice())}
}

// rule matches its packets.
func (k pair) rule() rule {
	at := ip4Source
	if k.ip.Is6() {
		at = ip6Source
	}
	return and(is(etherSourceType, k.source()...), is(at, k.ip.AsSlice()...))
}

// known are the pairs of a card and an address of a port by which no guard of a source
// has anything against a packet, those of IPv4 first. More than a few are none: they go the
// long way.
func known(n *firewall.GuardedNetwork, p *firewall.GuardedPort) (all []pair) {
	gateway := gatewayAddrs(n)
	for _, mac := range p.MACs {
		for _, a := range append(slices.Clone(p.Addrs), mac.LinkLocal()) {
			if mac == n.MAC || slices.Contains(gateway, a) || !n.Foreign && !inside(n, a) {
				continue
			}
			all = append(all, pair{mac, a})
		}
	}
	slices.SortFunc(all, func(a, b pair) int { return cmp.Or(a.ip.Compare(b.ip), slices.Compare(a.mac[:], b.mac[:])) })
	all = slices.Compact(all)
	if len(all) > maxKnown {
		return nil
	}
	return all
}

// inside reports whether an address is one of the network's.
func inside(n *firewall.GuardedNetwork, a netip.Addr) bool {
	holds := func(s netip.Prefix) bool { return s.Masked().Contains(a) }
	return a.IsLinkLocalUnicast() || slices.ContainsFunc(n.Subnets, holds) || slices.ContainsFunc(n.Behind, holds)
}
