package iptables_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
)

// wrapped is a host whose iptables are wrapped in scripts that note each call,
// and that a test can have do something in between.
type wrapped struct {
	*host
	dir string
}

// wrap makes the scripts.
func (h *host) wrap() *wrapped {
	h.Helper()
	w := &wrapped{host: h, dir: h.TempDir()}
	for _, f := range []firewall.Family{firewall.IPv4, firewall.IPv6} {
		for _, part := range []string{"", "-save", "-restore"} {
			name := h.program(f) + part
			path, err := exec.LookPath(name)
			if err != nil {
				h.Fatal(err)
			}
			w.script(name, fmt.Sprintf("echo %s >> %s/calls\nexec %s \"$@\"", name, w.dir, path))
		}
	}
	return w
}

// script writes one wrapper.
func (w *wrapped) script(name, body string) {
	w.Helper()
	// Renamed into place: a file open for writing can't be executed.
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path+".new", []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		w.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		w.Fatal(err)
	}
}

// pipe makes the restore of a family read its input through a sed(1) script.
func (w *wrapped) pipe(f firewall.Family, sed string) {
	w.Helper()
	name := w.program(f) + "-restore"
	w.script(name, fmt.Sprintf("sed '%s' | /usr/sbin/%s \"$@\"", sed, name))
}

// once makes a family's save do something after the first listing.
func (w *wrapped) once(f firewall.Family, command string) {
	w.Helper()
	name := w.program(f) + "-save"
	w.script(name, fmt.Sprintf("/usr/sbin/%s \"$@\"\nmkdir %s/once 2>/dev/null || exit 0\n/usr/sbin/%s %s", name, w.dir, w.program(f), command))
}

// firewall starts one that uses the scripts.
func (w *wrapped) firewall() *firewall.Firewall {
	w.Helper()
	return w.configured(iptables.Config{
		LibvirtExactRules: true,
		IPTables:          filepath.Join(w.dir, w.program(firewall.IPv4)),
		IP6Tables:         filepath.Join(w.dir, w.program(firewall.IPv6)),
	})
}

// calls are the programs called since the last time, and how often.
func (w *wrapped) calls() map[string]int {
	w.Helper()
	path := filepath.Join(w.dir, "calls")
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.Fatal(err)
	}
	_ = os.Remove(path)
	out := map[string]int{}
	for _, name := range strings.Fields(string(text)) {
		out[strings.Replace(name, "-"+w.variant, "", 1)]++
	}
	return out
}

func TestSetExecutesLittle(t *testing.T) {
	onKernel(t, func(h *host) {
		w := h.wrap()
		f := w.firewall()
		w.calls()
		n := intents()["nat66"]
		other := with(n, func(n *firewall.Network) {
			n.Bridge, n.Subnets = "virbr8", subnets("192.0.2.1/24", "2001:db8:8::1/64")
		})
		odd := with(other, func(n *firewall.Network) { n.Bridge, n.Dev = "virbr7", "eno1" })
		both := map[string]int{"iptables-save": 1, "ip6tables-save": 1, "iptables-restore": 1, "ip6tables-restore": 1}
		listing := map[string]int{"iptables-save": 1, "ip6tables-save": 1}
		unseen, changes, nothing := both, both, listing
		if w.variant == "nft" {
			unseen = map[string]int{"iptables-restore": 1, "ip6tables-restore": 1}
			changes, nothing = map[string]int{}, map[string]int{}
		}
		set := func(n firewall.Network) func() error {
			return func() error { return f.Set(h.Context(), n) }
		}
		for _, step := range []struct {
			what string
			do   func() error
			want map[string]int
		}{
			{"first Set", set(n), both},
			{"same Set", set(n), nothing},
			{"Set of an open network", set(firewall.Network{Bridge: "virbr9", Mode: firewall.ModeOpen}), map[string]int{}},
			{"Set of a like network", set(other), changes},
			{"Set with a rule of a new kind", set(odd), unseen},
			{"Delete", func() error { return f.Delete(h.Context(), n) }, changes},
			{"same Delete", func() error { return f.Delete(h.Context(), n) }, nothing},
		} {
			if err := step.do(); err != nil {
				h.Fatalf("%s: %v", step.what, err)
			}
			if diff := cmp.Diff(step.want, w.calls()); diff != "" {
				h.Errorf("%s executes (-want +got):\n%s", step.what, diff)
			}
		}
	})
}

