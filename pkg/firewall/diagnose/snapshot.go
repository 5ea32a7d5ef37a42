// Package diagnose explains what rules that are not ours, and the kernel's
// settings, do to the guests of networks. It is given what the programs of
// iptables and nftables list, has ruleset read it and eval carry it out on
// representative packets of guests, executes nothing and changes nothing.
package diagnose

import (
	"cmp"
	"errors"
	"slices"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
)

// Listing is what the programs print. Empty texts are those of programs that are not
// there.
type Listing struct {
	NFT   string // nft --json --stateless list ruleset
	Text  string // nft --stateless --terse --handle list ruleset
	IPSet string // ipset save
	// Saved are what the programs of iptables print, by -save without counters.
	Saved []Saved
	// Own says that vnetd's own tables of guards and of networks' rules count as well.
	Own bool
}

// Saved is the output of a -save.
type Saved struct {
	Family firewall.Family
	Legacy bool
	Rival  bool // of the variant that is not in use: its programs have longer names
	Text   string
}

// program is the program's name in commands for the administrator.
func (s *Saved) program() string {
	name := "iptables"
	if s.Family == firewall.IPv6 {
		name = "ip6tables"
	}
	switch {
	case s.Rival && s.Legacy:
		return name + "-legacy"
	case s.Rival:
		return name + "-nft"
	}
	return name
}

// Rules reads the listing. With an error comes what could be read.
func (l *Listing) Rules() (*ruleset.Ruleset, error) {
	rules := new(ruleset.Ruleset)
	var faults []error
	if l.NFT != "" {
		parsed, err := ruleset.ParseNFT([]byte(l.NFT))
		rules, faults = &parsed, append(faults, err)
	}
	sets := ruleset.ParseIPSets(l.IPSet)
	for _, s := range l.Saved {
		x := ruleset.Xtables{Family: FamilyName(s.Family), Program: s.program(), Legacy: s.Legacy, Text: s.Text, IPSets: sets}
		if !s.Legacy && l.NFT != "" {
			faults = append(faults, rules.Complete(x))
			continue
		}
		parsed, err := x.Parse()
		rules.Add(parsed)
		faults = append(faults, err)
	}
	rules.Tables = slices.DeleteFunc(rules.Tables, func(t *ruleset.Table) bool {
		return !l.Own && Own(t.Family, t.Name) || t.Family == "inet" && t.Name == firewall.OffloadTable || t.Name == firewall.SpanTable
	})
	tables := ParseTables(l.Text)
	known := texts(tables)
	for _, t := range rules.Tables {
		for _, c := range t.Chains {
			if c.Hook != "" && len(c.Devices) == 0 {
				c.Devices = devicesOf(tables, t.Family, t.Name, c.Name)
			}
		}
	}
	rules.SetText(func(family, table, chain string, handle int) string {
		return cmp.Or(known[place{family, table, chain, handle}], "a rule")
	})
	return rules, errors.Join(faults...)
}

// Own reports whether a table of that family and name is vnetd's own, of guards or of networks' rules: what it drops is meant.
func Own(family, name string) bool {
	return family == "netdev" && firewall.IsGuardTable(name) || (family == "ip" || family == "ip6") && name == firewall.NetworksTable
}

// FamilyName is a family's name in nftables.
func FamilyName(f firewall.Family) string {
	if f == firewall.IPv6 {
		return "ip6"
	}
	return "ip"
}
