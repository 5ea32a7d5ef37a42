package iptables

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vnetd/vnetd/pkg/firewall/diagnose"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
)

// nft106 is an nft that must not be asked for a table which belongs to a process, nor for a family
// that has one: version 1.0.6 takes the name of a flag that it does not know from wherever.
const nft106 = `#!/bin/sh
case $* in
"--json --stateless list table ip first") echo '{"nftables": [{"metainfo": {}}, {"table": {"family": "ip", "name": "first"}}]}' ;;
"--json --stateless list ruleset inet") echo '{"nftables": [{"metainfo": {}}, {"table": {"family": "inet", "name": "second"}}]}' ;;
"--json --stateless list table netdev third") echo '{"nftables": [{"table": {"family": "netdev", "name": "third"}}]}' ;;
"--json --stateless list table ip6 fourth") echo '{"nftables": [{"table": {"family": "ip6", "name": "fourth"}}]}' ;;
*vnetd_keep|*"ruleset ip"|*vnetd_guard_5|*"ip6 vnetd"|*"ruleset ip6") echo 'this is not asked for' >&2; exit 1 ;;
"--json --stateless list table ip gone") echo 'Error: No such file or directory' >&2; exit 1 ;;
esac
`

// TestListBesideOwned lists what is in nftables, but for guards and networks' rules, while a table belongs to this
// process, as it does while rules are mended.
func TestListBesideOwned(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "nft")
	if err := os.WriteFile(program, []byte(nft106), 0o755); err != nil {
		t.Fatal(err)
	}
	tables := []nftTable{
		{"ip", "vnetd_keep"},
		{"ip", "first"},
		{"ip", "gone"},
		{"inet", "second"},
		{"netdev", "vnetd_guard_5"},
		{"netdev", "third"},
		{"ip6", "vnetd"},
		{"ip6", "fourth"},
	}
	var l diagnose.Listing
	if err := listParts(t.Context(), program, tables, &l); err != nil {
		t.Fatal(err)
	}
	rules, err := ruleset.ParseNFT([]byte(l.NFT))
	if err != nil {
		t.Fatalf("%v in %s", err, l.NFT)
	}
	var names []string
	for _, table := range rules.Tables {
		names = append(names, table.Name)
	}
	if want := []string{"first", "fourth", "second", "third"}; !slices.Equal(slices.Sorted(slices.Values(names)), want) {
		t.Errorf("listed %v, want %v", names, want)
	}
}
