package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/cmd/vnetctl/graph"
	"github.com/vnetd/vnetd/cmd/vnetctl/table"
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
	a.printf("vnetd %s, networks: %d active, %d inactive\n", table.Printable(s.Version), active, len(s.Networks)-active)
	if s.Firewall.Backend != "" {
		a.printf("firewall: %s (%s)\n", table.Printable(s.Firewall.Backend), table.Printable(s.Firewall.Reason))
	}
	if s.Firewall.Repairs > 0 {
		a.printf("firewall repaired %s\n", table.Printable(repairsText(s.Firewall, a.now())))
	}
	if s.Firewall.Offloaded > 0 {
		a.printf("offloaded connections: %d\n", s.Firewall.Offloaded)
	}
	for _, line := range bgpLines(s.BGP, a.now()) {
		a.printf("%s\n", line)
	}
	a.printf("\n")
	if err := a.printTable("NAME STATE MODE BRIDGE ADDRESSES PORTS LEASES POOL", "LEASES MODE BRIDGE", statusRows(s.Networks)); err != nil {
		return err
	}
	for _, n := range s.Networks {
		if n.LastError != "" {
			a.printf("\n")
			a.printFolded(a.paint(table.Bold, table.Printable(n.Name))+": ", table.Width(table.Printable(n.Name))+2, 2, table.Red, oneLine(n.LastError))
		}
		if len(n.Pending) > 0 {
			a.printf("\n%s: %s\n", a.paint(table.Bold, table.Printable(n.Name)), a.paint(table.Yellow, "pending: "+pendingText(n)))
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
func statusRows(networks []api.NetworkStatus) [][]table.Cell {
	rows := make([][]table.Cell, 0, len(networks))
	for _, n := range networks {
		rows = append(rows, []table.Cell{
			{Colour: table.StateColour(n.State), Dot: stateDot(n.State), Text: n.Name},
			{Colour: table.StateColour(n.State), Text: string(n.State)},
			{Text: n.Mode},
			{Text: n.Bridge},
			{Text: joined(n.Addresses)},
			{Text: fmt.Sprint(len(n.Ports))},
			{Text: fmt.Sprint(len(n.Leases))},
			poolCell(n.Pools),
		})
	}
	return rows
}

// poolCell tells how full the pools are, in the colour of the fullest.
func poolCell(pools []api.Pool) table.Cell {
	var c table.Cell
	var texts []string
	for _, p := range pools {
		texts = append(texts, fmt.Sprintf("%d/%s", p.Used, sizeText(p.Size)))
		switch used := float64(p.Used) / float64(max(p.Size, 1)); {
		case p.Size > 0 && p.Used >= p.Size:
			c.Colour = table.Red
		case used >= 0.9 && c.Colour != table.Red:
			c.Colour = table.Yellow
		}
	}
	c.Text = strings.Join(texts, " ")
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

// bgpLines tell how this host stands to routers, nil for none.
func bgpLines(b *api.BGP, now time.Time) []string {
	if b == nil {
		return nil
	}
	prefixes := "prefixes"
	if len(b.Prefixes) == 1 {
		prefixes = "prefix"
	}
	lines := []string{fmt.Sprintf("BGP: AS %d, %d %s announced", b.AS, len(b.Prefixes), prefixes)}
	for _, n := range b.Neighbours {
		line := fmt.Sprintf("BGP neighbour %v, AS %d: up for %s", n.Address, n.AS, remainder(now.Sub(n.Since)))
		if !n.Up {
			line = fmt.Sprintf("BGP neighbour %v, AS %d: down for %s: %s", n.Address, n.AS, remainder(now.Sub(n.Since)), table.Printable(n.Reason))
		}
		lines = append(lines, line)
	}
	return lines
}

// mostAnnounced is how many prefixes are listed before the rest is counted.
const mostAnnounced = 20

// announcedLines list what routers are told of a network, nil for nothing.
func announcedLines(all []netip.Prefix) []string {
	if all == nil {
		return nil
	}
	if len(all) == 0 {
		return []string{"nothing yet"}
	}
	var lines []string
	for _, p := range all[:min(len(all), mostAnnounced)] {
		lines = append(lines, p.String())
	}
	if more := len(all) - len(lines); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return lines
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
		dot = a.paint(table.StateColour(s.State), stateDot(s.State)) + " "
	}
	a.printf("%s%s - %s\n", dot, a.paint(table.Bold, table.Printable(s.Name)), modeText(s.Mode))
	colours := map[string]table.Colour{"State": table.StateColour(s.State), "Error": table.Red, "Pending": table.Yellow}
	for _, f := range networkFields(a, s) {
		label := ""
		if f.name != "" {
			label = f.name + ":"
		}
		a.printFolded(fmt.Sprintf("%*s ", labelWidth-1, label), labelWidth, labelWidth, colours[f.name], f.value)
	}
	printConditions(a, s.Conditions)
	return a.err
}

// labelWidth is how many characters stand before what is told of a network.
const labelWidth = 13

// networkFields are the lines that describe a network. Values are safe to print.
func networkFields(a *app, n api.NetworkStatus) []field {
	room := 0 // any
	if a.printer.width > 0 {
		room = max(a.printer.width-labelWidth, least)
	}
	fields := []field{{"State", table.Printable(string(n.State))}}
	if n.LastError != "" {
		fields = append(fields, field{"Error", oneLine(n.LastError)})
	}
	for _, part := range slices.Sorted(maps.Keys(n.Faults)) {
		fields = append(fields, field{"Failing", table.Printable(part)})
	}
	if len(n.Pending) > 0 {
		fields = append(fields, field{"Pending", pendingText(n)})
		fields = append(fields, listFields("", slices.Collect(printables(n.Pending)))...)
	}
	fields = append(fields,
		field{"UUID", table.OrDash(n.UUID)},
		field{"Autostart", yesNo(n.Autostart)},
		field{"Persistent", yesNo(n.Persistent)},
		placeField(n),
		field{"Addresses", table.OrDash(joined(n.Addresses))},
	)
	if n.Span != nil {
		fields = append(fields, field{"Spans", spanText(n.Span)})
		fields = append(fields, listFields("Cluster", shareLines(n.Span.Share))...)
		fields = append(fields, listFields("Host", hostLines(n.Span.Host))...)
	}
	fields = append(fields, listFields("Announced", announcedLines(n.Announced))...)
	fields = append(fields, poolFields(n.Pools)...)
	fields = append(fields, dnsFields(n.DNS)...)
	fields = append(fields, listFields("Ignored", slices.Collect(printables(n.NotUnderstood)))...)
	if n.Repairs > 0 {
		fields = append(fields, field{"Repairs", fmt.Sprintf("%d", n.Repairs)})
	}
	fields = append(fields, field{"Ports", fmt.Sprint(len(n.Ports))})
	fields = append(fields, listFields("", alignedRows(portRows(n.Ports), room))...)
	if len(n.Forwards) > 0 {
		fields = append(fields, field{"Forwards", fmt.Sprint(len(n.Forwards))})
		fields = append(fields, listFields("", alignedRows(forwardRows(n.Forwards), room))...)
	}
	if len(n.Peers) > 0 {
		fields = append(fields, field{"Peers", fmt.Sprint(len(n.Peers))})
		fields = append(fields, listFields("", alignedRows(peerRows(n.Peers), room))...)
	}
	if rows := ruleRows(n.Rules); len(rows) > 0 {
		fields = append(fields, field{"Rules", fmt.Sprint(len(rows))})
		fields = append(fields, listFields("", alignedRows(rows, room))...)
	}
	fields = append(fields, field{"Leases", fmt.Sprint(len(n.Leases))})
	return append(fields, listFields("", alignedRows(leaseRows(n.Leases, a.now()), room))...)
}

// pendingText tells how much the network's next start changes.
func pendingText(n api.NetworkStatus) string {
	if len(n.Pending) == 1 {
		return "one change at the next start"
	}
	return fmt.Sprintf("%d changes at the next start", len(n.Pending))
}

// placeField tells what ports are on: a bridge, or interfaces or devices of the host.
func placeField(n api.NetworkStatus) field {
	if len(n.Parents) > 0 {
		return field{"On", table.OrDash(strings.Join(n.Parents, ", "))}
	}
	return field{"Bridge", table.OrDash(bridgeText(n))}
}

// spanText tells of the tunnel to other hosts.
func spanText(s *api.Span) string {
	from := "no address of this host"
	if s.Link != "" {
		from = fmt.Sprintf("%v (%s)", s.Underlay, table.Printable(s.Link))
	}
	text := fmt.Sprintf("VNI %d, %s, from %s to %s", s.VNI, table.Printable(s.Device), from, joined(s.Peers))
	if s.Port != vxlanPort {
		text += fmt.Sprintf(", port %d", s.Port)
	}
	return text + ", not encrypted"
}

// hostLines tell how this host itself is in a network that spans hosts, nil for by the gateway alone.
func hostLines(h *api.SpanHost) []string {
	switch {
	case h == nil:
		return nil
	case len(h.Addresses) == 0:
		return []string{table.Printable(h.Link) + ", no address yet"}
	}
	return []string{fmt.Sprintf("%s on %s, %s", joined(h.Addresses), table.Printable(h.Link), table.Printable(h.MAC))}
}

// shareLines tell how a network is shared with the hosts of its cluster, nil for none.
func shareLines(s *api.Share) []string {
	if s == nil {
		return nil
	}
	state := "connected"
	if !s.Connected {
		state = "away"
		if s.Since != nil {
			state += " since " + s.Since.Local().Format(time.DateTime)
		}
	}
	if len(s.Silent) > 0 {
		state += ", silent: " + strings.Join(s.Silent, " ")
	}
	if s.Backlog > 0 {
		state += fmt.Sprintf(", %d leases to tell", s.Backlog)
	}
	b := s.Blocks
	return []string{
		fmt.Sprintf("%s as host %s, %s, %d guests elsewhere", table.Printable(s.Cluster), table.Printable(s.Host), table.Printable(state), s.Elsewhere),
		fmt.Sprintf("%d blocks of this host, %d of %d addresses free; %d blocks of others", b.Mine, b.Free, b.Addresses, b.Others),
	}
}

// vxlanPort is the port of UDP that VXLAN has (RFC 7348 section 8).
const vxlanPort = 4789

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
		lines[0] = "domain " + table.Printable(d.Domain)
	}
	for _, u := range d.Upstreams {
		line := "asks " + u.Addr.String()
		if u.Domain != "" {
			line += " for " + table.Printable(u.Domain)
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

func forwardRows(forwards []api.Forward) [][]string {
	var rows [][]string
	for _, f := range forwards {
		rows = append(rows, []string{forwardKey(f), f.To, targetsText(f)})
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
		severity := table.Printable(string(c.Severity))
		a.printf("\n")
		a.printFolded(a.paint(severityColour(c.Severity), severity)+" ", len(severity)+1, 2, table.Plain, table.Printable(where)+": "+table.Printable(c.Message))
		if c.Remedy != "" {
			a.printf("  # %s\n", table.Printable(c.Remedy))
		}
	}
	switch {
	case notes == 1:
		a.printf("\nOne more thing to know: see vnetctl doctor.\n")
	case notes > 1:
		a.printf("\n%d more things to know: see vnetctl doctor.\n", notes)
	}
}

// servicesText is what a peering is for.
func servicesText(p api.Peer) string {
	if len(p.Services) == 0 {
		return "everything"
	}
	return strings.Join(p.Services, ",")
}

// peerRows tells of peers for status.
func peerRows(peers []api.Peer) [][]string {
	var rows [][]string
	for _, p := range peers {
		state := string(p.State)
		if p.Reason != "" {
			state += ": " + p.Reason
		}
		rows = append(rows, []string{p.Network, p.Direction, servicesText(p), state})
	}
	return rows
}

// ruleRows tells of rules for status.
func ruleRows(r api.Rules) [][]string {
	var rows [][]string
	for i, rule := range r.Rules {
		rows = append(rows, []string{strconv.Itoa(i + 1), rule})
	}
	return rows
}

// graphCommand draws what networks lead where.
func graphCommand(a *app) *cobra.Command {
	var dot, svg bool
	cmd := a.command("graph [NET]", "Draw uplinks, networks, ports and guests, peers and forwards as a tree", 0, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			text, err := d.Describe(ctx)
			if err != nil {
				return err
			}
			var s api.Status
			if err := json.Unmarshal(text, &s); err != nil {
				return fmt.Errorf("reading vnetd's description: %w", err)
			}
			if len(args) == 1 {
				if _, err := d.Network(args[0]).Get(ctx); err != nil {
					return err
				}
				s.Networks = slices.DeleteFunc(s.Networks, func(n api.NetworkStatus) bool { return n.Name != args[0] })
			}
			g := graph.Of(s)
			switch {
			case a.json:
				return a.printJSON(g)
			case dot:
				return g.DOT(a.out)
			case svg:
				return g.SVG(ctx, a.out)
			}
			return g.Text(a.out, func(n *graph.Node, name string) string {
				switch {
				case n.Bad:
					return a.paint(table.Red, name)
				case n.Kind == graph.Network:
					return a.paint(table.Bold, name)
				}
				return name
			})
		})
	cmd.Flags().BoolVar(&dot, "dot", false, "write the graph in the language of graphviz")
	cmd.Flags().BoolVar(&svg, "svg", false, "write a picture, which dot of graphviz lays out")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if dot && svg {
			return newUsageError(cmd, "--dot and --svg exclude each other")
		}
		return nil
	}
	return cmd
}
