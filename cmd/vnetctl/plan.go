package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/cmd/vnetctl/document"
	"github.com/vnetd/vnetd/cmd/vnetctl/table"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

func planCommand(a *app) *cobra.Command {
	return a.command("plan FILE", "Show what a network of libvirt XML would make, and touch nothing", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			xml, err := a.readFile(args[0])
			if err != nil {
				return fmt.Errorf("reading the definition: %w", err)
			}
			p, err := d.Plan(ctx, string(xml))
			if err != nil {
				return err
			}
			return tellPlan(a, p)
		})
}

// tellPlan prints a plan, and ends with what is in its way.
func tellPlan(a *app, p api.Plan) (err error) {
	if a.json {
		err = a.printJSON(p)
	} else {
		err = printPlan(a, p)
	}
	if err == nil && len(p.Conflicts) > 0 {
		err = &exitError{exitConflict}
	}
	return err
}

// printPlan prints a plan by sections, without those that are empty.
func printPlan(a *app, p api.Plan) error {
	done := map[string]string{"create": "would be a new network", "redefine": "would be defined anew", "change": "would be changed in place"}
	a.printf("%s: %s, %s\n", a.paint(table.Bold, table.Printable(p.Name)), modeText(p.Mode), done[p.Action])
	a.printSection("Conflicts", table.Red, p.Conflicts)
	a.printSection("Pending until its next start", table.Yellow, p.Pending)
	a.printSection("Links", table.Bold, linkLines(p))
	a.printSection("Addresses", table.Bold, addressLines(p))
	a.printSection("Routes", table.Bold, routeLines(p))
	a.printSection("Sysctls", table.Bold, sysctlLines(p))
	a.printSection("Services", table.Bold, serviceLines(p))
	a.printSection("Ports of the host that lead to guests", table.Bold, forwardLines(p))
	a.printSection("Peers and rules", table.Bold, p.Opens)
	a.printSection("Announced to routers by BGP", table.Bold, plannedAnnouncements(p))
	a.printSection("Firewall", table.Bold, ruleLines(p.Rules))
	a.printSection("Lines of <dnsmasq:options> without effect", table.Yellow, p.NotUnderstood)
	return a.err
}

