package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// daemon is what the commands need of vnetd; *client.Client is one.
type daemon interface {
	Networks(ctx context.Context) ([]api.Network, error)
	Network(ctx context.Context, name string) (api.Network, error)
	DefineNetworkWith(ctx context.Context, xml string, opts api.DefineOptions) (api.Defined, error)
	CreateNetwork(ctx context.Context, xml string) (api.Network, error)
	Plan(ctx context.Context, xml string) (api.Plan, error)
	Start(ctx context.Context, name string) error
	Stop(ctx context.Context, name string) error
	Undefine(ctx context.Context, name string) error
	Update(ctx context.Context, name string, u client.Update) error
	SetAutostart(ctx context.Context, name string, on bool) error
	XML(ctx context.Context, name string, inactive bool) (string, error)
	Status(ctx context.Context) (api.Status, error)
	Describe(ctx context.Context) (json.RawMessage, error)
	DescribeNetwork(ctx context.Context, name string) (json.RawMessage, error)
	Leases(ctx context.Context, name string) ([]client.Lease, error)
	ExportLeases(ctx context.Context, name string) (string, error)
	ImportLeases(ctx context.Context, name, text string) (imported int, refused []string, err error)
	TakeOver(ctx context.Context, t client.Takeover, dry bool) (client.Taken, error)
	ImportPending(ctx context.Context) (bool, error)
	SetImported(ctx context.Context) error
	RequestPort(ctx context.Context, network string, opts client.PortOptions) (*client.Port, error)
	Ports(ctx context.Context) ([]client.PortInfo, error)
	Port(ctx context.Context, uuid string) (client.PortInfo, error)
	RegisterPort(ctx context.Context, network, xml string) (string, error)
	Release(ctx context.Context, uuid string) error
	Watch(ctx context.Context, f func(client.Event) error) error
	Version(ctx context.Context) (string, error)
	LogLevel(ctx context.Context) (string, error)
	SetLogLevel(ctx context.Context, level string) error
	Close() error
}

// environment is the world outside of one run.
type environment struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	dial           func(ctx context.Context) (daemon, error)
	now            func() time.Time // in the zone that times are shown in
	version        string           // of this program
	colour         bool             // stdout shows colours
	host           host
	// become replaces this program by another one. It returns when it can't.
	become func(path string, argv, env []string) error
}

// app is one run of the program.
type app struct {
	environment

	// json is the flag --json.
	json bool
	// printErr is the first error of printf.
	printErr error
}

// run executes the command line args, without the program's name, and returns
// the exit code. The end of ctx is the user's interrupt.
func run(ctx context.Context, args []string, env environment) int {
	a := &app{environment: env}
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(env.stdin)
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		return a.fail(err)
	}
	return exitOK
}

// rootCommand returns the command tree.
func (a *app) rootCommand() *cobra.Command {
	root := group("vnetctl", "Manage the virtual networks of vnetd")
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return newUsageError(cmd, err.Error())
	})
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.AddCommand(
		a.listCommand(), a.statusCommand(), a.doctorCommand(), a.planCommand(), a.defineCommand(), a.createCommand(), a.undefineCommand(),
		a.startCommand(), a.stopCommand(), a.enableCommand(), a.disableCommand(), a.catCommand(), a.updateCommand(),
		a.leasesCommand(), a.portCommand(), a.importLibvirtCommand(), a.mirrorCommand(), a.runCommand(), a.editCommand(), a.monitorCommand(),
		a.versionCommand(), a.logLevelCommand(),
	)
	suggestForVirsh(root)
	a.completeNames(root)
	return root
}

// group returns a command that only has commands below it.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return newUsageError(cmd, "a command is missing")
			}
			return unknownCommand(cmd, args[0])
		},
		// Never reached, but a command without it is not one for cobra.
		RunE: func(*cobra.Command, []string) error { return nil },

		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(commands...)
	return cmd
}

// action is the work of one command.
type action func(ctx context.Context, d daemon, args []string) error

// command returns a command that takes from low to high arguments and works on
// a connection to vnetd. use and short are cobra's.
func (a *app) command(use, short string, low, high int, act action) *cobra.Command {
	return &cobra.Command{
		Use:                   use,
		Short:                 short,
		DisableFlagsInUseLine: true,
		Args:                  countArgs(low, high),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			d, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, d.Close()) }()
			return act(cmd.Context(), d, args)
		},
	}
}

// countArgs checks the number of arguments.
func countArgs(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < low:
			return newUsageError(cmd, "an argument is missing")
		case len(args) > high:
			return newUsageError(cmd, "unexpected argument "+quote(args[high]))
		}
		return nil
	}
}

// argument returns the only argument, or the empty text if there is none.
func argument(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// logLevelCommand prints from which level on vnetd logs, or changes it.
func (a *app) logLevelCommand() *cobra.Command {
	return a.command("log-level [LEVEL]", "Print or change how much vnetd logs: debug, info, warn or error", 0, 1,
		func(ctx context.Context, d daemon, args []string) error {
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
			return a.printErr
		})
}

// versionCommand prints the versions of this program and of vnetd. That vnetd
// does not run is an answer, not a failure.
func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:                   "version",
		Short:                 "Print the versions of vnetctl and of the running vnetd",
		DisableFlagsInUseLine: true,
		Args:                  countArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			running, err := a.daemonVersion(cmd.Context())
			if err != nil && !errors.Is(err, client.ErrNotRunning) {
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
		},
	}
}

// daemonVersion returns vnetd's version.
func (a *app) daemonVersion(ctx context.Context) (version *string, err error) {
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
