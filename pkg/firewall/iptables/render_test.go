package iptables_test

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/golden"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/firewalltest"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
)

// The tests' networks.
var (
	subnets    = firewalltest.Subnets
	natNetwork = firewalltest.NAT
	with       = firewalltest.With
)

// intents are the tests' networks, and those with forwards, peers and rules.
func intents() map[string]firewall.Network {
	all := firewalltest.Intents()
	maps.Copy(all, firewalltest.Forwards())
	maps.Copy(all, firewalltest.Policies())
	return all
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
	unguarded := []string{"nat-dev", "nat-addresses", "nat-without-subnet", "nat-ipv6-routed-dev", "nat66-dev", "route-dev", "forwards-dev", "route-ipv6-closed-dev", "isolated", "isolated-ipv6", "policy-allow-dev", "open", "bridge"}
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
	golden.Compare(t, filepath.Join("testdata", name+".golden"), b.String())
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
