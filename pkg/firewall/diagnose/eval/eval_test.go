package eval_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
)

// query is the question of a guest for the gateway's name server.
func query(t *testing.T, rules *ruleset.Ruleset) *eval.Query {
	t.Helper()
	return &eval.Query{
		Rules: rules,
		Host: &eval.Host{
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.122.1/24")},
			Routes:    []eval.Route{{To: netip.MustParsePrefix("192.168.122.0/24"), Device: "virbr0"}},
		},
		Packet: eval.Packet{
			Frame: eval.FrameIPv4, Src: netip.MustParseAddr("192.168.122.2"), Dst: netip.MustParseAddr("192.168.122.1"), Protocol: eval.UDP,
			SrcPort: 40000, DstPort: 53, Connection: eval.Connection{State: eval.StateNew},
		},
		Path: eval.ToHost("vnet0", "virbr0"),
	}
}

// nft are the rules of a chain on the hook input, with sets, in nft's JSON.
func nft(t *testing.T, sets, rules string) *ruleset.Ruleset {
	t.Helper()
	r, err := ruleset.ParseNFT([]byte(`{"nftables": [{"table": {"family": "inet", "name": "t"}}, ` + sets +
		`{"chain": {"family": "inet", "table": "t", "name": "in", "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}}, ` +
		`{"rule": {"family": "inet", "table": "t", "chain": "in", "handle": 1, "expr": [` + rules + `]}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	return &r
}

// Expressions that not every kernel has are carried out, and those that nobody can
// know make the answer unknown, but only where they matter.
func TestExpressions(t *testing.T) {
	const (
		drop  = `{"drop": null}`
		pairs = `{"set": {"family": "inet", "name": "pairs", "table": "t", "type": ["ipv4_addr", "inet_service"], "elem": [` +
			`{"concat": [{"prefix": {"addr": "192.168.122.0", "len": 24}}, {"range": [50, 60]}]}]}}, `
		inPairs = `{"match": {"op": "==", "left": {"concat": [{"payload": {"protocol": "ip", "field": "saddr"}}, {"payload": {"protocol": "udp", "field": "dport"}}]}, "right": "@pairs"}}, `
		dport   = `{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 54}}, `
	)
	for name, c := range map[string]struct {
		sets, rules string
		want        eval.Verdict
	}{
		"concatenation of intervals":       {pairs, inPairs + drop, eval.Dropped},
		"a set that is not listed":         {"", inPairs + drop, eval.Unknown},
		"a queue":                          {"", `{"queue": {"num": 0}}`, eval.Unknown},
		"a queue of others":                {"", dport + `{"queue": {"num": 0}}`, eval.Accepted},
		"a target that nft can't show":     {"", `{"xt": null}`, eval.Unknown},
		"a match that nft can't show":      {"", `{"xt": {"type": "match", "name": "string"}}, ` + drop, eval.Unknown},
		"that match and an accept":         {"", `{"xt": {"type": "match", "name": "string"}}, {"accept": null}`, eval.Accepted},
		"an unknown field, of others":      {"", dport + `{"match": {"op": "==", "left": {"rt": {"key": "mtu"}}, "right": 5}}, ` + drop, eval.Accepted},
		"an unknown field":                 {"", `{"match": {"op": "==", "left": {"rt": {"key": "mtu"}}, "right": 5}}, ` + drop, eval.Unknown},
		"a name by its bridge":             {"", `{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "virbr*"}}, ` + drop, eval.Dropped},
		"a limit before a drop":            {"", `{"limit": {"rate": 5, "per": "second"}}, ` + drop, eval.Unknown},
		"a map to all others":              {"", `{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": {"set": [["lo", {"accept": null}], ["*", {"drop": null}]]}}}`, eval.Dropped},
		"an elements' own condition":       {"", `{"set": {"op": "update", "elem": {"payload": {"protocol": "ip", "field": "saddr"}}, "set": "@s", "stmt": [{"limit": {}}]}}, ` + drop, eval.Unknown},
		"a field that is there":            {"", `{"match": {"op": ">=", "left": {"payload": {"base": "th", "offset": 128, "len": 32}}, "right": 0}}, ` + drop, eval.Dropped},
		"a fragment's offset":              {"", `{"match": {"op": "==", "left": {"exthdr": {"name": "frag", "field": "frag-off"}}, "right": 0}}, ` + drop, eval.Accepted},
		"a fragment":                       {"", `{"match": {"op": "==", "left": {"exthdr": {"name": "frag"}}, "right": true}}, ` + drop, eval.Accepted},
		"a jump to a chain that is absent": {"", `{"jump": {"target": "none"}}`, eval.Unknown},
		"a chain that jumps to itself":     {"", `{"jump": {"target": "in"}}`, eval.Unknown},
	} {
		r := query(t, nft(t, c.sets, c.rules)).Ask()
		if r.Verdict != c.want {
			t.Errorf("%s: %s, want %s", name, r.Verdict, c.want)
		}
		if c.want != eval.Accepted && r.Chain == nil {
			t.Errorf("%s: no chain is named", name)
		}
	}
}

