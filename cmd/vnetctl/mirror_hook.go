package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/pkg/client"
)

const (
	// maxHookInput is the longest input of a hook, in bytes.
	maxHookInput = 16 << 20
	// hookLimit is how long libvirtd waits for vnetd.
	hookLimit = 20 * time.Second
)

// hookInput is what libvirtd's hooks of networks read.
type hookInput struct {
	Network networkDocument `xml:"network"`
	Port    *hookPort       `xml:"networkport"`
}

// hookPort is what vnetd is told of a port: not the plug, which is vnetd's to say.
type hookPort struct {
	XMLName   xml.Name    `xml:"networkport"`
	UUID      string      `xml:"uuid"`
	Owner     *rawElement `xml:"owner"`
	MAC       *rawElement `xml:"mac"`
	Bandwidth *rawElement `xml:"bandwidth"`
	Isolated  *rawElement `xml:"port"`
}

// mirrorHookCommand is what libvirtd runs: an error keeps the network from starting,
// or the guest. It does nothing for networks that are no mirrors.
func (a *app) mirrorHookCommand() *cobra.Command {
	return &cobra.Command{
		Use: "hook NETWORK OPERATION PART -", Short: "Tell vnetd of the ports of libvirtd's guests, as libvirtd's hook",
		DisableFlagsInUseLine: true, Args: countArgs(2, 4),
		RunE: func(cmd *cobra.Command, args []string) error {
			var in hookInput
			if err := xml.NewDecoder(io.LimitReader(a.stdin, maxHookInput)).Decode(&in); err != nil {
				// Not worth keeping a network of libvirtd's own from starting.
				a.tell("reading what libvirtd tells its hook: %v", err)
				return nil
			}
			if in.Network.digest() == "" {
				return nil
			}
			return a.hooked(client.NoStart(cmd.Context()), args[1], in)
		},
	}
}

// hooked tells vnetd of an operation on a mirror. A vnetd that does not run hinders
// nobody: its bridges are there all the same, and it finds guests by their devices.
func (a *app) hooked(ctx context.Context, operation string, in hookInput) error {
	ctx, cancel := context.WithTimeout(ctx, hookLimit)
	defer cancel()
	d, err := a.dial(ctx)
	if err == nil {
		defer func() { _ = d.Close() }()
		err = onHook(ctx, d, operation, in)
	}
	if errors.Is(err, client.ErrNotRunning) {
		a.tell("vnetd is not told: %v", err)
		return nil
	}
	return err
}

// onHook does for vnetd what libvirtd's operation means.
func onHook(ctx context.Context, d daemon, operation string, in hookInput) error {
	name := in.Network.Name
	switch {
	case operation == "start":
		n, err := d.Network(ctx, name)
		if err == nil && !n.Active {
			err = fmt.Errorf("network %q is vnetd's and not active there: vnetctl start %s", name, name)
		}
		return err
	case operation == "port-created" && in.Port != nil:
		doc, err := xml.Marshal(in.Port)
		if err != nil {
			return err
		}
		if _, err = d.RegisterPort(ctx, name, string(doc)); !errors.Is(err, client.ErrExists) {
			return err // it exists when libvirtd starts anew under its guests
		}
	case operation == "port-deleted" && in.Port != nil:
		if err := d.Release(ctx, in.Port.UUID); !errors.Is(err, client.ErrNotFound) {
			return err
		}
	}
	return nil
}
