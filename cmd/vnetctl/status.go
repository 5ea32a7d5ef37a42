package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

func statusCommand(a *app) *cobra.Command {
	return a.command("status [NET]", "Show what all networks do, or one in detail", 0, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			if len(args) == 1 {
				return showNetwork(ctx, a, d, args[0])
			}
			return showAll(ctx, a, d)
		})
}

// showAll prints one line for each network, and the conditions.
func showAll(ctx context.Context, a *app, d *client.Client) error {
	text, err := d.Describe(ctx)
	if err != nil {
		return err
	}
	var s api.Status
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("reading vnetd's description: %w", err)
	}
	if a.json {
		return printStatusJSON(a, text)
	}
	active := 0
	for _, n := range s.Networks {
		if n.Active {
			active++
		}
	}
	a.printf("vnetd %s, networks: %d active, %d inactive\n", printable(s.Version), active, len(s.Networks)-active)
	if s.Firewall.Repairs > 0 {
		a.printf("firewall repaired %s\n", printable(repairsText(s.Firewall, a.now())))
	}
	a.printf("\n")
	if err := a.printTable("NAME STATE MODE BRIDGE ADDRESSES PORTS LEASES POOL", "LEASES MODE BRIDGE", statusRows(s.Networks)); err != nil {
		return err
	}
	for _, n := range s.Networks {
		if n.LastError != "" {
			a.printf("\n%s: %s\n", a.paint(bold, printable(n.Name)), a.paint(red, oneLine(n.LastError)))
		}
		if len(n.Pending) > 0 {
			a.printf("\n%s: %s\n", a.paint(bold, printable(n.Name)), a.paint(yellow, "pending: "+pendingText(n)))
		}
	}
	printConditions(a, s.Conditions)
	return a.err
}

// printStatusJSON prints vnetd's description with the key that version has had
// here from the beginning.
func printStatusJSON(a *app, text json.RawMessage) error {
	all := make(map[string]json.RawMessage)
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	all["vnetd"] = all["version"]
	delete(all, "version")
	return a.printJSON(all)
}

// statusRows returns the rows of the table of all networks.
func statusRows(networks []api.NetworkStatus) [][]cellText {
	rows := make([][]cellText, 0, len(networks))
	for _, n := range networks {
		rows = append(rows, []cellText{
			{stateColour(n.State), stateDot(n.State), n.Name},
			{colour: stateColour(n.State), text: string(n.State)},
			{text: n.Mode},
			{text: n.Bridge},
			{text: joined(n.Addresses)},
			{text: fmt.Sprint(len(n.Ports))},
			{text: fmt.Sprint(len(n.Leases))},
			poolCell(n.Pools),
		})
	}
	return rows
}

// poolCell tells how full the pools are, in the colour of the fullest.
func poolCell(pools []api.Pool) cellText {
	var c cellText
	var texts []string
	for _, p := range pools {
		texts = append(texts, fmt.Sprintf("%d/%s", p.Used, sizeText(p.Size)))
		switch used := float64(p.Used) / float64(max(p.Size, 1)); {
		case p.Size > 0 && p.Used >= p.Size:
			c.colour = red
		case used >= 0.9 && c.colour != red:
			c.colour = yellow
		}
	}
	c.text = strings.Join(texts, " ")
	return c
}

// stateDot is the sign before a name on a terminal.
func stateDot(s api.State) string {
	switch s {
	case api.Inactive:
		return "○"
	case api.Failed:
		return "×"
	}
	return "●"
}

// repairsText tells how often the firewall was repaired, when last, and why.
func repairsText(f api.Firewall, now time.Time) string {
	var causes []string
	for _, cause := range slices.Sorted(maps.Keys(f.ByCause)) {
		causes = append(causes, fmt.Sprintf("%s %d", cause, f.ByCause[cause]))
	}
	text := fmt.Sprintf("%d times", f.Repairs)
	if f.Repairs == 1 {
		text = "once"
	}
	if f.LastRepair != nil {
		text += ", last " + remainder(now.Sub(*f.LastRepair)) + " ago"
	}
	return text + " (" + strings.Join(causes, ", ") + ")"
}

// showNetwork prints everything about one network.
func showNetwork(ctx context.Context, a *app, d *client.Client, name string) error {
	n, err := d.Network(name).Get(ctx)
	if err != nil {
		return err
	}
	text, err := d.Network(n.Name).Describe(ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(text)
	}
	var s api.NetworkStatus
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("reading the description of network %q: %w", n.Name, err)
	}
	dot := ""
	if a.colour {
		dot = a.paint(stateColour(s.State), stateDot(s.State)) + " "
	}
	a.printf("%s%s - %s\n", dot, a.paint(bold, printable(s.Name)), modeText(s.Mode))
	for _, f := range networkFields(a, s) {
		label := ""
		if f.name != "" {
			label = f.name + ":"
		}
		a.printf("%12s %s\n", label, f.value)
	}
	printConditions(a, s.Conditions)
	return a.err
}

