package diagnose_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose"
)

// A rule by which nobody outside begins a connection to guests of a routed network is
// to know, no alarm.
func TestInboundIsNoAlarm(t *testing.T) {
	list := diagnose.Listing{Saved: []diagnose.Saved{{Family: firewall.IPv4, Text: "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -i eno1 -m conntrack --ctstate NEW -j DROP\nCOMMIT\n"}}}
	rules, err := list.Rules()
	if err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[firewall.Mode]int{firewall.ModeRoute: 1, firewall.ModeOpen: 1, firewall.ModeNAT: 0} {
		n := firewall.Network{Bridge: "virbr0", Mode: mode, Dev: "eno1", Subnets: []netip.Prefix{netip.MustParsePrefix("192.168.122.1/24")}}
		got := diagnose.NewAsking(rules, func(string) bool { return false }, []firewall.Network{n}).Conditions(&diagnose.Facts{})
		if len(got) != want || want > 0 && (!got[0].Harmless || !strings.Contains(got[0].Summary, "not reached from outside")) {
			t.Errorf("%s: %+v", mode, got)
		}
	}
}
