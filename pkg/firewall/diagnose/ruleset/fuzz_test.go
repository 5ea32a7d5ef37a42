package ruleset_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
)

// checkRules fails the test if a rule is half made.
func checkRules(t *testing.T, r ruleset.Ruleset) {
	t.Helper()
	for _, table := range r.Tables {
		for _, c := range table.Chains {
			for _, rule := range c.Rules {
				for _, s := range rule.Statements {
					if (s.Kind == ruleset.Match || s.Kind == ruleset.DecideBy) && s.Set == nil {
						t.Errorf("rule %q of %s %s %s compares with nothing: %+v", rule.Text, table.Family, table.Name, c.Name, s)
					}
				}
			}
		}
	}
}

// FuzzNFT reads lists of nft(8) of any form, in which others choose names and comments.
func FuzzNFT(f *testing.F) {
	f.Add(`{"nftables": [{"table": {"family": "inet", "name": "t"}}, {"set": {"family": "inet", "name": "s", "table": "t", "type": ["ipv4_addr", "inet_service"], "elem": [{"concat": ["10.0.0.0", 53]}]}},
{"chain": {"family": "inet", "table": "t", "name": "c", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
{"rule": {"family": "inet", "table": "t", "chain": "c", "handle": 4, "expr": [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"accept": null}]}},
{"rule": {"family": "inet", "table": "t", "chain": "c", "expr": [{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": {"set": [["lo", {"goto": {"target": "c"}}], ["*", {"drop": null}]]}}}, {"xt": null}]}},
{"rule": {"family": "inet", "table": "t", "chain": "c", "expr": [{"mangle": {"key": {"meta": {"key": "mark"}}, "value": {"|": [{"&": [{"meta": {"key": "mark"}}, 1]}, 2]}}}, {"dnat": {"addr": {"map": {"key": {"payload": {"protocol": "tcp", "field": "dport"}}, "data": "@s"}}}}]}}]}`)
	f.Add(`{"nftables": [{"rule": {}}, {"set": {"elem": [[1, 2, 3], {"elem": {"val": {"range": [1]}}}]}}, {"chain": {"dev": ["a", 1]}}]}`)
	f.Add(`{"nftables": [{"table": {"name": "t"}}, {"chain": {"table": "t", "name": "c"}}, {"rule": {"table": "t", "chain": "c", "expr": [{"set": {"elem": 3}}, 1, {"match": 5}, {"&": []}, {"match": {"left": {"&": [1]}, "right": {"|": 4}}}]}}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ruleset.ParseNFT([]byte(text))
		if err == nil {
			checkRules(t, r)
		}
	})
}

// FuzzXtables reads output of iptables-save, and what ipset says of its sets.
func FuzzXtables(f *testing.F) {
	files, err := filepath.Glob("../testdata/corpus/*.iptables")
	if err != nil || len(files) == 0 {
		f.Fatalf("no corpus: %v", err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), "create s hash:net family inet\nadd s 10.0.0.0/8\n")
	}
	f.Add("*filter\n:INPUT DROP [0:0]\n[1:2] -A INPUT ! -s 10.0.0.1 -m set ! --match-set s src -m mark ! --mark 0x1/0xf -g INPUT\n-A INPUT -m tcp --tcp-flags\n", "add s\ncreate s hash:ip,port\nadd s 1.2.3.4,tcp:5 nomatch\n")
	f.Fuzz(func(t *testing.T, text, sets string) {
		r, err := ruleset.Xtables{Family: "ip", Program: "iptables", Text: text, IPSets: ruleset.ParseIPSets(sets)}.Parse()
		if err == nil {
			checkRules(t, r)
		}
	})
}
