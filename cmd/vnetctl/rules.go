package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/cmd/vnetctl/document"
	"github.com/vnetd/vnetd/cmd/vnetctl/table"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

func peerCommand(a *app) *cobra.Command {
	return group("peer", "Manage which networks' guests reach each other", peerAddCommand(a), peerListCommand(a), peerDeleteCommand(a))
}

func ruleCommand(a *app) *cobra.Command {
	return group("rule", "Manage what guests may open, and what may be opened to them",
		ruleAddCommand(a), ruleListCommand(a), ruleDeleteCommand(a), ruleDefaultCommand(a), ruleSetCommand(a))
}

// rewrite defines a network anew with a change of its document, and tells what became of it. What
// can be changed of an active network is.
func rewrite(ctx context.Context, a *app, d *client.Client, network string, change func(*document.Document) error) error {
	doc, err := definition(ctx, d, network)
	if err != nil {
		return err
	}
	if err := change(doc); err != nil {
		return &client.Error{Kind: api.Invalid, Message: err.Error()}
	}
	done, err := d.DefineNetwork(ctx, doc.XML(), api.DefineOptions{})
	if err != nil {
		return err
	}
	return printDefined(a, done)
}

// described is the network with all that hangs on it.
func described(ctx context.Context, d *client.Client, network string) (s api.NetworkStatus, err error) {
	text, err := d.Network(network).Describe(ctx)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("reading vnetd's description: %w", err)
	}
	return s, nil
}

