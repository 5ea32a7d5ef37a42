package diagnose_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
)

// TestAskingAgain changes what is known of the host and of bridges, one after the other: the
// conditions are those that somebody finds who asks for the first time.
func TestAskingAgain(t *testing.T) {
	list := diagnose.Listing{Saved: []diagnose.Saved{{Family: firewall.IPv4, Text: "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n" +
		"-A FORWARD -i virbr1 -o eno2 -j DROP\n-A FORWARD -s 192.0.2.0/24 -o eno1 -j REJECT\nCOMMIT\n"}}, NFT: `{"nftables": [{"table": {"family": "netdev", "name": "t"}}, ` +
		`{"chain": {"family": "netdev", "table": "t", "name": "c", "type": "filter", "hook": "ingress", "dev": "vnet7", "prio": 0, "policy": "drop"}}]}`}
	rules, err := list.Rules()
	if err != nil {
		t.Fatal(err)
	}
	var networks []firewall.Network
	for i := range 3 {
		subnet := netip.MustParsePrefix(fmt.Sprintf("192.0.%d.1/24", 1+i))
		networks = append(networks, firewall.Network{Bridge: fmt.Sprintf("virbr%d", i), Mode: firewall.ModeNAT, Subnets: []netip.Prefix{subnet}, DHCP: true})
	}
	facts := func(port, out string, nf bool) *diagnose.Facts {
		return &diagnose.Facts{
			Host:  eval.Host{Routes: []eval.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Device: out}}},
			Ports: map[string][]string{"virbr0": {"vnet0"}, "virbr1": {port}}, MACs: map[string]eval.MAC{"virbr1": {2}}, BridgeNF4: nf,
		}
	}
	ours := func(string) bool { return false }
	asking := diagnose.NewAsking(rules, ours, networks)
	kinds := make(map[int]bool)
	for _, f := range []*diagnose.Facts{
		facts("vnet1", "eno1", false), facts("vnet1", "eno1", false), facts("vnet7", "eno1", false), facts("vnet7", "eno2", false), facts("vnet7", "eno2", true), facts("vnet1", "eno3", false),
	} {
		got, want := asking.Conditions(f), diagnose.NewAsking(rules, ours, networks).Conditions(f)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("asked again (-first +again):\n%s", diff)
		}
		kinds[len(want)] = true
	}
	if len(kinds) < 2 {
		t.Errorf("there are always as many conditions: %v", kinds)
	}
}
