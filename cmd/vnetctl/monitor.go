package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

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
		_, err := fmt.Fprintf(a.stdout, "%s  %s\n", now.Format(time.TimeOnly), printable(eventLine(e)))
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
	return json.NewEncoder(a.stdout).Encode(view)
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
