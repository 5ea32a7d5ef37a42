package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/pkg/api"
)

// definedView is a network that was defined in JSON, and what became of it.
type definedView struct {
	networkView
	Action  string   `json:"action"`
	Changes []string `json:"changes"`
	Pending []string `json:"pending"`
}

func (a *app) defineCommand() *cobra.Command {
	var opts api.DefineOptions
	var now, pending bool
	var cmd *cobra.Command
	cmd = a.command("define FILE [--new] [--now | --pending]",
		"Write a network's definition from libvirt XML, - for standard input", 1, 1,
		func(ctx context.Context, d daemon, args []string) error {
			switch {
			case now && pending:
				return newUsageError(cmd, "--now and --pending exclude each other")
			case now:
				opts.Apply = api.ApplyAll
			case pending:
				opts.Apply = api.ApplyNothing
			}
			return a.define(ctx, d, args[0], opts)
		})
	cmd.Flags().BoolVar(&opts.New, "new", false, "refuse a network that exists already")
	cmd.Flags().BoolVar(&now, "now", false, "apply everything to an active network, restarting it where it must")
	cmd.Flags().BoolVar(&pending, "pending", false, "apply nothing to an active network before its next start")
	return cmd
}

// define defines the network of a file and says what became of it.
func (a *app) define(ctx context.Context, d daemon, file string, opts api.DefineOptions) error {
	xml, err := a.readFile(file)
	if err != nil {
		return fmt.Errorf("reading the definition: %w", err)
	}
	done, err := d.DefineNetworkWith(ctx, string(xml), opts)
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
	return a.printErr
}
