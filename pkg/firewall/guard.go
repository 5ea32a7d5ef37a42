package firewall

import (
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vnetd/vnetd/internal/ether"
)

// guardTables is how the names of the tables of nftables, family netdev, begin that have
// guards, and the whole name where a former vnetd had all of them in one. They are vnetd's
// own: what they drop is no fault of others' rules.
const guardTables = "vnetd_guard"

// GuardTable is the table that has the guards of the ports on a bridge, one of 64 however
// many bridges there are: a port costs what there is in its table.
func GuardTable(bridge string) string {
	return fmt.Sprintf("%s_%d", guardTables, crc32.ChecksumIEEE([]byte(bridge))%64)
}

// SilenceTable is the table of nftables, family netdev, that is in place of guards while their
// ports are deleted.
const SilenceTable = guardTables + "_silence"

// IsGuardTable reports whether a table of the family netdev has guards, or is in their place.
func IsGuardTable(name string) bool {
	return name == guardTables || strings.HasPrefix(name, guardTables+"_")
}

// NetworksTable is the table of nftables, families ip and ip6, that has networks' rules
// where they are written by nftables. It is vnetd's own.
const NetworksTable = "vnetd"

// OffloadTable is the table of nftables, family inet, that has established connections go
// past the rules. It is vnetd's own.
const OffloadTable = "vnetd_offload"

// UserTable is the table of nftables, family inet, that has the administrator's own rules
// where networks' are written by nftables. vnetd makes it and changes nothing in it.
const UserTable = "vnetd_user"

// GuardLevel is how much of what a port sends is stopped.
type GuardLevel uint8

// The levels, the weakest first.
const (
	// GuardOff stops nothing.
	GuardOff GuardLevel = iota
	// GuardGateway stops what no honest guest sends: see GuardKind.
	GuardGateway
	// GuardStrict lets through what a guest with its own addresses alone sends.
	GuardStrict
)

var guardLevels = [...]string{GuardOff: "off", GuardGateway: "gateway", GuardStrict: "strict"}

// String is "off", "gateway" or "strict".
func (l GuardLevel) String() string { return guardLevels[l] }

// GuardKind is one kind of frames that a guard stops.
type GuardKind uint8

// The kinds. What is said of a level holds for those above it.
const (
	// GuardControl is frames that bridges and switches speak among themselves: the
	// reserved group addresses of IEEE 802.1Q table 8-1 (STP, LACP, pause, EAPOL,
	// LLDP) and Cisco's (CDP, PVST+).
	GuardControl GuardKind = iota
	// GuardMAC is frames from the address of the bridge, of another port or of a
	// group; strict: from any address but the port's.
	GuardMAC
	// GuardFDB is frames from more new addresses than a nested bridge has.
	GuardFDB
	// GuardVLAN is frames whose outer tag is a priority alone and hides another tag,
	// which hosts look behind; strict: frames of VLANs that are not the port's.
	GuardVLAN
	// GuardARP is ARP whose sender is the gateway or has an address of another port;
	// strict: any address but the port's.
	GuardARP
	// GuardND is the same of neighbour discovery.
	GuardND
	// GuardDHCP is answers of DHCP and DHCPv6 servers where vnetd serves; strict: also
	// where it does not.
	GuardDHCP
	// GuardRA is router advertisements and redirects where vnetd advertises; strict:
	// also where it does not.
	GuardRA
	// GuardIP is packets with the source of the gateway, and packets to it with a source
	// outside of the network; strict: with any source but the port's.
	GuardIP
	// GuardRate is broadcast, multicast, ARP and neighbour discovery beyond a rate;
	// strict alone.
	GuardRate
	// GuardIsolated is packets that an isolated port sends to other guests by way of
	// the gateway. It is not of a level, but of the port's isolation.
	GuardIsolated
	guardKinds
)

var guardNames = [guardKinds]string{
	GuardControl: "control", GuardMAC: "mac", GuardFDB: "fdb", GuardVLAN: "vlan", GuardARP: "arp", GuardND: "nd",
	GuardDHCP: "dhcp", GuardRA: "ra", GuardIP: "ip", GuardRate: "rate", GuardIsolated: "isolated",
}

// String is the kind's name, as documents and options have it.
func (k GuardKind) String() string { return guardNames[k] }

// GuardKinds are all kinds, in order.
func GuardKinds() []GuardKind {
	all := make([]GuardKind, guardKinds)
	for i := range all {
		all[i] = GuardKind(i)
	}
	return all
}

// Guard is the level of each kind but GuardIsolated.
type Guard [GuardIsolated]GuardLevel

// GuardAt has every kind at one level.
func GuardAt(l GuardLevel) (g Guard) {
	for k := range g {
		g[k] = l
	}
	return g
}

