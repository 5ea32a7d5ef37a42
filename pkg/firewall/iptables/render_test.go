package iptables_test

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
)

var update = flag.Bool("update", false, "rewrite testdata/*.golden")

// subnets parses prefixes as they stand in <ip> elements, host bits and all.
func subnets(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// natNetwork is the network of libvirt's default.xml.
func natNetwork() firewall.Network {
	return firewall.Network{
		Bridge: "virbr0", Mode: firewall.ModeNAT, DHCP: true,
		Subnets: subnets("192.168.122.1/24"),
	}
}

// with is a changed copy of a network.
func with(n firewall.Network, change func(*firewall.Network)) firewall.Network {
	change(&n)
	return n
}

// intents are the option sets whose rules stand in testdata, by name.
func intents() map[string]firewall.Network {
	nat := natNetwork()
	v6 := with(nat, func(n *firewall.Network) {
		n.Subnets = subnets("192.168.122.1/24", "2001:db8:0:1::1/64")
	})
	addr := netip.MustParseAddr
	return map[string]firewall.Network{
		"nat":     nat,
		"nat-dev": {Bridge: "virbr-nat", Mode: firewall.ModeNAT, Dev: "eno1", DHCP: true, Subnets: subnets("192.168.10.1/24")},
		"nat-ports": with(nat, func(n *firewall.Network) {
			n.NATPorts = firewall.PortRange{Start: 500, End: 1000}
		}),
		"nat-one-port": with(nat, func(n *firewall.Network) {
			n.NATPorts = firewall.PortRange{Start: 4000, End: 4000}
		}),
		"nat-addresses": with(nat, func(n *firewall.Network) {
			n.Dev = "eno1"
			n.NATAddrs = firewall.AddrRange{Start: addr("203.0.113.50"), End: addr("203.0.113.60")}
		}),
		"nat-one-address": with(nat, func(n *firewall.Network) {
			n.NATAddrs = firewall.AddrRange{Start: addr("203.0.113.50"), End: addr("203.0.113.50")}
			n.NATPorts = firewall.PortRange{Start: 4000, End: 5000}
		}),
		"nat-several-ips": with(nat, func(n *firewall.Network) {
			n.Subnets = subnets("192.168.122.1/24", "192.0.2.1/28", "192.168.122.9/24", "198.51.100.1/32")
		}),
		"nat-without-subnet":  with(nat, func(n *firewall.Network) { n.Subnets, n.DHCP = nil, false }),
		"nat-without-dhcp":    with(nat, func(n *firewall.Network) { n.DHCP = false }),
		"nat-tftp":            with(nat, func(n *firewall.Network) { n.TFTP = true }),
		"nat-ipv6-yes":        with(nat, func(n *firewall.Network) { n.IPv6 = true }),
		"nat-ipv6-routed":     v6,
		"nat-ipv6-routed-dev": with(v6, func(n *firewall.Network) { n.Dev = "eno1" }),
		"nat66": with(v6, func(n *firewall.Network) {
			n.NATIPv6 = true
			n.NATAddrs = firewall.AddrRange{Start: addr("203.0.113.50")}
		}),
		"nat66-dev": with(v6, func(n *firewall.Network) {
			n.NATIPv6, n.Dev = true, "eno1"
			n.NATPorts = firewall.PortRange{Start: 2000, End: 3000}
			n.Subnets = append(n.Subnets, subnets("2001:db8:0:0:1::/80")...)
		}),
		"nat-ipv6-closed": with(v6, func(n *firewall.Network) { n.NoInboundIPv6 = true }),
		"route-ipv6-closed-dev": with(v6, func(n *firewall.Network) {
			n.Mode, n.Dev, n.NoInboundIPv6 = firewall.ModeRoute, "eno1", true
		}),
		"route":         with(v6, func(n *firewall.Network) { n.Mode = firewall.ModeRoute }),
		"route-dev":     with(v6, func(n *firewall.Network) { n.Mode, n.Dev = firewall.ModeRoute, "eno1" }),
		"isolated":      {Bridge: "virbr-isolated", Mode: firewall.ModeIsolated, DHCP: true, Subnets: subnets("192.0.2.1/24")},
		"isolated-ipv6": {Bridge: "virbr3", Mode: firewall.ModeIsolated, Subnets: subnets("2001:db8::1/64")},
		"dns-redirected": with(v6, func(n *firewall.Network) {
			n.DNS = []netip.AddrPort{
				netip.MustParseAddrPort("192.168.122.1:10053"), netip.MustParseAddrPort("[2001:db8:0:1::1]:10053"),
				netip.MustParseAddrPort("[fe80::5054:ff:fe00:1%virbr0]:10053"),
			}
		}),
		"open":   with(v6, func(n *firewall.Network) { n.Mode = firewall.ModeOpen }),
		"bridge": with(v6, func(n *firewall.Network) { n.Mode = firewall.ModeBridge }),
	}
}

func TestRender(t *testing.T) {
	for name, n := range intents() {
		t.Run(name, func(t *testing.T) {
			compareGolden(t, name, iptables.Render(n, iptables.DefaultPrefix))
		})
	}
}

// Only subnets that are reached by any device, and isolated ports, have guards.
func TestGuards(t *testing.T) {
	var rules []firewall.Line
	unguarded := []string{"nat-dev", "nat-addresses", "nat-without-subnet", "nat-ipv6-routed-dev", "nat66-dev", "route-dev", "route-ipv6-closed-dev", "isolated", "isolated-ipv6", "open", "bridge"}
	for name, n := range intents() {
		guards := iptables.Guards(n, iptables.DefaultPrefix)
		if (len(guards) == 0) != slices.Contains(unguarded, name) {
			t.Errorf("guards of %s are %v", name, guards)
		}
	}
	for _, name := range []string{"route", "nat-ipv6-routed", "nat-ipv6-closed", "nat66"} {
		rules = append(rules, iptables.Guards(intents()[name], iptables.DefaultPrefix)...)
	}
	apart := with(intents()["isolated-ipv6"], func(n *firewall.Network) { n.Isolated = true })
	rules = append(rules, iptables.Guards(apart, iptables.DefaultPrefix)...)
	compareGolden(t, "guards", rules)
}

func TestJumps(t *testing.T) {
	compareGolden(t, "jumps", iptables.Jumps(iptables.DefaultPrefix))
}

// compareGolden compares rules with testdata/NAME.golden.
func compareGolden(t *testing.T, name string, rules []firewall.Line) {
	t.Helper()
	var b strings.Builder
	for _, r := range rules {
		b.WriteString(r.Family.String() + " " + r.String() + "\n")
	}
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("rules differ from %s (-want +got):\n%s", path, diff)
	}
}

func TestRenderChainPrefix(t *testing.T) {
	n := intents()["nat66-dev"]
	want := iptables.Render(n, iptables.DefaultPrefix)
	for i := range want {
		want[i].Chain = strings.Replace(want[i].Chain, iptables.DefaultPrefix, "VNETD_", 1)
	}
	if diff := cmp.Diff(want, iptables.Render(n, "VNETD_")); diff != "" {
		t.Errorf("the prefix changes more than the chains (-want +got):\n%s", diff)
	}
}
