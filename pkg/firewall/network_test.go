package firewall

import (
	"net/netip"
	"slices"
	"testing"
)

func TestCheck(t *testing.T) {
	good := Network{
		Bridge: "virbr0", Mode: ModeNAT, DHCP: true,
		Subnets: []netip.Prefix{netip.MustParsePrefix("192.168.122.0/24")},
	}
	if err := good.check(); err != nil {
		t.Errorf("a good network: %v", err)
	}
	addr := netip.MustParseAddr
	for name, spoil := range map[string]func(n *Network){
		"mode":           func(n *Network) { n.Mode = "vepa" },
		"no bridge":      func(n *Network) { n.Bridge = "" },
		"long bridge":    func(n *Network) { n.Bridge = "virbr90123456789" },
		"wildcard":       func(n *Network) { n.Bridge = "virbr+" },
		"line break":     func(n *Network) { n.Bridge = "virbr0\nCOMMIT" },
		"option as dev":  func(n *Network) { n.Dev = "-j" },
		"negated dev":    func(n *Network) { n.Dev = "!eth0" },
		"zero subnet":    func(n *Network) { n.Subnets = append(n.Subnets, netip.Prefix{}) },
		"all addresses":  func(n *Network) { n.Subnets = append(n.Subnets, netip.MustParsePrefix("0.0.0.0/0")) },
		"mapped subnet":  func(n *Network) { n.Subnets = append(n.Subnets, netip.MustParsePrefix("::ffff:192.0.2.0/120")) },
		"port range":     func(n *Network) { n.NATPorts = PortRange{Start: 5, End: 4} },
		"IPv6 addresses": func(n *Network) { n.NATAddrs = AddrRange{Start: addr("2001:db8::1")} },
		"mixed range":    func(n *Network) { n.NATAddrs = AddrRange{Start: addr("192.0.2.1"), End: addr("2001:db8::1")} },
		"address range":  func(n *Network) { n.NATAddrs = AddrRange{Start: addr("192.0.2.2"), End: addr("192.0.2.1")} },
	} {
		n := good
		n.Subnets = slices.Clone(good.Subnets)
		spoil(&n)
		if err := n.check(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
