package path_test

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge/path"
)

// TestWays asks for ways of both families through a host with rules.
func TestWays(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, args := range []string{
			"link add br0 type bridge", "link add lan0 type veth peer name lan1", "link add vpn0 type veth peer name vpn1",
			"link set br0 up", "link set lan0 up", "link set lan1 up", "link set vpn0 up", "link set vpn1 up",
			"addr add 192.0.2.1/24 dev br0", "addr add 203.0.113.2/24 dev lan0", "route add default via 203.0.113.1",
			"-6 addr add 2001:db8:1::1/64 dev br0 nodad", "-6 route add 2001:db8:f::/48 dev lan0",
			"rule add pref 52 from 192.0.2.128/25 lookup 52", "route add default dev vpn0 table 52",
			"rule add pref 53 from 192.0.2.64/26 iif br0 prohibit",
			"route add blackhole 198.51.100.0/25", "route add unreachable 198.51.100.128/25",
			"-6 route add prohibit 2001:db8:9::/48",
		} {
			nstest.IP(t, args)
		}
		nstest.Exec(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
		br0, err := net.InterfaceByName("br0")
		if err != nil {
			t.Fatal(err)
		}
		var a path.Asker
		defer a.Close()
		for _, tt := range []struct {
			from, to, out string
			table         int
			err           error
			rule          string
		}{
			{"192.0.2.2", "198.41.0.4", "lan0", 254, nil, "32766: from all lookup main"},
			{"192.0.2.130", "198.41.0.4", "vpn0", 52, nil, "52: from 192.0.2.128/25 lookup 52"},
			{"192.0.2.65", "198.41.0.4", "", 0, path.ErrProhibited, "53: from 192.0.2.64/26 iif br0 refuse"},
			{"192.0.2.2", "198.51.100.1", "", 0, path.ErrBlackhole, ""},
			{"192.0.2.2", "198.51.100.129", "", 0, path.ErrUnreachable, ""},
			{"2001:db8:1::2", "2001:db8:f::1", "lan0", 254, nil, "32766: from all lookup main"},
			{"2001:db8:1::2", "2001:db8:9::1", "", 0, path.ErrProhibited, ""},
			{"2001:db8:1::2", "2001:db8:7::1", "", 0, path.ErrNoRoute, ""},
			{"", "192.0.2.2", "br0", 254, nil, "32766: from all lookup main"},
		} {
			p := path.Packet{To: netip.MustParseAddr(tt.to)}
			in := ""
			if tt.from != "" {
				p.From, p.In, in = netip.MustParseAddr(tt.from), br0.Index, "br0"
			}
			way, err := a.Lookup(p)
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Errorf("from %s to %s: %v, want %v", tt.from, tt.to, err, tt.err)
				continue
			}
			if out := leadsTo(way, err); out != tt.out || way.Table != tt.table {
				t.Errorf("from %s to %s: %+v (%s), want %s by table %d", tt.from, tt.to, way, out, tt.out, tt.table)
			}
			rule, ok := decisive(t, &a, p, in, way, err)
			if said := rule.String(); ok != (tt.rule != "") || ok && said != tt.rule {
				t.Errorf("from %s to %s: by rule %q (%v), want %q", tt.from, tt.to, said, ok, tt.rule)
			}
		}
	})
}

// TestWhatIsLookedAt has the kernel look at a packet's mark and ports, and tell by which router it
// goes, with which source, and what it takes itself.
func TestWhatIsLookedAt(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, args := range []string{
			"link add lan0 type bridge", "link add br0 type bridge", "link set lan0 up", "link set br0 up",
			"addr add 203.0.113.2/24 dev lan0", "addr add 192.0.2.1/24 dev br0", "route add default via 203.0.113.1",
			"-6 addr add 2001:db8:1::1/64 dev br0 nodad", "-6 addr add 2001:db8:f::2/64 dev lan0 nodad", "-6 route add default via 2001:db8:f::1",
			"rule add pref 52 fwmark 7 prohibit", "rule add pref 53 ipproto tcp dport 25 prohibit", "-6 rule add pref 52 fwmark 7 prohibit", "-6 rule add pref 53 ipproto tcp dport 25 prohibit",
		} {
			nstest.IP(t, args)
		}
		nstest.Exec(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
		nstest.Eventually(t, 30*time.Second, "the host has its addresses", func() error { // which is not before the kernel's worker has run
			if local := nstest.IP(t, "-6 route show table local"); !strings.Contains(local, "2001:db8:1::1") || !strings.Contains(local, "2001:db8:f::2") {
				return errors.New(local)
			}
			return nil
		})
		br0, err := net.InterfaceByName("br0")
		if err != nil {
			t.Fatal(err)
		}
		var a path.Asker
		defer a.Close()
		for _, family := range []struct{ guest, gateway, host, router, outside string }{
			{"192.0.2.2", "192.0.2.1", "203.0.113.2", "203.0.113.1", "198.41.0.4"},
			{"2001:db8:1::2", "2001:db8:1::1", "2001:db8:f::2", "2001:db8:f::1", "2001:503:ba3e::2:30"},
		} {
			out := path.Packet{From: netip.MustParseAddr(family.guest), To: netip.MustParseAddr(family.outside), In: br0.Index, Protocol: 6, SrcPort: 40000, DstPort: 443}
			if way, err := a.Lookup(out); err != nil || way.Via.String() != family.router || way.Local {
				t.Errorf("%+v: %+v, %v, want it by %s", out, way, err, family.router)
			}
			marked, mail := out, out
			marked.Mark, mail.DstPort = 7, 25
			for _, p := range []path.Packet{marked, mail} {
				if way, err := a.Lookup(p); !errors.Is(err, path.ErrProhibited) {
					t.Errorf("%+v: %+v, %v, want it prohibited", p, way, err)
				}
			}
			if way, err := a.Lookup(path.Packet{To: out.To}); err != nil || way.Source.String() != family.host {
				t.Errorf("to %s: %+v, %v, want the source %s", out.To, way, err, family.host)
			}
			if way, err := a.Lookup(path.Packet{From: out.From, To: netip.MustParseAddr(family.gateway), In: br0.Index}); err != nil || !way.Local {
				t.Errorf("to %s: %+v, %v, want it taken by the host", family.gateway, way, err)
			}
		}
	})
}

// leadsTo is the link that a way leads out of, empty where err says there is no way.
func leadsTo(way path.Way, err error) string {
	out, failed := net.InterfaceByIndex(way.Out)
	if err != nil || failed != nil {
		return ""
	}
	return out.Name
}

// decisive is the rule that chose the way of p, or refused one.
func decisive(t *testing.T, a *path.Asker, p path.Packet, in string, way path.Way, err error) (path.Rule, bool) {
	t.Helper()
	rules, failed := a.Rules(p.To)
	if failed != nil {
		t.Fatal(failed)
	}
	if err != nil {
		return path.Refused(rules, p, in)
	}
	return path.Chosen(rules, p, in, way.Table)
}
