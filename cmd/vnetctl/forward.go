package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/cmd/vnetctl/table"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

func forwardCommand(a *app) *cobra.Command {
	return group("forward", "Manage ports of the host that lead to guests",
		forwardAddCommand(a), forwardListCommand(a), forwardShowCommand(a), forwardDeleteCommand(a))
}

func forwardAddCommand(a *app) *cobra.Command {
	var flags api.ForwardOptions
	var hold bool
	cmd := a.command("add NET [ADDRESS:]PORT:GUEST[:PORT][/PROTOCOL] [flags]", "Have a port of the host lead to a guest", 2, 2,
		func(ctx context.Context, d *client.Client, args []string) error {
			f, err := parseForward(args[1], true)
			if err != nil {
				return err
			}
			f.From = flags.From
			if hold {
				f.Lifetime = api.LifetimeBus
			}
			added, err := d.Network(args[0]).AddForward(ctx, f)
			if err != nil {
				return err
			}
			if err := printForward(a, added); err != nil || !hold {
				return err
			}
			if _, err := fmt.Fprintf(a.stderr, "vnetctl: holding the forward until interrupted\n"); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		})
	cmd.Long = cmd.Short + `.

GUEST is its name, its MAC address or its IP address; IPv6 and MAC addresses stand in brackets.
PORT may be a range: 9000-9009. PROTOCOL is tcp, udp or sctp, tcp where it is left out.`
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) != 2 {
			return newUsageError(cmd, "a network and a forward are needed")
		}
		if _, err := parseForward(args[1], true); err != nil {
			return newUsageError(cmd, err.Error())
		}
		return nil
	}
	cmd.Flags().StringSliceVar(&flags.From, "from", nil, "a subnet or address that may use it; may be repeated; all, if there is none")
	cmd.Flags().BoolVar(&hold, "hold", false, "hold the forward until interrupted, instead of writing it into the network")
	return cmd
}

func forwardListCommand(a *app) *cobra.Command {
	return a.command("list [NET]", "List the forwards of a network, or of all", 0, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			all, err := findForwards(ctx, d, argument(args))
			if err != nil {
				return err
			}
			count(ctx, d, all)
			if a.json {
				return a.printJSON(all)
			}
			rows := make([][]table.Cell, 0, len(all))
			for _, f := range all {
				row := texts(f.UUID, f.Network, forwardKey(f), f.To, targetsText(f), countText(f.Connections), string(f.Lifetime))
				row[4].Colour = waitColour(f.State == api.ForwardActive, f.State == api.ForwardWaiting)
				rows = append(rows, row)
			}
			return a.printTable("UUID NETWORK PORT GUEST TARGET CONNECTIONS LIFETIME", "UUID LIFETIME CONNECTIONS|NETWORK", rows)
		})
}

// count tells of each forward what goes on by it, where the kernel tells.
func count(ctx context.Context, d *client.Client, all []api.Forward) {
	if len(all) == 0 {
		return
	}
	counted, _ := client.CountForwards(ctx, d) // all else is still told
	for i := range all {
		j := slices.IndexFunc(counted, func(c api.Forward) bool { return c.UUID == all[i].UUID })
		if j >= 0 {
			all[i].Connections, all[i].Packets, all[i].Bytes = counted[j].Connections, counted[j].Packets, counted[j].Bytes
		}
	}
}

// waitColour is the colour of what holds, or waits for something.
func waitColour(holds, waits bool) table.Colour {
	switch {
	case holds:
		return table.Green
	case waits:
		return table.Yellow
	}
	return table.Plain
}

// countText is a count that may not be known.
func countText(n *int) string {
	if n == nil {
		return ""
	}
	return strconv.Itoa(*n)
}

