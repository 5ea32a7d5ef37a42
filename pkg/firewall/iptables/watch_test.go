package iptables_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/firewalltest"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
)

// testAudit is how often a watched firewall of variant legacy is looked at.
const testAudit = 100 * time.Millisecond

// mendLimit is how long a test waits for a repair; a promise of one second is
// not measured on a machine that runs other tests as well.
const mendLimit = 20 * time.Second

// watched starts a firewall that repairs until the test ends.
func (h *host) watched(cfg iptables.Config) *firewall.Firewall {
	h.Helper()
	f := h.configured(cfg)
	firewalltest.Watch(h, f)
	return f
}

// mended waits for the rule set; the order of the networks may be another.
func (h *host) mended(when string, want ruleset) {
	h.Helper()
	nstest.Eventually(h, mendLimit, "repair after "+when, func() error {
		if diff := cmp.Diff(h.unordered(want), h.saved()); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

// repairs waits for the number of repairs and fails if there are more.
func (h *host) repairs(f *firewall.Firewall, when string, want uint64) {
	h.Helper()
	nstest.Eventually(h, mendLimit, "repairs after "+when, func() error {
		if got := f.Stats().Repairs; got != want {
			return fmt.Errorf("%d repairs, want %d", got, want)
		}
		return nil
	})
}

// Whatever is done to the rules is mended by one repair, and is named.
func TestWatchRepairs(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.watched(iptables.Config{})
		h.set(f, intents()["nat66"], intents()["nat-dev"], intents()["isolated"])
		want := h.saved()
		events := []struct {
			what  string
			do    []string
			cause firewall.Cause
		}{
			{"a flush of filter", []string{"-F"}, firewall.CauseTableFlush},
			{"a flush of nat", []string{"-t nat -F"}, firewall.CauseTableFlush},
			{"a jump's deletion", []string{"-D FORWARD -j LIBVIRT_FWI"}, firewall.CauseJumpDeleted},
			{"a rule's deletion", []string{"-D LIBVIRT_FWO -i virbr0 -j REJECT"}, firewall.CauseRulesDeleted},
			{"a chain's deletion", []string{"-D INPUT -j LIBVIRT_INP", "-F LIBVIRT_INP", "-X LIBVIRT_INP"}, firewall.CauseChainDeleted},
			{"a doubled rule", []string{"-A LIBVIRT_FWX -i virbr0 -o virbr0 -j ACCEPT"}, firewall.CauseReordered},
		}
		for i, e := range events {
			before := f.Stats()
			h.batch(firewall.IPv4, e.do...)
			h.mended(e.what, want)
			h.repairs(f, e.what, uint64(i+1))
			if got := f.Stats().ByCause[e.cause]; got != before.ByCause[e.cause]+1 {
				h.Errorf("%s was not counted as %q: %v", e.what, e.cause, f.Stats().ByCause)
			}
		}
		if report, err := f.Repair(h.Context()); err != nil || report.Repaired() {
			h.Errorf("Repair of a complete rule set: %+v, %v", report, err)
		}
		h.repairs(f, "all", uint64(len(events)))
	})
}

// batch carries out commands of filter, or of one other table, as one.
func (h *host) batch(family firewall.Family, commands ...string) {
	h.Helper()
	table := "filter"
	var lines []string
	for _, c := range commands {
		if rest, found := strings.CutPrefix(c, "-t nat "); found {
			table, c = "nat", rest
		}
		lines = append(lines, c)
	}
	cmd := exec.Command(h.program(family)+"-restore", "--noflush")
	cmd.Stdin = strings.NewReader("*" + table + "\n" + strings.Join(lines, "\n") + "\nCOMMIT\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		h.Fatalf("%s: %v: %s", lines, err, out)
	}
}

// unordered is want with the networks' rules in the order in which the host has
// them: what is put back goes to the head.
func (h *host) unordered(want ruleset) ruleset {
	out := ruleset{}
	got := h.saved()
	for k, rules := range want {
		sorted, held := slices.Clone(rules), slices.Clone(got[k])
		slices.Sort(sorted)
		slices.Sort(held)
		out[k] = rules
		if slices.Equal(sorted, held) {
			out[k] = got[k]
		}
	}
	return out
}

func TestWatchRepairsFlushedRuleset(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.watched(iptables.Config{})
		h.set(f, intents()["isolated"], intents()["nat66"])
		want := h.saved()
		if h.variant == "nft" {
			nstest.Exec(h, "nft", "flush", "ruleset")
			h.mended("a flush of the rule set", want)
			h.repairs(f, "a flush of the rule set", 1)
			if got := f.Stats().ByCause[firewall.CauseFlush]; got != 1 {
				h.Errorf("causes are %v", f.Stats().ByCause)
			}
			if !strings.Contains(h.log.String(), "process=nft") {
				h.Errorf("the log does not name nft:\n%s", h.log)
			}
			return
		}
		// Rules and chains at once: between two commands they may be mended.
		for _, table := range []string{"filter", "nat", "mangle"} {
			nstest.Exec(h, "sh", "-c", `printf '*%s\nCOMMIT\n' `+table+" | "+h.program(firewall.IPv4)+"-restore -w")
		}
		h.mended("a flush of everything", want)
	})
}

