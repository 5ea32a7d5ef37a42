// Package firewalltest has what tests of all writers of rules have in common. Tests
// only; nothing that ships imports it.
package firewalltest

import (
	"net/netip"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// Subnets parses prefixes as they stand in <ip> elements, host bits and all.
func Subnets(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// NAT is the network of libvirt's default.xml.
func NAT() firewall.Network {
	return firewall.Network{
		Bridge: "virbr0", Mode: firewall.ModeNAT, DHCP: true,
		Subnets: Subnets("192.168.122.1/24"),
	}
}

// With is a changed copy of a network.
func With(n firewall.Network, change func(*firewall.Network)) firewall.Network {
	change(&n)
	return n
}

// Intents are networks with every option, by name; golden files have their rules.
func Intents() map[string]firewall.Network {
	nat := NAT()
	v6 := With(nat, func(n *firewall.Network) {
		n.Subnets = Subnets("192.168.122.1/24", "2001:db8:0:1::1/64")
	})
	addr := netip.MustParseAddr
	return map[string]firewall.Network{
		"nat":     nat,
		"nat-dev": {Bridge: "virbr-nat", Mode: firewall.ModeNAT, Dev: "eno1", DHCP: true, Subnets: Subnets("192.168.10.1/24")},
		"nat-ports": With(nat, func(n *firewall.Network) {
			n.NATPorts = firewall.PortRange{Start: 500, End: 1000}
		}),
		"nat-one-port": With(nat, func(n *firewall.Network) {
			n.NATPorts = firewall.PortRange{Start: 4000, End: 4000}
		}),
		"nat-addresses": With(nat, func(n *firewall.Network) {
			n.Dev = "eno1"
			n.NATAddrs = firewall.AddrRange{Start: addr("203.0.113.50"), End: addr("203.0.113.60")}
		}),
		"nat-one-address": With(nat, func(n *firewall.Network) {
			n.NATAddrs = firewall.AddrRange{Start: addr("203.0.113.50"), End: addr("203.0.113.50")}
			n.NATPorts = firewall.PortRange{Start: 4000, End: 5000}
		}),
		"nat-several-ips": With(nat, func(n *firewall.Network) {
			n.Subnets = Subnets("192.168.122.1/24", "192.0.2.1/28", "192.168.122.9/24", "198.51.100.1/32")
		}),
		"nat-without-subnet":  With(nat, func(n *firewall.Network) { n.Subnets, n.DHCP = nil, false }),
		"nat-without-dhcp":    With(nat, func(n *firewall.Network) { n.DHCP = false }),
		"nat-tftp":            With(nat, func(n *firewall.Network) { n.TFTP = true }),
		"nat-ipv6-yes":        With(nat, func(n *firewall.Network) { n.IPv6 = true }),
		"nat-ipv6-routed":     v6,
		"nat-ipv6-routed-dev": With(v6, func(n *firewall.Network) { n.Dev = "eno1" }),
		"nat66": With(v6, func(n *firewall.Network) {
			n.NATIPv6 = true
			n.NATAddrs = firewall.AddrRange{Start: addr("203.0.113.50")}
		}),
		"nat66-dev": With(v6, func(n *firewall.Network) {
			n.NATIPv6, n.Dev = true, "eno1"
			n.NATPorts = firewall.PortRange{Start: 2000, End: 3000}
			n.Subnets = append(n.Subnets, Subnets("2001:db8:0:0:1::/80")...)
		}),
		"nat-ipv6-closed": With(v6, func(n *firewall.Network) { n.NoInboundIPv6 = true }),
		"route-ipv6-closed-dev": With(v6, func(n *firewall.Network) {
			n.Mode, n.Dev, n.NoInboundIPv6 = firewall.ModeRoute, "eno1", true
		}),
		"route":         With(v6, func(n *firewall.Network) { n.Mode = firewall.ModeRoute }),
		"route-dev":     With(v6, func(n *firewall.Network) { n.Mode, n.Dev = firewall.ModeRoute, "eno1" }),
		"isolated":      {Bridge: "virbr-isolated", Mode: firewall.ModeIsolated, DHCP: true, Subnets: Subnets("192.0.2.1/24")},
		"isolated-ipv6": {Bridge: "virbr3", Mode: firewall.ModeIsolated, Subnets: Subnets("2001:db8::1/64")},
		"dns-redirected": With(v6, func(n *firewall.Network) {
			n.DNS = []netip.AddrPort{
				netip.MustParseAddrPort("192.168.122.1:10053"), netip.MustParseAddrPort("[2001:db8:0:1::1]:10053"),
				netip.MustParseAddrPort("[fe80::5054:ff:fe00:1%virbr0]:10053"),
			}
		}),
		"open":   With(v6, func(n *firewall.Network) { n.Mode = firewall.ModeOpen }),
		"bridge": With(v6, func(n *firewall.Network) { n.Mode = firewall.ModeBridge }),
	}
}

// Forwards are networks with ports of the host that lead to guests, by name.
func Forwards() map[string]firewall.Network {
	addr := netip.MustParseAddr
	port := func(n uint16) firewall.PortRange { return firewall.PortRange{Start: n, End: n} }
	several := firewall.PortRange{Start: 9000, End: 9009}
	return map[string]firewall.Network{
		"forwards": With(NAT(), func(n *firewall.Network) {
			n.Subnets = Subnets("192.168.122.1/24", "2001:db8:0:1::1/64")
			n.Forwards = []firewall.Forward{
				{Protocol: "tcp", Ports: port(8080), To: addr("192.168.122.5"), ToPort: 80},
				{Protocol: "tcp", Ports: port(8080), To: addr("2001:db8:0:1::5"), ToPort: 80},
				{Protocol: "udp", Ports: several, To: addr("192.168.122.5"), ToPort: 90},
				{Protocol: "udp", Ports: several, To: addr("2001:db8:0:1::5"), ToPort: 90},
				{
					Protocol: "tcp", Address: addr("203.0.113.7"), Ports: firewall.PortRange{Start: 22, End: 29}, To: addr("192.168.122.6"), ToPort: 22,
					From: Subnets("198.51.100.0/24", "203.0.113.9/32", "2001:db8:9::/64"),
				},
			}
		}),
		"forwards-dev": {
			Bridge: "virbr-fwd", Mode: firewall.ModeRoute, Dev: "eno1", Subnets: Subnets("192.168.10.1/24", "2001:db8:0:1::1/64"), NoLoopback6: true,
			Forwards: []firewall.Forward{
				{Protocol: "tcp", Ports: port(443), To: addr("2001:db8:0:1::5"), ToPort: 8443},
				{Protocol: "udp", Address: addr("127.0.0.1"), Ports: port(443), To: addr("192.168.10.5"), ToPort: 443},
			},
		},
	}
}

// Policies are networks with peers and rules, by name.
func Policies() map[string]firewall.Network {
	one := func(n uint16) firewall.PortRange { return firewall.PortRange{Start: n, End: n} }
	tcp := func(ports ...uint16) (all []firewall.Service) {
		for _, p := range ports {
			all = append(all, firewall.Service{Protocol: "tcp", Ports: one(p)})
		}
		return all
	}
	both := With(NAT(), func(n *firewall.Network) {
		n.Name, n.Subnets = "web", Subnets("192.168.122.1/24", "2001:db8:0:1::1/64")
	})
	guest := &firewall.Guest{
		MACs:  []firewall.MAC{{0x52, 0x54, 0, 0xaa, 0xbb, 0xcc}},
		Addrs: []netip.Addr{netip.MustParseAddr("192.168.122.5"), netip.MustParseAddr("2001:db8:0:1::5")},
	}
	rules := []firewall.PolicyRule{
		{Direction: firewall.Egress, Action: firewall.ActionAllow, Guest: guest, Services: tcp(443), Label: "port web1, rule 1"},
		{Direction: firewall.Egress, Action: firewall.ActionReject, Remote: Subnets("10.0.0.1/8", "2001:db8:9::/48"), Log: true, Label: "rule 1"},
		{Direction: firewall.Egress, Action: firewall.ActionAllow, Remote: Subnets("203.0.113.0/24", "0.0.0.0/0"), Services: []firewall.Service{
			{Protocol: "tcp", Ports: firewall.PortRange{Start: 8000, End: 8009}}, {Protocol: "icmp"}, {Protocol: "udp"},
		}, Label: "rule 2"},
		{Direction: firewall.Ingress, Action: firewall.ActionDrop, Remote: Subnets("198.51.100.7/32"), Label: "rule 3"},
		{Direction: firewall.Ingress, Action: firewall.ActionAllow, Guest: guest, Services: tcp(22), Label: "rule 4"},
		{Direction: firewall.Ingress, Action: firewall.ActionAllow, Remote: Subnets("2001:db8:9::/48"), Label: "rule 5"},
	}
	return map[string]firewall.Network{
		"peers": With(both, func(n *firewall.Network) {
			n.Peers = []firewall.Peer{
				{Bridge: "virbr7", Name: "db", Subnets: Subnets("10.0.7.1/24", "fd00:7::1/64"), Services: tcp(5432, 5433)},
				{Bridge: "virbr8", Name: "all", Subnets: Subnets("10.0.8.1/24")},
			}
		}),
		"policy": With(both, func(n *firewall.Network) {
			n.Policy = firewall.Policy{Rules: rules, Egress: firewall.ActionReject, Ingress: firewall.ActionDrop}
		}),
		"policy-allow-dev": With(both, func(n *firewall.Network) {
			n.Dev, n.NoInboundIPv6 = "eno1", true
			n.Policy = firewall.Policy{Rules: rules, Egress: firewall.ActionAllow, Ingress: firewall.ActionAllow}
		}),
		"policy-isolated": With(both, func(n *firewall.Network) {
			n.Mode, n.Policy = firewall.ModeIsolated, firewall.Policy{Rules: rules}
		}),
		"policy-isolated-ingress": With(both, func(n *firewall.Network) {
			n.Mode, n.Policy = firewall.ModeIsolated, firewall.Policy{Rules: rules[4:]}
		}),
		"policy-route": With(both, func(n *firewall.Network) {
			n.Mode, n.Policy = firewall.ModeRoute, firewall.Policy{Rules: rules, Egress: firewall.ActionDrop, Ingress: firewall.ActionReject}
		}),
	}
}
