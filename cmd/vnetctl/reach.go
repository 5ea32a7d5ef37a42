package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/cmd/vnetctl/daemon"
	"github.com/vnetd/vnetd/cmd/vnetctl/suggest"
	"github.com/vnetd/vnetd/cmd/vnetctl/table"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

func reachCommand(a *app) *cobra.Command {
	cmd := plainCommand("reach FROM TO [PROTOCOL/PORT] [flags]", "Tell whether one may open a connection to another, and why", 2, 3,
		func(ctx context.Context, args []string) error {
			q, err := parseReach(args)
			if err != nil {
				return err
			}
			r, err := askReach(ctx, a, q)
			if err == nil {
				err = printReach(a, r)
			}
			if err != nil {
				if errors.Is(err, api.NotRunning) {
					err = daemon.Explain(err, a.host.unit(ctx))
				}
				if code := exitCode(err); code != exitFailed { // which is the answer no
					return err
				}
				fail(a.stderr, err)
				return &exitError{exitUnknown}
			}
			switch r.Verdict {
			case api.ReachYes:
				return nil
			case api.ReachNo:
				return &exitError{exitFailed} // as one answers no
			}
			return &exitError{exitUnknown}
		})
	cmd.Long = cmd.Short + `.

FROM and TO are each a guest, by name, as NETWORK:NAME, by MAC address or by the device of its port;
an IP address; host, which is this one; or outside, what is beyond it. PROTOCOL is tcp, udp, sctp or
icmp, which has no port and is what is asked for by default. Nothing is sent: the rules, routes and
links of this host are followed. The exit status is 0 for yes, 1 for no, and 7 where it can't be told.`
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := countArgs(2, 3)(cmd, args); err != nil {
			return err
		}
		if _, err := parseReach(args); err != nil {
			return newUsageError(cmd, err.Error())
		}
		return nil
	}
	return cmd
}

// askReach asks vnetd.
func askReach(ctx context.Context, a *app, q api.ReachQuestion) (r api.Reach, err error) {
	d, err := a.dial(ctx)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	r, err = client.Reach(ctx, d, q)
	return r, suggest.Meant(ctx, d, err)
}

// parseReach reads FROM TO [PROTOCOL/PORT].
func parseReach(args []string) (q api.ReachQuestion, err error) {
	q = api.ReachQuestion{From: args[0], To: args[1], Protocol: "icmp"}
	if len(args) < 3 || args[2] == "icmp" {
		return q, nil
	}
	protocol, port, both := strings.Cut(args[2], "/")
	switch {
	case !both:
		protocol, port = "tcp", protocol
	case strings.Trim(protocol, "0123456789") == "": // as forwards are written
		protocol, port = port, protocol
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || protocol != "tcp" && protocol != "udp" && protocol != "sctp" {
		return q, fmt.Errorf("%s is no service: want tcp/PORT, udp/PORT, sctp/PORT with a port from 1 to 65535, or icmp", quote(args[2]))
	}
	q.Protocol, q.Port = protocol, uint16(n)
	return q, nil
}

// printReach prints an answer.
func printReach(a *app, r api.Reach) error {
	if a.json {
		return a.printJSON(r)
	}
	what := r.Protocol
	if r.Port != 0 {
		what += "/" + strconv.Itoa(int(r.Port))
	}
	a.printf("%s to %s, %s: %s\n", a.paint(table.Bold, table.Printable(endText(r.From))), a.paint(table.Bold, table.Printable(endText(r.To))), what, a.paint(reachColour(r.Verdict), reachText(r.Verdict)))
	for i := range r.Ways {
		printWay(a, &r.Ways[i], len(r.Ways) > 1)
	}
	return a.err
}

// endText is who stands at an end.
func endText(e api.ReachEnd) string {
	switch {
	case e.Kind == api.ReachHost && e.Name == "host":
		return "this host"
	case e.Kind == api.ReachOutside && e.Name == "outside":
		return "the outside"
	case e.Network != "" && !strings.HasPrefix(e.Name, e.Network+":"):
		return e.Network + ":" + e.Name
	}
	return e.Name
}

// reachText is a verdict for people.
func reachText(v api.ReachVerdict) string {
	if v == api.ReachUnknown {
		return "can't tell"
	}
	return string(v)
}

// reachColour is the colour of a verdict.
func reachColour(v api.ReachVerdict) table.Colour {
	switch v {
	case api.ReachYes:
		return table.Green
	case api.ReachNo:
		return table.Red
	}
	return table.Yellow
}

// printWay prints what becomes of the connection by one family, with its verdict where there are
// several.
func printWay(a *app, w *api.ReachWay, several bool) {
	family := strings.Replace(w.Family, "ipv", "IPv", 1)
	a.printf("\n%s, %v to %v: ", family, w.Source, w.Destination)
	if several {
		a.printf("%s, ", a.paint(reachColour(w.Verdict), reachText(w.Verdict)))
	}
	a.printf("%s\n", table.Printable(w.Reason))
	line := func(title, text string) {
		if text != "" {
			a.printf("  %-13s %s\n", title+":", table.Printable(text))
		}
	}
	if w.Rule != nil {
		line("rule", ruleText(w.Rule))
	}
	for _, t := range w.Translations {
		line("translated", fmt.Sprintf("%s, %s to %s%s", t.Kind, t.From, t.To, ofOwner(&t.Rule)))
	}
	if w.Verdict == api.ReachYes {
		for i := range w.Accepted {
			line("accepted by", ruleText(&w.Accepted[i]))
		}
	}
	line("way", stepsText(w.Steps, false))
	line("way back", stepsText(w.Steps, true))
	if w.Condition != "" {
		line("condition", w.Condition+" (vnetctl explain "+w.Condition+")")
	}
	for _, r := range w.Remedies {
		line("to change it", r)
	}
	for _, n := range w.Notes {
		line("note", n)
	}
}

// ofOwner names the owner of a rule, if it is known.
func ofOwner(r *api.ReachRule) string {
	if r.Owner == "" {
		return ""
	}
	return ", by " + r.Owner
}

// ruleText is a rule as its program shows it.
func ruleText(r *api.ReachRule) string {
	text := r.Text
	switch {
	case r.Program == "nft":
		if text == "" {
			text = "the policy"
		}
		text = fmt.Sprintf("nft table %s, chain %s: %s", r.Table, r.Chain, text)
	case text == "":
		text = fmt.Sprintf("%s -t %s -P %s DROP", r.Program, r.Table, r.Chain)
	default:
		text = fmt.Sprintf("%s -t %s -A %s %s", r.Program, r.Table, r.Chain, text)
	}
	if r.Element != "" {
		text += ", by the element " + r.Element
	}
	if r.Owner != "" {
		text += " (" + r.Owner + ")"
	}
	return text
}

// stepsText are the places of a way, or of the way back.
func stepsText(steps []api.ReachStep, answer bool) string {
	var all []string
	for _, s := range steps {
		if s.Answer != answer {
			continue
		}
		text := strings.TrimSpace(s.Kind + " " + s.Name)
		if s.Detail != "" {
			text += " (" + s.Detail + ")"
		}
		all = append(all, text)
	}
	return strings.Join(all, " > ")
}
