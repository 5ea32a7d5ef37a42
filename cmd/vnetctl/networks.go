package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/cmd/vnetctl/table"
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
	var wanted networkFilter
	cmd := a.command("list [--active | --inactive] [--mode MODE] [--names]", "List all networks, or some", 0, 0,
		func(ctx context.Context, d *client.Client, _ []string) error {
			networks, err := d.Networks(ctx)
			if err != nil {
				return err
			}
			return printNetworks(a, slices.DeleteFunc(networks, func(n api.Network) bool { return !wanted.matches(n) }), wanted.names)
		})
	set := cmd.Flags()
	set.BoolVar(&wanted.active, "active", false, "only those that are active")
	set.BoolVar(&wanted.inactive, "inactive", false, "only those that are not active")
	set.StringVar(&wanted.mode, "mode", "", "only those of a mode: "+strings.Join(modes(), ", "))
	set.BoolVar(&wanted.names, "names", false, "print their names alone, one a line")
	// What virsh calls them.
	set.Bool("all", false, "list all, as without it")
	set.BoolVar(&wanted.names, "name", false, "as --names")
	cobra.CheckErr(errors.Join(set.MarkHidden("all"), set.MarkHidden("name")))
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if wanted.active && wanted.inactive {
			return newUsageError(cmd, "--active and --inactive exclude each other")
		}
		if wanted.mode != "" && !slices.Contains(modes(), wanted.mode) {
			return newUsageError(cmd, fmt.Sprintf("--mode %q is none, want one of %s", wanted.mode, strings.Join(modes(), ", ")))
		}
		return nil
	}
	return cmd
}

// modes are the modes of networks as list shows them: libvirt's, and none for an
// isolated network.
func modes() []string {
	return []string{"none", "nat", "route", "open", "bridge", "private", "vepa", "passthrough", "hostdev"}
}

// networkFilter says which networks are wanted, and how much of them.
type networkFilter struct {
	active, inactive bool
	mode             string
	names            bool
}

// matches reports whether a network is wanted.
func (f *networkFilter) matches(n api.Network) bool {
	return (!f.active || n.Active) && (!f.inactive || !n.Active) && (f.mode == "" || n.Mode == f.mode)
}

// printNetworks prints the table of networks, or their names alone.
func printNetworks(a *app, networks []api.Network, names bool) error {
	views := make([]networkView, 0, len(networks))
	rows := make([][]table.Cell, 0, len(networks))
	for _, n := range networks {
		views = append(views, newNetworkView(n))
		rows = append(rows, append(
			[]table.Cell{{Text: n.Name}, {Colour: table.StateColour(n.State), Text: string(n.State)}},
			texts(yesNo(n.Autostart), yesNo(n.Persistent), n.Mode, n.Bridge)...))
	}
	switch {
	case a.json:
		return a.printJSON(views)
	case names:
		for _, n := range networks {
			a.printf("%s\n", table.Printable(n.Name))
		}
		return a.err
	}
	return a.printTable("NAME STATE AUTOSTART PERSISTENT MODE BRIDGE", "PERSISTENT BRIDGE MODE", rows)
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
	var ifNeeded bool
	var wait time.Duration
	cmd := a.command("start NET [--if-needed] [--wait DURATION]", "Start a network", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			n := d.Network(args[0])
			if err := n.Start(ctx); err != nil && (!ifNeeded || !isActive(ctx, n)) {
				return err
			}
			return awaitActive(ctx, n, wait)
		})
	cmd.Flags().BoolVar(&ifNeeded, "if-needed", false, "an active network is no error")
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait at most so long, as 30s, until every part of it works")
	return cmd
}

// isActive reports whether the network is active.
func isActive(ctx context.Context, n client.Network) bool {
	now, err := n.Get(ctx)
	return err == nil && now.Active
}

