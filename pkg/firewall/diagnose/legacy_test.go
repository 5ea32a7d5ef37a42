package diagnose_test

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose"
)

// Tables of ebtables-legacy, of which the kernel shows its modules alone, are told as what is
// not known.
func TestLegacyBridgeTables(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.Exec(t, "mount", "-t", "tmpfs", "tmpfs", "/sys/module")
		networks := []firewall.Network{{Bridge: "virbr0", Mode: firewall.ModeNAT}, {Bridge: "br0", Mode: firewall.ModeBridge}}
		if got := diagnose.Legacy(networks); len(got) > 0 {
			t.Errorf("without a module there is %+v", got)
		}
		if err := os.Mkdir("/sys/module/ebtable_filter", 0o755); err != nil {
			t.Fatal(err)
		}
		want := []firewall.Condition{{
			Kind: firewall.KindUnclear, Harmless: true, Bridges: []string{"virbr0", "br0"},
			Summary:  "whether the table filter of ebtables-legacy cuts off guests on virbr0, br0 is not known: it is not looked at",
			Evidence: "/sys/module/ebtable_filter", Remedy: "ebtables-legacy -t filter -L",
		}}
		if diff := cmp.Diff(want, diagnose.Legacy(networks)); diff != "" {
			t.Errorf("with one (-want +got):\n%s", diff)
		}
		if got := diagnose.Legacy(nil); len(got) > 0 {
			t.Errorf("without networks there is %+v", got)
		}
	})
}
