package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// timeout bounds the whole run: QEMU waits for the helper before it does
// anything else, and cannot be stopped from its monitor meanwhile.
const timeout = 30 * time.Second

// run is the program: it returns the exit code, 0 or 1. QEMU tells no more of
// it than that it failed; the words on stderr reach the user.
func run(
	ctx context.Context, args []string, stdout, stderr io.Writer, dial func(context.Context) (*client.Client, error),
) int {
	opts, err := parseArgs(args, stdout)
	if errors.Is(err, errHelp) {
		return 0
	}
	if err == nil {
		err = help(ctx, opts, dial)
	}
	if err != nil {
		message := strings.ReplaceAll(err.Error(), "\n", "; ")
		// There is no other place to report an error of stderr.
		_, _ = fmt.Fprintf(stderr, "vnet-bridge-helper: %s\n", message)
		return 1
	}
	return 0
}

// help asks vnetd for the port and passes its descriptor to QEMU.
func help(ctx context.Context, opts options, dial func(context.Context) (*client.Client, error)) (err error) {
	// Before anything is opened: a descriptor that is free now may be one of
	// ours later.
	if err := checkSocket(opts.fd); err != nil {
		return fmt.Errorf("--fd=%d: %w", opts.fd, err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	d, err := dial(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	port, err := d.RequestPort(ctx, opts.bridge, client.PortOptions{
		Name: opts.name, Aliases: opts.aliases, MAC: opts.mac, VnetHdr: opts.vnetHdr, Lifetime: api.LifetimeFD,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, port.Close()) }()
	if err := sendFile(opts.fd, port.Files[0]); err != nil {
		return fmt.Errorf("passing the port to QEMU: %w", err)
	}
	return nil
}
