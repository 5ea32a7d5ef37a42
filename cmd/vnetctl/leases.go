package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/cmd/vnetctl/table"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// leaseView is a lease in JSON.
type leaseView struct {
	Network     string     `json:"network"`
	Interface   string     `json:"interface"`
	Family      string     `json:"family"`       // ipv4 or ipv6
	Expires     *time.Time `json:"expires"`      // in UTC, or null for never
	ExpiresUnix int64      `json:"expires_unix"` // seconds, or 0 for never
	MAC         string     `json:"mac"`
	IAID        string     `json:"iaid"`
	Address     netip.Addr `json:"address"`
	Prefix      int        `json:"prefix"`
	Hostname    string     `json:"hostname"`
	ClientID    string     `json:"client_id"`
}

// networkLease is a lease and the name of its network.
type networkLease struct {
	api.Lease
	network string
}

func leasesCommand(a *app) *cobra.Command {
	var wanted leaseFilter
	cmd := a.command("leases [NET] [--mac MAC] [--name NAME] [--port ID]", "List the DHCP leases of a network, or of all", 0, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			if err := wanted.resolve(ctx, d); err != nil {
				return err
			}
			leases, err := findLeases(ctx, d, argument(args))
			if err != nil {
				return err
			}
			leases = slices.DeleteFunc(leases, func(l networkLease) bool { return !wanted.matches(l) })
			if a.json {
				return a.printJSON(leaseViews(leases))
			}
			return printLeases(a, leases, len(args) == 0)
		})
	set := cmd.Flags()
	set.StringVar(&wanted.mac, "mac", "", "only those of the MAC address")
	set.StringVar(&wanted.name, "name", "", "only those of the guest with the host name")
	set.StringVar(&wanted.port, "port", "", "only those of the port with the UUID or device name")
	cmd.AddCommand(exportCommand(a), importCommand(a))
	return cmd
}

// leaseFilter says which leases are wanted. An empty text asks for nothing.
type leaseFilter struct {
	mac, name, port string
	network         string // of the port
}

// resolve replaces the port by its MAC address and network, and brings the MAC
// address into the form that leases have.
func (f *leaseFilter) resolve(ctx context.Context, d *client.Client) error {
	if f.port != "" {
		port, err := findPort(ctx, d, f.port)
		if err != nil {
			return err
		}
		f.network = port.Network
		if f.mac == "" {
			f.mac = port.MAC
		}
	}
	if f.mac == "" {
		return nil
	}
	mac, err := net.ParseMAC(f.mac)
	if err != nil {
		return &usageError{fmt.Sprintf("--mac %q is not a MAC address, want six octets like 52:54:00:12:34:56", f.mac)}
	}
	f.mac = mac.String()
	return nil
}

// matches reports whether a lease is wanted. Host names are compared as DNS does.
func (f *leaseFilter) matches(l networkLease) bool {
	return (f.network == "" || l.network == f.network) &&
		(f.mac == "" || strings.EqualFold(l.MAC, f.mac)) &&
		(f.name == "" || strings.EqualFold(l.Hostname, f.name))
}

func exportCommand(a *app) *cobra.Command {
	return a.command("export NET", "Print a network's leases as dnsmasq keeps them in a file", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			text, err := d.Network(args[0]).ExportLeases(ctx)
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

func importCommand(a *app) *cobra.Command {
	return a.command("import NET FILE", "Take over leases from a file of dnsmasq or libvirt, - for standard input", 2, 2,
		func(ctx context.Context, d *client.Client, args []string) error {
			text, err := a.readFile(args[1])
			if err != nil {
				return fmt.Errorf("reading the leases: %w", err)
			}
			imported, refused, err := d.Network(args[0]).ImportLeases(ctx, string(text))
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(map[string]any{"imported": imported, "refused": append([]string{}, refused...)})
			}
			return printImport(a, args[0], imported, refused)
		})
}

// printImport tells what became of the leases in a file.
func printImport(a *app, network string, imported int, refused []string) error {
	_, err := fmt.Fprintf(a.stdout, "%d leases imported into network %s\n", imported, table.Printable(network))
	for _, why := range refused {
		_, e := fmt.Fprintf(a.stdout, "not imported: %s\n", table.Printable(why))
		err = cmp.Or(err, e)
	}
	return err
}

// findLeases returns the leases of one network, or of all if name is empty,
// sorted by network, then by address.
func findLeases(ctx context.Context, d *client.Client, name string) (leases []networkLease, err error) {
	names := []string{name}
	if name == "" {
		if names, err = networkNames(ctx, d); err != nil {
			return nil, err
		}
	}
	for _, network := range names {
		found, err := d.Network(network).Leases(ctx)
		if name == "" && (errors.Is(err, api.InvalidState) || errors.Is(err, api.NotFound)) {
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
		return cmp.Or(cmp.Compare(x.network, y.network), x.Address.Compare(y.Address))
	})
	return leases, nil
}

// leaseViews returns the leases for JSON, never nil.
func leaseViews(leases []networkLease) []leaseView {
	views := make([]leaseView, 0, len(leases))
	for _, l := range leases {
		view := leaseView{
			Network: l.network, Interface: l.Interface, Family: "ipv4", MAC: l.MAC, IAID: l.IAID,
			Address: l.Address, Prefix: l.Prefix, Hostname: l.Hostname, ClientID: l.ClientID,
		}
		if l.Address.Is6() {
			view.Family = "ipv6"
		}
		if l.Expiry != nil {
			expiry := l.Expiry.UTC()
			view.Expires, view.ExpiresUnix = &expiry, expiry.Unix()
		}
		views = append(views, view)
	}
	return views
}

// printLeases prints the table of leases, with their networks if all is set.
func printLeases(a *app, leases []networkLease, all bool) error {
	header := "EXPIRES MAC ADDRESS HOSTNAME CLIENT-ID"
	if all {
		header = "NETWORK " + header
	}
	now := a.now()
	rows := make([][]table.Cell, 0, len(leases))
	for _, l := range leases {
		row := texts(expiryText(l.Expiry, now), l.MAC, fmt.Sprintf("%v/%d", l.Address, l.Prefix), l.Hostname, l.ClientID)
		if all {
			row = append(texts(l.network), row...)
		}
		rows = append(rows, row)
	}
	return a.printTable(header, "CLIENT-ID EXPIRES|MAC", rows)
}