// networkFields are the lines that describe a network. Values are safe to print.
func networkFields(a *app, n api.NetworkStatus) []field {
	fields := []field{{"State", a.paint(stateColour(n.State), printable(string(n.State)))}}
	if n.LastError != "" {
		fields = append(fields, field{"Error", a.paint(red, oneLine(n.LastError))})
	}
	for _, part := range slices.Sorted(maps.Keys(n.Faults)) {
		fields = append(fields, field{"Failing", printable(part)})
	}
	if len(n.Pending) > 0 {
		fields = append(fields, field{"Pending", a.paint(yellow, pendingText(n))})
		fields = append(fields, listFields("", slices.Collect(printables(n.Pending)))...)
	}
	fields = append(fields,
		field{"UUID", cell(n.UUID)},
		field{"Autostart", yesNo(n.Autostart)},
		field{"Persistent", yesNo(n.Persistent)},
		field{"Bridge", cell(bridgeText(n))},
		field{"Addresses", cell(joined(n.Addresses))},
	)
	fields = append(fields, poolFields(n.Pools)...)
	fields = append(fields, dnsFields(n.DNS)...)
	fields = append(fields, listFields("Ignored", slices.Collect(printables(n.NotUnderstood)))...)
	if n.Repairs > 0 {
		fields = append(fields, field{"Repairs", fmt.Sprintf("%d", n.Repairs)})
	}
	fields = append(fields, field{"Ports", fmt.Sprint(len(n.Ports))})
	fields = append(fields, listFields("", alignedRows(portRows(n.Ports)))...)
	fields = append(fields, field{"Leases", fmt.Sprint(len(n.Leases))})
	return append(fields, listFields("", alignedRows(leaseRows(n.Leases, a.now())))...)
}

// pendingText tells how much the network's next start changes.
func pendingText(n api.NetworkStatus) string {
	if len(n.Pending) == 1 {
		return "one change at the next start"
	}
	return fmt.Sprintf("%d changes at the next start", len(n.Pending))
}

// bridgeText is the bridge with what is known of it.
func bridgeText(n api.NetworkStatus) string {
	text := n.Bridge
	if n.MAC != "" {
		text += ", " + n.MAC
	}
	if n.MTU != 0 {
		text += fmt.Sprintf(", MTU %d", n.MTU)
	}
	return text
}

// poolFields tell of DHCP: what is given, and how much of it.
func poolFields(pools []api.Pool) []field {
	var lines []string
	for _, p := range pools {
		var ranges []string
		for _, r := range p.Ranges {
			ranges = append(ranges, r.Start.String()+" to "+r.End.String())
		}
		line := fmt.Sprintf("%s, %d of %s in use", strings.Join(ranges, ", "), p.Used, sizeText(p.Size))
		if len(ranges) == 0 {
			line = p.Family + " for reservations alone"
		}
		if p.Reservations > 0 {
			line += fmt.Sprintf(", %d reserved", p.Reservations)
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		lines = []string{"not served"}
	}
	return listFields("DHCP", lines)
}

// dnsFields tell of the name service: its domain, and whom it asks.
func dnsFields(d *api.DNS) []field {
	if d == nil {
		return []field{{"DNS", "not served"}}
	}
	lines := []string{"no domain"}
	if d.Domain != "" {
		lines[0] = "domain " + printable(d.Domain)
	}
	for _, u := range d.Upstreams {
		line := "asks " + u.Addr.String()
		if u.Domain != "" {
			line += " for " + printable(u.Domain)
		}
		if u.Failing {
			line += ", which does not answer"
		}
		lines = append(lines, line)
	}
	if len(d.Upstreams) == 0 {
		lines = append(lines, "asks nobody")
	}
	return listFields("DNS", lines)
}

// listFields puts lines under one name.
func listFields(name string, lines []string) []field {
	var fields []field
	for _, line := range lines {
		fields = append(fields, field{name, line})
		name = ""
	}
	return fields
}

func portRows(ports []api.Port) [][]string {
	var rows [][]string
	for _, p := range ports {
		rows = append(rows, []string{p.IfName, p.MAC, p.Name})
	}
	return rows
}

func leaseRows(leases []api.Lease, now time.Time) [][]string {
	var rows [][]string
	for _, l := range leases {
		rows = append(rows, []string{l.Address.String(), l.MAC, l.Hostname, expiryText(l.Expiry, now)})
	}
	return rows
}

// printConditions prints what is amiss, the worst first. What harms nobody is
// counted only: doctor tells it.
func printConditions(a *app, all []api.Condition) {
	var notes int
	for _, c := range all {
		if c.Severity == api.SeverityInfo {
			notes++
			continue
		}
		where := cmp.Or(strings.Join(c.Networks, ", "), "host")
		a.printf("\n%s %s: %s\n", a.paint(severityColour(c.Severity), printable(string(c.Severity))), printable(where), printable(c.Message))
		if c.Remedy != "" {
			a.printf("  # %s\n", printable(c.Remedy))
		}
	}
	switch {
	case notes == 1:
		a.printf("\nOne more thing to know: see vnetctl doctor.\n")
	case notes > 1:
		a.printf("\n%d more things to know: see vnetctl doctor.\n", notes)
	}
}
