package admission_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/netdef/policy"
	"github.com/vnetd/vnetd/pkg/network/admission"
)

// parse is a network of that mode, "" for isolated, with those elements.
func parse(t *testing.T, name, mode, subnet, inside string) *netdef.Network {
	t.Helper()
	if mode != "" {
		mode = "<forward mode='" + mode + "'/>"
	}
	n, err := netdef.Parse([]byte("<network xmlns:vnetd='urn:vnetd:network:1'><name>" + name + "</name>" + mode +
		"<bridge name='br" + name + "'/><ip address='" + subnet + ".1' prefix='24'/>" + inside + "</network>"))
	if err == nil {
		err = n.Validate()
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// peer is a <vnetd:peer>, access a <vnetd:access> of one user.
func peer(network, ports, direction string) string {
	if ports != "" {
		ports = " ports='" + ports + "'"
	}
	return "<vnetd:peer network='" + network + "'" + ports + " direction='" + direction + "'/>"
}

func access(user string) string {
	return "<vnetd:access><vnetd:user name='" + user + "'/></vnetd:access>"
}

// TestGranted has two networks say what they let in and out, and looks at what guests of a may
// open to those of b, and why the first peering of a waits.
func TestGranted(t *testing.T) {
	alice, bob := access("alice"), access("bob")
	for _, tt := range []struct {
		name         string
		modeA, modeB string
		a, b         string
		want, waits  string
	}{
		{"nobody says anything", "nat", "nat", "", "", "", ""},
		{"of one owner, one says", "nat", "route", peer("b", "tcp/5432", "out"), "", "tcp/5432", ""},
		{"of one owner, the other says", "nat", "nat", "", peer("a", "", "in"), "everything", ""},
		{"of one user", "nat", "nat", peer("b", "", "both") + alice, alice, "everything", ""},
		{"the wrong way", "nat", "nat", peer("b", "tcp/1", "in"), "", "", ""},
		{"an isolated network does not say", "nat", "", peer("b", "tcp/1", "out"), "", "", "direction='in'"},
		{"it does", "", "", peer("b", "tcp/1", "out"), peer("a", "udp/1", "out"), "tcp/1", ""},
		{"of two, one says", "nat", "nat", peer("b", "tcp/5432", "out") + alice, bob, "", "<vnetd:peer network='a' ports='tcp/5432' direction='in'/>"},
		{"of one and of all", "nat", "nat", peer("b", "", "out") + alice, "", "", "<vnetd:peer network='a' direction='in'/>"},
		{"of two, both say", "nat", "nat", peer("b", "tcp/5432 udp/53", "out") + alice, peer("a", "", "both") + bob, "tcp/5432 udp/53", ""},
		{"part of it", "nat", "nat", peer("b", "tcp/5432 udp/53", "out") + alice, peer("a", "tcp/5000-6000", "in") + bob, "tcp/5432", "ports='udp/53'"},
		{"more is let in", "nat", "nat", peer("b", "", "out") + alice, peer("a", "tcp/1-10 icmp", "in") + bob, "tcp/1-10 icmp", "<vnetd:peer network='a' direction='in'/>"},
		{"the other way alone", "nat", "nat", peer("b", "tcp/1", "out") + alice, peer("a", "tcp/1", "out") + bob, "", "direction='in'"},
		{"an open network", "nat", "open", peer("b", "", "out"), "", "", "is of mode open"},
	} {
		a, b := parse(t, "a", tt.modeA, "192.0.2", tt.a), parse(t, "b", tt.modeB, "198.51.100", tt.b)
		granted := admission.Granted(a, b)
		if got := policy.JoinServices(granted); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		peers := admission.Peers(b, []*netdef.Network{a, b})
		if (len(peers) == 1) != (tt.want != "") || len(peers) > 0 && (peers[0].Bridge != "bra" || len(peers[0].Services) == 0 != (tt.want == "everything")) {
			t.Errorf("%s: the peers are %+v", tt.name, peers)
		}
		if len(a.Peers) == 0 {
			continue
		}
		got := admission.Waiting(a, &a.Peers[0], admission.Known{Doc: b, Active: true})
		if (got == "") != (tt.waits == "") || !strings.Contains(got, tt.waits) {
			t.Errorf("%s: waits as %q, want %q", tt.name, got, tt.waits)
		}
	}
	a, b := parse(t, "a", "nat", "192.0.2", peer("b", "", "both")), parse(t, "b", "nat", "192.0.2", "")
	if got := admission.Waiting(a, &a.Peers[0], admission.Known{Doc: b, Active: true}); !strings.Contains(got, "192.0.2.0/24 and 192.0.2.0/24") || admission.Granted(a, b) != nil {
		t.Errorf("of one subnet: %q", got)
	}
}

// TestPolicy has rules of a port and of its network be those of the firewall, with sets and names.
func TestPolicy(t *testing.T) {
	n := parse(t, "a", "nat", "192.0.2", "<vnetd:rules egress='reject'><vnetd:set name='s'>203.0.113.1 *.example.org 203.0.113.0/24</vnetd:set>"+
		"<vnetd:rule direction='egress' action='allow' to='none.example.net'/><vnetd:rule direction='egress' action='allow' proto='tcp' ports='80 443' to='@s' log='yes'/></vnetd:rules>")
	own, err := policy.ParseRule("egress drop icmp")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string][]netip.Addr{"*.example.org": {netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("203.0.113.1")}}
	p := admission.Policy(n, []admission.Port{{Label: "vnet0", Rules: []policy.Rule{own}}}, func(name string) []netip.Addr { return names[name] })
	if p.Egress != firewall.ActionReject || p.Ingress != "" || len(p.Rules) != 2 {
		t.Fatalf("got %+v: the rule whose name has no address must not be one for all", p)
	}
	if r := p.Rules[0]; r.Guest == nil || r.Label != "vnet0 rule 1" || r.Services[0].Protocol != "icmp" {
		t.Errorf("of the port: %+v", r)
	}
	r := p.Rules[1]
	if got, want := fmt.Sprint(r.Remote), "[203.0.113.0/24 203.0.113.1/32 2001:db8::1/128]"; got != want || r.Label != "rule 2" || !r.Log || len(r.Services) != 2 {
		t.Errorf("of the network: %+v, want %s", r, want)
	}
}

// The two addresses that www.example.org has in the tests of names, and when they are learnt.
var (
	first, second = netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")
	learntAt      = time.Unix(1e9, 0)
)

// learn has names learn that www.example.org has both, the first for a moment.
func learn(t *testing.T, l *admission.Names) {
	t.Helper()
	l.Watch([]policy.Remote{{Name: "www.example.org"}, {Name: "*.example.org"}})
	if !l.Learn("www.example.org", first, time.Second, learntAt) || l.Learn("www.example.org", first, time.Second, learntAt) || !l.Learn("www.example.org", second, time.Minute, learntAt) {
		t.Error("what is new and what is not")
	}
}

// TestNames has names be learnt, and nothing of others, nor addresses that are nobody's.
func TestNames(t *testing.T) {
	var l admission.Names
	learn(t, &l)
	if l.Learn("example.org", first, time.Hour, learntAt) || l.Watches("example.org") || !l.Watches("x.example.org") {
		t.Error("a name that is none of them")
	}
	for _, nobodys := range []string{"127.0.0.1", "::1", "0.0.0.0", "fe80::1", "224.0.0.1"} {
		if l.Learn("www.example.org", netip.MustParseAddr(nobodys), time.Hour, learntAt) {
			t.Errorf("%s is learnt", nobodys)
		}
	}
	for _, name := range []string{"www.example.org", "*.example.org"} {
		if got := l.Addrs(name); !slices.Equal(got, []netip.Addr{first, second}) {
			t.Errorf("%s has %v", name, got)
		}
	}
}

// TestNamesExpire has addresses of names be forgotten, not before the floor, and kept for the
// next process.
func TestNamesExpire(t *testing.T) {
	var l admission.Names
	learn(t, &l)
	news := l.News()
	if changed, next := l.Expire(learntAt.Add(29 * time.Second)); changed || next.Sub(learntAt) != 35*time.Second || l.News() != news {
		t.Errorf("before the floor something ends, or the next end is after %v", next.Sub(learntAt))
	}
	if changed, _ := l.Expire(learntAt.Add(31 * time.Second)); !changed || l.News() == news || !slices.Equal(l.Addrs("www.example.org"), []netip.Addr{second}) {
		t.Errorf("after the floor there is %v", l.Addrs("www.example.org"))
	}
	var next admission.Names
	next.Restore(l.All())
	next.Watch([]policy.Remote{{Name: "www.example.org"}})
	if all := next.All(); len(all) != 1 || all[0].Addr != second || !all[0].Until.Equal(learntAt.Add(time.Minute)) {
		t.Errorf("the next vnetd knows %+v", all)
	}
}

// TestNamesExpireInTime has what is learnt later end sooner than what was waited for.
func TestNamesExpireInTime(t *testing.T) {
	var late admission.Names
	late.Watch([]policy.Remote{{Name: "www.example.org"}})
	late.Learn("www.example.org", first, 24*time.Hour, learntAt)
	_, again := late.Expire(learntAt)
	late.Learn("www.example.org", second, time.Second, learntAt) // while somebody waits until then
	if again.After(learntAt.Add(35 * time.Second)) {
		t.Errorf("beside an address that lasts, what is learnt later is let go after %v", again.Sub(learntAt))
	}
	if changed, _ := late.Expire(again); !changed || !slices.Equal(late.Addrs("www.example.org"), []netip.Addr{first}) {
		t.Errorf("then there is %v", late.Addrs("www.example.org"))
	}
}

// TestManyNames has a name have more addresses than are kept: those that last longest are.
func TestManyNames(t *testing.T) {
	var l admission.Names
	l.Watch([]policy.Remote{{Name: "www.example.org"}})
	for i := range 2000 {
		l.Learn("www.example.org", netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), time.Hour+time.Duration(i)*time.Second, learntAt)
	}
	if got := l.Addrs("www.example.org"); len(got) != 1024 || !slices.Contains(got, netip.AddrFrom4([4]byte{198, 18, 1999 >> 8, 1999 & 0xff})) {
		t.Errorf("there are %d addresses", len(got))
	}
	if changed, left := l.Expire(learntAt.Add(24 * time.Hour)); !changed || !left.IsZero() {
		t.Errorf("in the end: %v, %v", changed, left)
	}
}
