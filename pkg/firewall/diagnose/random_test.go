package diagnose_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
)

// randomSets is how many rule sets TestRandomRules makes. It takes another number, and a
// seed, from the environment.
const randomSets = 25

// generator makes rule sets that are valid, and of which each rule may matter.
type generator struct {
	*rand.Rand
	incoming bool // all hooks are such that packets came in by a link
}

func (g *generator) of(choices ...string) string { return choices[g.IntN(len(choices))] }

// matches are the starts of matches with what they may go on with; "not" stands for a "!="
// now and then.
var matches = [][]string{
	{"iifname not", `"virbr0"`, `"virbr*"`, `"eno1"`, `"lo"`},
	{"oifname not", `"virbr0"`, `"virbr*"`, `"eno1"`, `"lo"`},
	{"tcp dport not", "53", "443", "{ 53, 547 }", "60-70"},
	{"udp dport not", "53", "67", "{ 53, 547 }", "{ 1-52, 68-600 }"},
	{"th dport not", "53", "67", "443", "60-70"},
	{"ct state", "new", "established,related", "invalid", "untracked", "!= established", "{ new, established }", "! new"},
	{"ip saddr not", "192.168.122.0/24", "@nets", "192.168.122.2", "0.0.0.0", "93.0.0.0-94.0.0.0"},
	{"ip daddr not", "192.168.122.1", "@nets", "255.255.255.255", "{ 93.184.215.14, 10.0.0.0/8 }"},
	{"ip6 daddr not", "2001:db8:1::/64", "fe80::/10", "ff00::/8", "ff02::1:2"},
	{"meta l4proto not", "tcp", "udp", "ipv6-icmp", "{ tcp, udp }"},
	{"meta nfproto", "ipv4", "ipv6"},
	{"meta mark", "& 0x3 == 0x1", "0x2", "!= 0", "> 1", "{ 1, 3 }"},
	{"fib daddr type not", "local", "broadcast", "multicast", "unicast", "{ local, broadcast }"},
	{"icmpv6 type not", "nd-router-solicit", "{ nd-neighbor-solicit, nd-neighbor-advert }"},
	{"meta pkttype not", "broadcast", "multicast", "host"},
	{"tcp flags & (syn|ack) ==", "syn", "syn|ack"},
	{"ct direction", "reply", "original"},
	{"ip saddr . th dport not", "{ 192.168.122.2 . 53, 0.0.0.0 . 67 }", "@pairs"},
	{"ct mark", "0", "1", "!= 1"},
	{"iifname . oifname", `{ "virbr0" . "eno1", "eno1" . "virbr0" }`},
	{"ip protocol not", "udp", "tcp"},
	{"fib saddr . iif oif", "exists", "missing"}, // the last one: of packets that came in alone
}

// match is a match.
func (g *generator) match() string {
	known := matches
	if !g.incoming {
		known = matches[:len(matches)-1]
	}
	m := known[g.IntN(len(known))]
	start, negatable := strings.CutSuffix(m[0], " not")
	if negatable && g.IntN(3) == 0 {
		start += " !="
	}
	return start + " " + g.of(m[1:]...)
}

// rule is a rule of the i-th of a list of chains, which jumps to later ones alone.
func (g *generator) rule(i, chains int) string {
	var parts []string
	for range (g.IntN(8) + 6) / 6 {
		parts = append(parts, g.match())
	}
	later := ""
	if i+1 < chains {
		later = fmt.Sprintf("c%d", i+1+g.IntN(chains-i-1))
	}
	switch n := g.IntN(12); {
	case n < 3:
		parts = append(parts, "accept")
	case n < 5:
		parts = append(parts, g.of("drop", "counter drop", "reject"))
	case n == 5:
		parts = append(parts, "meta mark set "+g.of("1", "2", "meta mark | 1", "meta mark & 2", "ct mark", "th dport map { 53 : 1, 67 : 2 }"))
	case n == 6:
		parts = append(parts, "ct mark set "+g.of("1", "meta mark"))
	case n == 7:
		parts = append(parts, "return")
	case n < 11 && later != "":
		parts = append(parts, g.of("jump ", "jump ", "goto ")+later)
	default:
		parts = append(parts, g.of(
			"meta l4proto vmap { tcp : drop, udp : accept }", "ct state vmap { established : accept, invalid : drop }", "th dport vmap { 53 : drop, 60-600 : return }",
			"iifname vmap { \"virbr0\" : continue, \"eno1\" : drop }",
		))
	}
	return strings.Join(parts, " ")
}

