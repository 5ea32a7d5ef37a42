package eval_test

import (
	"net/netip"
	"testing"

	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
)

// Packets go where translations lead them, to the port that belongs to theirs.
func TestTranslations(t *testing.T) {
	for rules, want := range map[string]struct {
		to     string
		source string // invalid where it is not known
	}{
		"*nat\n:PREROUTING ACCEPT\n-A PREROUTING -p udp -m udp --dport 50:59 -j DNAT --to-destination 10.0.0.5:90-99/50\nCOMMIT\n":   {"10.0.0.5:93", "192.168.122.2:40000"},
		"*nat\n:PREROUTING ACCEPT\n-A PREROUTING -p udp -m udp --dport 50:59 -j DNAT --to-destination 10.0.0.5\nCOMMIT\n":            {"10.0.0.5:53", "192.168.122.2:40000"},
		"*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -p udp -j MASQUERADE --to-ports 1024-65535\nCOMMIT\n":                             {"192.168.122.1:53", "203.0.113.2:40000"},
		"*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -p udp -j MASQUERADE --to-ports 1024-1999\nCOMMIT\n":                              {"192.168.122.1:53", "203.0.113.2:0"},
		"*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -p udp -j SNAT --to-source 203.0.113.7\nCOMMIT\n":                                 {"192.168.122.1:53", "203.0.113.7:40000"},
		"*nat\n:PREROUTING ACCEPT\n-A PREROUTING -p sctp -m sctp --dport 53 -j DNAT --to-destination 10.0.0.5\nCOMMIT\n":             {"192.168.122.1:53", "192.168.122.2:40000"},
		"*nat\n:PREROUTING ACCEPT\n-A PREROUTING -m limit --limit 1/sec -p udp -j DNAT --to-destination 10.0.0.5:1\nCOMMIT\n":        {"10.0.0.5:1", "192.168.122.2:40000"},
		"*nat\n:PREROUTING ACCEPT\n-A PREROUTING -m hashlimit --hashlimit-above 1/sec -j DNAT --to-destination 10.0.0.5:1\nCOMMIT\n": {"192.168.122.1:53", "192.168.122.2:40000"},
	} {
		r, err := ruleset.Xtables{Family: "ip", Program: "iptables", Text: rules}.Parse()
		if err != nil {
			t.Fatal(err)
		}
		got := routed(t, &r).Ask()
		at := netip.AddrPortFrom(got.Packet.Dst, got.Packet.DstPort)
		from := netip.AddrPortFrom(got.Packet.Src, got.Packet.SrcPort)
		if got.Verdict != eval.Accepted || at.String() != want.to || from.String() != want.source {
			t.Errorf("%s: %s to %v from %v, want %+v", rules, got.Verdict, at, from, want)
		}
	}
}

// routed is the query of a packet that is routed wherever it goes, and masqueraded as
// 203.0.113.2.
func routed(t *testing.T, r *ruleset.Ruleset) *eval.Query {
	t.Helper()
	q := query(t, r)
	q.WithinRates = true
	q.Source = func(eval.Packet, string) netip.Addr { return netip.MustParseAddr("203.0.113.2") }
	q.Path = q.Path[:len(q.Path)-1]
	q.Route = func(eval.Packet) ([]eval.Hook, bool) {
		return []eval.Hook{{Layer: eval.IP, Name: "forward", In: "virbr0", Out: "eno1"}, {Layer: eval.IP, Name: "postrouting", In: "virbr0", Out: "eno1"}}, true
	}
	return q
}

// A map leads to an address and a port, and its elements tell whose they are.
func TestMapOfDestinations(t *testing.T) {
	r, err := ruleset.ParseNFT([]byte(`{"nftables": [{"table": {"family": "ip", "name": "t"}},
		{"map": {"family": "ip", "name": "to", "table": "t", "type": ["ipv4_addr", "inet_proto", "inet_service"], "map": "ipv4_addr . inet_service", "elem": [
			[{"elem": {"val": {"concat": [{"prefix": {"addr": "0.0.0.0", "len": 0}}, "udp", {"range": [50, 60]}]}, "comment": "lab"}}, {"concat": ["10.0.0.5", 90]}]]}},
		{"chain": {"family": "ip", "table": "t", "name": "p", "type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept"}},
		{"rule": {"family": "ip", "table": "t", "chain": "p", "handle": 1, "expr": [{"dnat": {"family": "ip", "addr": {"map": {"key": {"concat": [
			{"payload": {"protocol": "ip", "field": "saddr"}}, {"meta": {"key": "l4proto"}}, {"payload": {"base": "th", "offset": 16, "len": 16}}]}, "data": "@to"}}}}]}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	got := routed(t, &r).Ask()
	if got.Verdict != eval.Accepted || got.Packet.Dst.String() != "10.0.0.5" || got.Packet.DstPort != 90 {
		t.Errorf("%s to %v port %d", got.Verdict, got.Packet.Dst, got.Packet.DstPort)
	}
	if len(got.Translations) != 1 || got.Translations[0].Element == nil {
		t.Fatalf("translations are %+v", got.Translations)
	}
	if e := got.Translations[0].Element; e.Comment != "lab" || e.String() != "@to { 0.0.0.0/0 . udp . 50-60 }" {
		t.Errorf("the element is %s of %q", e, e.Comment)
	}
}

// Bits of headers are read by their place, as guards of ports do.
func TestRawFields(t *testing.T) {
	for _, c := range []struct {
		base          string
		offset, size  string
		right         string
		want, without eval.Verdict
	}{
		{"nh", "96", "32", `"0xc0a87a02"`, eval.Dropped, eval.Accepted},   // the source
		{"nh", "128", "32", "3232266753", eval.Dropped, eval.Accepted},    // the destination
		{"nh", "72", "8", "17", eval.Dropped, eval.Accepted},              // the protocol
		{"th", "0", "16", "40000", eval.Dropped, eval.Accepted},           // the source port
		{"ll", "48", "48", "90520730730498", eval.Dropped, eval.Accepted}, // 52:54:00:00:00:02
		{"nh", "64", "8", "64", eval.Unknown, eval.Unknown},               // the time to live
		{"ih", "0", "8", "64", eval.Unknown, eval.Unknown},
	} {
		for op, want := range map[string]eval.Verdict{"==": c.want, "!=": c.without} {
			q := query(t, nft(t, "", `{"match": {"op": "`+op+`", "left": {"payload": {"base": "`+c.base+`", "offset": `+c.offset+`, "len": `+c.size+`}}, "right": `+c.right+`}}, {"drop": null}`))
			q.Packet.SrcMAC = eval.MAC{0x52, 0x54, 0, 0, 0, 2}
			if got := q.Ask(); got.Verdict != want {
				t.Errorf("%s %s %s %s %s: %s, want %s", c.base, c.offset, c.size, op, c.right, got.Verdict, want)
			}
		}
	}
}
