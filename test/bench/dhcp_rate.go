package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// rates are the rungs of the ladder, exchanges per second. At the highest a long
// run hands out nearly all addresses of the range.
func rates() []int { return []int{100, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 4000, 5000, 6000} }

// How long the runs are, see search.
const (
	shortRun = 3 * time.Second
	longRun  = 10 * time.Second
)

// enough is the share of the exchanges that perfdhcp must have begun for a run to
// count: with less, it was not offering the rate.
const enough = 0.95

// rateRun is one run of perfdhcp against a server that begins without leases.
type rateRun struct {
	rate   int
	period time.Duration
	got    exchanges
	stored int // leases on disk after the server was killed, -1: it keeps none
	cpu    time.Duration
	after  usage
}

// held reports whether the server gave a lease to everybody at that rate.
func (r rateRun) held() bool {
	begun := float64(r.got.discover.sent) >= enough*float64(r.rate)*r.period.Seconds()
	return begun && !r.got.discover.lost() && !r.got.request.lost() && r.got.request.sent == r.got.discover.sent
}

// dhcpRate finds the highest rate of each server.
func dhcpRate(b *bench) {
	t := new(table)
	t.add("server", "rate/s", "leases/s", "lost D-O", "lost R-A", "D-O avg", "R-A avg", "R-A max", "ACKed", "on disk", "CPU", "PSS", "")
	for _, s := range []subject{vnetd(), dnsmasq(true, true), dnsmasq(false, true), dnsmasq(true, false), dnsmasq(false, false)} {
		for _, r := range climb(b, s) {
			t.add(append([]string{s.name}, r.cells()...)...)
		}
	}
	b.printf("%s", t)
	b.printf("  command: perfdhcp %s\n", strings.Join(perfdhcpArgs(rates()[0], longRun), " "))
	b.printf("  dnsmasq: --leasefile-ro [--dhcp-script=leaseshelper], with\n")
	for line := range strings.Lines(fmt.Sprintf(dnsmasqSettings, "DIR", maxClients)) {
		b.printf("    %s", line)
	}
}

// climb returns the long runs of a server by rate: those at the highest rate that
// held and at the next, which did not.
func climb(b *bench, s subject) []rateRun {
	var long []rateRun
	try := func(rung int, period time.Duration) rateRun {
		var r rateRun
		b.play(func(b *bench) { r = measureRate(b, s, rates()[rung], period) })
		return r
	}
	below, above := search(len(rates()),
		func(rung int) bool { return try(rung, shortRun).held() },
		func(rung int) bool {
			r := try(rung, longRun)
			long = append(long, r)
			return r.held()
		})
	long = slices.DeleteFunc(long, func(r rateRun) bool {
		rung := slices.Index(rates(), r.rate)
		return rung != below && rung != above
	})
	slices.SortFunc(long, func(a, b rateRun) int { return cmp.Compare(a.rate, b.rate) })
	return long
}

// measureRate is one run against a fresh server.
func measureRate(b *bench, s subject, rate int, period time.Duration) rateRun {
	srv, guest := b.begin(s)
	r := rateRun{rate: rate, period: period, stored: -1}
	before := srv.usage(b)
	r.got = perfdhcp(b, guest, rate, period)
	r.after = srv.usage(b)
	r.cpu = r.after.cpu - before.cpu
	if srv.stored == nil {
		return r
	}
	var err error
	if r.stored, err = srv.stored(); err != nil {
		b.Fatalf("counting the leases of %s: %w", s.name, err)
	}
	return r
}

// cells are the figures of the run, in the table's order.
func (r rateRun) cells() []string {
	d, q := r.got.discover, r.got.request
	stored, verdict := "-", "all served"
	if r.stored >= 0 {
		stored = strconv.Itoa(r.stored)
	}
	if !r.held() {
		verdict = "not held"
	}
	return []string{
		strconv.Itoa(r.rate),
		fmt.Sprintf("%.0f", float64(q.received)/r.period.Seconds()),
		strconv.Itoa(d.drops),
		strconv.Itoa(q.drops + q.rejected),
		millis(d.average), millis(q.average), millis(q.worst),
		strconv.Itoa(q.received), stored,
		seconds(r.cpu), r.after.memory(), verdict,
	}
}
