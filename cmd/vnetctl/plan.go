package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

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
			if a.json {
				err = a.printJSON(p)
			} else {
				err = printPlan(a, p)
			}
			if err == nil && len(p.Conflicts) > 0 {
				err = &exitError{exitConflict}
			}
			return err
		})
}

// printPlan prints a plan by sections, without those that are empty.
func printPlan(a *app, p api.Plan) error {
	done := map[string]string{"create": "would be a new network", "redefine": "would be defined anew", "change": "would be changed in place"}
	a.printf("%s: %s, %s\n", a.paint(bold, printable(p.Name)), modeText(p.Mode), done[p.Action])
	a.printSection("Conflicts", red, p.Conflicts)
	a.printSection("Pending until its next start", yellow, p.Pending)
	a.printSection("Links", bold, linkLines(p))
	a.printSection("Addresses", bold, addressLines(p))
	a.printSection("Routes", bold, routeLines(p))
	a.printSection("Sysctls", bold, sysctlLines(p))
	a.printSection("Services", bold, serviceLines(p))
	a.printSection("Firewall", bold, ruleLines(p.Rules))
	a.printSection("Lines of <dnsmasq:options> without effect", yellow, p.NotUnderstood)
	return a.err
}

func linkLines(p api.Plan) []string {
	var lines []string
	for _, l := range p.Links {
		if !l.Made {
			lines = append(lines, "bridge "+l.Name+" of the host, as it is")
			continue
		}
		line := "bridge " + l.Name
		for _, part := range []struct {
			there bool
			text  string
		}{
			{l.MAC != "", "MAC " + l.MAC},
			{l.MTU != 0, fmt.Sprintf("MTU %d", l.MTU)},
			{l.STP, fmt.Sprintf("STP, forward delay %d s", l.ForwardDelay)},
			{l.Uplink != "", "with the host's " + l.Uplink + " as a port"},
			{l.Zone != "", "in firewalld's zone " + l.Zone},
		} {
			if part.there {
				line += ", " + part.text
			}
		}
		lines = append(lines, line)
	}
	return lines
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

func ruleLines(rules []api.PlannedRule) []string {
	var lines []string
	for _, r := range rules {
		lines = append(lines, strings.TrimSpace(r.String()))
	}
	return lines
}