// Between listing and restore somebody deletes a rule that is to be deleted.
func TestDeleteWithStaleListing(t *testing.T) {
	onKernel(t, func(h *host) {
		h.set(h.firewall(), natNetwork())
		w := h.wrap()
		f := w.firewall()
		w.once(firewall.IPv4, "-D LIBVIRT_FWX -i virbr0 -o virbr0 -j ACCEPT")
		h.delete(f, natNetwork())
		h.expect("after Delete", scaffold(iptables.DefaultPrefix))
	})
}

// Between listing and restore libvirtd makes a chain and puts a rule into it.
func TestSetWithStaleListing(t *testing.T) {
	onKernel(t, func(h *host) {
		w := h.wrap()
		f := w.firewall()
		theirs := "LIBVIRT_FWX -i virbr7 -o virbr7 -j ACCEPT"
		w.once(firewall.IPv4, "-N LIBVIRT_FWX; /usr/sbin/"+h.program(firewall.IPv4)+" -A "+theirs)
		h.set(f, natNetwork())
		want := libvirt(natNetwork()).add(firewall.Line{
			Family: firewall.IPv4, Table: "filter", Chain: "LIBVIRT_FWX", Args: "-i virbr7 -o virbr7 -j ACCEPT",
		})
		h.expect("after Set", want)
	})
}

// A refused restore says which rule failed and why, and what stood before stands
// again, even in tables that were committed before the refusal.
func TestFailingRestoreKeepsFormerRules(t *testing.T) {
	onKernel(t, func(h *host) {
		former := intents()["nat66"]
		h.set(h.firewall(), intents()["isolated"], former)
		h.plant(foreignRules()...)
		before := h.saved()
		wanted := with(former, func(n *firewall.Network) {
			n.TFTP, n.Subnets = true, subnets("192.0.2.1/24", "2001:db8:7::1/64")
			n.NATPorts = firewall.PortRange{Start: 2000, End: 3000} // a form that was not seen: iptables-restore writes all
		})
		for name, c := range map[string]struct {
			family firewall.Family
			sed    string // what becomes of the restore's input
			table  string
			says   string
		}{
			"unknown target in filter": {firewall.IPv4, "/^-I/s/-j ACCEPT/-j NOSUCH/", "filter", "NOSUCH"},
			"unknown target in nat":    {firewall.IPv4, "/^-I/s/SNAT.*/NOSUCH/", "nat", "NOSUCH"},
			"refused by the kernel":    {firewall.IPv4, "s/^-I LIBVIRT_FWO .*/-I LIBVIRT_FWO -j MASQUERADE/", "filter", "table filter"},
			"unknown option":           {firewall.IPv4, "s/--dport 69/--nosuch 69/", "filter", "unknown option"},
			"second family":            {firewall.IPv6, "s/2001:db8:7::/nosuch::/", "nat", "IPv6 firewall"},
		} {
			w := h.wrap()
			f := w.firewall()
			f.Adopt(former)
			w.pipe(c.family, c.sed)
			err := f.Set(h.Context(), wanted)
			var refused *iptables.RestoreError
			switch {
			case !errors.As(err, &refused):
				h.Fatalf("%s: Set says %v, want a RestoreError", name, err)
			case refused.Family != c.family || refused.Table != c.table || !strings.Contains(err.Error(), c.says):
				h.Errorf("%s: Set says %v, want table %s and %q", name, err, c.table, c.says)
			}
			h.expect("after "+name, before)
		}
	})
}

// A kernel without the CHECKSUM target starts networks all the same.
func TestChecksumIsDispensable(t *testing.T) {
	onKernel(t, func(h *host) {
		w := h.wrap()
		w.pipe(firewall.IPv4, "s/CHECKSUM.*/NOSUCH/")
		h.set(w.firewall(), natNetwork())
		without := with(natNetwork(), func(n *firewall.Network) { n.DHCP = false })
		want := libvirt(without)
		delete(want, key(firewall.IPv4, "mangle", "LIBVIRT_PRT"))
		delete(want, key(firewall.IPv4, "mangle", "POSTROUTING"))
		h.expect("without CHECKSUM", want)
		if !strings.Contains(h.log.String(), "NOSUCH") {
			h.Errorf("nothing was logged about the failed rule:\n%s", h.log)
		}
	})
}

