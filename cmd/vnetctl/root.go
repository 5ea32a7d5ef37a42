// Command vnetctl is the command line of vnetd.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vnetd/vnetd/cmd/vnetctl/cluster"
	"github.com/vnetd/vnetd/cmd/vnetctl/daemon"
	"github.com/vnetd/vnetd/cmd/vnetctl/format"
	"github.com/vnetd/vnetd/cmd/vnetctl/table"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	asks := isTerminal(os.Stdin) && isTerminal(os.Stderr)
	code := run(ctx, os.Args[1:], environment{
		stdin:   os.Stdin,
		stdout:  os.Stdout,
		stderr:  os.Stderr,
		dial:    func(ctx context.Context) (*client.Client, error) { return daemon.Dial(ctx, asks) },
		now:     time.Now,
		version: buildVersion(),
		colour:  wantsColour(os.Stdout),
		width:   terminalWidth(os.Stdout),
		asks:    asks,
		become:  become,
		cluster: cluster.Call,
	})
	stop()
	os.Exit(code)
}

// version is set by the linker; otherwise the module's own is told.
var version string

// buildVersion returns the version that this program was built as.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}

// run executes the command line args, without the program's name, and returns
// the exit code. The end of ctx is the user's interrupt.
func run(ctx context.Context, args []string, env environment) int {
	a := &app{environment: env, printer: printer{out: env.stdout, coloured: env.colour, width: env.width}}
	root := rootCommand(a)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return flagError(cmd, args, err) })
	root.SetArgs(args)
	root.SetIn(env.stdin)
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	refuseUnknown(root)
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
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.PersistentFlags().Func("format", "print what --json has by a Go `TEMPLATE`, as {{.name}}", func(text string) (err error) {
		a.format, err = format.Parse(text)
		a.json = a.json || err == nil
		return err
	})
	root.AddCommand(
		listCommand(a), statusCommand(a), graphCommand(a), doctorCommand(a), explainCommand(a), planCommand(a), reachCommand(a), defineCommand(a), createCommand(a), undefineCommand(a),
		startCommand(a), stopCommand(a), restartCommand(a), reloadCommand(a), enableCommand(a), disableCommand(a), catCommand(a), updateCommand(a),
		leasesCommand(a), captureCommand(a), traceCommand(a), portCommand(a), forwardCommand(a), peerCommand(a), ruleCommand(a), importLibvirtCommand(a), mirrorCommand(a), runCommand(a), newCommand(a), setCommand(a), renameCommand(a), renumberCommand(a), copyCommand(a), editCommand(a), monitorCommand(a), topCommand(a),
		clusterCommand(a), whereCommand(a), spanCommand(a), unspanCommand(a),
		versionCommand(a), logLevelCommand(a),
	)
	completeNames(a, root)
	return root
}

// refuseUnknown has cobra's own commands refuse what they don't know. The output of root is
// set.
func refuseUnknown(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, own := range root.Commands() {
		switch own.Name() {
		case "help":
			own.PreRunE = func(_ *cobra.Command, args []string) error { return helpTopic(root, args) }
		case "completion":
			own.Args, own.RunE = wantsCommand, func(*cobra.Command, []string) error { return nil }
		}
	}
}

// helpTopic refuses help on a command that there is not.
func helpTopic(root *cobra.Command, args []string) error {
	if cmd, rest, _ := root.Find(args); len(rest) > 0 && cmd.HasSubCommands() {
		return unknownCommand(cmd, rest[0])
	}
	return nil
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
			a.printf("%s\n", table.Printable(level))
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

// completeLimit is how long a shell waits for names at most.
const completeLimit = 2 * time.Second

// completeNames has the shell complete arguments by what there is: the words of
// Use, and those of flags, say of what kind each is. A vnetd that does not answer has no
// names.
func completeNames(a *app, cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		completeNames(a, sub)
	}
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if word, _ := pflag.UnquoteUsage(f); word == "NET" || word == "HOST" {
			cobra.CheckErr(cmd.RegisterFlagCompletionFunc(f.Name, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
				return names(cmd.Context(), a, word)
			}))
		}
	})
	words := strings.Fields(strings.Map(dropBrackets, cmd.Use))
	if len(words) < 2 {
		return
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		word, at := "", len(args)+1
		if more := slices.IndexFunc(words, func(w string) bool { return strings.HasSuffix(w, "...") }); more > 0 && at > more {
			at = more
		}
		if at < len(words) {
			word = words[at]
		}
		return names(cmd.Context(), a, word)
	}
}

// dropBrackets takes the marks of what is optional out of a usage.
func dropBrackets(r rune) rune {
	if r == '[' || r == ']' {
		return -1
	}
	return r
}

// names lists what can stand where the usage has word.
func names(ctx context.Context, a *app, word string) ([]string, cobra.ShellCompDirective) {
	switch word {
	case "FILE", "XML|FILE", "FILE|-":
		return nil, cobra.ShellCompDirectiveDefault
	case "NET", "ID", "FROM", "TO", "PORT", "PORT|NET":
	case "CONDITION":
		return conditions(), cobra.ShellCompDirectiveNoFileComp
	case "KEY=VALUE...":
		return keys(), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	case "COMMAND":
		return []string{"add", "add-first", "add-last", "delete", "modify"}, cobra.ShellCompDirectiveNoFileComp
	case "HOST":
		return hostNames(ctx, a), cobra.ShellCompDirectiveNoFileComp
	case "SECTION":
		return []string{
			"ip-dhcp-host", "ip-dhcp-range", "dns-host", "dns-txt", "dns-srv", "portgroup", "forward-interface", "vnetd-record",
		}, cobra.ShellCompDirectiveNoFileComp
	default:
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeLimit)
	defer cancel()
	d, err := a.dial(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer func() { _ = d.Close() }()
	return words(ctx, d, word), cobra.ShellCompDirectiveNoFileComp
}

// hostNames lists the hosts of the cluster.
func hostNames(ctx context.Context, a *app) (found []string) {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeLimit)
	defer cancel()
	text, err := a.cluster(ctx, api.ClusterRequest{Do: api.ClusterHosts, Dir: clusterDir})
	var list api.ClusterHostList
	if err != nil || json.Unmarshal(text, &list) != nil {
		return nil
	}
	for _, h := range list.Hosts {
		found = append(found, h.Name+"\t"+h.State)
	}
	return found
}

// words lists what vnetd has of a kind.
func words(ctx context.Context, d *client.Client, kind string) (found []string) {
	if strings.HasSuffix(kind, "NET") {
		networks, _ := d.Networks(ctx)
		for _, n := range networks {
			found = append(found, n.Name+"\t"+string(n.State))
		}
	}
	if kind == "NET" {
		return found
	}
	ports, _ := d.Ports(ctx)
	guests := kind == "FROM" || kind == "TO"
	if guests {
		found = append(found, "host\tthis one", "outside\twhat is beyond it")
	}
	for _, p := range ports {
		switch {
		case !guests:
			found = append(found, p.IfName+"\t"+strings.TrimSpace(p.Network+" "+p.Name))
		case p.Name != "":
			found = append(found, p.Name+"\t"+p.Network)
		}
	}
	return found
}