// Sets of ipset's and options of iptables are read, or unknown.
func TestXtables(t *testing.T) {
	sets := ruleset.ParseIPSets("create nets hash:net family inet hashsize 1024\nadd nets 192.168.0.0/16\ncreate one hash:ip family inet\nadd one 10.0.0.1\ncreate pairs hash:ip,port family inet\nadd pairs 192.168.122.2,udp:53\n")
	for rule, want := range map[string]eval.Verdict{
		`-m set --match-set nets src -j DROP`:                             eval.Dropped,
		`-m set ! --match-set nets src -j DROP`:                           eval.Accepted,
		`-m set --match-set one src -j DROP`:                              eval.Accepted,
		`-m set --match-set pairs src,dst -j DROP`:                        eval.Unknown,
		`-m set --match-set absent src -j DROP`:                           eval.Unknown,
		`-p udp -m multiport --dports 1:10,53 -j DROP`:                    eval.Dropped,
		`-p udp -m multiport ! --dports 53,67 -j DROP`:                    eval.Accepted,
		`-p tcp -m tcp --dport 53 -j DROP`:                                eval.Accepted,
		`! -i virbr+ -j DROP`:                                             eval.Accepted,
		`-i virbr+ -m comment --comment "-j ACCEPT" -j DROP`:              eval.Dropped,
		`-m iprange --src-range 192.168.122.2-192.168.122.9 -j DROP`:      eval.Dropped,
		`-m mark --mark 0x1/0x1 -j DROP`:                                  eval.Accepted,
		`-m string --string x --algo bm -j DROP`:                          eval.Unknown,
		`-m hashlimit --hashlimit-above 5/sec --hashlimit-name x -j DROP`: eval.Unknown,
		`-j NFQUEUE --queue-num 0`:                                        eval.Unknown,
		`-j SOMETHING --new`:                                              eval.Unknown,
		`-m recent --set --name x --mask 255.255.255.255 --rsource`:       eval.Accepted,
		`-m addrtype --dst-type LOCAL -j DROP`:                            eval.Dropped,
		`-p udp -m udp --dport 53 -m limit --limit 5/sec -j LOG`:          eval.Accepted,
		`-f -j DROP`: eval.Accepted,
		`-m time --timestart 10:00:00 --timestop 12:00:00 -j DROP`:                          eval.Unknown,
		`-m conntrack --ctstate NEW -m conntrack ! --ctstate RELATED,ESTABLISHED -j REJECT`: eval.Rejected,
	} {
		r, err := ruleset.Xtables{Family: "ip", Program: "iptables", IPSets: sets, Text: "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT " + rule + "\nCOMMIT\n"}.Parse()
		if err != nil {
			t.Fatal(err)
		}
		if got := query(t, &r).Ask().Verdict; got != want {
			t.Errorf("%s: %s, want %s", rule, got, want)
		}
	}
}

// A packet that is led elsewhere goes on where the asker says it does.
func TestReroute(t *testing.T) {
	r, err := ruleset.Xtables{Family: "ip", Program: "iptables", Text: "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp --dport 53 -j DNAT --to-destination 172.17.0.2:54\nCOMMIT\n" +
		"*filter\n:FORWARD DROP [0:0]\n-A FORWARD -d 172.17.0.2 -o docker0 -p udp --dport 54 -m conntrack --ctstate DNAT -j ACCEPT\nCOMMIT\n"}.Parse()
	if err != nil {
		t.Fatal(err)
	}
	q := query(t, &r)
	got := q.Ask()
	if got.Verdict != eval.Translated || got.Packet.Dst != netip.MustParseAddr("172.17.0.2") || got.Packet.DstPort != 54 || got.Base == nil {
		t.Errorf("without another way: %+v", got)
	}
	for link, want := range map[string]eval.Verdict{"docker0": eval.Accepted, "eno1": eval.Dropped} {
		q.Route = func(eval.Packet) ([]eval.Hook, bool) {
			return []eval.Hook{{Layer: eval.IP, Name: "forward", In: "virbr0", Out: link}}, true
		}
		if got := q.Ask(); got.Verdict != want {
			t.Errorf("by %s: %+v, want %s", link, got, want)
		}
	}
}

// Rules in thousands that nobody can know are answered, or given up, at once.
func TestManyUnknownRules(t *testing.T) {
	for rules, want := range map[int]eval.Verdict{200: eval.Accepted, 5000: eval.Unknown} {
		var text strings.Builder
		text.WriteString("*filter\n:INPUT ACCEPT [0:0]\n:x - [0:0]\n")
		for range rules {
			text.WriteString("-A INPUT -m string --string x --algo bm -j x\n-A x -m string --string x --algo bm -j MARK --set-xmark 0x1/0xffffffff\n")
		}
		r, err := ruleset.Xtables{Family: "ip", Program: "iptables", Text: text.String()}.Parse()
		if err != nil {
			t.Fatal(err)
		}
		if got := query(t, &r).Ask(); got.Verdict != want {
			t.Errorf("%d rules: %s, want %s", rules, got.Verdict, want)
		}
	}
}
