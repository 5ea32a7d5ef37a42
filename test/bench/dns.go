package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// Names of the DNS benchmark: the network's domain, one whose names the upstream
// answers at once, and one whose names it answers late.
const (
	dnsDomain  = "vm.example"
	dnsUp      = "up.example"
	dnsSlow    = "slow.example"
	dnsUpAddr  = "127.0.0.11"
	dnsLate    = "127.0.0.12"
	dnsLatency = 20 * time.Millisecond
)

// How the servers are asked.
const (
	dnsPeriod  = 3 * time.Second
	dnsRate    = 5000  // questions per second where times are measured
	dnsManyOut = 10000 // likewise, to the late upstream
	dnsWaiting = 100   // questions that wait for answers at a time where rates are measured
)

// dnsLoad is a set of questions: "f7.up.example" for 7 and "f%d.up.example".
type dnsLoad struct {
	name    string
	names   int // that the server knows itself
	pattern string
	count   int  // of different questions
	warm    bool // they are asked once before
	late    bool // at a steady rate alone
	waiting int  // questions that wait for answers at a time, as fast as they are given alone; 0: not so
	leases  bool // while as many leases are taken as the server gives
}

// dnsLoads are the loads, those of one number of names together.
func dnsLoads() []dnsLoad {
	return []dnsLoad{
		{name: "local, 1 name", names: 1, pattern: "host%d." + dnsDomain, count: 1},
		{name: "local, 1,000 names", names: 1000, pattern: "host%d." + dnsDomain, count: 1000},
		{name: "  while %d leases/s are taken", names: 1000, pattern: "host%d." + dnsDomain, count: 1000, leases: true},
		{name: "NXDOMAIN", names: 1000, pattern: "nobody%d." + dnsDomain, count: 1000},
		{name: "cached, 10 names", names: 1000, pattern: "c%d." + dnsUp, count: 10, warm: true},
		{name: "cached, 5,000 names", names: 1000, pattern: "c%d." + dnsUp, count: 5000, warm: true},
		{name: "forwarded", names: 1000, pattern: "f%d." + dnsUp, count: 50000},
		{name: "forwarded, upstream takes 20 ms", names: 1000, pattern: "f%d." + dnsSlow, count: 50000, late: true},
		{name: "  2,000 of them at a time", names: 1000, pattern: "f%d." + dnsSlow, count: 50000, waiting: 2000},
		{name: "local, 10,000 names", names: 10000, pattern: "host%d." + dnsDomain, count: 10000},
	}
}

// dnsHost is the address of the n-th name.
func dnsHost(n int) string { return fmt.Sprintf("10.20.%d.%d", n/250, n%250+2) }

// dnsServer is a name server to be measured. It knows as many names as start is
// told and serves when start returns, until b ends.
type dnsServer struct {
	name, comm string
	start      func(b *bench, dir string, names int)
	leases     bool // it gives leases too
	bare       bool // to every question it has the same answer: only local names are asked
}

const dnsRow = "  %-12s%-34s%10s%12s%8s%11s%11s%8s\n"

// dnsBench measures name servers.
func dnsBench(b *bench) {
	startUpstreams(b)
	b.printf(dnsRow, "server", "questions", "q/s", "CPU each", "lost", "median", "p99", "lost")
	t := new(table)
	t.add("server", "names", "CPU each")
	for _, s := range dnsServers() {
		names := 0
		for _, load := range dnsLoads() {
			if load.names == names {
				continue // done with those before
			}
			names = load.names
			b.play(func(b *bench) { measureDNS(b, s, names, t) })
		}
	}
	b.draw(curvesOf(t, "names", "CPU time of a question, us, with so many local names", "names", "CPU each", nil))
	b.printf("  q/s, CPU each, lost: as many questions as dnsperf -c 4 -q 100 gets answered in %v, the server's CPU time for one\n", dnsPeriod)
	b.printf("  median, p99, lost: time to the answer at %d questions per second, %d where the upstream takes %v\n", dnsRate, dnsManyOut, dnsLatency)
}

