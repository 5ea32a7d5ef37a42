package main

import (
	"context"
	"fmt"
	"io"
	"os"
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

func (a *app) listCommand() *cobra.Command {
	return a.command("list", "List all networks", 0, 0, func(ctx context.Context, d daemon, _ []string) error {
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

func (a *app) createCommand() *cobra.Command {
	return a.command("create FILE", "Start a transient network from libvirt XML, - for standard input", 1, 1,
		func(ctx context.Context, d daemon, args []string) error {
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
			return a.printErr
		})
}

// readFile reads the file, or standard input for "-".
func (a *app) readFile(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(a.stdin)
	}
	return os.ReadFile(file)
}

func (a *app) undefineCommand() *cobra.Command {
	return a.command("undefine NET", "Remove a network's definition", 1, 1,
		func(ctx context.Context, d daemon, args []string) error { return d.Undefine(ctx, args[0]) })
}

func (a *app) startCommand() *cobra.Command {
	return a.command("start NET", "Start a network", 1, 1,
		func(ctx context.Context, d daemon, args []string) error { return d.Start(ctx, args[0]) })
}

func (a *app) stopCommand() *cobra.Command {
	return a.command("stop NET", "Stop a network", 1, 1,
		func(ctx context.Context, d daemon, args []string) error { return d.Stop(ctx, args[0]) })
}

func (a *app) enableCommand() *cobra.Command {
	return a.command("enable NET", "Start a network with the host", 1, 1,
		func(ctx context.Context, d daemon, args []string) error { return d.SetAutostart(ctx, args[0], true) })
}

func (a *app) disableCommand() *cobra.Command {
	return a.command("disable NET", "Do not start a network with the host", 1, 1,
		func(ctx context.Context, d daemon, args []string) error { return d.SetAutostart(ctx, args[0], false) })
}

func (a *app) updateCommand() *cobra.Command {
	var u client.Update
	cmd := a.command("update NET COMMAND SECTION XML|FILE [--live] [--config] [--index N]",
		"Add, delete or modify one entry of a network, - for standard input", 4, 4,
		func(ctx context.Context, d daemon, args []string) error {
			xml, err := a.readEntry(args[3])
			if err != nil {
				return fmt.Errorf("reading the entry: %w", err)
			}
			u.Command, u.Section, u.XML = args[1], args[2], string(xml)
			return d.Update(ctx, args[0], u)
		})
	cmd.Flags().BoolVar(&u.Live, "live", false, "what the network is now")
	cmd.Flags().BoolVar(&u.Config, "config", false, "its definition, which counts from its next start")
	cmd.Flags().IntVar(&u.Index, "index", -1, "the <ip> that is meant, counted from 0; -1 for the first with DHCP")
	return cmd
}

// readEntry returns what stands on the command line, if that is XML, or in the
// file of that name.
func (a *app) readEntry(entry string) ([]byte, error) {
	if strings.HasPrefix(strings.TrimSpace(entry), "<") {
		return []byte(entry), nil
	}
	return a.readFile(entry)
}

func (a *app) catCommand() *cobra.Command {
	var inactive bool
	cmd := a.command("cat NET [--inactive]", "Print a network's XML", 1, 1,
		func(ctx context.Context, d daemon, args []string) error {
			xml, err := d.XML(ctx, args[0], inactive)
			if err != nil {
				return err
			}
			if a.json {
				return a.printXMLView(ctx, d, args[0], xml)
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
func (a *app) printXMLView(ctx context.Context, d daemon, network, xml string) error {
	n, err := d.Network(ctx, network)
	if err != nil {
		return err
	}
	return a.printJSON(xmlView{n.Name, n.UUID, xml})
}