// A change by others that takes nothing of ours away is no reason for a repair,
// nor are our own changes.
func TestWatchLeavesOthersAlone(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.watched(iptables.Config{})
		h.set(f, natNetwork(), intents()["nat-dev"])
		h.plant(foreignRules()...)
		h.delete(f, intents()["nat-dev"])
		want := h.saved()
		checks := f.Stats().Checks
		nstest.Eventually(h, mendLimit, "a look at the rules", func() error {
			if f.Stats().Checks < checks+2 {
				return errors.New("there was none")
			}
			return nil
		})
		h.expect("after a look at it", want)
		h.repairs(f, "changes by others", 0)
	})
}

// Somebody who removes a jump a hundred times a second is not fought.
func TestWatchStaysCalm(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.watched(iptables.Config{})
		h.set(f, natNetwork())
		want := h.saved()
		ctx, cancel := context.WithTimeout(h.Context(), 5*time.Second)
		defer cancel()
		for every := time.NewTicker(10 * time.Millisecond); ctx.Err() == nil; <-every.C {
			_ = exec.CommandContext(ctx, h.program(firewall.IPv4), "-w", "-D", "FORWARD", "-j", "LIBVIRT_FWI").Run()
		}
		stats := f.Stats()
		if stats.Repairs > 15 {
			h.Errorf("%d repairs within 5 seconds", stats.Repairs)
		}
		h.mended("the last deletion", want)
		if n := strings.Count(h.log.String(), "keeps removing firewall rules"); n > 1 || n == 0 && stats.Repairs >= 10 {
			h.Errorf("the log says %d times that rules are removed again and again:\n%s", n, h.log)
		}
		if stats := f.Stats(); stats.Contended != (stats.Repairs >= 10) {
			h.Errorf("counts are %+v", stats)
		}
	})
}

// docker is what dockerd does to the rules when it starts, on a host where it
// switches forwarding on.
var docker = []string{
	"-t nat -N DOCKER",
	"-N DOCKER", "-N DOCKER-ISOLATION-STAGE-1", "-N DOCKER-ISOLATION-STAGE-2",
	"-A DOCKER-ISOLATION-STAGE-1 -j RETURN", "-A DOCKER-ISOLATION-STAGE-2 -j RETURN",
	"-t nat -I POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
	"-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
	"-I FORWARD -o docker0 -j DOCKER",
	"-I FORWARD -i docker0 -o docker0 -j ACCEPT",
	"-I FORWARD -i docker0 ! -o docker0 -j ACCEPT",
	"-I FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
	"-I FORWARD -j DOCKER-ISOLATION-STAGE-1",
	"-P FORWARD DROP",
	"-N DOCKER-USER",
	"-A DOCKER-USER -j RETURN",
	"-I FORWARD -j DOCKER-USER",
}

