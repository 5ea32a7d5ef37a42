package nft_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/golden"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/firewalltest"
	"github.com/vnetd/vnetd/pkg/firewall/nft"
)

// intents are the tests' networks, and those with peers and rules.
func intents() map[string]firewall.Network {
	all := firewalltest.Intents()
	maps.Copy(all, firewalltest.Policies())
	return all
}

// newNetworks is a firewall by the writer for nftables.
func newNetworks(t *testing.T, cfg nft.Config) *firewall.Firewall {
	t.Helper()
	f := firewall.New(nft.New(cfg), firewall.Config{})
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// set fails the test unless Set succeeds for each network.
func set(t *testing.T, f *firewall.Firewall, networks ...firewall.Network) {
	t.Helper()
	for _, n := range networks {
		if err := f.Set(t.Context(), n); err != nil {
			t.Fatalf("Set of %s: %v", n.Bridge, err)
		}
	}
}

// tables are what nft lists of networks.
func tables(t *testing.T) string {
	t.Helper()
	all := ""
	for _, family := range []string{"ip", "ip6"} {
		if strings.Contains(nstest.Exec(t, "nft", "list", "tables"), "table "+family+" vnetd\n") {
			all += nstest.Exec(t, "nft", "-s", "list", "table", family, "vnetd")
		}
	}
	return all
}

// What nft lists of every network is what is told of it, and reads as it was meant; nft
// takes the listing back as it is.
func TestNetworksAreListed(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		f := newNetworks(t, nft.Config{})
		for name, n := range intents() {
			n.Name = name
			set(t, f, n)
			listing := tables(t)
			told := ""
			for _, line := range f.Rules(n) {
				told += line.String() + "\n"
				if !strings.Contains(listing, line.Args) {
					t.Errorf("of %s nft does not list %s", name, line)
				}
			}
			golden.Compare(t, filepath.Join("testdata", name+".golden"), told+listing)
			file := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(file, []byte(listing), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := f.Delete(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			if left := tables(t); left != "" {
				t.Errorf("after %s nft lists\n%s", name, left)
			}
			if listing != "" {
				nstest.Exec(t, "nft", "-f", file)
				if diff := cmp.Diff(listing, tables(t)); diff != "" {
					t.Errorf("nft reads of %s something else (-listed +read):\n%s", name, diff)
				}
				nstest.Exec(t, "nft", "flush", "ruleset")
			}
		}
	})
}

// Two networks with all options beside each other read as one table.
func TestNetworksShareTables(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		f := newNetworks(t, nft.Config{LibvirtExactRules: true})
		all := firewalltest.Intents()
		second := firewalltest.With(all["nat66-dev"], func(n *firewall.Network) {
			n.Bridge, n.Name, n.Subnets = "virbr1", "a name \"of\\ its own", firewalltest.Subnets("10.0.0.1/8", "2001:db8:7::1/64")
		})
		set(t, f, all["dns-redirected"], second, all["isolated"])
		golden.Compare(t, "testdata/several.golden", tables(t))
	})
}

// numbered is a network of many.
func numbered(i int) firewall.Network {
	return firewall.Network{
		Bridge: fmt.Sprintf("virbr%d", i), Name: fmt.Sprintf("net%d", i), Mode: firewall.ModeNAT, DHCP: true,
		Subnets: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256))},
	}
}

