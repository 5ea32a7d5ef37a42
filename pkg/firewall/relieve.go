package firewall

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// libvirtTable is what libvirt's nftables backend, of 10.4 and later, calls its
// tables: one of ip and one of ip6.
const libvirtTable = "libvirt_network"

// Relieve removes the rules that a libvirtd with the nftables backend left for n's
// bridge, which Set does not see: those that name the bridge, and those that
// translate n's subnets. libvirt's tables, chains and the rules of other networks
// stay. The network's own rules must stand already, so that nothing passes
// unfiltered in between.
func (f *Firewall) Relieve(ctx context.Context, n Network) error {
	nft, err := exec.LookPath("nft")
	if err != nil {
		return nil // libvirt's backend runs this program
	}
	tables, err := run(ctx, "", nft, "list", "tables")
	if err != nil {
		return fmt.Errorf("looking for libvirt's tables: %w", err)
	}
	var script strings.Builder
	for _, family := range []struct {
		name string
		Family
	}{{"ip", IPv4}, {"ip6", IPv6}} {
		if !slices.Contains(strings.Split(tables, "\n"), "table "+family.name+" "+libvirtTable) {
			continue
		}
		listing, err := run(ctx, "", nft, "-a", "-n", "list", "table", family.name, libvirtTable)
		if err != nil {
			return fmt.Errorf("listing libvirt's rules: %w", err)
		}
		for _, t := range parseNFT(listing) {
			t.relieve(&script, n.Bridge, n.subnets(family.Family))
		}
	}
	if script.Len() == 0 {
		return nil
	}
	if _, err := run(ctx, script.String(), nft, "-f", "-"); err != nil {
		return fmt.Errorf("removing libvirt's rules of bridge %q: %w", n.Bridge, err)
	}
	f.log.Info("rules of libvirt's nftables backend removed", "bridge", n.Bridge, "rules", strings.Count(script.String(), "\n"))
	return nil
}

// handle ends a rule in a listing with handles.
var handle = regexp.MustCompile(` # handle (\d+)$`)

// relieve writes the commands that delete the rules of a bridge and its subnets from
// a table of libvirt's, listed with handles.
func (t nftTable) relieve(script *strings.Builder, bridge string, subnets []netip.Prefix) {
	for _, c := range t.chains {
		for _, rule := range c.rules {
			m := handle.FindStringSubmatch(rule)
			if m == nil || !libvirtRuleOf(rule, bridge, subnets) {
				continue
			}
			fmt.Fprintf(script, "delete rule %s %s %s handle %s\n", t.family, t.name, c.name, m[1])
		}
	}
}

// libvirtRuleOf tells whether a rule is about the bridge, or about what one of the
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
