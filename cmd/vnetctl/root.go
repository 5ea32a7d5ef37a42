package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/cmd/vnetctl/daemon"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// run executes the command line args, without the program's name, and returns
// the exit code. The end of ctx is the user's interrupt.
func run(ctx context.Context, args []string, env environment) int {
	a := &app{environment: env, printer: printer{out: env.stdout, coloured: env.colour, width: env.width}}
	root := rootCommand(a)
	root.SetArgs(args)
	root.SetIn(env.stdin)
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		if errors.Is(err, api.NotRunning) {
			err = daemon.Explain(err, a.host.unit(ctx))
		}
		return fail(a.stderr, err)
	}
	return exitOK
}

// rootCommand returns the command tree.
func rootCommand(a *app) *cobra.Command {
	root := group("vnetctl", "Manage the virtual networks of vnetd")
	root.SilenceErrors, root.SilenceUsage = true, true
	root.Version = a.version // for --version; the command version asks vnetd, too
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return newUsageError(cmd, err.Error())
	})
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.AddCommand(
		listCommand(a), statusCommand(a), doctorCommand(a), planCommand(a), defineCommand(a), createCommand(a), undefineCommand(a),
		startCommand(a), stopCommand(a), restartCommand(a), reloadCommand(a), enableCommand(a), disableCommand(a), catCommand(a), updateCommand(a),
		leasesCommand(a), portCommand(a), importLibvirtCommand(a), mirrorCommand(a), runCommand(a), editCommand(a), monitorCommand(a),
		versionCommand(a), logLevelCommand(a),
	)
	completeNames(a, root)
	return root
}

// logLevelCommand prints from which level on vnetd logs, or changes it.
func logLevelCommand(a *app) *cobra.Command {
	return a.command("log-level [LEVEL]", "Print or change how much vnetd logs: debug, info, warn or error", 0, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			if len(args) == 1 {
				return d.SetLogLevel(ctx, args[0])
			}
			level, err := d.LogLevel(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]string{"log_level": level})
			}
			a.printf("%s\n", printable(level))
			return a.err
		})
}

// versionCommand prints the versions of this program and of vnetd. That vnetd
// does not run is an answer, not a failure.
func versionCommand(a *app) *cobra.Command {
	return plainCommand("version", "Print the versions of vnetctl and of the running vnetd", 0, 0, func(ctx context.Context, _ []string) error {
		running, err := daemonVersion(ctx, a)
		if err != nil && !errors.Is(err, api.NotRunning) {
			return err
		}
		if a.json {
			return a.printJSON(map[string]*string{"vnetctl": &a.version, "vnetd": running})
		}
		shown := "not running"
		if running != nil {
			shown = *running
		}
		return a.printFields([]field{{"vnetctl", a.version}, {"vnetd", shown}})
	})
}

// daemonVersion returns vnetd's version.
func daemonVersion(ctx context.Context, a *app) (version *string, err error) {
	d, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	text, err := d.Version(ctx)
	if err != nil {
		return nil, err
	}
	return &text, nil
}
