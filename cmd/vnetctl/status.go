package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/pkg/client"
)

// description is a network's Describe object over its properties.
type description map[string]any

// describe returns the description of n.
func describe(ctx context.Context, d daemon, n client.Network) (description, error) {
	text, err := d.DescribeNetwork(ctx, n.Name)
	if err != nil {
		return nil, err
	}
	base, err := json.Marshal(newNetworkView(n))
	if err != nil {
		return nil, err
	}
	described := make(description)
	for _, layer := range [][]byte{base, text} {
		dec := json.NewDecoder(bytes.NewReader(layer))
		dec.UseNumber()
		if err := dec.Decode(&described); err != nil {
			return nil, fmt.Errorf("reading the description of network %q: %w", n.Name, err)
		}
	}
	return described, nil
}

func (a *app) statusCommand() *cobra.Command {
	return a.command("status [NET]", "Show what all networks do, or one in detail", 0, 1,
		func(ctx context.Context, d daemon, args []string) error {
			if len(args) == 1 {
				return a.showNetwork(ctx, d, args[0])
			}
			return a.showAll(ctx, d)
		})
}

// showNetwork prints everything about one network.
func (a *app) showNetwork(ctx context.Context, d daemon, name string) error {
	n, err := d.Network(ctx, name)
	if err != nil {
		return err
	}
	described, err := describe(ctx, d, n)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(described)
	}
	var fields []field
	for _, key := range []string{
		"name", "uuid", "state", "last_error", "mode", "bridge", "autostart", "persistent", "addresses", "ports", "leases",
	} {
		fields = append(fields, valueFields(key, described[key])...)
	}
	return a.printFields(fields)
}

// showAll prints one line for each network.
func (a *app) showAll(ctx context.Context, d daemon) error {
	version, err := d.Version(ctx)
	if err != nil {
		return err
	}
	networks, err := d.Networks(ctx)
	if err != nil {
		return err
	}
	all := make([]description, 0, len(networks))
	active := 0
	for _, n := range networks {
		described, err := describe(ctx, d, n)
		if err != nil {
			return err
		}
		all = append(all, described)
		if n.Active {
			active++
		}
	}
	if a.json {
		return a.printJSON(map[string]any{"vnetd": version, "networks": all})
	}
	_, err = fmt.Fprintf(a.stdout, "vnetd %s, networks: %d active, %d inactive\n\n", printable(version), active, len(all)-active)
	if err != nil {
		return err
	}
	return a.printTable("NAME STATE MODE BRIDGE ADDRESSES PORTS LEASES ERROR", statusRows(all))
}

// statusRows returns the rows of the table of all networks.
func statusRows(all []description) [][]string {
	rows := make([][]string, 0, len(all))
	for _, n := range all {
		rows = append(rows, []string{
			valueText(n["name"]), valueText(n["state"]), valueText(n["mode"]), valueText(n["bridge"]),
			valueText(n["addresses"]), countText(n["ports"]), countText(n["leases"]), oneLine(valueText(n["last_error"])),
		})
	}
	return rows
}

// countText returns the length of a list, or the value if it is not a list.
func countText(value any) string {
	if list, ok := value.([]any); ok {
		return fmt.Sprint(len(list))
	}
	return valueText(value)
}

// valueFields returns one line for a value, or one for each object of a list.
func valueFields(key string, value any) []field {
	list, _ := value.([]any)
	var fields []field
	for _, item := range list {
		if _, ok := item.(map[string]any); !ok {
			return []field{{key, valueText(value)}}
		}
		fields = append(fields, field{key, valueText(item)})
		key = ""
	}
	if len(fields) == 0 {
		return []field{{key, oneLine(valueText(value))}}
	}
	return fields
}

// valueText returns any JSON value as text for a person: a list with commas, an
// object as words key=value in the order of the keys, without empty ones.
func valueText(value any) string {
	switch value := value.(type) {
	case nil:
		return ""
	case bool:
		return yesNo(value)
	case []any:
		texts := make([]string, 0, len(value))
		for _, item := range value {
			texts = append(texts, valueText(item))
		}
		return strings.Join(texts, ", ")
	case map[string]any:
		words := make([]string, 0, len(value))
		for key, item := range value {
			if text := valueText(item); text != "" {
				words = append(words, key+"="+text)
			}
		}
		slices.Sort(words)
		return strings.Join(words, " ")
	}
	return fmt.Sprint(value)
}
