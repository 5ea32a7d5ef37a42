package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vnetd/vnetd/cmd/vnetctl/suggest"
	"github.com/vnetd/vnetd/pkg/api"
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
	// cluster has something done with a cluster's store. Its errors have kinds.
	cluster func(ctx context.Context, req api.ClusterRequest) (json.RawMessage, error)
}

// app is one run of the program.
type app struct {
	environment
	printer

	json bool // the flag --json
}

// tell says on standard error what was done, or what is to be known.
func (a *app) tell(text string) { _, _ = fmt.Fprintf(a.stderr, "vnetctl: %s\n", oneLine(text)) }

// confirm asks the person at the terminal. Any answer but yes is an error, which otherwise
// says.
func (a *app) confirm(question, otherwise string) error {
	_, _ = fmt.Fprintf(a.stderr, "%s [y/N] ", question)
	answer, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !strings.HasPrefix(strings.ToLower(answer), "y") {
		return errors.New(otherwise)
	}
	return nil
}

// group returns a command that only has commands below it.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  wantsCommand,
		// Never reached, but a command without it is not one for cobra.
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	cmd.AddCommand(commands...)
	return cmd
}

// wantsCommand refuses to run a command that only has commands below it.
func wantsCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return newUsageError(cmd, "a command is missing")
	}
	return unknownCommand(cmd, args[0])
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
		return suggest.Meant(ctx, d, act(ctx, d, args))
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
			return newUsageError(cmd, missing(cmd, len(args)))
		case len(args) > high:
			return newUsageError(cmd, "unexpected argument "+quote(args[high]))
		}
		return nil
	}
}

// missing says which argument is: that behind so many others, by its word in the usage.
func missing(cmd *cobra.Command, after int) string {
	words := slices.DeleteFunc(strings.Fields(cmd.Use)[1:], func(word string) bool { return strings.ContainsAny(word, "[]") && !strings.Contains(word, "...") })
	if after >= len(words) {
		return "an argument is missing"
	}
	return strings.TrimRight(words[after], ".") + " is missing"
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

// The exit codes are a contract with scripts.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 3
	exitDenied   = 4
	exitConflict = 5
	exitWarnings = 6 // doctor alone
	exitUnknown  = 7 // reach alone: can't be told
)

// exitError ends the program with a code and says no more: what there is to say
// has been printed.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// usageError is a command line that makes no sense.
type usageError struct{ message string }

// Error returns what is wrong and how it would be right.
func (e *usageError) Error() string { return e.message }

// newUsageError returns a usageError for cmd.
func newUsageError(cmd *cobra.Command, fault string) error {
	if cmd.HasSubCommands() {
		return &usageError{fmt.Sprintf("%s; see %q", fault, cmd.CommandPath()+" --help")}
	}
	return &usageError{fmt.Sprintf("%s; usage: %s", fault, cmd.UseLine())}
}

// fail prints err as one sentence and returns the exit code for it.
func fail(stderr io.Writer, err error) int {
	if said, ok := errors.AsType[*exitError](err); ok {
		return said.code
	}
	message := err.Error()
	if errors.Is(err, context.Canceled) {
		message = "interrupted"
	}
	message += suggest.WhereListed(err)
	// There is no other place to report an error of stderr.
	_, _ = fmt.Fprintf(stderr, "vnetctl: %s\n", oneLine(message))
	return exitCode(err)
}

// exitCode returns the exit code for err.
func exitCode(err error) int {
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, api.NotFound):
		return exitNotFound
	case errors.Is(err, api.Denied):
		return exitDenied
	case errors.Is(err, api.Conflict), errors.Is(err, api.Exists):
		return exitConflict
	}
	return exitFailed
}

// maxNamed is how many commands are named where none was meant in particular.
const maxNamed = 6

// flagError says what is wrong with a flag. A command that there is not is worse than its
// flags: args is the command line.
func flagError(cmd *cobra.Command, args []string, err error) error {
	if found, rest, _ := cmd.Root().Find(args); found == cmd && cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return unknownCommand(cmd, rest[0])
	}
	if wrong, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		if wrong.GetFlag().Name == "format" {
			return newUsageError(cmd, "--format: "+errors.Unwrap(wrong).Error())
		}
		want := map[string]string{"duration": "a time such as 500ms, 30s or 5m", "int": "a number", "int64": "a number", "bool": "true or false"}[wrong.GetFlag().Value.Type()]
		if want != "" {
			return newUsageError(cmd, fmt.Sprintf("--%s %s: want %s", wrong.GetFlag().Name, quote(wrong.GetValue()), want))
		}
	}
	return newUsageError(cmd, err.Error())
}

// unknownCommand says that cmd has no command of that name, and what was meant
// perhaps.
func unknownCommand(cmd *cobra.Command, typed string) error {
	fault := "unknown command " + quote(typed)
	var meant []string
	for _, name := range suggest.Commands(cmd, typed) {
		meant = append(meant, quote(cmd.CommandPath()+" "+name))
	}
	if len(meant) > 0 {
		fault += ", perhaps " + strings.Join(meant, " or ")
	} else if all := cmd.Commands(); len(all) <= maxNamed {
		for _, sub := range all {
			meant = append(meant, quote(cmd.CommandPath()+" "+sub.Name()))
		}
		fault += ", want " + strings.Join(meant, " or ")
	}
	return newUsageError(cmd, fault)
}

// networkNames returns the names of all networks.
func networkNames(ctx context.Context, d *client.Client) ([]string, error) {
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

// findPorts returns the ports of one network, or all if name is empty.
func findPorts(ctx context.Context, d *client.Client, name string) ([]api.Port, error) {
	ports, err := d.Ports(ctx)
	if err != nil || name == "" {
		return ports, err
	}
	network, err := d.Network(name).Get(ctx)
	if err != nil {
		return nil, err
	}
	var found []api.Port
	for _, port := range ports {
		if port.Network == network.Name {
			found = append(found, port)
		}
	}
	return found, nil
}

// findPort returns the port with the UUID or the device name, or the only one of
// a guest with that name.
func findPort(ctx context.Context, d *client.Client, id string) (api.Port, error) {
	ports, err := d.Ports(ctx)
	if err != nil {
		return api.Port{}, err
	}
	var named []api.Port
	for _, port := range ports {
		switch {
		case port.UUID == id || port.IfName == id:
			return port, nil
		case port.Name != "" && strings.EqualFold(port.Name, id):
			named = append(named, port)
		}
	}
	switch len(named) {
	case 0:
		return api.Port{}, &client.Error{
			Kind: api.NotFound, Message: fmt.Sprintf("no port has the UUID, device name or guest's name %q", id),
		}
	case 1:
		return named[0], nil
	}
	return api.Port{}, &client.Error{
		Kind: api.Conflict, Message: fmt.Sprintf("%d ports are of a guest %q: name one by UUID or device", len(named), id),
	}
}
