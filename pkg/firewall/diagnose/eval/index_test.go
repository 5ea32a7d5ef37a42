package eval_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
)

// manyRules are a chain of rules of many networks among others, whose first matches are of all
// kinds: links and addresses, single ones and others.
func manyRules(t *testing.T, r *rand.Rand, count int) *ruleset.Ruleset {
	t.Helper()
	match := func(left, op, right string) string {
		return fmt.Sprintf(`{"match": {"op": %q, "left": %s, "right": %s}}, `, op, left, right)
	}
	name := func() string {
		return []string{`"virbr0"`, `"virbr1"`, `"virbr*"`, `"eno1"`, `{"set": ["virbr0", "virbr7"]}`, fmt.Sprintf(`"virbr%d"`, r.IntN(count))}[r.IntN(6)]
	}
	addr := func() string {
		return []string{
			`"192.168.122.2"`, `"192.168.122.1"`, `{"prefix": {"addr": "192.168.122.0", "len": 24}}`, `{"prefix": {"addr": "192.168.0.0", "len": 16}}`,
			`{"range": ["192.168.122.1", "192.168.122.9"]}`, fmt.Sprintf(`{"prefix": {"addr": "10.%d.%d.0", "len": 24}}`, r.IntN(256), r.IntN(256)),
		}[r.IntN(6)]
	}
	op := func() string { return []string{"==", "==", "==", "!="}[r.IntN(4)] }
	var rules []string
	for i := range count {
		var text string
		for range 1 + r.IntN(2) {
			switch r.IntN(6) {
			case 0, 1:
				text += match(fmt.Sprintf(`{"meta": {"key": %q}}`, []string{"iifname", "oifname"}[r.IntN(2)]), op(), name())
			case 2, 3:
				text += match(fmt.Sprintf(`{"payload": {"protocol": "ip", "field": %q}}`, []string{"saddr", "daddr"}[r.IntN(2)]), op(), addr())
			case 4:
				text += match(`{"payload": {"protocol": "udp", "field": "dport"}}`, op(), fmt.Sprint(50+r.IntN(6)))
			default:
				text += match(`{"meta": {"key": "mark"}}`, op(), fmt.Sprint(r.IntN(3)))
			}
		}
		verdict := []string{`{"mangle": {"key": {"meta": {"key": "mark"}}, "value": 1}}`, `{"jump": {"target": "more"}}`, `{"return": null}`, `{"accept": null}`, `{"drop": null}`, `{"counter": null}`}[min(r.IntN(40), 5)]
		chain := []string{"in", "more"}[r.IntN(2)]
		if chain == "more" && strings.Contains(verdict, "jump") {
			verdict = `{"drop": null}`
		}
		rules = append(rules, fmt.Sprintf(`{"rule": {"family": "inet", "table": "t", "chain": %q, "handle": %d, "expr": [%s%s]}}`, chain, 1+i, text, verdict))
	}
	parsed, err := ruleset.ParseNFT([]byte(`{"nftables": [{"table": {"family": "inet", "name": "t"}}, ` +
		`{"chain": {"family": "inet", "table": "t", "name": "in", "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}}, ` +
		`{"chain": {"family": "inet", "table": "t", "name": "more"}}, ` + strings.Join(rules, ", ") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return &parsed
}

// TestIndexChangesNoAnswer asks the same of rules with and without an index of them.
func TestIndexChangesNoAnswer(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	verdicts := make(map[eval.Verdict]int)
	for range 100 {
		rules := manyRules(t, r, 100+r.IntN(400))
		index := eval.NewIndex()
		for range 30 {
			q := query(t, rules)
			q.Path = eval.ToHost([]string{"vnet0", eval.Unnamed}[r.IntN(2)], []string{"virbr0", "virbr3", eval.Unnamed, "eno1"}[r.IntN(4)])
			q.Packet.Src = []netip.Addr{netip.MustParseAddr("192.168.122.2"), netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("192.168.7.7"), {}}[r.IntN(4)]
			q.Packet.DstPort = uint16(50 + r.IntN(6))
			q.Packet.Mark = uint32(r.IntN(3))
			want := q.Ask()
			q.Index = index
			if got := q.Ask(); !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d: by the index %+v, without %+v", seed, got, want)
			}
			verdicts[want.Verdict]++
		}
	}
	if len(verdicts) < 3 {
		t.Errorf("the answers are of few kinds: %v", verdicts)
	}
}
