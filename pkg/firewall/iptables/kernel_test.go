package iptables_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/firewalltest"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
)

// host is a kernel of the test's own, and the variant of iptables on it.
type host struct {
	*testing.T
	variant string // "nft" or "legacy"
	log     *logBuffer
}

// logBuffer is where a host logs.
type logBuffer = firewalltest.LogBuffer

// onKernel runs body on a fresh kernel for each variant of iptables.
func onKernel(t *testing.T, body func(h *host)) {
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				body(&host{T: t, variant: variant, log: new(logBuffer)})
			})
		})
	}
}

// program is the name of iptables or ip6tables in the host's variant.
func (h *host) program(f firewall.Family) string {
	if f == firewall.IPv6 {
		return "ip6tables-" + h.variant
	}
	return "iptables-" + h.variant
}

// firewall starts a process' worth of firewall, with libvirt's rules alone.
func (h *host) firewall() *firewall.Firewall {
	h.Helper()
	return h.configured(iptables.Config{LibvirtExactRules: true})
}

// newFirewall is a Firewall that writes by iptables.
func newFirewall(ctx context.Context, cfg iptables.Config) (*firewall.Firewall, error) {
	w, err := iptables.New(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return firewall.New(w, firewall.Config{Audit: testAudit, Logger: cfg.Logger}), nil
}

// configured is firewall with other settings; programs and log are the host's
// unless set.
func (h *host) configured(cfg iptables.Config) *firewall.Firewall {
	h.Helper()
	if cfg.IPTables == "" {
		cfg.IPTables = h.program(firewall.IPv4)
	}
	if cfg.IP6Tables == "" {
		cfg.IP6Tables = h.program(firewall.IPv6)
	}
	cfg.Logger = slog.New(slog.NewTextHandler(h.log, nil))
	f, err := newFirewall(h.Context(), cfg)
	if err != nil {
		h.Fatalf("New: %v", err)
	}
	h.Cleanup(func() {
		if err := f.Close(); err != nil {
			h.Errorf("Close: %v", err)
		}
	})
	return f
}

// set fails the test unless Set succeeds for each network.
func (h *host) set(f *firewall.Firewall, networks ...firewall.Network) {
	h.Helper()
	firewalltest.Set(h, f, networks...)
}

// delete fails the test unless Delete succeeds.
func (h *host) delete(f *firewall.Firewall, n firewall.Network) {
	h.Helper()
	firewalltest.Delete(h, f, n)
}

// iptables runs one command of a family, blank-separated.
func (h *host) iptables(f firewall.Family, args string) {
	h.Helper()
	nstest.Exec(h, "sh", "-c", h.program(f)+" "+args)
}

// plant adds rules by iptables itself.
func (h *host) plant(rules ...firewall.Line) {
	h.Helper()
	for _, r := range rules {
		h.iptables(r.Family, r.String())
	}
}

// ruleset is what iptables-save of both families prints: the rules by family,
// table and chain. User-defined chains have an entry even when they are empty,
// built-in ones only when they hold rules.
type ruleset map[string][]string

// saved is the host's rule set.
func (h *host) saved() ruleset {
	h.Helper()
	out := ruleset{}
	for _, f := range []firewall.Family{firewall.IPv4, firewall.IPv6} {
		table := ""
		for line := range strings.Lines(nstest.Exec(h, h.program(f)+"-save")) {
			line = strings.TrimSpace(line)
			switch {
			case strings.HasPrefix(line, "*"):
				table = line[1:]
			case strings.HasPrefix(line, ":") && strings.Contains(line, " - "):
				chain, _, _ := strings.Cut(line[1:], " ")
				out[key(f, table, chain)] = []string{}
			case strings.HasPrefix(line, "-A "):
				chain, args, _ := strings.Cut(line[len("-A "):], " ")
				k := key(f, table, chain)
				out[k] = append(out[k], args)
			}
		}
	}
	return out
}

// key names a chain of a ruleset.
func key(f firewall.Family, table, chain string) string {
	return f.String() + " " + table + " " + chain
}

// scaffold is the rule set with our chains and jumps alone, after networks had such
// rules.
func scaffold(prefix string, had ...firewall.Line) ruleset {
	out := ruleset{}
	for _, j := range iptables.JumpsTo(prefix, had...) {
		out[key(j.Family, j.Table, strings.TrimPrefix(j.Args, "-j "))] = []string{}
		out.add(j)
	}
	return out
}

// add appends rules to their chains.
func (s ruleset) add(rules ...firewall.Line) ruleset {
	for _, r := range rules {
		k := key(r.Family, r.Table, r.Chain)
		s[k] = append(s[k], r.Args)
	}
	return s
}

// libvirt is the rule set that libvirt's driver would have after starting the
// networks, the newest of which is named first.
func libvirt(newestFirst ...firewall.Network) ruleset {
	var all []firewall.Line
	for _, n := range newestFirst {
		all = append(all, iptables.Render(n, iptables.DefaultPrefix)...)
	}
	return scaffold(iptables.DefaultPrefix, all...).add(all...)
}

// expect fails the test if the host's rule set is not as wanted.
func (h *host) expect(when string, want ruleset) {
	h.Helper()
	if diff := cmp.Diff(want, h.saved()); diff != "" {
		h.Fatalf("rule set %s (-want +got):\n%s", when, diff)
	}
}

// The listing of a NAT network's rules as libvirt 9.0.0 makes them, observed on
// a running libvirtd.
const libvirtNAT = `*mangle
-A POSTROUTING -j LIBVIRT_PRT
-A LIBVIRT_PRT -o virbr0 -p udp -m udp --dport 68 -j CHECKSUM --checksum-fill
*filter
-A INPUT -j LIBVIRT_INP
-A FORWARD -j LIBVIRT_FWX
-A FORWARD -j LIBVIRT_FWI
-A FORWARD -j LIBVIRT_FWO
-A OUTPUT -j LIBVIRT_OUT
-A LIBVIRT_FWI -d 192.168.122.0/24 -o virbr0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A LIBVIRT_FWI -o virbr0 -j REJECT --reject-with icmp-port-unreachable
-A LIBVIRT_FWO -s 192.168.122.0/24 -i virbr0 -j ACCEPT
-A LIBVIRT_FWO -i virbr0 -j REJECT --reject-with icmp-port-unreachable
-A LIBVIRT_FWX -i virbr0 -o virbr0 -j ACCEPT
-A LIBVIRT_INP -i virbr0 -p udp -m udp --dport 53 -j ACCEPT
-A LIBVIRT_INP -i virbr0 -p tcp -m tcp --dport 53 -j ACCEPT
-A LIBVIRT_INP -i virbr0 -p udp -m udp --dport 67 -j ACCEPT
-A LIBVIRT_INP -i virbr0 -p tcp -m tcp --dport 67 -j ACCEPT
-A LIBVIRT_OUT -o virbr0 -p udp -m udp --dport 53 -j ACCEPT
-A LIBVIRT_OUT -o virbr0 -p tcp -m tcp --dport 53 -j ACCEPT
-A LIBVIRT_OUT -o virbr0 -p udp -m udp --dport 68 -j ACCEPT
-A LIBVIRT_OUT -o virbr0 -p tcp -m tcp --dport 68 -j ACCEPT
*nat
-A POSTROUTING -j LIBVIRT_PRT
-A LIBVIRT_PRT -s 192.168.122.0/24 -d 224.0.0.0/24 -j RETURN
-A LIBVIRT_PRT -s 192.168.122.0/24 -d 255.255.255.255/32 -j RETURN
-A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -p tcp -j MASQUERADE --to-ports 1024-65535
-A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -p udp -j MASQUERADE --to-ports 1024-65535
-A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -j MASQUERADE
`

func TestSetMakesLibvirtsListing(t *testing.T) {
	onKernel(t, func(h *host) {
		h.set(h.firewall(), natNetwork())
		// The administrator's chains come before libvirt's, and are empty.
		h.iptables(firewall.IPv4, "-D INPUT 1")
		h.iptables(firewall.IPv4, "-D FORWARD 1")
		h.iptables(firewall.IPv4, "-X VNETD_USER_INP")
		h.iptables(firewall.IPv4, "-X VNETD_USER_FWD")
		tables := map[string]string{}
		table := ""
		for line := range strings.Lines(nstest.Exec(h, h.program(firewall.IPv4)+"-save")) {
			if strings.HasPrefix(line, "*") {
				table = line
			}
			if line == table || strings.HasPrefix(line, "-A") {
				tables[table] += line
			}
		}
		got := tables["*mangle\n"] + tables["*filter\n"] + tables["*nat\n"]
		if diff := cmp.Diff(libvirtNAT, got); diff != "" {
			h.Errorf("iptables-save differs from libvirt's (-want +got):\n%s", diff)
		}
	})
}

// Every intent's rules are listed by iptables in the text in which they were
// rendered; otherwise the second Set would not know them again.
func TestSetListsAsRendered(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.firewall()
		h.set(f, firewall.Network{Bridge: "virbr9", Mode: firewall.ModeOpen})
		h.expect("after an open network alone", ruleset{})
		var had []firewall.Line
		for name, n := range intents() {
			if n.Mode == firewall.ModeOpen || n.Mode == firewall.ModeBridge {
				continue
			}
			h.set(f, n)
			rules := iptables.Render(n, iptables.DefaultPrefix)
			had = append(had, rules...)
			h.expect("with "+name, scaffold(iptables.DefaultPrefix, had...).add(rules...))
			h.delete(f, n)
			h.expect("after "+name, scaffold(iptables.DefaultPrefix, had...))
		}
	})
}