// generation is the number of transactions that nftables has seen.
func generation(t *testing.T) uint32 {
	t.Helper()
	s, err := nfnetlink.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	now, err := s.Current()
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// Whatever a change is about, it is one transaction, which takes nothing away in
// between; what is as it should be is none.
func TestChangesAreTransactions(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		f := newNetworks(t, nft.Config{})
		set(t, f, numbered(0), firewalltest.Intents()["isolated"]) // with the keeper's table
		one := func(what string, change func() error, want uint32) {
			t.Helper()
			before := generation(t)
			if err := change(); err != nil {
				t.Fatal(err)
			}
			if got := generation(t) - before; got != want {
				t.Errorf("%s: %d transactions, want %d", what, got, want)
			}
		}
		one("another network", func() error { return f.Set(t.Context(), numbered(1)) }, 1)
		one("the same once more", func() error { return f.Set(t.Context(), numbered(1)) }, 0)
		one("another mode", func() error {
			return f.Set(t.Context(), firewalltest.With(numbered(1), func(n *firewall.Network) { n.Mode = firewall.ModeRoute }))
		}, 1)
		one("a network's end", func() error { return f.Delete(t.Context(), numbered(1)) }, 1)
		nstest.Exec(t, "nft", "flush ruleset")
		one("a repair, and the administrator's table", func() error { _, err := f.Repair(t.Context()); return err }, 2)
		one("no repair", func() error { _, err := f.Repair(t.Context()); return err }, 0)
		nstest.Exec(t, "nft", "delete element ip vnetd outbound { \"virbr0\" }")
		want := tables(t)
		one("a network beside damage", func() error { return f.Set(t.Context(), numbered(2)) }, 1)
		one("its end", func() error { return f.Delete(t.Context(), numbered(2)) }, 1)
		if got := tables(t); got == want || !strings.Contains(got, `"virbr0" comment "net0" : goto`) {
			t.Errorf("a change beside damage leaves it:\n%s", got)
		}
	})
}

// A process that ended left what the next one adopts: it changes what is different
// alone, and repairs nothing that is whole.
func TestNetworksAreAdopted(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		first := newNetworks(t, nft.Config{})
		all := firewalltest.Intents()
		set(t, first, all["nat66"], all["isolated"], numbered(7))
		want := tables(t)
		second := newNetworks(t, nft.Config{})
		for _, n := range []firewall.Network{all["nat66"], all["isolated"], numbered(7)} {
			second.Adopt(n)
		}
		if report, err := second.Repair(t.Context()); err != nil || report.Repaired() {
			t.Errorf("a repair of what is whole: %+v, %v", report, err)
		}
		set(t, second, all["nat66"])
		lines := func(s string) map[string]int {
			out := map[string]int{}
			for line := range strings.Lines(s) {
				out[strings.Trim(strings.TrimPrefix(strings.TrimSpace(line), "elements = { "), " ,}")]++
			}
			return out
		}
		if diff := cmp.Diff(lines(want), lines(tables(t))); diff != "" {
			t.Errorf("adopted networks (-want +got):\n%s", diff)
		}
		third := newNetworks(t, nft.Config{})
		third.Adopt(all["nat66"])
		third.Adopt(all["isolated"])
		third.Adopt(numbered(7))
		nstest.Exec(t, "nft", "delete element ip vnetd outbound { \"virbr0\" }")
		if report, err := third.Repair(t.Context()); err != nil || report.Cause != firewall.CauseRulesDeleted || len(report.Missing) != 1 {
			t.Errorf("a repair of what a former process left: %+v, %v", report, err)
		}
		if err := third.Purge(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := nstest.Exec(t, "nft", "list", "ruleset"); strings.Contains(left, " vnetd {") {
			t.Errorf("after Purge nft lists\n%s", left)
		}
	})
}

