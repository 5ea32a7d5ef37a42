package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
	"github.com/vnetd/vnetd/pkg/firewall/nft"
)

// How many networks have rules: some, and many.
const (
	someRules = 100
	manyRules = 500
)

// How many of the last networks a figure is the mean of: those of vnetd, and
// those for which iptables is executed rule by rule.
const (
	lastSets  = 10
	lastExecs = 3
)

// firewallRules measures what it costs to write networks' rules, and what these
// cost the packets.
func firewallRules(b *bench) {
	b.play(func(b *bench) { rulesWritten(b) })
	b.play(func(b *bench) { rulesPassed(b) })
}

// numbered is the n-th of many networks.
func numbered(n int, mode firewall.Mode) firewall.Network {
	return firewall.Network{
		Bridge: fmt.Sprintf("virbr%d", n), Mode: mode, DHCP: true,
		Subnets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100 + byte(n/256), byte(n), 1}), 24)},
	}
}

// cost is what something took, for each of some networks.
type cost struct {
	wall, cpu time.Duration
	processes float64
}

// costs are those of a way to write rules, by what was written.
type costs map[string]cost

// What is written.
const (
	theFirst    = "the 1st network's rules"
	theHundreth = "the 100th network's"
	theLast     = "the 500th network's"
	theDeleted  = "the 500th's deleted"
	rewriteSome = "100 networks' after a flush"
	rewriteMany = "500 networks' after a flush"
)

// rulesWritten prints the costs of writing, of vnetd and of one process for each
// rule.
func rulesWritten(b *bench) {
	b.Cleanup(func() { flushRules(b) })
	counter := newExecCounter(b)
	none := func() int { return 0 }
	var counted, chains, tables costs
	b.play(func(b *bench) { // each ends before the next one, whose table that keeps connections it has
		counted = writeByVnetd(b, newFirewall(b, iptables.Config{IPTables: counter.path("iptables"), IP6Tables: counter.path("ip6tables")}), counter.count)
	})
	b.play(func(b *bench) { chains = writeByVnetd(b, newFirewall(b, iptables.Config{}), none) })
	b.play(func(b *bench) { tables = writeByVnetd(b, newTables(b), none) })
	single := writeOneByOne(b)
	t := new(table)
	t.add("", "nftables", "CPU", "iptables", "CPU", "processes", "iptables per rule", "CPU", "processes")
	for _, what := range []string{theFirst, theHundreth, theLast, theDeleted, rewriteSome, rewriteMany} {
		row := []string{what, millis(tables[what].wall), millis(tables[what].cpu), millis(chains[what].wall), millis(chains[what].cpu), number(counted[what].processes), "-", "-", "-"}
		if c, measured := single[what]; measured {
			copy(row[6:], []string{millis(c.wall), millis(c.cpu), number(c.processes)})
		}
		t.add(row...)
	}
	b.printf("%s", t)
	b.printf("  vnetd by nftables and by iptables, and libvirtd's way\n")
	b.printf("  NAT networks with DHCP, %d rules of iptables each; after a flush: of the whole rule set\n",
		len(iptables.Render(numbered(0, firewall.ModeNAT), iptables.DefaultPrefix)))
	b.printf("  mean of the last %d networks with vnetd, of %d with iptables per rule\n", lastSets, lastExecs)
}

// number prints a mean of whole numbers.
func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// flushRules removes all rules and chains.
func flushRules(b *bench) { nstest.Exec(b, "nft", "flush", "ruleset") }

// measure calls do, which is about so many networks. executed counts processes
// since it was last asked.
func measure(b *bench, networks int, executed func() int, do func() error) cost {
	executed()
	begin, before := time.Now(), cpuTime(b)
	if err := do(); err != nil {
		b.Fatalf("writing rules: %w", err)
	}
	n := time.Duration(networks)
	return cost{time.Since(begin) / n, (cpuTime(b) - before) / n, float64(executed()) / float64(networks)}
}

// cpuTime is that of this process and of the children that it has waited for.
func cpuTime(b *bench) time.Duration {
	var total time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if err := unix.Getrusage(who, &u); err != nil {
			b.Fatalf("asking for CPU time: %w", err)
		}
		total += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return total
}

// writeByVnetd writes the rules of many networks as the daemon does, one network
// after the other.
func writeByVnetd(b *bench, f *firewall.Firewall, executed func() int) costs {
	flushRules(b)
	out := costs{}
	set := func(from, to int) func() error { return eachNetwork(b, from, to, f.Set) }
	step := func(what string, networks int, do func() error) { out[what] = measure(b, networks, executed, do) }
	step(theFirst, 1, set(0, 1))
	step("", someRules, set(1, someRules-lastSets))
	step(theHundreth, lastSets, set(someRules-lastSets, someRules))
	step("", manyRules, set(someRules, manyRules-lastSets))
	step(theLast, lastSets, set(manyRules-lastSets, manyRules))
	step(theDeleted, lastSets, eachNetwork(b, manyRules-lastSets, manyRules, f.Delete))
	step("", lastSets, set(manyRules-lastSets, manyRules))
	repair := func() error { _, err := f.Repair(b.Context()); return err }
	flushRules(b)
	step(rewriteMany, 1, repair)
	step("", 1, eachNetwork(b, someRules, manyRules, f.Delete))
	flushRules(b)
	step(rewriteSome, 1, repair)
	return out
}

