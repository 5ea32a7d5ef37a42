package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// fuzzNetworks are two networks that share a subnet's worth of chains.
func fuzzNetworks() (former, wanted firewall.Network) {
	former = firewall.Network{
		Bridge: "virbr0", Mode: firewall.ModeNAT, DHCP: true,
		Subnets: []netip.Prefix{netip.MustParsePrefix("192.168.122.0/24")},
	}
	wanted = former
	wanted.TFTP, wanted.Mode = true, firewall.ModeRoute
	return former, wanted
}

// FuzzPlan checks on any listing that what plan asks for leads, by the commands
// alone, to a listing with which plan is content, that nobody else's rules are
// touched, and that no command names a rule or a chain that is not there.
func FuzzPlan(f *testing.F) {
	former, wanted := fuzzNetworks()
	var full strings.Builder
	for _, r := range append(Jumps(DefaultPrefix), Render(former, DefaultPrefix)...) {
		fmt.Fprintf(&full, "*%s\n:%s - [0:0]\n-A %s %s\n", r.Table, r.Chain, r.Chain, r.Args)
	}
	f.Add("")
	f.Add(full.String())
	f.Add("*filter\n:FORWARD DROP [0:0]\n:LIBVIRT_FWX - [0:0]\n-A FORWARD -j LIBVIRT_FWX\n-A FORWARD -j DOCKER\n-A LIBVIRT_FWX\nCOMMIT\n")
	f.Add("# Table `filter' is incompatible, use 'nft' tool.\n")
	f.Add("-A LIBVIRT_FWX -j ACCEPT\n:X\n*\n-A \n*nat\n:LIBVIRT_PRT -")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := parseListing(text)
		if err != nil {
			return
		}
		changes := []change{{remove: Render(former, DefaultPrefix), place: Render(wanted, DefaultPrefix)}}
		others := foreignRules(l, former, wanted)
		replayed := clone(l)
		replay(t, replayed, plan(l, firewall.IPv4, options{prefix: DefaultPrefix, exact: true}, changes).text())
		if again := plan(clone(replayed), firewall.IPv4, options{prefix: DefaultPrefix, exact: true}, changes).text(); again != "" {
			t.Errorf("not content with its own work:\n%s", again)
		}
		if diff := cmp.Diff(others, foreignRules(replayed, former, wanted)); diff != "" {
			t.Errorf("rules of others changed:\n%s", diff)
		}
	})
}

// clone is a deep copy.
func clone(l listing) listing {
	out := listing{}
	for table, chains := range l {
		out[table] = map[string]*chain{}
		for name, held := range chains {
			out.declare(table, name).insert(held.rules())
		}
	}
	return out
}

// foreignRules are the rules that neither the networks nor the jumps have.
func foreignRules(l listing, networks ...firewall.Network) map[string][]string {
	ours := Jumps(DefaultPrefix)
	for _, n := range networks {
		ours = append(ours, Render(n, DefaultPrefix)...)
	}
	out := map[string][]string{}
	for table, chains := range l {
		for chain, held := range chains {
			for args := range held.all() {
				if !slices.Contains(ours, firewall.Line{Family: firewall.IPv4, Table: table, Chain: chain, Args: args}) {
					out[table+" "+chain] = append(out[table+" "+chain], args)
				}
			}
		}
	}
	return out
}

// replay is an iptables-restore that works on a listing.
func replay(t *testing.T, l listing, text string) {
	t.Helper()
	table := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "*") {
			table = line[1:]
			l.declare(table, "INPUT")
			continue
		}
		command, rest, _ := strings.Cut(line, " ")
		chain, args, _ := strings.Cut(rest, " ")
		switch command {
		case "-N":
			if l.has(table, chain) {
				t.Fatalf("%q: chain exists", line)
			}
			l.declare(table, chain)
		case "-I":
			if strings.HasPrefix(chain, DefaultPrefix) && !l.has(table, chain) {
				t.Fatalf("%q: no such chain", line)
			}
			l.declare(table, chain).insert([]string{args})
		case "-D":
			held := l[table][chain].rules()
			at := slices.Index(held, args)
			if at < 0 {
				t.Fatalf("%q: no such rule", line)
			}
			delete(l[table], chain)
			l.declare(table, chain).insert(slices.Delete(held, at, at+1))
		}
	}
}

// Several networks join one transaction; the last one's rules stand first.
func TestPlanJoinsNetworks(t *testing.T) {
	former, _ := fuzzNetworks()
	second := former
	second.Bridge, second.Subnets = "virbr1", []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	l := listing{}
	replay(t, l, plan(listing{}, firewall.IPv4, options{prefix: DefaultPrefix, exact: true}, []change{
		{place: Render(former, DefaultPrefix)},
		{place: Render(second, DefaultPrefix)},
	}).text())
	want := []string{"-i virbr1 -o virbr1 -j ACCEPT", "-i virbr0 -o virbr0 -j ACCEPT"}
	if diff := cmp.Diff(want, l["filter"]["LIBVIRT_FWX"].rules()); diff != "" {
		t.Errorf("LIBVIRT_FWX (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"-j VNETD_USER_FWD", "-j LIBVIRT_FWX", "-j LIBVIRT_FWI", "-j LIBVIRT_FWO"}, l["filter"]["FORWARD"].rules()); diff != "" {
		t.Errorf("FORWARD (-want +got):\n%s", diff)
	}
}

// The messages are those of iptables 1.8.9.
func TestExplain(t *testing.T) {
	const text = "*filter\n-N LIBVIRT_FWX\nCOMMIT\n*mangle\n-N LIBVIRT_PRT\n-I LIBVIRT_PRT -o virbr0 -j CHECKSUM --checksum-fill\nCOMMIT\n"
	const rule = "-I LIBVIRT_PRT -o virbr0 -j CHECKSUM --checksum-fill"
	for _, c := range []struct {
		variant, stderr, table, line, advice string
	}{
		{variantNFT, "iptables-nft-restore v1.8.9 (nf_tables): Chain 'CHECKSUM' does not exist\nError occurred at line: 7\n", "mangle", rule, "this iptables lacks the extension"},
		{variantNFT, "iptables-nft-restore v1.8.9 (nf_tables): \nline 6: RULE_INSERT failed (No such file or directory): rule in chain LIBVIRT_PRT\n", "mangle", rule, "is a kernel module missing: xt_CHECKSUM?"},
		{variantNFT, "iptables-nft-restore: line 2 failed: Chain already exists.\n", "filter", "-N LIBVIRT_FWX", ""},
		{variantLegacy, "iptables-restore: line 7 failed\n", "mangle", "", ""},
		{variantLegacy, "iptables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'mangle'\n\nError occurred at line: 4\n", "mangle", "", "the kernel has no table mangle for IPv4: load the module iptable_mangle"},
		{variantLegacy, "Another app is currently holding the xtables lock; still 1s 0us time ahead to have a chance to grab the lock...\n", "", "", "another program has held /run/xtables.lock for 5s"},
		{variantLegacy, "Error occurred at line: 99999999999999999999\n", "", "", ""},
		{variantLegacy, "Error occurred at line: 0\n", "", "", ""},
	} {
		err := explain(firewall.IPv4, c.variant, text, &execError{stderr: c.stderr, err: fmt.Errorf("exit status 1")})
		e := err.(*RestoreError)
		got := []string{e.Table, e.Line, e.Advice}
		if diff := cmp.Diff([]string{c.table, c.line, c.advice}, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.stderr, diff)
		}
	}
}
