package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/pkg/api"
)

// finding is something that doctor found, in JSON as it is.
type finding struct {
	Number   int          `json:"number"` // from 1, the worst first
	Check    string       `json:"check"`  // a stable word
	Severity api.Severity `json:"severity"`
	Networks []string     `json:"networks"` // empty: the whole host
	Message  string       `json:"message"`
	Evidence string       `json:"evidence"`
	Remedy   string       `json:"remedy"` // a command, or empty
}

// checkup is what doctor found.
type checkup struct {
	Vnetd    *string   `json:"vnetd"` // the running one's version, or null
	Checks   int       `json:"checks"`
	Findings []finding `json:"findings"`
	Errors   int       `json:"errors"`
	Warnings int       `json:"warnings"`
}

func doctorCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:                   "doctor",
		Short:                 "Find out what is amiss, with evidence and a remedy for each",
		DisableFlagsInUseLine: true,
		Args:                  countArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := examine(cmd.Context(), a)
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			if err := printCheckup(a, c); err != nil {
				return err
			}
			return c.verdict()
		},
	}
}

// examine runs all checks. Without vnetd, those that need it find nothing.
func examine(ctx context.Context, a *app) checkup {
	v := &visit{host: a.host}
	v.status, v.down = askStatus(ctx, a)
	c := checkup{Findings: []finding{}}
	if v.status != nil {
		c.Vnetd = &v.status.Version
	}
	for _, check := range checks {
		c.Checks++
		for _, f := range check.look(v, ctx) {
			f.Check = cmp.Or(f.Check, check.name)
			f.Networks = append([]string{}, f.Networks...)
			c.Findings = append(c.Findings, f)
		}
	}
	rank := []api.Severity{api.SeverityError, api.SeverityWarning}
	slices.SortStableFunc(c.Findings, func(x, y finding) int {
		return cmp.Compare(uint(slices.Index(rank, x.Severity)), uint(slices.Index(rank, y.Severity)))
	})
	for i := range c.Findings {
		c.Findings[i].Number = i + 1
		switch c.Findings[i].Severity {
		case api.SeverityError:
			c.Errors++
		case api.SeverityWarning:
			c.Warnings++
		}
	}
	return c
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

// printCheckup prints the findings by their numbers.
func printCheckup(a *app, c checkup) error {
	if a.json {
		return a.printJSON(c)
	}
	for _, f := range c.Findings {
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
	if len(c.Findings) == 0 {
		a.printf("%s: %d checks found nothing amiss\n", a.paint(green, "all well"), c.Checks)
		return a.err
	}
	a.printf("%d checks: %s, %s, %d to know\n",
		c.Checks, plural(c.Errors, "error"), plural(c.Warnings, "warning"), len(c.Findings)-c.Errors-c.Warnings)
	return a.err
}

// verdict is the exit code of a checkup, by the worst finding.
func (c checkup) verdict() error {
	switch {
	case c.Errors > 0:
		return &exitError{exitFailed}
	case c.Warnings > 0:
		return &exitError{exitWarnings}
	}
	return nil
}

// exitError ends the program with a code and says no more: what there is to say
// has been printed.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// plural is a count of things.
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