// ParseGuard reads a level, and after commas kinds with levels of their own, as in
// "strict,arp=off". The error says what would be right.
func ParseGuard(text string) (Guard, error) {
	words := strings.Split(text, ",")
	level := slices.Index(guardLevels[:], words[0])
	if level < 0 {
		return Guard{}, fmt.Errorf("%.80q is not a level, want off, gateway or strict", words[0])
	}
	g := GuardAt(GuardLevel(level))
	for _, word := range words[1:] {
		key, value, _ := strings.Cut(word, "=")
		kind, level := slices.Index(guardNames[:GuardIsolated], key), slices.Index(guardLevels[:], value)
		if kind < 0 || level < 0 {
			return Guard{}, fmt.Errorf("%.80q is not a kind with its level, want KIND=off, gateway or strict, KIND being one of %s",
				word, strings.Join(guardNames[:GuardIsolated], ", "))
		}
		g[kind] = GuardLevel(level)
	}
	return g, nil
}

// String is what ParseGuard reads, as short as can be.
func (g Guard) String() string {
	var count [len(guardLevels)]int
	for _, l := range g {
		count[l]++
	}
	base := GuardOff
	for l := range count {
		if count[l] > count[base] {
			base = GuardLevel(l)
		}
	}
	text := base.String()
	for k, l := range g {
		if l != base {
			text += "," + guardNames[k] + "=" + l.String()
		}
	}
	return text
}

// MAC is the address of a card, comparable.
type MAC [6]byte

// String is the usual form.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// LinkLocal is the IPv6 address that a link makes of the MAC address (RFC 4291,
// appendix A).
func (m MAC) LinkLocal() netip.Addr { return ether.LinkLocal(m[:]) }

// GuardedNetwork is what guards of a bridge's ports need to know of its network.
type GuardedNetwork struct {
	Bridge string
	Index  int // ifindex of the bridge
	MAC    MAC // of the bridge; zero: not known
	// Gateway are the bridge's addresses; its link-local one is made of MAC.
	Gateway []netip.Addr
	// Subnets are where guests are.
	Subnets []netip.Prefix
	// Behind are where guests lead to as routers, beside Subnets.
	Behind []netip.Prefix
	// Autoconf are those of Subnets in which guests make up addresses (RFC 4862).
	Autoconf []netip.Prefix
	// Foreign has packets from anywhere come from guests, as the administrator routes them.
	Foreign bool
	// What vnetd serves.
	DHCP, DHCP6, RA bool
}

// GuardedPort is a port with a guard.
type GuardedPort struct {
	Bridge string // the network's
	IfName string
	Index  int // ifindex
	Guard  Guard
	// Isolated has packets to other guests by way of the gateway stopped.
	Isolated bool
	// MACs are the addresses of the guest's cards. Bound says that these are all: until
	// that is known, GuardMAC is not more than GuardGateway.
	MACs  []MAC
	Bound bool
	// Addrs are the guest's: leased, set aside for it, or its own by other means.
	Addrs []netip.Addr
	// Prefixes, VLANs: what else it may use. VLAN 0 is none.
	Prefixes []netip.Prefix
	VLANs    []uint16
	// Natives are the VLANs of which the bridge takes its frames without a tag to be, if it tells
	// VLANs apart: it takes the tag off others.
	Natives []uint16
}

// Guarded reports whether anything of the port is stopped.
func (p GuardedPort) Guarded() bool { return p.Isolated || p.Guard != Guard{} }

// Stopped is how many frames of a port a guard has stopped since it is there.
type Stopped map[GuardKind]uint64

// Allow adds to p what else its guest may use: a card's MAC address, an IP address or
// prefix, or a VLAN as vlan=N. The error says what text is none of.
func (p *GuardedPort) Allow(text string) error {
	if number, ok := strings.CutPrefix(text, "vlan="); ok {
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n < 1 || n > 4094 {
			return fmt.Errorf("%.80q is no VLAN, want vlan=N with N from 1 to 4094", text)
		}
		p.VLANs = append(p.VLANs, uint16(n))
		return nil
	}
	if mac, err := net.ParseMAC(text); err == nil && len(mac) == 6 && mac[0]&1 == 0 {
		p.MACs = append(p.MACs, MAC(mac))
		return nil
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		p.Addrs = append(p.Addrs, a.Unmap())
		return nil
	}
	s, err := netip.ParsePrefix(text)
	if err != nil || s.Addr().Is4In6() || s.Bits() == 0 {
		return fmt.Errorf("%.80q is none of a card's MAC address, an IP address, a prefix such as 192.0.2.0/28, and vlan=N", text)
	}
	p.Prefixes = append(p.Prefixes, s)
	return nil
}
