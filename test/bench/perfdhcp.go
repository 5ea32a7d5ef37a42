package main

import (
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// lateness is how long perfdhcp waits for late answers after its last request.
const lateness = time.Second

// perfdhcpArgs is the command line of one run: 4-way exchanges, begun at a steady
// rate for the period, each by a client that was not seen before.
func perfdhcpArgs(rate int, period time.Duration) []string {
	return []string{
		"-4", "-l", guestLink,
		"-r", strconv.Itoa(rate), "-R", strconv.Itoa(maxClients),
		"-p", strconv.Itoa(int(period.Seconds())), "-W", strconv.Itoa(int(lateness.Microseconds())),
		"-u", serverAddr,
	}
}

// stage is what perfdhcp counted of one half of the exchanges.
type stage struct {
	sent, received, drops, orphans, rejected, notUnique int
	average, worst                                      time.Duration // from question to answer
}

// lost reports whether some question was not answered as it should be.
func (s stage) lost() bool { return s.drops+s.rejected+s.notUnique > 0 }

// exchanges is what perfdhcp counted in one run.
type exchanges struct{ discover, request stage }

// perfdhcp runs perfdhcp in the guest to its end.
func perfdhcp(b *bench, guest *nstest.NS, rate int, period time.Duration) exchanges {
	out, err := guest.Command(b.Context(), "perfdhcp", perfdhcpArgs(rate, period)...).CombinedOutput()
	// 3: "one or more exchanges are not successfully completed".
	if exit := new(exec.ExitError); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 3) {
		b.Fatalf("perfdhcp: %w\n%s", err, out)
	}
	x, err := parsePerfdhcp(string(out))
	if err != nil {
		b.Fatalf("perfdhcp: %w\n%s", err, out)
	}
	return x
}

// parsePerfdhcp reads perfdhcp's report at its end.
func parsePerfdhcp(report string) (exchanges, error) {
	var x exchanges
	sections := map[string]*stage{"DISCOVER-OFFER": &x.discover, "REQUEST-ACK": &x.request}
	var at *stage
	for line := range strings.Lines(report) {
		line = strings.TrimSpace(line)
		if title, found := strings.CutPrefix(line, "***"); found {
			name := strings.TrimSuffix(strings.TrimPrefix(title, "Statistics for: "), "***")
			at = sections[name]
			delete(sections, name)
			continue
		}
		key, value, found := strings.Cut(line, ": ")
		if at == nil || !found {
			continue
		}
		if err := at.set(key, value); err != nil {
			return x, fmt.Errorf("reading %q: %w", line, err)
		}
	}
	if len(sections) > 0 {
		return x, errors.New("its report lacks statistics")
	}
	return x, nil
}

// set takes over one line of the statistics. What is not used is skipped.
func (s *stage) set(key, value string) (err error) {
	counts := map[string]*int{
		"sent packets": &s.sent, "received packets": &s.received, "drops": &s.drops,
		"orphans": &s.orphans, "rejected leases": &s.rejected, "non unique addresses": &s.notUnique,
	}
	delays := map[string]*time.Duration{"avg delay": &s.average, "max delay": &s.worst}
	if n := counts[key]; n != nil {
		*n, err = strconv.Atoi(value)
	}
	if d := delays[key]; d != nil {
		// Without any answer there is none: "Delay summary unavailable!".
		*d, err = time.ParseDuration(strings.ReplaceAll(value, " ", ""))
	}
	return err
}
