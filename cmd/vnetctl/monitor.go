package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/cmd/vnetctl/daemon"
	"github.com/vnetd/vnetd/cmd/vnetctl/suggest"
	"github.com/vnetd/vnetd/cmd/vnetctl/table"
	"github.com/vnetd/vnetd/cmd/vnetctl/top"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

func monitorCommand(a *app) *cobra.Command {
	return a.command("monitor [NET]", "Print what happens, on a network or on all, until interrupted", 0, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			only := argument(args)
			if only != "" {
				n, err := d.Network(only).Get(ctx)
				if err != nil {
					return err
				}
				only = n.Name
			}
			return d.Watch(ctx, func(e client.Event) error {
				if only != "" && e.Network != only {
					return nil
				}
				return printEvent(a, e)
			})
		})
}

// eventView is an event in JSON, one a line.
type eventView struct {
	Time    time.Time      `json:"time"`
	Event   string         `json:"event"`
	Network string         `json:"network"`
	Port    *portView      `json:"port"`
	Changed map[string]any `json:"changed"`
	Change  string         `json:"change"`
	Lease   *leaseView     `json:"lease"`
}

// printEvent prints one event, in a line.
func printEvent(a *app, e client.Event) error {
	now := a.now()
	if !a.json {
		_, err := fmt.Fprintf(a.stdout, "%s  %s\n", now.Format(time.TimeOnly), table.Printable(eventLine(e)))
		return err
	}
	view := eventView{Time: now, Event: string(e.Kind), Network: e.Network, Changed: e.Changed, Change: e.Change}
	if e.Port != nil {
		v := newPortView(*e.Port)
		view.Port = &v
	}
	if e.Lease != nil {
		v := leaseViews([]networkLease{{*e.Lease, e.Network}})[0]
		view.Lease = &v
	}
	return a.printLine(view)
}

// eventLine tells an event in words, aligned.
func eventLine(e client.Event) string {
	words := []string{fmt.Sprintf("%-15s", e.Kind)}
	if e.Network != "" {
		words = append(words, e.Network)
	}
	if p := e.Port; p != nil {
		words = append(words, p.IfName, p.MAC)
		if p.Name != "" {
			words = append(words, p.Name)
		}
	}
	if l := e.Lease; l != nil {
		words = append(words, e.Change, l.Address.String(), l.MAC)
		if l.Hostname != "" {
			words = append(words, l.Hostname)
		}
	}
	var changed []string
	for name, value := range e.Changed {
		changed = append(changed, changeText(name, value))
	}
	slices.Sort(changed)
	return strings.TrimRight(strings.Join(append(words, changed...), "  "), " ")
}

// changeText tells the new value of a property. Of conditions it tells the
// messages, since they are what a person wants to know.
func changeText(name string, value any) string {
	list, ok := value.([]any)
	if !ok {
		return fmt.Sprintf("%s=%v", name, value)
	}
	var messages []string
	for _, entry := range list {
		if entry, ok := entry.(map[string]any); ok {
			messages = append(messages, fmt.Sprintf("%v %v", entry["severity"], entry["message"]))
		}
	}
	if len(messages) == 0 {
		return name + "=none"
	}
	return name + ": " + strings.Join(messages, "; ")
}

// The least and the most time between two counts of top.
const (
	topLeast = 100 * time.Millisecond
	topMost  = time.Hour
)

func topCommand(a *app) *cobra.Command {
	var opts top.Options
	var once bool
	cmd := plainCommand("top [NET] [--once] [--interval DURATION] [--sort WHAT]", "Show what passes networks and ports, again and again", 0, 1,
		func(ctx context.Context, args []string) (err error) {
			opts.Plain, opts.Zone = !a.coloured, a.now().Location()
			w := &counter{app: a, only: argument(args)}
			defer func() { err = errors.Join(err, w.close()) }()
			first, err := w.counts(ctx)
			switch {
			case err != nil:
				return err
			case once || a.json || a.printer.width == 0:
				return topOnce(ctx, a, w, first, opts)
			}
			screen, err := top.NewScreen()
			if err != nil {
				return fmt.Errorf("this terminal can't be used: %w; --once prints a table", err)
			}
			return top.Run(ctx, screen, w.explained, first, opts)
		})
	cmd.Long = cmd.Short + `.

Rates are those of a second, from the guests' point of view, between two looks. The key h shows the
keys. Where standard output is no terminal, and with --once or --json, one table is printed.`
	set := cmd.Flags()
	set.BoolVar(&once, "once", false, "look twice, print what happened between, and end")
	set.DurationVar(&opts.Every, "interval", time.Second, "the time between two looks")
	set.StringVar(&opts.Order, "sort", top.Orders()[0], "sort by: "+strings.Join(top.Orders(), ", "))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(top.Orders(), cobra.ShellCompDirectiveNoFileComp)))
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case opts.Every < topLeast || opts.Every > topMost:
			return newUsageError(cmd, fmt.Sprintf("--interval %v: want a time from %v to %v", opts.Every, topLeast, topMost))
		case !slices.Contains(top.Orders(), opts.Order):
			return newUsageError(cmd, fmt.Sprintf("--sort %s: want one of %s", quote(opts.Order), strings.Join(top.Orders(), ", ")))
		}
		return nil
	}
	return cmd
}

// counter asks vnetd for counts, over a connection that is made anew when it was lost.
type counter struct {
	app  *app
	only string // a network; empty: all
	d    *client.Client
}

// counts asks once.
func (w *counter) counts(ctx context.Context) (c api.Counts, err error) {
	if w.d == nil {
		if w.d, err = w.app.dial(ctx); err != nil {
			return c, err
		}
	}
	c, err = client.Counts(ctx, w.d)
	if err == nil && w.only != "" {
		c, err = w.narrowed(ctx, c)
	}
	if errors.Is(err, api.NotRunning) {
		return c, errors.Join(err, w.close())
	}
	return c, err
}

// explained asks once, and says of a vnetd that does not run why.
func (w *counter) explained(ctx context.Context) (api.Counts, error) {
	c, err := w.counts(ctx)
	if errors.Is(err, api.NotRunning) {
		err = daemon.Explain(err, w.app.host.unit(ctx))
	}
	return c, err
}

// narrowed leaves of counts those of one network.
func (w *counter) narrowed(ctx context.Context, c api.Counts) (api.Counts, error) {
	n, err := w.d.Network(w.only).Get(ctx)
	c.Networks = slices.DeleteFunc(c.Networks, func(other api.NetworkCounts) bool { return other.UUID != n.UUID })
	return c, suggest.Meant(ctx, w.d, err)
}

// close ends the connection.
func (w *counter) close() error {
	if w.d == nil {
		return nil
	}
	d := w.d
	w.d = nil
	return d.Close()
}

// topOnce prints what happens between the first count and the next.
func topOnce(ctx context.Context, a *app, w *counter, first api.Counts, opts top.Options) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(opts.Every):
	}
	next, err := w.counts(ctx)
	if err != nil {
		return err
	}
	p := top.Between(first, next)
	if a.json {
		return a.printJSON(p)
	}
	networks, ports := opts.Of(p)
	p.Time = p.Time.In(opts.Zone)
	a.printSpans(top.Head(p, opts.Every))
	a.printf("\n")
	for _, line := range top.NetworkTable(networks).Lines(a.printer.width) {
		a.printSpans(line)
	}
	a.printf("\n")
	for _, line := range top.PortTable(ports).Lines(a.printer.width) {
		a.printSpans(line)
	}
	return a.err
}