func peerAddCommand(a *app) *cobra.Command {
	var direction string
	cmd := a.command("add NET PEER [SERVICE...] [--direction out|in|both]", "Have guests of a network and of another open services to each other", 2, math.MaxInt,
		func(ctx context.Context, d *client.Client, args []string) error {
			return rewrite(ctx, a, d, args[0], func(doc *document.Document) error { return doc.SetPeer(args[1], direction, args[2:]) })
		})
	cmd.Long = cmd.Short + `.

SERVICE is such as tcp/5432, udp/53, tcp/8000-8010 or icmp; without any it is everything. The other
network has to say so, too, unless the same accounts own both.`
	cmd.Flags().StringVar(&direction, "direction", "out", "who opens: out: guests of NET; in: guests of PEER; both")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("direction", cobra.FixedCompletions([]string{"out", "in", "both"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func peerListCommand(a *app) *cobra.Command {
	return a.command("list [NET]", "List the peers of a network, or of all, and why they wait", 0, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			all, err := statuses(ctx, d, argument(args))
			if err != nil {
				return err
			}
			peers := make(map[string][]api.Peer)
			rows := [][]table.Cell{}
			for _, n := range all {
				peers[n.Name] = n.Peers
				for _, p := range n.Peers {
					row := texts(n.Name, p.Network, p.Direction, servicesText(p), string(p.State), metText(p.Met), p.Reason)
					row[4].Colour = waitColour(p.State == api.PeerActive, p.State == api.PeerWaiting)
					rows = append(rows, row)
				}
			}
			if a.json {
				return a.printJSON(peers)
			}
			return a.printTable("NETWORK PEER DIRECTION SERVICES STATE MET REASON", "MET|REASON", rows)
		})
}

// metText is how many connections were met, packets that are sent again among them.
func metText(m *api.Met) string {
	if m == nil {
		return ""
	}
	return strconv.FormatUint(m.Packets, 10)
}

// statuses are all networks, or the one of that name.
func statuses(ctx context.Context, d *client.Client, name string) ([]api.NetworkStatus, error) {
	if name != "" {
		one, err := described(ctx, d, name)
		return []api.NetworkStatus{one}, err
	}
	text, err := d.Describe(ctx)
	if err != nil {
		return nil, err
	}
	var s api.Status
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("reading vnetd's description: %w", err)
	}
	for i := range s.Networks { // each for itself tells what its peers have met
		if n := &s.Networks[i]; len(n.Peers) > 0 {
			if one, err := described(ctx, d, n.Name); err == nil { // else it has gone
				*n = one
			}
		}
	}
	return s.Networks, nil
}

func peerDeleteCommand(a *app) *cobra.Command {
	var direction string
	cmd := a.command("delete NET PEER [--direction out|in|both]", "End a network's peerings with another", 2, 2,
		func(ctx context.Context, d *client.Client, args []string) error {
			return rewrite(ctx, a, d, args[0], func(doc *document.Document) error { return doc.DropPeer(args[1], direction) })
		})
	cmd.Flags().StringVar(&direction, "direction", "", "only that of this direction")
	return cmd
}

func ruleAddCommand(a *app) *cobra.Command {
	var at int
	cmd := a.command("add NET RULE... [--at NUMBER]", "Add a rule", 3, math.MaxInt,
		func(ctx context.Context, d *client.Client, args []string) error {
			return rewrite(ctx, a, d, args[0], func(doc *document.Document) error { return doc.AddRule(strings.Join(args[1:], " "), at) })
		})
	cmd.Long = cmd.Short + `.

RULE is egress|ingress allow|reject|drop [PROTOCOL[/PORTS]] [to|from WHERE...] [log], such as

  egress allow tcp/80,443 to '*.example.org' 192.0.2.0/24 @mirrors log

The first rule that fits decides.`
	cmd.Flags().IntVar(&at, "at", 0, "the rule's number among the others; 0: the last")
	return cmd
}

func ruleListCommand(a *app) *cobra.Command {
	return a.command("list NET", "List the rules of a network in their order, its sets, and what its names have", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			n, err := described(ctx, d, args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(n.Rules)
			}
			rows := [][]table.Cell{}
			for i, r := range n.Rules.Rules {
				met := ""
				if i < len(n.Rules.Met) {
					met = metText(&n.Rules.Met[i])
				}
				rows = append(rows, texts(strconv.Itoa(i+1), r, met))
			}
			for _, d := range []struct{ direction, action string }{{"egress", n.Rules.Egress}, {"ingress", n.Rules.Ingress}} {
				if d.action != "" {
					rows = append(rows, texts("else", d.direction+" "+d.action, ""))
				}
			}
			for _, s := range n.Rules.Sets {
				rows = append(rows, texts("@"+s.Name, strings.Join(s.Members, " "), ""))
			}
			for _, name := range n.Rules.Names {
				rows = append(rows, texts(name.Name, fmt.Sprintf("%v for %v", name.Addr, name.Until.Sub(a.now()).Round(time.Second)), ""))
			}
			return a.printTable("NUMBER RULE MET", "MET", rows)
		})
}

func ruleDeleteCommand(a *app) *cobra.Command {
	return a.command("delete NET NUMBER|RULE...", "Delete a rule, by its number or as it is written", 2, math.MaxInt,
		func(ctx context.Context, d *client.Client, args []string) error {
			return rewrite(ctx, a, d, args[0], func(doc *document.Document) error { return doc.DropRule(strings.Join(args[1:], " ")) })
		})
}

func ruleDefaultCommand(a *app) *cobra.Command {
	return a.command("default NET egress|ingress allow|reject|drop|none", "Say what becomes of connections that no rule fits", 3, 3,
		func(ctx context.Context, d *client.Client, args []string) error {
			return rewrite(ctx, a, d, args[0], func(doc *document.Document) error { return doc.SetDefault(args[1], args[2]) })
		})
}

func ruleSetCommand(a *app) *cobra.Command {
	return a.command("set NET NAME [MEMBER...]", "Say what is in a set that rules name; without members it is deleted", 2, math.MaxInt,
		func(ctx context.Context, d *client.Client, args []string) error {
			return rewrite(ctx, a, d, args[0], func(doc *document.Document) error { return doc.SetMembers(args[1], args[2:]) })
		})
}
