package translate

import (
	"net"
	"net/netip"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// GuardedNetwork is what guards of ports on the bridge with that ifindex and MAC address need
// to know of live.
func GuardedNetwork(live *netdef.Network, index int, mac net.HardwareAddr) firewall.GuardedNetwork {
	g := firewall.GuardedNetwork{
		Bridge: live.Bridge.Name, Index: index, Gateway: Gateways(live),
		DHCP: DHCPIP(live) != nil, DHCP6: DHCP6IP(live) != nil, RA: HasIPv6(live),
		Foreign: len(live.IPs) == 0 || live.Mode() == netdef.ModeOpen || live.Mode() == netdef.ModeBridge,
	}
	if len(mac) == 6 {
		g.MAC = firewall.MAC(mac)
	}
	for i := range live.IPs {
		ip := &live.IPs[i]
		g.Subnets = append(g.Subnets, ip.Prefix())
		if ip.Address.Is6() && ip.Autonomous() {
			g.Autoconf = append(g.Autoconf, ip.Prefix())
		}
	}
	for i := range live.Routes {
		g.Behind = append(g.Behind, live.Routes[i].Prefix())
	}
	return g
}

// Autoconf are the addresses that guests of live with such cards make for themselves of these
// (RFC 4862, RFC 4291 appendix A).
func Autoconf(live *netdef.Network, cards []firewall.MAC) (all []netip.Addr) {
	for i := range live.IPs {
		ip := &live.IPs[i]
		if !ip.Address.Is6() || !ip.Autonomous() || ip.Prefix().Bits() != 64 {
			continue
		}
		for _, mac := range cards {
			a, local := ip.Prefix().Masked().Addr().As16(), mac.LinkLocal().As16()
			copy(a[8:], local[8:])
			all = append(all, netip.AddrFrom16(a))
		}
	}
	return all
}

// Guard is how a port of live is guarded that asks for nothing, whose owner may not choose
// addresses if untrusted: strictly where vnetd gives the addresses and so knows
// them, and by nothing but the gateway elsewhere.
func Guard(live *netdef.Network, untrusted bool) firewall.Guard {
	if live.Guard.Level != "" {
		if g, err := firewall.ParseGuard(live.Guard.String()); err == nil {
			return g
		}
	}
	if !untrusted {
		g := firewall.GuardAt(firewall.GuardGateway)
		if live.Span != nil && ManagesMACs(live) {
			// Other cards behind the port get nothing, and other hosts learn where cards are.
			g[firewall.GuardMAC] = firewall.GuardStrict
		}
		return g
	}
	g := firewall.GuardAt(firewall.GuardStrict)
	known4, known6 := knowsGuests(live)
	if !known4 {
		g[firewall.GuardARP], g[firewall.GuardIP] = firewall.GuardGateway, firewall.GuardGateway
	}
	if !known6 {
		g[firewall.GuardND], g[firewall.GuardIP] = firewall.GuardGateway, firewall.GuardGateway
	}
	return g
}

// How many addresses those behind a port may have that have none reserved.
const (
	addressesGateway = 64 // a nested bridge has many
	addressesStrict  = 4
)

// MostAddresses is how many addresses those behind a port with guard g may have by DHCP on
// live, 0 for any number.
func MostAddresses(live *netdef.Network, g firewall.Guard) int {
	switch level := g[firewall.GuardDHCP]; {
	case level == firewall.GuardOff:
		return 0
	case live.Guard.Addresses > 0:
		return live.Guard.Addresses
	case level == firewall.GuardStrict:
		return addressesStrict
	default:
		return addressesGateway
	}
}

// knowsGuests reports for each family whether vnetd knows which addresses guests of
// live have, if any.
func knowsGuests(live *netdef.Network) (v4, v6 bool) {
	if !live.Mode().OwnsBridge() {
		return false, false
	}
	v4, v6 = DHCPIP(live) != nil, !live.IPv6
	for i := range live.IPs {
		ip := &live.IPs[i]
		v6 = v6 && (ip.Address.Is4() || ip.Autonomous() || DHCP6IP(live) != nil)
	}
	return v4, v6
}

// ReservedFor are the addresses that live reserves for a card.
func ReservedFor(live *netdef.Network, mac net.HardwareAddr) (all []netip.Addr) {
	for i := range live.IPs {
		if live.IPs[i].DHCP == nil {
			continue
		}
		for _, h := range live.IPs[i].DHCP.Hosts {
			if h.MAC.String() == mac.String() && len(mac) > 0 && h.IP.IsValid() {
				all = append(all, h.IP)
			}
		}
	}
	return all
}