func TestSetNewestNetworkFirst(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.firewall()
		old, young := natNetwork(), intents()["nat-dev"]
		h.set(f, old, young)
		h.expect("with two networks", libvirt(young, old))
		h.set(f, old)
		h.expect("after setting the older again", libvirt(young, old))
		h.delete(f, old)
		h.expect("without the older", libvirt(young))
	})
}

func TestSetReplacesFormerIntent(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.firewall()
		other := intents()["isolated"]
		h.set(f, natNetwork(), other)
		for _, name := range []string{"nat66", "nat-tftp", "route", "nat-addresses", "nat-several-ips", "nat"} {
			n := intents()[name]
			h.set(f, n)
			got := h.saved()
			for k, want := range libvirt(n) {
				own := slices.DeleteFunc(slices.Clone(got[k]), func(args string) bool {
					return strings.Contains(args, other.Bridge)
				})
				if diff := cmp.Diff(want, append([]string{}, own...)); diff != "" {
					h.Errorf("chain %s with intent %s (-want +got):\n%s", k, name, diff)
				}
			}
		}
		open := with(natNetwork(), func(n *firewall.Network) { n.Mode = firewall.ModeOpen })
		h.set(f, open)
		h.expect("after the network was opened", libvirt(other))
	})
}

// foreignRules are rules of others: one in each of our chains and of the
// built-in ones.
func foreignRules() []firewall.Line {
	var out []firewall.Line
	for _, j := range iptables.Jumps(iptables.DefaultPrefix) {
		for _, chain := range []string{j.Chain, strings.TrimPrefix(j.Args, "-j ")} {
			args := "-o dummy0 -p tcp -m tcp --dport 22 -j ACCEPT"
			if strings.HasSuffix(chain, "INPUT") || strings.HasSuffix(chain, "INP") {
				args = strings.Replace(args, "-o", "-i", 1)
			}
			r := firewall.Line{Family: j.Family, Table: j.Table, Chain: chain, Args: args}
			if !slices.Contains(out, r) {
				out = append(out, r)
			}
		}
	}
	return out
}