// Docker's rules leave ours complete, and get the networks' accepts if asked.
func TestDockerUser(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.watched(iptables.Config{DockerUserAccept: true, LibvirtExactRules: true})
		open := with(natNetwork(), func(n *firewall.Network) { n.Bridge, n.Mode = "virbr5", firewall.ModeOpen })
		h.set(f, natNetwork(), open)
		for _, command := range docker {
			h.iptables(firewall.IPv4, command)
		}
		chain := key(firewall.IPv4, "filter", "DOCKER-USER")
		want := []string{
			"-j VNETD_USER_FWD", "-j LIBVIRT_FWX", "-j LIBVIRT_FWI", "-j LIBVIRT_FWO",
			"-i virbr5 -j ACCEPT", "-o virbr5 -j ACCEPT", "-j RETURN",
		}
		expect := func(when string) {
			h.Helper()
			nstest.Eventually(h, mendLimit, when, func() error {
				if diff := cmp.Diff(want, h.saved()[chain]); diff != "" {
					return errors.New(diff)
				}
				return nil
			})
		}
		expect("after Docker's start")
		h.repairs(f, "Docker's start", 1)
		h.batch(firewall.IPv4, "-F DOCKER-USER", "-A DOCKER-USER -j RETURN")
		expect("after Docker made its chain anew")
		if got := f.Stats().ByCause[firewall.CauseDockerUser]; got != 2 {
			h.Errorf("causes are %v", f.Stats().ByCause)
		}
		h.delete(f, open)
		want = slices.Delete(want, 4, 6)
		expect("after the open network's end")
		h.delete(f, natNetwork())
		want = []string{"-j RETURN"}
		expect("after the last network's end")
		h.set(f, natNetwork())
		if err := f.Purge(h.Context()); err != nil {
			h.Fatal(err)
		}
		expect("after Purge")
	})
}

// Whatever the order in which networks come and go, the rules are those of a
// start with the networks that are left.
func TestNetworksInAnyOrder(t *testing.T) {
	onKernel(t, func(h *host) {
		var networks []firewall.Network
		for i, name := range []string{"nat66", "nat-dev", "isolated-ipv6", "route", "nat-addresses"} {
			networks = append(networks, with(intents()[name], func(n *firewall.Network) {
				n.Bridge = fmt.Sprintf("virbr%d", i)
				n.Subnets = subnets(fmt.Sprintf("10.0.%d.0/24", i), fmt.Sprintf("2001:db8:%d::/64", i+1))
			}))
		}
		first := h.configured(iptables.Config{})
		h.set(first, networks[0])
		h.plant(foreignRules()...)
		var running sync.WaitGroup
		for _, n := range networks {
			running.Go(func() {
				for range 3 {
					if err := errors.Join(first.Set(h.Context(), n), first.Delete(h.Context(), n), first.Set(h.Context(), n)); err != nil {
						h.Errorf("network %s: %v", n.Bridge, err)
					}
				}
			})
		}
		running.Wait()
		again := h.configured(iptables.Config{}) // as after a restart
		for _, n := range networks {
			again.Adopt(n)
		}
		h.delete(again, networks[1])
		h.set(again, networks[4], networks[0], networks[2], networks[3])
		want := scaffold(iptables.DefaultPrefix)
		for _, n := range []int{0, 2, 3, 4} {
			want.add(first.Rules(networks[n])...)
		}
		h.expect("after all", h.unordered(want.add(foreignRules()...)))
	})
}

// The guards of ports change with every guest: no reason to look at the rules.
func TestWatchIgnoresGuards(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		w, err := iptables.New(t.Context(), iptables.Config{IPTables: "iptables-nft", IP6Tables: "ip6tables-nft", Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		var told atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Watch(ctx, func() { told.Add(1) }) }()
		t.Cleanup(func() { cancel(); <-ended })
		changes := int64(0)
		nstest.Eventually(t, mendLimit, "a change that is told", func() error {
			changes++
			nstest.Exec(t, "nft", "add", "table", "ip", fmt.Sprintf("other%d", changes))
			if told.Load() == 0 {
				return errors.New("none was")
			}
			return nil
		})
		look := func() any {
			t.Helper()
			if _, err := w.Conditions(ctx, nil); err != nil {
				t.Fatal(err)
			}
			return iptables.Taken(w)
		}
		before := look()
		nstest.Exec(t, "nft", "add", "table", "netdev", firewall.GuardTable("br0"))
		for i := range changes + 10 {
			nstest.Exec(t, "nft", "add", "chain", "netdev", firewall.GuardTable("br0"), fmt.Sprintf("port%d", i))
		}
		if look() != before {
			t.Error("all rules were listed for the guards")
		}
		nstest.Exec(t, "iptables-nft", "-N", "LAST")
		nstest.Eventually(t, mendLimit, "the last change", func() error {
			if made := w.Others(); !slices.ContainsFunc(made, func(s string) bool { return strings.HasPrefix(s, "iptables") }) {
				return fmt.Errorf("changes by %q were told", made)
			}
			return nil
		})
		if look() == before {
			t.Error("a change beside the guards' is not looked at")
		}
		if got := told.Load(); got > changes+1 {
			t.Errorf("%d changes were told, of at most %d that were not of guards", got, changes+1)
		}
	})
}