// awaitActive waits until every part of an active network works, for at most
// that time. It does not wait if that is 0.
func awaitActive(ctx context.Context, n client.Network, atMost time.Duration) error {
	if atMost == 0 {
		return nil
	}
	deadline := time.NewTimer(atMost)
	defer deadline.Stop()
	ticks := time.NewTicker(startPause)
	defer ticks.Stop()
	for {
		now, err := n.Get(ctx)
		if err != nil || now.State == api.Active {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return fmt.Errorf("network %s is %s after %v: %s", quote(now.Name), now.State, atMost, cmp.Or(now.LastError, "see vnetctl doctor"))
		case <-ticks.C:
		}
	}
}

// startPause is the time between two looks at a network that starts.
const startPause = 100 * time.Millisecond

func stopCommand(a *app) *cobra.Command {
	var ifNeeded, force bool
	cmd := a.command("stop NET [--if-needed] [--force]", "Stop a network", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			n := d.Network(args[0])
			if !force && isActive(ctx, n) {
				if err := warnOfStop(ctx, a, d, args[0]); err != nil {
					return err
				}
			}
			err := n.Stop(ctx)
			if ifNeeded && errors.Is(err, api.InvalidState) && !isActive(ctx, n) {
				return nil
			}
			return err
		})
	cmd.Flags().BoolVar(&ifNeeded, "if-needed", false, "an inactive network is no error")
	cmd.Flags().BoolVar(&force, "force", false, "say nothing of the guests that are cut off")
	return cmd
}

// warnOfStop says whose guests a stop of the network cuts off. A person at a
// terminal is asked whether to go on.
func warnOfStop(ctx context.Context, a *app, d *client.Client, name string) error {
	ports, err := findPorts(ctx, d, name)
	if err != nil || len(ports) == 0 {
		return err
	}
	names := make([]string, 0, len(ports))
	for _, p := range ports {
		names = append(names, cmp.Or(p.Name, p.IfName))
	}
	a.tell(fmt.Sprintf("guests are cut off: %s", enumerate(names, 8)))
	if !a.asks {
		return nil
	}
	return a.confirm("Stop network "+quote(name)+"?", "not stopped; --force does not ask")
}

func restartCommand(a *app) *cobra.Command {
	return a.command("restart NET", "Stop a network if it is active, and start it", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			n := d.Network(args[0])
			now, err := n.Get(ctx)
			if err != nil {
				return err
			}
			if now.Active && !now.Persistent {
				return fmt.Errorf("network %s has no definition to start it from again", quote(now.Name))
			}
			if err := n.Stop(ctx); err != nil && !errors.Is(err, api.InvalidState) {
				return err
			}
			return n.Start(ctx)
		})
}

func reloadCommand(a *app) *cobra.Command {
	return a.command("reload", "Have vnetd read its configuration and definitions again", 0, 0,
		func(ctx context.Context, d *client.Client, _ []string) error { return d.Reload(ctx) })
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
			if err := d.Network(args[0]).Update(ctx, u); err != nil || u.Live || u.Config {
				return err
			}
			is, err := d.Network(args[0]).Get(ctx)
			if err == nil && is.Active && is.Persistent {
				a.tell("network " + quote(is.Name) + " is changed until it stops; --live --config changes its definition, too")
			}
			return err
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
	return printDefined(a, done)
}

// printDefined says what became of a network that was defined.
func printDefined(a *app, done api.Defined) error {
	if a.json {
		return a.printJSON(definedView{
			newNetworkView(done.Network), string(done.Action), append([]string{}, done.Changes...), append([]string{}, done.Pending...),
		})
	}
	a.printf("network %s %s\n", quote(done.Network.Name), table.Printable(string(done.Action)))
	for _, line := range done.Changes {
		a.printf("  %s\n", table.Printable(line))
	}
	if len(done.Pending) > 0 {
		a.printf("%s\n", a.paint(table.Yellow, "pending, at its next start or with --now:"))
		for _, line := range done.Pending {
			a.printf("  %s\n", table.Printable(line))
		}
	}
	return a.err
}