func TestForeignRulesSurvive(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.firewall()
		first, second := natNetwork(), intents()["nat66-dev"]
		second.Bridge = "virbr1"
		h.set(f, first)
		h.plant(foreignRules()...)
		h.set(f, second)
		want := scaffold(iptables.DefaultPrefix).
			add(iptables.Render(second, iptables.DefaultPrefix)...).
			add(iptables.Render(first, iptables.DefaultPrefix)...).
			add(foreignRules()...)
		h.expect("with foreign rules", want)
		h.delete(f, second)
		h.delete(f, first)
		h.expect("after Delete", scaffold(iptables.DefaultPrefix).add(foreignRules()...))
	})
}

func TestDeleteIsIdempotent(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.firewall()
		h.delete(f, natNetwork())
		h.expect("after Delete on a fresh kernel", ruleset{})
		h.set(f, natNetwork())
		h.delete(f, natNetwork())
		h.delete(f, natNetwork())
		h.expect("after Delete", scaffold(iptables.DefaultPrefix))
	})
}

func TestAdoptAfterKill(t *testing.T) {
	onKernel(t, func(h *host) {
		before, now := intents()["nat66"], intents()["nat-tftp"]
		h.set(h.firewall(), before)

		same := h.firewall()
		same.Adopt(before)
		h.set(same, before)
		h.expect("after the same Set by a new process", libvirt(before))

		other := h.firewall()
		other.Adopt(before)
		h.set(other, now)
		h.expect("after another Set by a new process", libvirt(now))

		last := h.firewall()
		last.Adopt(now)
		h.delete(last, with(now, func(n *firewall.Network) { n.TFTP = false }))
		h.expect("after Delete by a new process", scaffold(iptables.DefaultPrefix))
	})
}

