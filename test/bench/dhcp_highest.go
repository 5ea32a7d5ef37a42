package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// few is the share of the exchanges which may fail in a run that held, and highestRun is how
// long a run is: at the highest rate all of them together take nearly all addresses.
const (
	few        = 0.01
	highestRun = 3 * time.Second
)

// highestRates are the rungs, exchanges per second: each is a twelfth above the one below.
func highestRates() []int {
	var rates []int
	for rate := 1000; rate <= 23000; rate += rate / 12 {
		rates = append(rates, rate)
	}
	return rates
}

// dhcpHighest finds the highest rate at which perfdhcp loses only few exchanges.
func dhcpHighest(b *bench) {
	t := new(table)
	t.add("server", "family", "present", "rate/s", "leases/s", "lost", "D-O avg", "R-A avg", "CPU/lease", "next rate/s", "lost")
	for _, s := range lessors() {
		for _, ipv6 := range []bool{false, true} {
			for _, leases := range []int{0, 60000} {
				if leases <= s.most && (s.ipv6 || !ipv6) {
					t.add(highest(b, s, ipv6, leases)...)
				}
			}
		}
	}
	b.printf("%s", t)
	b.printf("  D-O, R-A, present: see dhcp-leases; each rate for %v, with less than %.0f %% lost\n", highestRun, 100*few)
	for _, ipv6 := range []bool{false, true} {
		b.printf("  command: nice %s %s\n", strings.Join(perfdhcpNice(), " "), strings.Join(relayed(ipv6, highestRates()[0]), " "))
	}
}

// relayed is the command line of one run, by a relay agent.
func relayed(ipv6 bool, rate int) []string {
	return perfdhcpArgs(ipv6, rate, wideClients-present()[len(present())-1], highestRun)
}

// highest is a row of the table.
func highest(b *bench, s lessor, ipv6 bool, leases int) []string {
	type run struct {
		got exchanges
		cpu time.Duration
	}
	rates, long := highestRates(), map[int]run{}
	try := func(rung int) run {
		var r run
		b.play(func(b *bench) {
			srv, guest := b.beside(s, ipv6, leases)
			before := srv.usage(b)
			r.got = perfdhcp(b, guest, relayed(ipv6, rates[rung]))
			r.cpu = srv.usage(b).cpu - before.cpu
		})
		b.Logf("%s, %s, %d present, %d/s: lost %s", s.name, familyName(ipv6), leases, rates[rung], percent(r.got.failed()))
		return r
	}
	holds := func(r run, rung int) bool {
		return r.got.failed() < few && float64(r.got.discover.sent) >= enough*float64(rates[rung])*highestRun.Seconds()
	}
	below, above := search(len(rates),
		func(rung int) bool {
			held := holds(try(rung), rung)
			return held || holds(try(rung), rung) // other work may have disturbed it
		},
		func(rung int) bool {
			long[rung] = try(rung)
			return holds(long[rung], rung)
		})
	cells := []string{s.name, familyName(ipv6), strconv.Itoa(leases), "none", "-", "-", "-", "-", "-", "not tried", "-"}
	if r, found := long[below]; found {
		acks := max(r.got.request.received, 1)
		copy(cells[3:], []string{
			strconv.Itoa(rates[below]),
			fmt.Sprintf("%.0f", float64(r.got.request.received)/highestRun.Seconds()),
			percent(r.got.failed()), millis(r.got.discover.average), millis(r.got.request.average),
			micros(r.cpu / time.Duration(acks)),
		})
	}
	if r, found := long[above]; found {
		copy(cells[9:], []string{strconv.Itoa(rates[above]), percent(r.got.failed())})
	}
	return cells
}
