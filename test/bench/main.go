// Bench measures vnetd beside dnsmasq as libvirt runs it, and beside libvirtd, in
// namespaces of its own. It installs libvirtd and Kea if they are missing, without
// starting them; otherwise the machine on which it runs is not touched. It prints figures
// and judges none.
//
//	go run ./test/bench [NAME...]
//
// measures what is named, or everything. docs/benchmarks.md explains the
// figures.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// benchmark is one measurement.
type benchmark struct {
	name    string // as given on the command line
	about   string
	run     func(b *bench)
	prepare func() error // installs what it needs beside the tests' tools; nil: nothing
}

// benchmarks are all measurements, in the order in which they run.
func benchmarks() []benchmark {
	return []benchmark{
		{"dhcp-rate", "new clients per second that get a lease, without a lost message", dhcpRate, keaNeeds().install},
		{"dhcp-highest", "the highest rate of exchanges of which perfdhcp loses less than 1 %, beside leases of others", dhcpHighest, keaNeeds().install},
		{"dhcp-leases", "the same with many leases present, in either family", dhcpLeases, keaNeeds().install},
		{"dhcp-clients", "1 to 1,024 clients at a time, behind a relay and on the link, on one network and on 100", dhcpClients, keaNeeds().install},
		{"dhcp-storm", "200 guests at once", dhcpStorm, keaNeeds().install},
		{"first-lease", "time from a new client's DISCOVER to its ACK", firstLease, nil},
		{"start-network", "time to start and stop NAT networks", startNetwork, nil},
		{"firewall", "networks' rules: writing them, and passing them", firewallRules, nil},
		{"forwards", "ports of the host that lead to a guest: adding one to many, and what passes by them", forwardsBench, nil},
		{"peers", "peerings and rules: adding one to many, and what they cost a packet", func(b *bench) { b.play(peersBench) }, nil},
		{"guards", "what guards of ports cost a packet", func(b *bench) { b.play(guardsPassed) }, nil},
		{"bandwidth", "what a guest gets of the bandwidth asked for, beside libvirt's commands", func(b *bench) { b.play(bandwidth) }, nil},
		{"offload", "connections that go past the rules by a flowtable, and such that don't", func(b *bench) { b.play(offloaded) }, nil},
		{"span", "what passes between guests on two hosts: by a tunnel, and by a bridge across the wire", func(b *bench) { b.play(spanBench) }, nil},
		{"span-rate", "new clients a second on hosts of a cluster, and when etcd has all of their leases", spanRate, nil},
		{"span-scale", "500 networks of a cluster with 16 members: start, after what was missed, memory, stop", spanScale, nil},
		{"networks", "many NAT networks beside libvirtd: start, restart of the daemon, memory", networks, libvirtNeeds().install},
		{"stopping", "the end of many NAT networks, beside the kernel's own time for their bridges", stopping, nil},
		{"scale", "2,000 networks with 10,000 ports: start, restart, lists, memory, --cleanup", scale, nil},
		{"ports", "ports for guests: time of a request, and of a thousand at once", ports, nil},
		{"dns", "name servers: questions per second, CPU time of one, time to the answer", dnsBench, func() error { buildCoreDNS(); return nil }},
	}
}

// bench is what a measurement works with. Its TB ends with the measurement.
type bench struct {
	nstest.TB
	root nstest.TB // the lab's
	lab  *nstest.Lab
	out  io.Writer
	dir  string // on a disk, to be written to
}

// cleanupContext is for what must go on when the measurement was interrupted.
func (b *bench) cleanupContext() context.Context { return context.WithoutCancel(b.Context()) }

// printf writes to the report.
func (b *bench) printf(format string, args ...any) { _, _ = fmt.Fprintf(b.out, format, args...) }

func main() {
	switch filepath.Base(os.Args[0]) {
	case leasesHelper:
		os.Exit(helpLeases(os.Args[1:]))
	case flowsProgram:
		os.Exit(openFlows(os.Args[1:]))
	case trafficProgram:
		os.Exit(loadNetwork(os.Args[1:]))
	case flooderProgram:
		os.Exit(floodGateway(os.Args[1:]))
	case ratesProgram:
		os.Exit(measureRates(os.Args[1:]))
	case offloadProgram:
		os.Exit(measureOffload())
	case responderProgram:
		os.Exit(respond(os.Args[1:]))
	}
	chosen, err := choose(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if err := prepare(chosen); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(nstest.Alone(func(ctx context.Context) int { return runAll(ctx, chosen) }))
}

// choose returns the benchmarks of those names, all of them for none.
func choose(names []string) ([]benchmark, error) {
	all := benchmarks()
	if len(names) == 0 {
		return all, nil
	}
	var chosen []benchmark
	for _, name := range names {
		i := slices.IndexFunc(all, func(b benchmark) bool { return b.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no benchmark %q", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// prepare installs what only some benchmarks need. It runs outside the
// namespaces first; inside them nothing is left to do.
func prepare(chosen []benchmark) error {
	var errs []error
	for _, b := range chosen {
		if b.prepare != nil {
			errs = append(errs, b.prepare())
		}
	}
	return errors.Join(errs...)
}

// runAll prints the figures of every benchmark and returns the exit code.
func runAll(ctx context.Context, chosen []benchmark) int {
	begin := time.Now()
	err := nstest.Play(ctx, os.Stderr, func(t nstest.TB) {
		b := &bench{TB: t, root: t, lab: nstest.NewLab(t), out: os.Stdout, dir: diskDir(t)}
		b.printf("%s\n", machine(b.dir))
		for _, one := range chosen {
			b.printf("\n== %s: %s\n", one.name, one.about)
			b.play(one.run)
		}
		b.printf("\nmeasured in %v\n", time.Since(begin).Round(time.Second))
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// play calls body with a bench whose cleanups run when body returns.
func (b *bench) play(body func(b *bench)) {
	err := nstest.Play(b.Context(), os.Stderr, func(t nstest.TB) {
		body(&bench{TB: t, root: b.root, lab: b.lab, out: b.out, dir: b.dir})
	})
	if err != nil {
		b.Fatalf("%w", err)
	}
	if b.root.Failed() {
		runtime.Goexit() // the lab has told why
	}
}

// diskDir makes a folder on the disk that holds the source tree, removed in the
// end: /run and the lab's /var/lib are memory, where durability costs nothing.
func diskDir(t nstest.TB) string {
	root, err := nstest.Root()
	if err != nil {
		t.Fatalf("finding the source tree: %w", err)
	}
	cache := filepath.Join(root, ".cache")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatalf("making a folder: %w", err)
	}
	dir, err := os.MkdirTemp(cache, "bench-")
	if err != nil {
		t.Fatalf("making a folder: %w", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