func TestWithoutIPv6(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.configured(iptables.Config{LibvirtExactRules: true, IP6Tables: "/nonexistent/ip6tables"})
		if !strings.Contains(h.log.String(), "level=WARN") {
			h.Errorf("no warning was logged:\n%s", h.log)
		}
		h.set(f, natNetwork())
		want := libvirt(natNetwork())
		for _, j := range iptables.Jumps(iptables.DefaultPrefix) {
			if j.Family == firewall.IPv6 {
				delete(want, key(j.Family, j.Table, j.Chain))
				delete(want, key(j.Family, j.Table, strings.TrimPrefix(j.Args, "-j ")))
			}
		}
		h.expect("of an IPv4 network", want)
		err := f.Set(h.Context(), intents()["isolated-ipv6"])
		if err == nil || !strings.Contains(err.Error(), "/nonexistent/ip6tables") {
			h.Errorf("Set of an IPv6 network says %v", err)
		}
		h.expect("after the failed Set", want)
		if err := f.Purge(h.Context()); err != nil {
			h.Errorf("Purge: %v", err)
		}
		h.expect("after Purge", ruleset{})
	})
}

// Without iptables what needs no rules works, and the rest says what it lacks.
// Once it is installed it is used.
func TestWithoutIPTables(t *testing.T) {
	onKernel(t, func(h *host) {
		dir := h.TempDir()
		f := h.configured(iptables.Config{LibvirtExactRules: true, IPTables: filepath.Join(dir, h.program(firewall.IPv4)), IP6Tables: filepath.Join(dir, h.program(firewall.IPv6))})
		if n := strings.Count(h.log.String(), "level=WARN"); n != 2 || !strings.Contains(h.log.String(), "is not installed") {
			h.Errorf("%d warnings, want one for each family:\n%s", n, h.log)
		}
		open := firewall.Network{Bridge: "virbr9", Mode: firewall.ModeOpen, Subnets: subnets("192.0.2.1/24")}
		h.set(f, open)
		h.delete(f, open)
		err := f.Set(h.Context(), natNetwork())
		if err == nil || !strings.Contains(err.Error(), "no IPv4 firewall, which every network of mode nat, route and isolated needs: "+dir) {
			h.Errorf("Set of a NAT network says %v", err)
		}
		if _, err := f.Repair(h.Context()); err != nil {
			h.Errorf("Repair: %v", err)
		}
		kinds := func() (out []firewall.Kind) {
			for _, c := range h.conditions(f) {
				out = append(out, c.Kind)
			}
			return out
		}
		if diff := cmp.Diff([]firewall.Kind{firewall.KindNoIPTables, firewall.KindNoIPTables}, kinds()); diff != "" {
			h.Errorf("conditions (-want +got):\n%s", diff)
		}
		for _, family := range []firewall.Family{firewall.IPv4, firewall.IPv6} {
			for _, part := range []string{"", "-save", "-restore"} {
				name := h.program(family) + part
				if err := os.Symlink("/usr/sbin/"+name, filepath.Join(dir, name)); err != nil {
					h.Fatal(err)
				}
			}
		}
		if got := kinds(); len(got) > 0 {
			h.Errorf("conditions after iptables was installed: %v", got)
		}
		h.set(f, natNetwork())
		h.expect("after iptables was installed", libvirt(natNetwork()))
	})
}

// nft(8) can make a table that iptables can't show. Nothing may be changed in
// it blindly.
func TestTableThatIPTablesCantShow(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := &host{T: t, variant: "nft", log: new(logBuffer)}
		f := h.firewall()
		h.set(f, natNetwork())
		nstest.Exec(t, "nft", "add rule ip filter FORWARD fib daddr type local counter ip saddr vmap { 192.0.2.1 : accept }")
		before := nstest.Exec(t, "nft", "list", "ruleset")
		err := f.Set(t.Context(), intents()["isolated"])
		if err == nil || !strings.Contains(err.Error(), "table filter holds rules that iptables can't show") {
			t.Errorf("Set says %v", err)
		}
		if diff := cmp.Diff(before, nstest.Exec(t, "nft", "list", "ruleset")); diff != "" {
			t.Errorf("Set changed the rules (-want +got):\n%s", diff)
		}
		h.configured(iptables.Config{})
		if !strings.Contains(h.log.String(), "incompatible") {
			t.Errorf("New did not warn:\n%s", h.log)
		}
	})
}

