package main

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/pkg/api"
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

// examine runs all checks. Without vnetd, those that need it find nothing.
func examine(ctx context.Context, a *app) report {
	c := &hostChecks{host: a.host}
	c.status, c.down = askStatus(ctx, a)
	r := report{Findings: []finding{}}
	if c.status != nil {
		r.Vnetd = &c.status.Version
	}
	for _, check := range checks {
		r.Checks++
		for _, f := range check.look(c, ctx) {
			f.Check = cmp.Or(f.Check, check.name)
			f.Networks = append([]string{}, f.Networks...)
			r.Findings = append(r.Findings, f)
		}
	}
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
	return r
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
		a.printf("%2d. %s %s%s\n", f.Number, a.paint(severityColour(f.Severity), printable(string(f.Severity))), printable(where), oneLine(f.Message))
		if f.Evidence != "" {
			a.printf("    seen: %s\n", oneLine(f.Evidence))
		}
		if f.Remedy != "" {
			a.printf("    try:  %s\n", oneLine(f.Remedy))
		}
		a.printf("\n")
	}
	if len(r.Findings) == 0 {
		a.printf("%s: %d checks found nothing amiss\n", a.paint(green, "all well"), r.Checks)
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