// table is a table of one family with base chains on some hooks.
func (g *generator) table(family string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s chance {\n", family)
	b.WriteString("set nets { type ipv4_addr; flags interval; elements = { 192.168.0.0/16, 93.184.215.0-93.184.215.99 }\n}\n")
	b.WriteString("set pairs { type ipv4_addr . inet_service; elements = { 192.168.122.2 . 443, 192.168.122.1 . 68 }\n}\n")
	g.incoming = g.IntN(2) == 0
	hooks := []string{"prerouting", "input", "forward"}
	if !g.incoming {
		hooks = append(hooks, "output", "postrouting")
	}
	const chains = 5
	for i := chains - 1; i >= 0; i-- {
		fmt.Fprintf(&b, "chain c%d {\n", i)
		if i < 3 {
			hook := g.of(hooks...)
			fmt.Fprintf(&b, "type filter hook %s priority %s; policy %s;\n", hook, g.of("-300", "-150", "-10", "10", "150"), g.of("accept", "accept", "accept", "drop"))
		}
		for range 1 + g.IntN(3) {
			if rule := g.rule(max(i, 2), chains); !strings.Contains(rule, "reject") || i > 2 {
				b.WriteString(rule + "\n")
			}
		}
		b.WriteString("}\n")
	}
	b.WriteString("}\n")
	return strings.ReplaceAll(b.String(), "reject\n", "drop\n")
}

// environment is a number of the environment, or another one.
func environment(name string, otherwise uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return otherwise
}

// What the evaluator says of rules by chance is what the kernel does.
func TestRandomRules(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t, settings(""))
		seed := environment("VNETD_RANDOM_SEED", rand.Uint64())
		l.Logf("VNETD_RANDOM_SEED=%d", seed)
		g := &generator{Rand: rand.New(rand.NewPCG(seed, 0))}
		facts := readFacts()
		counts := map[eval.Verdict]int{}
		for i := uint64(0); i < environment("VNETD_RANDOM_SETS", randomSets); {
			family := g.of("inet", "inet", "ip")
			text := g.table(family)
			if family == "ip" {
				text = strings.NewReplacer("meta nfproto ipv4", "ip version 4", "meta nfproto ipv6", "ip version 6", "ip6 daddr", "ip daddr", "2001:db8:1::/64", "10.0.0.0/8", "fe80::/10", "10.0.0.0/8", "ff00::/8", "224.0.0.0/4", "ff02::1:2", "224.0.0.1", "icmpv6 type", "icmp type", "nd-router-solicit", "echo-request", "{ nd-neighbor-solicit, nd-neighbor-advert }", "echo-reply").Replace(text)
			}
			l.warm(l.probes(&facts))
			if out, err := run(text, "nft", "-f", "-"); err != nil {
				if strings.Contains(out, "conflicting protocols") {
					continue // matches of two protocols: there is no such rule
				}
				l.Fatalf("%v: %s\n%s", err, out, text)
			}
			i++
			// ARP is of another family.
			for _, v := range l.compare(func(string) bool { return true }, "arp-reply") {
				counts[v]++
			}
			if l.Failed() {
				l.Fatalf("rule set %d of VNETD_RANDOM_SEED=%d:\n%s", i, seed, text)
			}
			nstest.Exec(l, "nft", "delete", "table", family, "chance")
		}
		if counts[eval.Accepted] == 0 || counts[eval.Dropped] == 0 || counts[eval.Unknown]*5 > counts[eval.Accepted]+counts[eval.Dropped] {
			l.Errorf("verdicts are %v", counts)
		}
	})
}
