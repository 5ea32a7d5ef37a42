package iptables

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose"
)

// removeLibvirtsTables removes what tables of libvirt's nftables backend have of n's
// bridge, and returns how many rules that were.
func removeLibvirtsTables(ctx context.Context, n firewall.Network) (removed int, err error) {
	nft, err := exec.LookPath("nft")
	if err != nil {
		return 0, nil // libvirt's backend runs this program
	}
	tables, err := listTables()
	if err != nil {
		return 0, fmt.Errorf("looking for libvirt's tables: %w", err)
	}
	var commands []string
	for _, family := range []string{"ip", "ip6"} {
		if !slices.Contains(tables, nftTable{family, diagnose.LibvirtTable}) {
			continue
		}
		listing, err := run(ctx, "", nft, "-a", "-n", "list", "table", family, diagnose.LibvirtTable)
		if err != nil {
			return 0, fmt.Errorf("listing libvirt's rules: %w", err)
		}
		for _, t := range diagnose.ParseTables(listing) {
			commands = append(commands, t.LibvirtRules(n)...)
		}
	}
	if len(commands) == 0 {
		return 0, nil
	}
	if _, err := run(ctx, strings.Join(commands, ""), nft, "-f", "-"); err != nil {
		return 0, fmt.Errorf("removing libvirt's rules of bridge %q: %w", n.Bridge, err)
	}
	return len(commands), nil
}
