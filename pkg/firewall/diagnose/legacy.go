package diagnose

import (
	"os"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// Legacy are the conditions of rules that nothing here can read: those of ebtables-legacy
// and arptables-legacy. Of the former the kernel tells no more than that its tables may be
// there, in some namespace.
func Legacy(networks []firewall.Network) (all []firewall.Condition) {
	if len(networks) == 0 {
		return nil
	}
	var bridges []string
	for _, n := range networks {
		bridges = append(bridges, n.Bridge)
	}
	unclear := func(program, table, evidence string) {
		all = append(all, firewall.Condition{
			Kind: firewall.KindUnclear, Harmless: true, Bridges: bridges, Evidence: evidence,
			Summary: "whether the table " + table + " of " + program + " cuts off guests on " + strings.Join(bridges, ", ") + " is not known: it is not looked at",
			Remedy:  program + " -t " + table + " -L",
		})
	}
	for _, table := range []string{"broute", "nat", "filter"} {
		module := "/sys/module/ebtable_" + table
		if _, err := os.Stat(module); err == nil {
			unclear("ebtables-legacy", table, module)
		}
	}
	const names = "/proc/net/arp_tables_names"
	if text, err := os.ReadFile(names); err == nil {
		for _, table := range strings.Fields(string(text)) {
			unclear("arptables-legacy", table, names+": "+table)
		}
	}
	return all
}