// newFirewall makes one that is closed with the measurement.
func newFirewall(b *bench, cfg iptables.Config) *firewall.Firewall {
	writer, err := iptables.New(b.Context(), cfg)
	if err != nil {
		b.Fatalf("making the firewall: %w", err)
	}
	f := firewall.New(writer, firewall.Config{Logger: cfg.Logger})
	b.Cleanup(func() { _ = f.Close() })
	return f
}

// newTables is newFirewall by nftables.
func newTables(b *bench) *firewall.Firewall {
	f := firewall.New(nft.New(nft.Config{}), firewall.Config{})
	b.Cleanup(func() { _ = f.Close() })
	return f
}

// eachNetwork returns a function that calls do for the networks from one up to,
// but not including, another.
func eachNetwork(b *bench, from, to int, do func(ctx context.Context, n firewall.Network) error) func() error {
	return func() error {
		for n := from; n < to; n++ {
			if err := do(b.Context(), numbered(n, firewall.ModeNAT)); err != nil {
				return err
			}
		}
		return nil
	}
}

// writeOneByOne writes the same rules as libvirtd does, with a process for each
// rule. The networks beside which that is timed are written by vnetd.
func writeOneByOne(b *bench) costs {
	out := costs{}
	executed := 0
	count := func() int { n := executed; executed = 0; return n }
	run := func(commands [][]string) func() error {
		return func() error {
			for _, c := range commands {
				executed++
				if said, err := exec.CommandContext(b.Context(), c[0], c[1:]...).CombinedOutput(); err != nil {
					return fmt.Errorf("executing %s: %w: %s", strings.Join(c, " "), err, said)
				}
			}
			return nil
		}
	}
	flushRules(b)
	out[theFirst] = measure(b, 1, count, run(slices.Concat(scaffoldCommands(), ruleCommands("-I", 0, 1))))
	for what, others := range map[string]int{theHundreth: someRules - 1, theLast: manyRules - 1} {
		flushRules(b)
		fillRules(b, newFirewall(b, iptables.Config{LibvirtExactRules: true}), others)
		out[what] = measure(b, lastExecs, count, run(ruleCommands("-I", others, others+lastExecs)))
		if what == theLast {
			out[theDeleted] = measure(b, lastExecs, count, run(ruleCommands("-D", others, others+lastExecs)))
		}
	}
	flushRules(b)
	out[rewriteSome] = measure(b, 1, count, run(slices.Concat(scaffoldCommands(), ruleCommands("-I", 0, someRules))))
	return out
}

// fillRules writes the rules of networks together. The first one's stand last.
func fillRules(b *bench, f *firewall.Firewall, networks int) {
	for n := range networks {
		f.Adopt(numbered(n, firewall.ModeNAT))
	}
	if _, err := f.Repair(b.Context()); err != nil {
		b.Fatalf("writing rules: %w", err)
	}
}

// scaffoldCommands make libvirt's chains and the jumps to them.
func scaffoldCommands() [][]string {
	var out [][]string
	for _, j := range slices.Backward(iptables.Jumps(iptables.DefaultPrefix)) {
		program := programOf(j.Family)
		out = append(out,
			[]string{program, "-w", "-t", j.Table, "-N", strings.TrimPrefix(j.Args, "-j ")},
			slices.Concat([]string{program, "-w", "-t", j.Table, "-I", j.Chain}, strings.Fields(j.Args)))
	}
	return out
}

// ruleCommands insert or delete the rules of networks.
func ruleCommands(verb string, from, to int) [][]string {
	var out [][]string
	for n := from; n < to; n++ {
		for _, r := range slices.Backward(iptables.Render(numbered(n, firewall.ModeNAT), iptables.DefaultPrefix)) {
			out = append(out, slices.Concat([]string{programOf(r.Family), "-w", "-t", r.Table, verb, r.Chain}, strings.Fields(r.Args)))
		}
	}
	return out
}

// programOf is the family's program.
func programOf(f firewall.Family) string {
	if f == firewall.IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// execCounter has scripts in place of iptables that note each call.
type execCounter struct {
	b   *bench
	dir string
}

// newExecCounter makes the scripts.
func newExecCounter(b *bench) execCounter {
	dir, err := os.MkdirTemp(b.dir, "programs-")
	if err != nil {
		b.Fatalf("making a folder: %w", err)
	}
	c := execCounter{b, dir}
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, part := range []string{"", "-save", "-restore"} {
			program, err := exec.LookPath(family + part)
			if err == nil {
				err = os.WriteFile(c.path(family+part), fmt.Appendf(nil, "#!/bin/sh\necho >>%s\nexec %s \"$@\"\n", c.path("calls"), program), 0o755)
			}
			if err != nil {
				b.Fatalf("making a script: %w", err)
			}
		}
	}
	return c
}

// path is that of a script.
func (c execCounter) path(name string) string { return filepath.Join(c.dir, name) }

// count is the number of calls since the last time.
func (c execCounter) count() int {
	calls, err := os.ReadFile(c.path("calls"))
	if err != nil && !os.IsNotExist(err) {
		c.b.Fatalf("counting processes: %w", err)
	}
	_ = os.Remove(c.path("calls"))
	return len(calls)
}
