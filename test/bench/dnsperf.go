package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// dnsperfResult is what dnsperf counted in one run.
type dnsperfResult struct {
	completed, lost, rate int
	refused               int             // of those that were completed: no answer but a failure
	times                 []time.Duration // to each answer that is none, with -v; at least one
}

// dnsperf asks the server from the guest what file lists, to its end. Answers
// that are later than a second are lost.
func dnsperf(b *bench, guest *nstest.NS, file string, args ...string) dnsperfResult {
	args = slices.Concat([]string{"-s", serverAddr, "-d", file, "-t", "1", "-c", "4", "-q", "100"}, args)
	out, err := guest.Command(b.Context(), "dnsperf", args...).CombinedOutput()
	var r dnsperfResult
	if err == nil {
		r, err = parseDnsperf(string(out))
	}
	if err != nil {
		b.Fatalf("dnsperf %v: %w\n%s", args, err, tail(string(out)))
	}
	return r
}

// tail is the end of a long report.
func tail(s string) string { return s[max(0, len(s)-4096):] }

// parseDnsperf reads dnsperf's report. With -v a line of each answer stands before
// it: "> NOERROR host0.vm.example A 0.000085"; in it is the line "Response codes:
// NOERROR 14998 (99.99%), SERVFAIL 2 (0.01%)".
func parseDnsperf(report string) (dnsperfResult, error) {
	var r dnsperfResult
	for line := range strings.Lines(report) {
		fields := strings.Fields(line)
		if len(fields) > 3 && fields[0] == ">" {
			if s, err := strconv.ParseFloat(fields[len(fields)-1], 64); err == nil && isAnswer(fields[1]) {
				r.times = append(r.times, time.Duration(s*float64(time.Second)))
			}
			continue
		}
		title, value, found := strings.Cut(strings.TrimSpace(line), ":")
		if title == "Response codes" {
			for code := range strings.SplitSeq(value, ",") {
				if f := strings.Fields(code); len(f) > 1 && !isAnswer(f[0]) {
					n, _ := strconv.Atoi(f[1])
					r.refused += n
				}
			}
		}
		at, wanted := map[string]*int{
			"Queries completed": &r.completed, "Queries lost": &r.lost, "Queries per second": &r.rate,
		}[title]
		if !found || !wanted {
			continue
		}
		n, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
		if err != nil {
			return r, fmt.Errorf("%s: %w", title, err)
		}
		*at = int(n)
	}
	if r.completed+r.lost == 0 {
		return r, fmt.Errorf("no question was answered or lost")
	}
	if r.times == nil {
		r.times = []time.Duration{0}
	}
	return r, nil
}

// isAnswer tells whether an rcode says something of the name.
func isAnswer(rcode string) bool { return rcode == "NOERROR" || rcode == "NXDOMAIN" }
