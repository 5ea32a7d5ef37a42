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
	shortRun = 2 * time.Second
	longRun  = 10 * time.Second
)

// again is how many long runs of one server may be repeated because all that was
// lost was lost by perfdhcp.
const again = 2

// enough is the share of the exchanges that perfdhcp must have begun for a run to
// count: with less, it was not offering the rate.
const enough = 0.95

// rateRun is one run of perfdhcp against a server that begins without leases.
type rateRun struct {
	rate   int
	period time.Duration
	got    exchanges
	unread int // answers that perfdhcp lost
	stored int // leases on disk after the server was killed, -1: it keeps none
	cpu    time.Duration
	after  usage
	open   bool // it held, and the next rate was not tried
}

// held reports whether the server gave a lease to everybody at that rate.
func (r rateRun) held() bool {
	begun := float64(r.got.discover.sent) >= enough*float64(r.rate)*r.period.Seconds()
	return begun && !r.got.discover.failed() && !r.got.request.failed() && r.got.request.sent == r.got.discover.sent
}

// void reports that the run says nothing of the server: it answered everybody,
// and perfdhcp did not read all of it.
func (r rateRun) void() bool { return !r.held() && r.unread > 0 && r.unread >= r.got.lost() }

// dhcpRate finds the highest rate of each server.
func dhcpRate(b *bench) {
	t := new(table)
	t.add("server", "rate/s", "leases/s", "lost D-O", "lost R-A", "unread", "D-O avg", "R-A avg", "R-A max", "ACKed", "on disk", "CPU", "PSS", "")
	kea := subject{"Kea", func(b *bench, dir string) server { return startKeaSites(b, dir, 1) }}
	for _, s := range []subject{vnetd(), kea, dnsmasq(true, true), dnsmasq(false, true), dnsmasq(true, false), dnsmasq(false, false)} {
		for _, r := range climb(b, s) {
			t.add(append([]string{s.name}, r.cells()...)...)
		}
	}
	b.printf("%s", t)
	b.printf("  D-O: DISCOVER to OFFER, R-A: REQUEST to ACK; unread: lost by perfdhcp itself\n")
	b.printf("  command: nice %s %s\n", strings.Join(perfdhcpNice(), " "), strings.Join(perfdhcpArgs(false, rates()[0], maxClients, longRun), " "))
	b.printf("  dnsmasq: --leasefile-ro [--dhcp-script=leaseshelper], with\n")
	for line := range strings.Lines(fmt.Sprintf(dnsmasqSettings, "DIR", maxClients)) {
		b.printf("    %s", line)
	}
}

// climb returns long runs of a server by rate: the one at the highest rate that
// held, and the one at the next, which did not. One of them may be missing.
func climb(b *bench, s subject) []rateRun {
	var long []rateRun
	left := again
	try := func(rung int, period time.Duration) rateRun {
		var r rateRun
		b.play(func(b *bench) { r = measureRate(b, s, rates()[rung], period) })
		b.Logf("%s, %d/s for %v: %s", s.name, r.rate, r.period, r.verdict())
		return r
	}
	below, above := search(len(rates()),
		func(rung int) bool {
			r := try(rung, shortRun)
			if !r.held() {
				r = try(rung, shortRun) // other work may have disturbed it
			}
			return r.held()
		},
		func(rung int) bool {
			r := try(rung, longRun)
			for ; r.void() && left > 0; left-- {
				r = try(rung, longRun)
			}
			long = append(long, r)
			return r.held()
		})
	long = slices.DeleteFunc(long, func(r rateRun) bool {
		rung := slices.Index(rates(), r.rate)
		return rung != below && rung != above
	})
	slices.SortFunc(long, func(a, b rateRun) int { return cmp.Compare(a.rate, b.rate) })
	long[0].open = below >= 0 && above == len(rates())
	return long
}

// measureRate is one run against a fresh server.
func measureRate(b *bench, s subject, rate int, period time.Duration) rateRun {
	srv, guest := b.begin(s)
	r := rateRun{rate: rate, period: period, stored: -1}
	before := srv.usage(b)
	r.got = perfdhcp(b, guest, perfdhcpArgs(false, rate, maxClients, period))
	r.after = srv.usage(b)
	r.cpu = r.after.cpu - before.cpu
	var err error
	if r.unread, err = unread(guest); err != nil {
		b.Fatalf("reading the guest's counters: %w", err)
	}
	if srv.stored == nil {
		return r
	}
	if r.stored, err = srv.stored(); err != nil {
		b.Fatalf("counting the leases of %s: %w", s.name, err)
	}
	return r
}

// cells are the figures of the run, in the table's order.
func (r rateRun) cells() []string {
	d, q := r.got.discover, r.got.request
	stored := "-"
	if r.stored >= 0 {
		stored = strconv.Itoa(r.stored)
	}
	return []string{
		strconv.Itoa(r.rate),
		fmt.Sprintf("%.0f", float64(q.received)/r.period.Seconds()),
		strconv.Itoa(d.drops),
		strconv.Itoa(q.drops + q.rejected),
		strconv.Itoa(r.unread),
		millis(d.average), millis(q.average), millis(q.worst),
		strconv.Itoa(q.received), stored,
		seconds(r.cpu), r.after.memory(), r.verdict(),
	}
}

// verdict says how the run ended.
func (r rateRun) verdict() string {
	switch {
	case r.void():
		return "not held by perfdhcp"
	case !r.held():
		return "not held"
	case r.open:
		return "held, more not tried"
	default:
		return "held"
	}
}