func linkLines(p api.Plan) []string {
	var lines []string
	for _, l := range p.Links {
		kinds := map[string]string{
			api.LinkInterface: "interface", api.LinkFunctions: "virtual functions of the card", api.LinkPCI: "PCI device", api.LinkMacvlan: "macvlan interface", api.LinkTunnel: "VXLAN device", api.LinkHost: "this host's own link",
		}
		line := cmp.Or(kinds[l.Kind], "bridge") + " " + l.Name
		held := "held to " + bandwidthText(l.Bandwidth)
		if !l.Made && len(l.Bandwidth) > 0 {
			lines = append(lines, line+" of the host, "+held)
			continue
		}
		if !l.Made {
			lines = append(lines, line+" of the host, as it is")
			continue
		}
		for _, part := range []struct {
			there bool
			text  string
		}{
			{l.MAC != "", "MAC " + l.MAC},
			{l.MTU != 0, fmt.Sprintf("MTU %d", l.MTU)},
			{l.STP, fmt.Sprintf("STP, forward delay %d s", l.ForwardDelay)},
			{l.Uplink != "", "with the host's " + l.Uplink + " as a port"},
			{l.Span != nil, plannedSpan(l.Span)},
			{l.Zone != "", "in firewalld's zone " + l.Zone},
			{len(l.Bandwidth) > 0, held},
		} {
			if part.there {
				line += ", " + part.text
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// plannedAnnouncements tell what routers would be told.
func plannedAnnouncements(p api.Plan) []string {
	lines := announcedLines(p.Announces)
	if len(p.Announces) == 0 {
		lines = nil
	}
	if p.AnnouncesGuests {
		lines = append(lines, "each guest on this host, by its address")
	}
	return lines
}

// plannedSpan tells where a tunnel goes, nil for none.
func plannedSpan(s *api.Span) string {
	switch {
	case s == nil:
		return ""
	case s.Link == "":
		return fmt.Sprintf("VNI %d at port %d of UDP, to those of %s that are not this host", s.VNI, s.Port, joined(s.Peers))
	}
	return fmt.Sprintf("VNI %d at port %d of UDP, from %v on %s to %s, not encrypted", s.VNI, s.Port, s.Underlay, s.Link, joined(s.Peers))
}

func addressLines(p api.Plan) []string {
	var lines []string
	for _, a := range p.Addresses {
		lines = append(lines, fmt.Sprintf("%v on %s", a.Address, a.Link))
	}
	return lines
}

func routeLines(p api.Plan) []string {
	var lines []string
	for _, r := range p.Routes {
		lines = append(lines, fmt.Sprintf("%v via %v on %s, metric %d", r.Destination, r.Gateway, r.Link, r.Metric))
	}
	return lines
}

func sysctlLines(p api.Plan) []string {
	var lines []string
	for _, s := range p.Sysctls {
		lines = append(lines, s.Key+" = "+s.Value)
	}
	return lines
}

func serviceLines(p api.Plan) []string {
	var lines []string
	for _, s := range p.Services {
		line := s.Name
		if len(s.Addrs) > 0 {
			line += " on " + joined(s.Addrs)
		}
		lines = append(lines, line)
	}
	for _, pool := range p.Pools {
		for _, r := range pool.Ranges {
			lines = append(lines, fmt.Sprintf("%v to %v for guests", r.Start, r.End))
		}
		if pool.Reservations > 0 {
			lines = append(lines, fmt.Sprintf("%d addresses of %s reserved", pool.Reservations, pool.Family))
		}
	}
	return lines
}

func forwardLines(p api.Plan) []string {
	var lines []string
	for _, f := range p.Forwards {
		line := forwardKey(f) + " to " + f.To
		switch {
		case len(f.Targets) == 0:
			line += " once it has an address"
		case targetsText(f) != f.To:
			line += " at " + targetsText(f)
		}
		if len(f.From) > 0 {
			line += ", for " + joined(f.From)
		}
		lines = append(lines, line)
	}
	return lines
}

func ruleLines(rules []api.PlannedRule) []string {
	var lines []string
	for _, r := range rules {
		lines = append(lines, strings.TrimSpace(r.String()))
	}
	return lines
}

func renumberCommand(a *app) *cobra.Command {
	var subnet string
	var now, plan bool
	var cmd *cobra.Command
	cmd = a.command("renumber NET [--subnet CIDR|auto] [--now | --plan]", "Move a network to another subnet, with every address that it has there", 1, 1,
		func(ctx context.Context, d *client.Client, args []string) error {
			doc, from, to, err := renumbered(ctx, d, args[0], subnet)
			if fault, ok := errors.AsType[*wordError](err); ok {
				return newUsageError(cmd, fault.Error())
			}
			if err != nil {
				return err
			}
			told := fmt.Sprintf("%v becomes %v", from, to)
			if plan {
				p, err := d.Plan(ctx, doc.XML())
				if err != nil {
					return err
				}
				a.tell(told)
				return tellPlan(a, p)
			}
			var opts api.DefineOptions
			if now {
				opts.Apply = api.ApplyAll
			}
			done, err := d.DefineNetwork(ctx, doc.XML(), opts)
			if err != nil {
				return err
			}
			a.tell(told)
			return printDefined(a, done)
		})
	cmd.Long = cmd.Short + `.

Without --subnet it is one that is free. An active network has the new one from its next start on, or
with --now by a restart, after which its ports are plugged in again; guests get addresses of it as they
renew their leases.`
	cmd.Flags().StringVar(&subnet, "subnet", "auto", "the new one, as 192.168.50.0/24 or fd00:50::/64, or auto for one that is free")
	cmd.Flags().BoolVar(&now, "now", false, "apply it to an active network, restarting it")
	cmd.Flags().BoolVar(&plan, "plan", false, "show what it would make, and touch nothing")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if now && plan {
			return newUsageError(cmd, "--now and --plan exclude each other")
		}
		return nil
	}
	return cmd
}

// renumbered is the document of a network in another subnet, and both subnets. The error is
// a wordError where the user's words are no subnet.
func renumbered(ctx context.Context, d *client.Client, network, subnet string) (doc *document.Document, from, to netip.Prefix, err error) {
	if subnet != "auto" {
		if to, err = document.ParseSubnet(subnet); err != nil {
			return nil, from, to, &wordError{fmt.Errorf("--subnet: %w", err)}
		}
	}
	if doc, err = definition(ctx, d, network); err != nil {
		return nil, from, to, err
	}
	if from, err = doc.Subnet(to); err != nil {
		return nil, from, to, fmt.Errorf("network %s: %w", quote(network), err)
	}
	if !to.IsValid() {
		free, err := d.Plan(ctx, document.Free(from).XML())
		if err != nil {
			return nil, from, to, err
		}
		if len(free.Addresses) == 0 {
			return nil, from, to, &client.Error{Kind: api.Conflict, Message: "no subnet is free: want one by --subnet"}
		}
		to = free.Addresses[0].Address.Masked()
	}
	if err := doc.Renumber(from, to); err != nil {
		return nil, from, to, &wordError{fmt.Errorf("--subnet: %w", err)}
	}
	return doc, from, to, nil
}
