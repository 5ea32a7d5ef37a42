package nft

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// The sets of all ports, by ifindex.
const (
	setMACs        = "macs"      // a port's own addresses
	setBound       = "bound"     // ports of which these are all that they have
	setVLANs       = "vlans"     // that a port may use
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
func byPort(name string, more ...nftables.SetDatatype) nftables.Set {
	s := nftables.Set{Name: name, KeyType: nftables.MustConcatSetType(append([]nftables.SetDatatype{nftables.TypeIFIndex}, more...)...)}
	s.Concatenation = len(more) > 0
	if !s.Concatenation {
		s.KeyByteOrder = binaryutil.NativeEndian
	}
	return s
}

// passing has elements of a set end by themselves.
func passing(s nftables.Set, after time.Duration, size int) nftables.Set {
	s.Dynamic, s.HasTimeout, s.Timeout, s.Size = true, true, after, uint32(size)
	return s
}

// Bounds of what frames add to sets.
const (
	maxPorts = 1 << 16
	maxSeen  = 1 << 18
)

// commonSets are the sets of all networks.
func commonSets() []nftables.Set {
	ranges4, ranges6 := byPort(setRanges4, nftables.TypeIPAddr), byPort(setRanges6, nftables.TypeIP6Addr)
	ranges4.Interval, ranges6.Interval = true, true
	all := []nftables.Set{
		byPort(setMACs, nftables.TypeEtherAddr), byPort(setBound),
		byPort(setKnown4, nftables.TypeEtherAddr, nftables.TypeIPAddr), byPort(setKnown6, nftables.TypeEtherAddr, nftables.TypeIP6Addr),
		byPort(setVLANs, nftables.TypeInetService),
		byPort(setAddrs4, nftables.TypeIPAddr), byPort(setAddrs6, nftables.TypeIP6Addr), ranges4, ranges6,
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
func networkSets(n *firewall.GuardedNetwork) []nftables.Set {
	return []nftables.Set{
		{Name: ownedSet(n.Index), KeyType: nftables.TypeEtherAddr, Comment: n.Bridge},
		{Name: taken4Set(n.Index), KeyType: nftables.TypeIPAddr, Comment: n.Bridge},
		{Name: taken6Set(n.Index), KeyType: nftables.TypeIP6Addr, Comment: n.Bridge},
	}
}

// element is one of a set, comparable.
type element struct{ set, from, to string } // to: the end of an interval, or empty

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

// padded is a field as it stands in registers of four bytes.
func padded(b []byte) string { return string(append(slices.Clone(b), make([]byte, (4-len(b)%4)%4)...)) }

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
		all = append(all, element{name, port + string(s.Masked().Addr().AsSlice()), port + string(last(s).AsSlice())})
	}
	for _, v := range p.VLANs {
		all = append(all, element{set: setVLANs, from: port + padded(uint16be(v))})
	}
	all = append(all, known(n, p)...)
	slices.SortFunc(all, compareElements)
	return slices.Compact(all)
}

// maxKnown is up to how many pairs of a card and an address a port is let through by.
const maxKnown = 64

// known are the pairs of a card and an address of a port by which no guard of a source
// has anything against a packet. More than a few are none: they go the long way.
func known(n *firewall.GuardedNetwork, p *firewall.GuardedPort) (all []element) {
	gateway := gatewayAddrs(n)
	for _, mac := range p.MACs {
		for _, a := range append(slices.Clone(p.Addrs), mac.LinkLocal()) {
			if mac == n.MAC || slices.Contains(gateway, a) || !n.Foreign && !inside(n, a) {
				continue
			}
			e := element{set: setKnown4, from: string(ifindex(p.Index)) + string(mac[:])}
			kind := uint16(unix.ETH_P_IP)
			if a.Is6() {
				e.set, kind = setKnown6, unix.ETH_P_IPV6
			}
			e.from += string(uint16be(kind)) + string(a.AsSlice())
			all = append(all, e)
		}
	}
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

func compareElements(a, b element) int {
	return slices.Compare([]string{a.set, a.from, a.to}, []string{b.set, b.from, b.to})
}

// last is the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
