package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/cmd/vnetctl/suggest"
	"github.com/vnetd/vnetd/cmd/vnetctl/table"
	"github.com/vnetd/vnetd/docs"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// report is what doctor found.
type report struct {
	Vnetd    *string   `json:"vnetd"` // the running one's version, or null
	Checks   int       `json:"checks"`
	Findings []finding `json:"findings"`
	Errors   int       `json:"errors"`
	Warnings int       `json:"warnings"`
}

func doctorCommand(a *app) *cobra.Command {
	return plainCommand("doctor", "Find out what is amiss, with evidence and a remedy for each", 0, 0,
		func(ctx context.Context, _ []string) error {
			r := examine(ctx, a)
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := printReport(a, r); err != nil {
				return err
			}
			return r.verdict()
		})
}

// The time that doctor takes at most, and that part of it which vnetd has to answer.
const (
	examineLimit = 3*time.Second - 2*grace
	statusLimit  = 2 * time.Second
)

// examine runs all checks side by side, within the limit. Without vnetd, those that
// need it find nothing; of one that has no answer in time, that is what is found.
func examine(ctx context.Context, a *app) report {
	limit, share := cmp.Or(a.host.limit, examineLimit), statusLimit
	if a.host.limit != 0 {
		share = a.host.limit / 2
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c := &hostChecks{host: a.host}
	asking, done := context.WithTimeout(ctx, share)
	c.status, c.down = askStatus(asking, a)
	done()
	r := report{Findings: []finding{}, Checks: len(checks)}
	if c.status != nil {
		r.Vnetd = &c.status.Version
	}
	for i, found := range runAll(ctx, c, checks) {
		for _, f := range found {
			f.Check = cmp.Or(f.Check, checks[i].name)
			f.Networks = append([]string{}, f.Networks...)
			r.Findings = append(r.Findings, f)
		}
	}
	r.rank()
	return r
}

// runAll runs the checks and returns what each has found, in their order. One that
// hangs, in a file system that is gone perhaps, is left behind: this program ends soon.
func runAll(ctx context.Context, c *hostChecks, list []check) [][]finding {
	results := make([]chan []finding, len(list))
	for i, check := range list {
		results[i] = make(chan []finding, 1)
		go func() { results[i] <- check.look(c, ctx) }()
	}
	over, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	context.AfterFunc(ctx, func() { time.AfterFunc(grace, stop) })
	found := make([][]finding, len(list))
	for i, check := range list {
		select {
		case found[i] = <-results[i]:
			continue
		default:
		}
		select {
		case found[i] = <-results[i]:
		case <-over.Done():
			found[i] = []finding{{Severity: api.SeverityWarning, Message: "the check " + check.name + " had no answer in time", Evidence: ctx.Err().Error()}}
		}
	}
	return found
}

// rank puts the worst findings first, numbers and counts them.
func (r *report) rank() {
	rank := []api.Severity{api.SeverityError, api.SeverityWarning}
	slices.SortStableFunc(r.Findings, func(x, y finding) int {
		return cmp.Compare(uint(slices.Index(rank, x.Severity)), uint(slices.Index(rank, y.Severity)))
	})
	for i := range r.Findings {
		r.Findings[i].Number = i + 1
		switch r.Findings[i].Severity {
		case api.SeverityError:
			r.Errors++
		case api.SeverityWarning:
			r.Warnings++
		}
	}
}

// askStatus asks vnetd, which may not be there.
func askStatus(ctx context.Context, a *app) (*api.Status, error) {
	d, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	s, err := d.Status(ctx)
	if err = errors.Join(err, d.Close()); err != nil {
		return nil, err
	}
	return &s, nil
}

// printReport prints the findings by their numbers.
func printReport(a *app, r report) error {
	if a.json {
		return a.printJSON(r)
	}
	for _, f := range r.Findings {
		where := ""
		if len(f.Networks) > 0 {
			where = strings.Join(f.Networks, ", ") + ": "
		}
		severity := table.Printable(string(f.Severity))
		a.printFolded(fmt.Sprintf("%2d. %s ", f.Number, a.paint(severityColour(f.Severity), severity)), len("00. ")+len(severity)+1, len("00. "), table.Plain,
			table.Printable(where)+oneLine(f.Message))
		if f.Evidence != "" {
			a.printFolded("    seen: ", len("    seen: "), len("    seen: "), table.Plain, oneLine(f.Evidence))
		}
		if f.Remedy != "" {
			a.printf("    try:  %s\n", oneLine(f.Remedy))
		}
		a.printf("\n")
	}
	if len(r.Findings) == 0 {
		a.printf("%s: %d checks found nothing amiss\n", a.paint(table.Green, "all well"), r.Checks)
		return a.err
	}
	a.printf("%d checks: %s, %s, %d to know\n",
		r.Checks, plural(r.Errors, "error"), plural(r.Warnings, "warning"), len(r.Findings)-r.Errors-r.Warnings)
	return a.err
}

// verdict is the exit code of a report, by the worst finding.
func (r report) verdict() error {
	switch {
	case r.Errors > 0:
		return &exitError{exitFailed}
	case r.Warnings > 0:
		return &exitError{exitWarnings}
	}
	return nil
}

func explainCommand(a *app) *cobra.Command {
	return plainCommand("explain [CONDITION]", "Say what a condition means, or what each does", 0, 1,
		func(_ context.Context, args []string) error {
			all := docs.Conditions()
			if len(args) == 1 {
				all = slices.DeleteFunc(all, func(c docs.Condition) bool { return c.Kind != args[0] })
				if len(all) == 0 {
					return unknownCondition(args[0])
				}
			}
			if a.json {
				return a.printJSON(all)
			}
			for _, c := range all {
				a.printf("%s\n", a.paint(table.Bold, c.Kind))
				for _, text := range []string{c.Meaning, c.Help} {
					if text != "" {
						a.printFolded("  ", 2, 2, table.Plain, text)
					}
				}
			}
			return a.err
		})
}

// unknownCondition says that no condition has that name, and which was meant perhaps.
func unknownCondition(typed string) error {
	var kinds []string
	for _, c := range docs.Conditions() {
		kinds = append(kinds, c.Kind)
	}
	fault := "no condition is called " + quote(typed)
	if meant := suggest.Names(typed, kinds); meant != "" {
		fault += ", perhaps " + meant
	}
	return &client.Error{Kind: api.NotFound, Message: fault + "; vnetctl explain lists them"}
}

// conditions lists all kinds, for the shell.
func conditions() []string {
	var all []string
	for _, c := range docs.Conditions() {
		all = append(all, c.Kind+"\t"+c.Meaning)
	}
	return all
}
