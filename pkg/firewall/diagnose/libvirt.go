package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// LibvirtTable is what libvirt's nftables backend, of 10.4 and later, calls its
// tables: one of ip and one of ip6.
const LibvirtTable = "libvirt_network"

// LibvirtRules are the commands of nft(8) that delete the rules of n's bridge and
// subnets from t, a table of libvirt's that was listed with handles: the rules that
// name the bridge, and those that translate the subnets.
func (t Table) LibvirtRules(n firewall.Network) []string {
	f := firewall.IPv4
	if t.Family == "ip6" {
		f = firewall.IPv6
	}
	var commands []string
	for _, c := range t.chains {
		for _, rule := range c.rules {
			m := handle.FindStringSubmatch(rule)
			if m == nil || !libvirtRuleOf(rule, n.Bridge, n.SubnetsOf(f)) {
				continue
			}
			commands = append(commands, fmt.Sprintf("delete rule %s %s %s handle %s\n", t.Family, t.Name, c.name, m[1]))
		}
	}
	return commands
}

// libvirtRuleOf reports whether a rule is about the bridge, or about what one of the
// subnets sends elsewhere, which libvirt's rules of translation are.
func libvirtRuleOf(rule, bridge string, subnets []netip.Prefix) bool {
	for _, direction := range []string{"iif", "oif"} {
		if strings.Contains(rule, direction+` "`+bridge+`" `) {
			return true
		}
	}
	return slices.ContainsFunc(subnets, func(s netip.Prefix) bool {
		return strings.Contains(rule, " saddr "+s.String()+" ") && !strings.Contains(rule, "iif ")
	})
}
