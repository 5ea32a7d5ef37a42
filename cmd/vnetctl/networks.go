package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// networkView is a network in JSON.
type networkView struct {
	Name       string `json:"name"`
	UUID       string `json:"uuid"`
	State      string `json:"state"`
	Active     bool   `json:"active"`
	Autostart  bool   `json:"autostart"`
	Persistent bool   `json:"persistent"`
	Mode       string `json:"mode"`
	Bridge     string `json:"bridge"`
	LastError  string `json:"last_error"`
}

// newNetworkView returns the view of n.
func newNetworkView(n api.Network) networkView {
	return networkView{
		Name: n.Name, UUID: n.UUID, State: string(n.State), Active: n.Active, Autostart: n.Autostart,
		Persistent: n.Persistent, Mode: n.Mode, Bridge: n.Bridge, LastError: n.LastError,
	}
}

func listCommand(a *app) *cobra.Command {
	return a.command("list", "List all networks", 0, 0, func(ctx context.Context, d *client.Client, _ []string) error {
		networks, err := d.Networks(ctx)
		if err != nil {
			return err
		}
		views := make([]networkView, 0, len(networks))
		rows := make([][]string, 0, len(networks))
		for _, n := range networks {
			views = append(views, newNetworkView(n))
			rows = append(rows, []string{
				n.Name, string(n.State), yesNo(n.Autostart), yesNo(n.Persistent), n.Mode, n.Bridge,
			})
		}
		if a.json {
			return a.printJSON(views)
		}
		return a.printTable("NAME STATE AUTOSTART PERSISTENT MODE BRIDGE", rows)
	})
}

func createCommand(a *app) *cobra.Command {
	return a.command("create FILE", "Start a transient network from libvirt XML, - for standard input", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			xml, err := a.readFile(args[0])
			if err != nil {
				return fmt.Errorf("reading the definition: %w", err)
			}
			n, err := d.CreateNetwork(ctx, string(xml))
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(newNetworkView(n))
			}
			a.printf("network %s created\n", quote(n.Name))
			return a.err
		})
}

func undefineCommand(a *app) *cobra.Command {
	return a.command("undefine NET", "Remove a network's definition", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			return d.Network(args[0]).Undefine(ctx)
		})
}

func startCommand(a *app) *cobra.Command {
	return a.command("start NET", "Start a network", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error { return d.Network(args[0]).Start(ctx) })
}

func stopCommand(a *app) *cobra.Command {
	return a.command("stop NET", "Stop a network", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error { return d.Network(args[0]).Stop(ctx) })
}

func enableCommand(a *app) *cobra.Command {
	return a.command("enable NET", "Start a network with the host", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			return d.Network(args[0]).SetAutostart(ctx, true)
		})
}

func disableCommand(a *app) *cobra.Command {
	return a.command("disable NET", "Do not start a network with the host", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			return d.Network(args[0]).SetAutostart(ctx, false)
		})
}

func updateCommand(a *app) *cobra.Command {
	var u client.Update
	cmd := a.command("update NET COMMAND SECTION XML|FILE [--live] [--config] [--index N]",
		"Add, delete or modify one entry of a network, - for standard input", 4, 4,
		func(ctx context.Context, d *client.Client, args []string) error {
			xml, err := readEntry(a, args[3])
			if err != nil {
				return fmt.Errorf("reading the entry: %w", err)
			}
			u.Command, u.Section, u.XML = args[1], args[2], string(xml)
			return d.Network(args[0]).Update(ctx, u)
		})
	cmd.Flags().BoolVar(&u.Live, "live", false, "what the network is now")
	cmd.Flags().BoolVar(&u.Config, "config", false, "its definition, which counts from its next start")
	cmd.Flags().IntVar(&u.Index, "index", -1, "the <ip> that is meant, counted from 0; -1 for the first with DHCP")
	return cmd
}

// readEntry returns what stands on the command line, if that is XML, or in the
// file of that name.
func readEntry(a *app, entry string) ([]byte, error) {
	if strings.HasPrefix(strings.TrimSpace(entry), "<") {
		return []byte(entry), nil
	}
	return a.readFile(entry)
}

func catCommand(a *app) *cobra.Command {
	var inactive bool
	cmd := a.command("cat NET [--inactive]", "Print a network's XML", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			xml, err := d.Network(args[0]).XML(ctx, inactive)
			if err != nil {
				return err
			}
			if a.json {
				return printXMLView(ctx, a, d, args[0], xml)
			}
			_, err = io.WriteString(a.stdout, xml)
			return err
		})
	cmd.Flags().BoolVar(&inactive, "inactive", false, "the definition on disk, not the running network")
	return cmd
}

// xmlView is a network's XML in JSON.
type xmlView struct {
	Name string `json:"name"`
	UUID string `json:"uuid"`
	XML  string `json:"xml"`
}

// printXMLView prints the XML of the network as JSON.
func printXMLView(ctx context.Context, a *app, d *client.Client, network, xml string) error {
	n, err := d.Network(network).Get(ctx)
	if err != nil {
		return err
	}
	return a.printJSON(xmlView{n.Name, n.UUID, xml})
}

// definedView is a network that was defined in JSON, and what became of it.
type definedView struct {
	networkView
	Action  string   `json:"action"`
	Changes []string `json:"changes"`
	Pending []string `json:"pending"`
}

func defineCommand(a *app) *cobra.Command {
	var opts api.DefineOptions
	var now, pending bool
	var cmd *cobra.Command
	cmd = a.command("define FILE [--new] [--now | --pending]",
		"Write a network's definition from libvirt XML, - for standard input", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			switch {
			case now && pending:
				return newUsageError(cmd, "--now and --pending exclude each other")
			case now:
				opts.Apply = api.ApplyAll
			case pending:
				opts.Apply = api.ApplyNothing
			}
			return define(ctx, a, d, args[0], opts)
		})
	cmd.Flags().BoolVar(&opts.New, "new", false, "refuse a network that exists already")
	cmd.Flags().BoolVar(&now, "now", false, "apply everything to an active network, restarting it where it must")
	cmd.Flags().BoolVar(&pending, "pending", false, "apply nothing to an active network before its next start")
	return cmd
}

// define defines the network of a file and says what became of it.
func define(ctx context.Context, a *app, d *client.Client, file string, opts api.DefineOptions) error {
	xml, err := a.readFile(file)
	if err != nil {
		return fmt.Errorf("reading the definition: %w", err)
	}
	done, err := d.DefineNetwork(ctx, string(xml), opts)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(definedView{
			newNetworkView(done.Network), string(done.Action), append([]string{}, done.Changes...), append([]string{}, done.Pending...),
		})
	}
	a.printf("network %s %s\n", quote(done.Network.Name), printable(string(done.Action)))
	for _, line := range done.Changes {
		a.printf("  %s\n", printable(line))
	}
	if len(done.Pending) > 0 {
		a.printf("%s\n", a.paint(yellow, "pending, at its next start or with --now:"))
		for _, line := range done.Pending {
			a.printf("  %s\n", printable(line))
		}
	}
	return a.err
}
