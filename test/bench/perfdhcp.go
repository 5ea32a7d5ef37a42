package main

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// lateness is how long perfdhcp waits for late answers after its last request.
const lateness = time.Second

// perfdhcpArgs is the command line of one run: 4-way exchanges, begun at a steady
// rate for the period by so many clients in turn, through a relay agent.
func perfdhcpArgs(ipv6 bool, rate, clients int, period time.Duration) []string {
	family := []string{"-4"}
	server := serverAddr
	if ipv6 {
		family, server = []string{"-6", "-A", "1"}, "all"
	}
	return append(family,
		"-l", guestLink,
		"-r", strconv.Itoa(rate), "-R", strconv.Itoa(clients),
		"-p", strconv.Itoa(int(period.Seconds())), "-W", strconv.Itoa(int(lateness.Microseconds())),
		"-u", server,
	)
}

// perfdhcpNice lets perfdhcp go before the servers, see unread.
func perfdhcpNice() []string { return []string{"-n", "-10", "perfdhcp"} }

// stage is what perfdhcp counted of one half of the exchanges.
type stage struct {
	sent, received, drops, orphans, rejected, notUnique int
	average, worst                                      time.Duration // from question to answer
}

// failed reports whether some question was not answered as it should be.
func (s stage) failed() bool { return s.drops+s.rejected+s.notUnique > 0 }

// exchanges is what perfdhcp counted in one run, of DHCPv6 Solicits and Requests.
type exchanges struct{ discover, request stage }

// lost is the number of messages without an answer.
func (x exchanges) lost() int { return x.discover.drops + x.request.drops }

// failed is the share of the exchanges at whose end was no lease of its own.
func (x exchanges) failed() float64 {
	leases := x.request.received - x.request.rejected - x.request.notUnique
	return 1 - float64(leases)/float64(max(x.discover.sent, 1))
}

// perfdhcp runs perfdhcp in the guest to its end.
func perfdhcp(b *bench, guest *nstest.NS, args []string) exchanges {
	out, err := guest.Command(b.Context(), "nice", append(perfdhcpNice(), args...)...).CombinedOutput()
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
	sections := map[string]*stage{
		"DISCOVER-OFFER": &x.discover, "REQUEST-ACK": &x.request,
		"SOLICIT-ADVERTISE": &x.discover, "REQUEST-REPLY": &x.request,
	}
	found := map[*stage]bool{}
	var at *stage
	for line := range strings.Lines(report) {
		line = strings.TrimSpace(line)
		if title, isTitle := strings.CutPrefix(line, "***"); isTitle {
			at = sections[strings.TrimSuffix(strings.TrimPrefix(title, "Statistics for: "), "***")]
			found[at] = true
			continue
		}
		key, value, isValue := strings.Cut(line, ": ")
		if at == nil || !isValue {
			continue
		}
		if err := at.set(key, value); err != nil {
			return x, fmt.Errorf("reading %q: %w", line, err)
		}
	}
	if !found[&x.discover] || !found[&x.request] {
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
	// Without any answer there is no delay.
	if d := delays[key]; d != nil && !strings.HasSuffix(value, "n/a") {
		*d, err = time.ParseDuration(strings.ReplaceAll(value, " ", ""))
	}
	return err
}

// unread is the number of answers that reached the guest and that perfdhcp did
// not read in time. It takes all through one socket, with a buffer of 208 KiB
// that can't be larger in a namespace: where perfdhcp waits for a processor for
// some milliseconds, answers are lost that real clients would have had.
func unread(guest *nstest.NS) (int, error) {
	return parseReceiveErrors(guest.Exec("cat", "/proc/net/snmp"))
}

// parseReceiveErrors takes RcvbufErrors of UDP out of /proc/net/snmp, in which
// a line of names is followed by a line of values.
func parseReceiveErrors(snmp string) (int, error) {
	var names []string
	for line := range strings.Lines(snmp) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Udp:" {
			continue
		}
		if i := slices.Index(names, "RcvbufErrors"); i >= 0 && i < len(fields) {
			return strconv.Atoi(fields[i])
		}
		names = fields
	}
	return 0, errors.New("no RcvbufErrors among the counters of UDP")
}
