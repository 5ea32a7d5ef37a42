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

// TestRulesOfHostLink has what a policy refuses guests at their bridge be refused by this host's own link as well,
// where nothing is served that they need.
func TestRulesOfHostLink(t *testing.T) {
	n := Network{Bridge: "virbr7", Mode: ModeNAT, Subnets: []netip.Prefix{netip.MustParsePrefix("10.50.0.1/16")}, DHCP: true, Policy: Policy{Egress: ActionDrop}}
	asking := func() (by map[string][]Verdict, served map[string]int) {
		by, served = make(map[string][]Verdict), make(map[string]int)
		for _, r := range n.Rules() {
			if r.Path != Asking {
				continue
			}
			by[r.In] = append(by[r.In], r.Verdict)
			if r.Port != 0 {
				served[r.In]++
			}
		}
		return by, served
	}
	if by, _ := asking(); len(by) != 1 {
		t.Errorf("without a link of this host's there are rules of %v", by)
	}
	n.Span = &Span{Host: SpanHost{Link: "vh7"}}
	by, served := asking()
	if len(by) != 2 || by["vh7"][len(by["vh7"])-1] != Drop || by["vh7"][0] != Pass || served["virbr7"] == 0 || served["vh7"] != 0 {
		t.Errorf("rules are %v, of which %v let through what is served", by, served)
	}
}
