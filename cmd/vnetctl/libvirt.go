package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/cmd/vnetctl/libvirt"
	"github.com/vnetd/vnetd/cmd/vnetctl/table"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

func importLibvirtCommand(a *app) *cobra.Command {
	var dry, pending bool
	cmd := a.command("import-libvirt [--dry-run] [--if-pending]", "Take over the networks of a libvirt that ran on this host", 0, 0,
		func(ctx context.Context, d *client.Client, _ []string) error {
			if pending {
				if is, err := d.ImportPending(ctx); !is || err != nil {
					return err
				}
			}
			r, err := libvirt.Importer{Root: a.host.root, Daemon: d, DryRun: dry}.Import(ctx)
			if err != nil {
				return err
			}
			return printImported(a, r)
		})
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be done and touch nothing")
	cmd.Flags().BoolVar(&pending, "if-pending", false, "only if vnetd.toml asks for it and it was never done")
	return cmd
}

// importedView is what became of one network of libvirt's, in JSON.
type importedView struct {
	libvirt.Imported
	Error string `json:"error"` // why it is not taken over; empty: it is
}

// printImported prints what became of the networks; the error has the exit code.
func printImported(a *app, r libvirt.Report) error {
	code, driver := exitOK, r.DriverErr()
	if driver != nil {
		code = exitCode(driver)
	}
	views := make([]importedView, len(r.Networks))
	for i, n := range r.Networks {
		if views[i].Imported = n; n.Err != nil {
			views[i].Error, code = oneLine(n.Err.Error()), max(code, exitCode(n.Err))
		}
	}
	if a.json {
		if err := a.printJSON(map[string]any{"dry_run": r.DryRun, "driver": r.Driver, "networks": views}); err != nil {
			return err
		}
	} else {
		if len(views) == 0 {
			a.printf("libvirt has no networks in %s and %s\n", libvirt.NetworksDir, libvirt.RunDir)
		}
		for _, v := range views {
			printImportedNetwork(a, v, r.DryRun)
		}
		if driver != nil {
			a.printf("\n%s\n", a.paint(table.Red, table.Printable(driver.Error())))
		}
	}
	if a.err != nil || code == exitOK {
		return a.err
	}
	return &exitError{code}
}

// printImportedNetwork prints what became of one network.
func printImportedNetwork(a *app, v importedView, dry bool) {
	if v.Error != "" {
		a.printf("%s: %s: %s\n", a.paint(table.Bold, table.Printable(v.File)), a.paint(table.Red, "refused"), table.Printable(v.Error))
		return
	}
	a.printf("%s: %s\n", a.paint(table.Bold, table.Printable(v.Name)), strings.Join(outcomes(v, dry), ", "))
	for _, p := range v.Ports {
		a.printf("  port %s of %s, %s\n", table.Printable(p.UUID), table.Printable(p.Owner), table.Printable(p.MAC))
	}
	for _, why := range v.Refused {
		a.printf("  %s %s\n", a.paint(table.Yellow, "not taken over:"), table.Printable(why))
	}
}

// outcomes are what was done with a network, or would be in a dry run.
func outcomes(v importedView, dry bool) []string {
	said := func(done, would string) string {
		if dry {
			return would
		}
		return done
	}
	list := []string{map[string]string{
		api.TakeDefine:  said("defined", "would be defined"),
		api.TakeAdopt:   said("goes on as vnetd's", "would go on as vnetd's"),
		api.TakePresent: "is vnetd's already",
	}[v.Action]}
	for _, outcome := range []struct {
		there bool
		text  string
	}{
		{v.Bridge != "", "bridge " + table.Printable(v.Bridge)},
		{v.Start, said("started", "would be started")},
		{v.Autostart, "starts with the host"},
		{len(v.Ports) > 0, fmt.Sprintf("ports: %d", len(v.Ports))},
		{v.Leases > 0 && v.Action != api.TakePresent, fmt.Sprintf("leases: %d", v.Leases)},
		{v.Dnsmasq != 0, fmt.Sprintf("libvirt's dnsmasq (process %d) %s", v.Dnsmasq, said("ended", "would end"))},
	} {
		if outcome.there {
			list = append(list, outcome.text)
		}
	}
	return list
}

func mirrorCommand(a *app) *cobra.Command {
	mirrors := func(act func(libvirt.Mirrors, context.Context) error) action {
		return func(ctx context.Context, d *client.Client, _ []string) error {
			return act(libvirt.Mirrors{Daemon: d, Tell: a.tell}, ctx)
		}
	}
	return group("mirror-libvirt", "Show vnetd's networks to the guests of a monolithic libvirtd",
		a.command("on", "Mirror all networks in libvirtd, and keep the mirrors in step", 0, 0, mirrors(libvirt.Mirrors.On)),
		// It needs no vnetd.
		plainCommand("off", "Remove the mirrors, the hook and the service", 0, 0, func(ctx context.Context, _ []string) error {
			return libvirt.Mirrors{Tell: a.tell}.Off(ctx)
		}),
		a.command("follow", "Keep the mirrors in step until interrupted, as the service does", 0, 0, mirrors(libvirt.Mirrors.Follow)),
		plainCommand("hook NETWORK OPERATION PART -", "Tell vnetd of the ports of libvirtd's guests, as libvirtd's hook", 2, 4,
			func(ctx context.Context, args []string) error {
				return libvirt.Hook(ctx, args[1], a.stdin, a.dial, a.tell)
			}))
}