// measureDNS prints the rows of one server that knows as many names, and adds what a question
// for one of them costs to a table.
func measureDNS(b *bench, s dnsServer, names int, t *table) {
	dir, err := os.MkdirTemp(b.dir, "state-")
	if err != nil {
		b.Fatalf("making a folder: %w", err)
	}
	s.start(b, dir, names)
	guest := nstest.Guest(b, bridge, "guest", "")
	guest.IP("addr add " + guestAddr + prefix + " dev " + guestLink)
	nstest.Eventually(b, startLimit, s.name+" answers", func() error {
		out, err := guest.Command(b.Context(), "dig", "+short", "+tries=1", "+time=1", "@"+serverAddr, "host0."+dnsDomain).CombinedOutput()
		if err == nil && strings.TrimSpace(string(out)) == "" {
			err = fmt.Errorf("no address")
		}
		return err
	})
	for _, load := range dnsLoads() {
		if load.names != names || load.leases && !s.leases || s.bare && !load.leases && !strings.HasPrefix(load.name, "local") {
			continue
		}
		cells := s.measure(b, guest, dir, load)
		b.printf(dnsRow, append([]any{s.name}, cells...)...)
		if strings.HasPrefix(load.name, "local") {
			t.addAny(s.name, load.names, cells[2])
		}
	}
}

// measure returns the cells of one row behind the server's name.
func (s dnsServer) measure(b *bench, guest *nstest.NS, dir string, load dnsLoad) []any {
	file := load.write(b, dir)
	if load.warm {
		dnsperf(b, guest, file, "-n", "1")
	}
	cells := []any{"-", "-", "-"}
	if !load.late && !load.leases {
		before := server{comm: s.comm}.usage(b).cpu
		r := dnsperf(b, guest, file, "-l", strconv.Itoa(int(dnsPeriod.Seconds())), "-q", strconv.Itoa(max(load.waiting, dnsWaiting)))
		cpu := server{comm: s.comm}.usage(b).cpu - before
		cells = []any{strconv.Itoa(r.rate), micros(cpu / time.Duration(max(r.completed, 1))), strconv.Itoa(r.lost + r.refused)}
	}
	if load.waiting > 0 {
		return slices.Concat([]any{load.name}, cells, []any{"-", "-", "-"})
	}
	rate := dnsRate
	if load.late {
		rate = dnsManyOut
	}
	name, leases := load.name, func() int { return 0 }
	if load.leases {
		leases = takeLeases(b, guest, s.name)
	}
	r := dnsperf(b, guest, file, "-l", strconv.Itoa(int(dnsPeriod.Seconds())), "-Q", strconv.Itoa(rate), "-q", "2000", "-v")
	if perSecond := leases(); load.leases {
		name = fmt.Sprintf(name, perSecond)
	}
	if load.late {
		cells[0] = strconv.Itoa((r.completed - r.refused) / int(dnsPeriod.Seconds()))
	}
	cells = append([]any{name}, cells...)
	return append(cells, millis(quantile(r.times, 0.5)), millis(quantile(r.times, 0.99)), strconv.Itoa(r.lost+r.refused))
}

// takeLeases has clients take leases, for longer than the times of answers are
// measured: as many as the server gives. What it returns tells how many that were in a
// second.
func takeLeases(b *bench, guest *nstest.NS, server string) (rate func() int) {
	l := newLoad(b, guest, false, 0)
	b.await(l, server)
	var taking sync.WaitGroup
	var got loadResult
	var err error
	taking.Go(func() { got, err = l.run(dnsPeriod+time.Second/2, maxClients) })
	return func() int {
		if taking.Wait(); err != nil {
			b.Fatalf("taking leases of %s: %w", server, err)
		}
		return int(float64(got.leases) / got.period.Seconds())
	}
}

// write makes dnsperf's input.
func (l dnsLoad) write(b *bench, dir string) string {
	var text strings.Builder
	for n := range l.count {
		_, _ = fmt.Fprintf(&text, l.pattern+" A\n", n)
	}
	file := filepath.Join(dir, "questions")
	b.write(file, text.String())
	return file
}

// micros prints d in microseconds.
func micros(d time.Duration) string {
	return fmt.Sprintf("%.1f us", float64(d)/float64(time.Microsecond))
}
