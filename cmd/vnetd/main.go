// Command vnetd is the network daemon of a hypervisor: it makes the bridges and
// TAP ports of libvirt-style networks, their firewall rules, and serves DHCP
// and DNS on them. See vnetd(8).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// version is set by the linker; otherwise the module's own is told.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	tuneCollector()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// options are the command line.
type options struct {
	config  string
	level   *slog.Level // nil: the configuration's
	check   bool
	cleanup bool
	version bool
}

// run is main with its surroundings as arguments; it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	opts, err := parseFlags(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		return exitUsage
	}
	if opts.version {
		fmt.Fprintf(stdout, "vnetd %s\n", programVersion())
		return exitOK
	}
	cfg, err := loadConfig(opts.config)
	if opts.level != nil {
		cfg.LogLevel = *opts.level
	}
	if err != nil {
		fmt.Fprintf(stderr, "vnetd: %v\n", err)
		return exitFailed
	}
	level := new(slog.LevelVar)
	level.Set(cfg.LogLevel)
	log := newLogger(stderr, level)
	switch {
	case opts.check:
		err = check(cfg, stdout)
	case opts.cleanup:
		err = cleanup(ctx, cfg, log)
	default:
		spareProcessors()
		err = serve(ctx, cfg, opts.config, log, level)
	}
	if err != nil {
		fmt.Fprintf(stderr, "vnetd: %v\n", err)
		return exitFailed
	}
	return exitOK
}

func parseFlags(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("vnetd", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.config, "config", "", "read `FILE` instead of "+defaultConfig)
	fs.Func("log-level", "log from `LEVEL` on: debug, info, warn or error", func(name string) error {
		o.level = new(slog.Level)
		return o.level.UnmarshalText([]byte(name))
	})
	fs.BoolVar(&o.check, "check", false, "check the configuration and all definitions, change nothing, and exit")
	fs.BoolVar(&o.cleanup, "cleanup", false, "take down every network, port and rule that a vnetd left, and exit")
	fs.BoolVar(&o.version, "version", false, "print the version and exit")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	var err error
	switch {
	case fs.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case o.check && o.cleanup:
		err = errors.New("--check and --cleanup exclude each other")
	}
	if err != nil {
		fmt.Fprintf(stderr, "vnetd: %v\n", err)
	}
	return o, err
}

// spareProcessors has the runtime run two threads more at a time than there are
// processors, so that the kernel shares these out. Else a query that comes while the
// guests of a small host take leases is not looked at before a thread has nothing else
// to do. GOMAXPROCS in the environment counts as it stands.
func spareProcessors() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 2)
	}
}

// programVersion is the version that this binary was built as.
func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