func TestSetCompletesWhatIsThere(t *testing.T) {
	onKernel(t, func(h *host) {
		n := intents()["nat66"]
		rules := iptables.Render(n, iptables.DefaultPrefix)
		for name, damage := range map[string]func(){
			"half of the rules gone": func() {
				for i, r := range rules {
					if i%2 == 0 {
						h.iptables(r.Family, "-t "+r.Table+" -D "+r.Chain+" "+r.Args)
					}
				}
			},
			"doubled":     func() { h.plant(rules...) },
			"wrong order": func() { h.iptables(firewall.IPv4, "-D LIBVIRT_FWI 1"); h.plant(rules[0]) },
			"a jump gone": func() { h.iptables(firewall.IPv4, "-D FORWARD -j LIBVIRT_FWI") },
			"jumps in another order": func() {
				h.iptables(firewall.IPv6, "-D FORWARD -j LIBVIRT_FWX")
				h.plant(firewall.Line{Family: firewall.IPv6, Table: "filter", Chain: "FORWARD", Args: "-j LIBVIRT_FWX"})
			},
			"a built-in chain flushed": func() { h.iptables(firewall.IPv4, "-t nat -F") },
			"everything gone": func() {
				h.iptables(firewall.IPv4, "-F")
				h.iptables(firewall.IPv4, "-X")
			},
		} {
			f := h.firewall()
			h.set(f, n)
			damage()
			h.set(f, n)
			h.expect("after "+name, libvirt(n))
		}
	})
}

// A jump that others' matches narrow is not the jump, and jumps behind an
// administrator's rules stay there as long as they are complete and in order.
func TestJumpsOfAdministrator(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.firewall()
		h.set(f, natNetwork())
		h.iptables(firewall.IPv4, "-I FORWARD -i eno1 -j LIBVIRT_FWX")
		h.iptables(firewall.IPv4, "-I FORWARD 3 -i eno1 -j DROP")
		want := h.saved()
		h.set(f, natNetwork(), intents()["nat-dev"])
		got := h.saved()
		k := key(firewall.IPv4, "filter", "FORWARD")
		if diff := cmp.Diff(want[k], got[k]); diff != "" {
			h.Errorf("complete jumps were moved (-want +got):\n%s", diff)
		}
		h.iptables(firewall.IPv4, "-D FORWARD -j LIBVIRT_FWX")
		h.set(f, natNetwork())
		jumps := []string{"-j VNETD_USER_FWD", "-j LIBVIRT_FWX", "-j LIBVIRT_FWI", "-j LIBVIRT_FWO", "-i eno1 -j LIBVIRT_FWX", "-i eno1 -j DROP"}
		if diff := cmp.Diff(jumps, h.saved()[k]); diff != "" {
			h.Errorf("FORWARD after the jump was put back (-want +got):\n%s", diff)
		}
	})
}

func TestChainPrefixStandsBesideLibvirt(t *testing.T) {
	onKernel(t, func(h *host) {
		h.set(h.firewall(), natNetwork())
		want := h.saved()
		for k := range want { // of those of the administrator there is one pair
			if strings.Contains(k, "VNETD_USER_") {
				delete(want, k)
				continue
			}
			want[k] = slices.DeleteFunc(want[k], func(args string) bool { return strings.Contains(args, "VNETD_USER_") })
		}
		f := h.configured(iptables.Config{ChainPrefix: "VNETD_"})
		h.set(f, intents()["nat66-dev"])
		if err := f.Purge(h.Context()); err != nil {
			h.Fatal(err)
		}
		h.expect("after the other prefix was purged", want)
	})
}