func TestRulesInTheOtherVariant(t *testing.T) {
	onKernel(t, func(h *host) {
		h.firewall()
		if strings.Contains(h.log.String(), "other variant") {
			h.Errorf("warning on a fresh kernel:\n%s", h.log)
		}
		rival := map[string]string{"nft": "legacy", "legacy": "nft"}[h.variant]
		nstest.Exec(h, "iptables-"+rival, "-A", "FORWARD", "-j", "DROP")
		h.firewall()
		if !strings.Contains(h.log.String(), "other=iptables-"+rival) {
			h.Errorf("no warning about rules in %s:\n%s", rival, h.log)
		}
	})
}

// What could not be listed was not changed and must not be "put back" either.
func TestFailingListingKeepsFormerRules(t *testing.T) {
	onKernel(t, func(h *host) {
		former := intents()["nat66"]
		h.set(h.firewall(), former)
		before := h.saved()
		w := h.wrap()
		f := w.firewall()
		f.Adopt(former)
		w.script(w.program(firewall.IPv6)+"-save", "mkdir "+w.dir+"/failed && echo out of memory >&2 && exit 1\nexec "+w.program(firewall.IPv6)+"-save")
		err := f.Set(h.Context(), with(former, func(n *firewall.Network) { n.Mode = firewall.ModeRoute }))
		if err == nil || !strings.Contains(err.Error(), "out of memory") {
			h.Errorf("Set says %v", err)
		}
		h.expect("after the failed Set", before)
	})
}

func TestSetEndsWithItsContext(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.firewall()
		h.set(f, natNetwork())
		ctx, cancel := context.WithCancel(h.Context())
		cancel()
		if err := f.Set(ctx, intents()["nat-tftp"]); !errors.Is(err, context.Canceled) {
			h.Errorf("Set says %v, want %v", err, context.Canceled)
		}
		h.expect("after the cancelled Set", libvirt(natNetwork()))
	})
}

func TestConcurrentSets(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.firewall()
		const networks = 12
		var wg sync.WaitGroup
		errs := make([]error, networks)
		network := func(i int) firewall.Network {
			return with(intents()["nat66"], func(n *firewall.Network) {
				n.Bridge = fmt.Sprintf("virbr%d", i)
				n.Subnets = subnets(fmt.Sprintf("10.0.%d.0/24", i), fmt.Sprintf("2001:db8:%d::/64", i+1))
			})
		}
		for i := range networks {
			wg.Go(func() { errs[i] = f.Set(h.Context(), network(i)) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			h.Fatal(err)
		}
		total := len(iptables.Jumps(iptables.DefaultPrefix)) + networks*len(iptables.Render(network(0), iptables.DefaultPrefix))
		got := 0
		for _, rules := range h.saved() {
			got += len(rules)
		}
		if got != total {
			h.Errorf("%d rules, want %d", got, total)
		}
	})
}

// Of Sets that are carried out together the one that fails spoils no other. It
// is the only one with boot files, so that no rule like its own was seen before.
func TestConcurrentSetsFailAlone(t *testing.T) {
	onKernel(t, func(h *host) {
		w := h.wrap()
		f := w.firewall()
		h.set(f, numbered(0))
		w.pipe(firewall.IPv4, "/-i virbr3 /s/-j ACCEPT/-j NOSUCH/")
		network := func(i int) firewall.Network {
			return with(numbered(i), func(n *firewall.Network) {
				if i == 3 {
					n.Dev = "eno1" // its rules have forms that were not seen, so that iptables-restore is executed
				}
			})
		}
		var running sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			running.Go(func() { errs[i] = f.Set(h.Context(), network(i)) })
		}
		running.Wait()
		want := scaffold(iptables.DefaultPrefix)
		for i, err := range errs {
			if (err != nil) != (i == 3) {
				h.Errorf("Set of network %d says %v", i, err)
			}
			if i != 3 {
				want.add(iptables.Render(network(i), iptables.DefaultPrefix)...)
			}
		}
		h.expect("after all", h.unordered(want))
	})
}

func TestNewRefuses(t *testing.T) {
	for _, cfg := range []iptables.Config{
		{ChainPrefix: strings.Repeat("x", 26)},
		{ChainPrefix: "A B"},
		{ChainPrefix: "-A"},
	} {
		// Nothing is executed before the fault: not even a fresh kernel is needed.
		cfg.IP6Tables = "/nonexistent/ip6tables"
		if _, err := iptables.New(t.Context(), cfg); err == nil {
			t.Errorf("New(%+v) succeeded", cfg)
		}
	}
}