// What a former process may have had as well stands after the next one's first change if it stood
// before, and only then: queries are not led to a port where nobody listens.
func TestRedirectionIsAdopted(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		all := firewalltest.Intents()
		plain, redirected := all["nat66"], all["nat66"]
		for _, s := range plain.Subnets {
			redirected.DNS = append(redirected.DNS, netip.AddrPortFrom(s.Addr(), 10053))
		}
		for _, former := range []firewall.Network{plain, redirected} {
			first := newNetworks(t, nft.Config{})
			set(t, first, former)
			want := strings.Contains(tables(t), "10053")
			second := newNetworks(t, nft.Config{})
			second.Adopt(plain)
			second.Adopt(redirected)
			set(t, second, numbered(7))
			if got := tables(t); strings.Contains(got, "10053") != want || want != (len(former.DNS) > 0) {
				t.Errorf("queries were redirected: %v, and then there is\n%s", want, got)
			}
			set(t, second, plain)
			if got := tables(t); strings.Contains(got, "10053") {
				t.Errorf("queries are redirected still:\n%s", got)
			}
			if err := second.Purge(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Subnets of a network that lie in each other, and a name that is too long for a comment,
// are no fault.
func TestNetworksInEachOther(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		f := newNetworks(t, nft.Config{})
		n := numbered(0)
		n.Name, n.Subnets = strings.Repeat("ä", 200), firewalltest.Subnets("10.0.0.1/16", "10.0.7.1/24", "10.0.7.9/24")
		set(t, f, n)
		if got := tables(t); !strings.Contains(got, "ip saddr 10.0.0.0/16 accept") {
			t.Errorf("nft lists\n%s", got)
		}
	})
}

// However networks come, change and go, with subnets of any length: what stands is what one
// process would write at once, no repair finds anything, and the longest subnets are asked
// first.
func TestLengthsOfSubnets(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 0))
		f := newNetworks(t, nft.Config{})
		there := map[int]bool{}
		for range 25 {
			n := numbered(r.IntN(6))
			i, _ := strconv.Atoi(strings.TrimPrefix(n.Bridge, "virbr"))
			n.Mode, n.Subnets, n.NATIPv6 = []firewall.Mode{firewall.ModeNAT, firewall.ModeNAT, firewall.ModeRoute}[r.IntN(3)], nil, r.IntN(2) == 0
			n.Dev = []string{"", "", "eno1"}[r.IntN(3)]
			for range 1 + r.IntN(3) {
				n.Subnets = append(n.Subnets, firewalltest.Subnets(fmt.Sprintf("10.%d.%d.1/%d", i, r.IntN(3), 22+r.IntN(11)), fmt.Sprintf("fd00:%d::1/%d", i, 64+r.IntN(3)))...)
			}
			if there[i] && r.IntN(2) == 0 {
				delete(there, i)
				if err := f.Delete(t.Context(), n); err != nil {
					t.Fatal(err)
				}
			} else {
				there[i] = true
				set(t, f, n)
			}
			if report, err := f.Repair(t.Context()); err != nil || report.Repaired() {
				t.Fatalf("a repair of what nobody has changed: %+v, %v", report, err)
			}
			want := sorted(tables(t))
			nstest.Exec(t, "nft", "flush", "ruleset")
			if _, err := f.Repair(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, sorted(tables(t))); diff != "" {
				t.Fatalf("what is written at once (-want +got):\n%s", diff)
			}
			last := 33
			for _, m := range regexp.MustCompile(`@untranslated_(\d+) return`).FindAllStringSubmatch(nstest.Exec(t, "nft", "list", "ruleset", "ip"), -1) {
				bits, _ := strconv.Atoi(m[1])
				if bits >= last {
					t.Fatalf("subnets of length %d are asked after those of %d", bits, last)
				}
				last = bits
			}
		}
	})
}

// sorted are a listing's lines in the order of their text, elements each by itself.
func sorted(listing string) []string {
	lines := strings.Split(strings.ReplaceAll(listing, "elements = {", "\n"), "\n")
	for i := range lines {
		lines[i] = strings.Trim(lines[i], " \t,}")
	}
	slices.Sort(lines)
	return lines
}

// Whatever a bridge is called, nft takes the listing back, and no two share a chain.
func TestNamesOfChains(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		f := newNetworks(t, nft.Config{})
		for i, bridge := range []string{"br~0", "br7e0", "0.1", "br+lan", "brü", "br-lan_0"} {
			n := numbered(i)
			n.Bridge = bridge
			set(t, f, n)
		}
		listing := tables(t)
		if !strings.Contains(listing, "chain inbound_br/7e0 {") || !strings.Contains(listing, "chain inbound_br7e0 {") {
			t.Errorf("nft lists\n%s", listing)
		}
		file := filepath.Join(t.TempDir(), "listing")
		if err := os.WriteFile(file, []byte(listing), 0o644); err != nil {
			t.Fatal(err)
		}
		nstest.Exec(t, "nft", "flush", "ruleset")
		nstest.Exec(t, "nft", "-f", file)
		if diff := cmp.Diff(listing, tables(t)); diff != "" {
			t.Errorf("nft reads something else (-listed +read):\n%s", diff)
		}
	})
}

// A kernel with what the tables need is left as it was by the trial.
func TestWorksLeavesNothing(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		if err := nft.Works(); err != nil {
			t.Fatal(err)
		}
		if left := nstest.Exec(t, "nft", "list", "ruleset"); left != "" {
			t.Errorf("a trial leaves\n%s", left)
		}
	})
}
