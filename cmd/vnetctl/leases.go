package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/pkg/client"
)

// leaseView is a lease in JSON.
type leaseView struct {
	Network     string `json:"network"`
	Interface   string `json:"interface"`
	Family      string `json:"family"`       // ipv4 or ipv6
	Expires     any    `json:"expires"`      // RFC 3339 in UTC, or null for never
	ExpiresUnix int64  `json:"expires_unix"` // seconds, or 0 for never
	MAC         string `json:"mac"`
	IAID        string `json:"iaid"`
	Address     string `json:"address"`
	Prefix      int    `json:"prefix"`
	Hostname    string `json:"hostname"`
	ClientID    string `json:"client_id"`
}

// networkLease is a lease and the name of its network.
type networkLease struct {
	client.Lease
	network string
}

func (a *app) leasesCommand() *cobra.Command {
	cmd := a.command("leases [NET]", "List the DHCP leases of a network, or of all", 0, 1,
		func(ctx context.Context, d daemon, args []string) error {
			leases, err := findLeases(ctx, d, argument(args))
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(leaseViews(leases))
			}
			return a.printLeases(leases, len(args) == 0)
		})
	cmd.AddCommand(a.exportCommand(), a.importCommand())
	return cmd
}

func (a *app) exportCommand() *cobra.Command {
	return a.command("export NET", "Print a network's leases as dnsmasq keeps them in a file", 1, 1,
		func(ctx context.Context, d daemon, args []string) error {
			text, err := d.ExportLeases(ctx, args[0])
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(map[string]string{"dnsmasq": text})
			}
			_, err = io.WriteString(a.stdout, text)
			return err
		})
}

func (a *app) importCommand() *cobra.Command {
	return a.command("import NET FILE", "Take over leases from a file of dnsmasq or libvirt, - for standard input", 2, 2,
		func(ctx context.Context, d daemon, args []string) error {
			text, err := a.readFile(args[1])
			if err != nil {
				return fmt.Errorf("reading the leases: %w", err)
			}
			imported, refused, err := d.ImportLeases(ctx, args[0], string(text))
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(map[string]any{"imported": imported, "refused": append([]string{}, refused...)})
			}
			return a.printImport(args[0], imported, refused)
		})
}

// printImport tells what became of the leases in a file.
func (a *app) printImport(network string, imported int, refused []string) error {
	_, err := fmt.Fprintf(a.stdout, "%d leases imported into network %s\n", imported, printable(network))
	for _, why := range refused {
		_, e := fmt.Fprintf(a.stdout, "not imported: %s\n", printable(why))
		err = cmp.Or(err, e)
	}
	return err
}

// findLeases returns the leases of one network, or of all if name is empty,
// sorted by network, then by address.
func findLeases(ctx context.Context, d daemon, name string) (leases []networkLease, err error) {
	names := []string{name}
	if name == "" {
		if names, err = networkNames(ctx, d); err != nil {
			return nil, err
		}
	}
	for _, network := range names {
		found, err := d.Leases(ctx, network)
		if name == "" && (errors.Is(err, client.ErrInvalidState) || errors.Is(err, client.ErrNotFound)) {
			// It is not active, or went since it was listed: no leases.
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, lease := range found {
			leases = append(leases, networkLease{lease, network})
		}
	}
	slices.SortStableFunc(leases, func(x, y networkLease) int {
		return cmp.Or(cmp.Compare(x.network, y.network), x.Address.Addr().Compare(y.Address.Addr()))
	})
	return leases, nil
}

// networkNames returns the names of all networks.
func networkNames(ctx context.Context, d daemon) ([]string, error) {
	networks, err := d.Networks(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(networks))
	for _, n := range networks {
		names = append(names, n.Name)
	}
	return names, nil
}

// leaseViews returns the leases for JSON, never nil.
func leaseViews(leases []networkLease) []leaseView {
	views := make([]leaseView, 0, len(leases))
	for _, l := range leases {
		view := leaseView{
			Network: l.network, Interface: l.Interface, Family: "ipv4", MAC: l.MAC.String(), IAID: l.IAID,
			Address: l.Address.Addr().String(), Prefix: l.Address.Bits(), Hostname: l.Hostname, ClientID: l.ClientID,
		}
		if l.Address.Addr().Is6() {
			view.Family = "ipv6"
		}
		if !l.Expiry.IsZero() {
			view.Expires = l.Expiry.UTC().Format(time.RFC3339)
			view.ExpiresUnix = l.Expiry.Unix()
		}
		views = append(views, view)
	}
	return views
}

// printLeases prints the table of leases, with their networks if all is set.
func (a *app) printLeases(leases []networkLease, all bool) error {
	header := "EXPIRES MAC ADDRESS HOSTNAME CLIENT-ID"
	if all {
		header = "NETWORK " + header
	}
	now := a.now()
	rows := make([][]string, 0, len(leases))
	for _, l := range leases {
		row := []string{expiryText(l.Expiry, now), l.MAC.String(), l.Address.String(), l.Hostname, l.ClientID}
		if all {
			row = append([]string{l.network}, row...)
		}
		rows = append(rows, row)
	}
	return a.printTable(header, rows)
}

// expiryText returns when a lease ends, in the zone of now, and how long that
// is from now.
func expiryText(expiry, now time.Time) string {
	switch {
	case expiry.IsZero():
		return "never"
	case !expiry.After(now):
		return expiry.In(now.Location()).Format(time.DateTime) + " (expired)"
	}
	return fmt.Sprintf("%s (in %s)", expiry.In(now.Location()).Format(time.DateTime), remainder(expiry.Sub(now)))
}

// remainder returns d with its two highest units, as 59m, 2h05m or 3d04h.
func remainder(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < day:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/day, d%day/time.Hour)
}