// findForwards returns the forwards of one network, or all if name is empty.
func findForwards(ctx context.Context, d *client.Client, name string) ([]api.Forward, error) {
	all, err := d.Forwards(ctx)
	if err != nil || name == "" {
		return all, err
	}
	network, err := d.Network(name).Get(ctx)
	if err != nil {
		return nil, err
	}
	found := []api.Forward{}
	for _, f := range all {
		if f.Network == network.Name {
			found = append(found, f)
		}
	}
	return found, nil
}

// forwardKey is what tells a forward from the others of its network: "8080/tcp", with an
// address "192.0.2.1:8080/tcp".
func forwardKey(f api.Forward) string {
	key := f.Ports + "/" + f.Protocol
	switch {
	case f.Address == "":
		return key
	case strings.Contains(f.Address, ":"):
		return "[" + f.Address + "]:" + key
	}
	return f.Address + ":" + key
}

// targetsText tells where a forward leads, or why nowhere.
func targetsText(f api.Forward) string {
	if len(f.Targets) == 0 {
		return string(f.State)
	}
	var all []string
	for _, t := range f.Targets {
		host := t.String()
		if t.Is6() {
			host = "[" + host + "]"
		}
		all = append(all, host+":"+strconv.Itoa(int(f.ToPort)))
	}
	return strings.Join(all, ",")
}

// findForward returns the forward with the UUID, or the only one with the port.
func findForward(ctx context.Context, d *client.Client, id string) (api.Forward, error) {
	all, err := d.Forwards(ctx)
	if err != nil {
		return api.Forward{}, err
	}
	var found []api.Forward
	for _, f := range all {
		key := forwardKey(f)
		if f.UUID == id || key == id || f.Network+":"+key == id || strings.TrimSuffix(key, "/"+f.Protocol) == id {
			found = append(found, f)
		}
	}
	switch len(found) {
	case 0:
		return api.Forward{}, &client.Error{Kind: api.NotFound, Message: fmt.Sprintf("no forward has the UUID or port %q", id)}
	case 1:
		return found[0], nil
	}
	return api.Forward{}, &client.Error{Kind: api.Conflict, Message: fmt.Sprintf("%d forwards are of port %q: name one by UUID, or as NET:%s", len(found), id, forwardKey(found[0]))}
}

func forwardShowCommand(a *app) *cobra.Command {
	return a.command("show FORWARD", "Print a forward, by its UUID or its port, with the number of its connections", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			f, err := findForward(ctx, d, args[0])
			if err != nil {
				return err
			}
			full, err := d.Forward(f.UUID).Describe(ctx)
			if err != nil {
				return err
			}
			if err := json.Unmarshal(full, &f); err != nil {
				return fmt.Errorf("reading vnetd's description: %w", err)
			}
			return printForward(a, f)
		})
}

// printForward prints one forward.
func printForward(a *app, f api.Forward) error {
	if a.json {
		return a.printJSON(f)
	}
	fields := []field{
		{"uuid", f.UUID},
		{"network", f.Network},
		{"port", forwardKey(f)},
		{"guest", f.To},
		{"guest_port", strconv.Itoa(int(f.ToPort))},
		{"from", joined(f.From)},
		{"lifetime", string(f.Lifetime)},
		{"state", string(f.State)},
		{"targets", joined(f.Targets)},
	}
	if f.Port != "" {
		fields = append(fields, field{"of_port", f.Port})
	}
	if f.Connections != nil {
		fields = append(fields, field{"connections", strconv.Itoa(*f.Connections)})
	}
	if f.Packets != nil && f.Bytes != nil {
		fields = append(fields, field{"of them", fmt.Sprintf("%d packets, %d bytes", *f.Packets, *f.Bytes)})
	}
	return a.printFields(fields)
}

func forwardDeleteCommand(a *app) *cobra.Command {
	return a.command("delete FORWARD...", "End forwards, by UUID or port, and the connections that go on by them", 1, math.MaxInt,
		func(ctx context.Context, d *client.Client, args []string) error {
			var errs []error
			for _, id := range args {
				f, err := findForward(ctx, d, id)
				if err == nil {
					err = d.Forward(f.UUID).Release(ctx)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		})
}
