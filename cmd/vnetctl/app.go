package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/pkg/client"
)

// environment is the world outside of one run.
type environment struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	dial           func(ctx context.Context) (*client.Client, error)
	now            func() time.Time // in the zone that times are shown in
	version        string           // of this program
	colour         bool             // stdout shows colours
	width          int              // of stdout in characters, 0 for what is no terminal
	asks           bool             // a person at a terminal can be asked
	host           host
	// become replaces this program by another one. It returns when it can't.
	become func(path string, argv, env []string) error
}

// app is one run of the program.
type app struct {
	environment
	printer

	json bool // the flag --json
}

// tell says on standard error what was done, or what is to be known.
func (a *app) tell(text string) { _, _ = fmt.Fprintf(a.stderr, "vnetctl: %s\n", oneLine(text)) }

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
	}
	cmd.AddCommand(commands...)
	return cmd
}

// action is the work of one command.
type action func(ctx context.Context, d *client.Client, args []string) error

// command returns a command that takes from low to high arguments and works on
// a connection to vnetd. use and short are cobra's.
func (a *app) command(use, short string, low, high int, act action) *cobra.Command {
	return plainCommand(use, short, low, high, func(ctx context.Context, args []string) (err error) {
		d, err := a.dial(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.Close()) }()
		return act(ctx, d, args)
	})
}

// plainCommand returns a command that needs no connection.
func plainCommand(use, short string, low, high int, act func(ctx context.Context, args []string) error) *cobra.Command {
	return &cobra.Command{
		Use:                   use,
		Short:                 short,
		DisableFlagsInUseLine: true,
		Args:                  countArgs(low, high),
		RunE:                  func(cmd *cobra.Command, args []string) error { return act(cmd.Context(), args) },
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

// readFile reads the file, or standard input for "-".
func (a *app) readFile(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(a.stdin)
	}
	return os.ReadFile(file)
}
