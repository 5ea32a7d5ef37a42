package network_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
)

// listen has whoever is in ns take connections at ports.
func listen(t *testing.T, ns *nstest.NS, ports ...string) {
	t.Helper()
	for _, port := range ports {
		var l net.Listener
		must(t, ns.Do(func() (err error) {
			l, err = net.Listen("tcp4", ":"+port)
			return err
		}))
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = c.Close()
			}
		}()
	}
}

// canOpen reports whether ns can open a connection.
func canOpen(ns *nstest.NS, to string, patience time.Duration) bool {
	err := ns.Do(func() error {
		c, err := net.DialTimeout("tcp4", to, patience)
		if err == nil {
			err = c.Close()
		}
		return err
	})
	return err == nil
}

// TestPeersByPackets has guests of two networks, one of them isolated, open what both networks
// say, and no more, and an isolated network reach what names in its rules have.
func TestPeersByPackets(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		resolvConf := upstreamIn(t, func(q dns.Question) []string {
			if q.Qtype == dns.TypeA && strings.ToLower(q.Name) == "www.allowed.test." {
				return []string{q.Name + " 300 A 203.0.113.7"}
			}
			return nil
		})
		ext := nstest.NewNS(t, "ext")
		nstest.IP(t, "link add ext0 type veth peer name eth0 netns ext")
		nstest.IP(t, "addr add 203.0.113.1/24 dev ext0")
		nstest.IP(t, "link set ext0 up")
		ext.IP("addr add 203.0.113.7/24 dev eth0")
		ext.IP("link set eth0 up")
		listen(t, ext, "443", "80")

		h := newHub(t, t.TempDir(), hubOptions{resolvConf: resolvConf})
		h.started(peerXML("web", "nat", "192.0.2", "<vnetd:peer network='db' ports='tcp/5432' direction='out'/>"))
		dbXML := func(inside string) string {
			return peerXML("db", "", "198.51.100", "<vnetd:peer network='web' ports='tcp/5432' direction='in'/>"+inside)
		}
		db := h.started(dbXML("<vnetd:rules><vnetd:rule direction='egress' action='allow' proto='tcp' to='www.allowed.test' ports='443'/></vnetd:rules>"))
		g, o := asker(t, "web", "guest", "192.0.2"), asker(t, "db", "other", "198.51.100")
		g.IP("route add default via 192.0.2.1")
		o.IP("route add default via 198.51.100.1")
		listen(t, o, "5432", "5433")
		listen(t, g, "5432")
		check := func(when string, ns *nstest.NS, to string, want bool) {
			t.Helper()
			nstest.Eventually(t, wait, fmt.Sprintf("%s, %s is as it should be", when, to), func() error {
				if got := canOpen(ns, to, 700*time.Millisecond); got != want {
					return fmt.Errorf("reached: %v, want %v", got, want)
				}
				return nil
			})
		}
		check("peered", g, "198.51.100.50:5432", true)
		check("peered", g, "198.51.100.50:5433", false)
		check("peered", o, "192.0.2.50:5432", false)
		check("before it asks", o, "203.0.113.7:443", false)
		if got := asks(t, o, "198.51.100.1", "www.allowed.test"); got != "203.0.113.7" {
			t.Errorf("www.allowed.test is %q", got)
		}
		if !canOpen(o, "203.0.113.7:443", wait) {
			t.Error("what a guest was told is not open when it is told")
		}
		check("asked", o, "203.0.113.7:80", false)
		h.defineWith(dbXML("<vnetd:rules ingress='drop'/>"), api.DefineOptions{})
		check("ingress dropped", g, "198.51.100.50:5432", false)
		check("without the rule", o, "203.0.113.7:443", false)
		h.defineWith(dbXML(""), api.DefineOptions{})
		check("without rules", g, "198.51.100.50:5432", true)
		checkMet(t, h, g, o, dbXML)
		must(t, db.Stop(t.Context()))
		check("stopped", g, "198.51.100.50:5432", false)
		must(t, db.Start(t.Context()))
	})
}

// checkMet has connections be counted by the peerings of both networks, and by rules.
func checkMet(t *testing.T, h *hub, web, db *nstest.NS, dbXML func(string) string) {
	t.Helper()
	met := func(name string) (peers []api.Peer, rules api.Rules) {
		t.Helper()
		n, err := h.Lookup(name)
		must(t, err)
		peers, rules = h.Peerings().On(n), h.Peerings().Rules(n)
		must(t, h.Peerings().Count(t.Context(), n, peers, &rules))
		return peers, rules
	}
	h.defineWith(dbXML("<vnetd:rules egress='drop'><vnetd:rule direction='egress' action='reject' proto='tcp' ports='81'/>"+
		"<vnetd:rule direction='egress' action='allow' proto='tcp' ports='80' to='203.0.113.7'/></vnetd:rules>"), api.DefineOptions{})
	before, _ := met("db")
	for range 3 {
		if !canOpen(web, "198.51.100.50:5432", wait) || !canOpen(db, "203.0.113.7:80", wait) || canOpen(db, "203.0.113.7:81", 700*time.Millisecond) {
			t.Fatal("what is open is closed, or the other way round")
		}
	}
	fromDB, rules := met("db")
	fromWeb, none := met("web")
	if got := fromDB[0].Met.Packets - before[0].Met.Packets; got != 3 || *fromWeb[0].Met != *fromDB[0].Met {
		t.Errorf("of 3 connections db's peering has met %d, and all in all %+v, as web's has %+v", got, fromDB[0].Met, fromWeb[0].Met)
	}
	if len(rules.Met) != 2 || rules.Met[0].Packets != 3 || rules.Met[1].Packets != 3 || none.Met != nil {
		t.Errorf("of 3 connections each, rules have met %+v, and where there are none %+v", rules.Met, none.Met)
	}
}

// TestReachNamesPolicies has peers and rules be named where they decide, and the commands that
// would have them decide otherwise.
func TestReachNamesPolicies(t *testing.T) {
	for _, nftables := range []bool{false, true} {
		t.Run(fmt.Sprint("nftables ", nftables), func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				nstest.NewLAN(t)
				h := newHub(t, t.TempDir(), hubOptions{nftables: nftables})
				h.started(peerXML("web", "nat", "192.0.2", ""))
				h.started(peerXML("db", "", "198.51.100", ""))
				g, o := asker(t, "web", "guest", "192.0.2"), asker(t, "db", "other", "198.51.100")
				g.IP("route add default via 192.0.2.1")
				o.IP("route add default via 198.51.100.1")
				ask := func(from, to string, port uint16) api.ReachWay {
					t.Helper()
					r, err := h.Reach(t.Context(), api.ReachQuestion{From: from, To: to, Protocol: "tcp", Port: port})
					must(t, err)
					return r.Ways[0]
				}
				const web, db, beyond = "192.0.2.50", "198.51.100.50", nstest.LANHost
				for _, c := range []struct {
					what, inWeb, inDB string
					from, to          string
					owner, remedy     string // the remedy is empty for what is reached
				}{
					{"no peers", "", "", web, db, "", "vnetctl peer add web db tcp/5432 && vnetctl peer add db web tcp/5432 --direction in"},
					{
						"another peering", "<vnetd:peer network='db' ports='tcp/80 icmp' direction='out'/>", "<vnetd:peer network='web' ports='udp' direction='in'/>",
						web, db, "", "vnetctl peer add web db tcp/80 icmp tcp/5432 && vnetctl peer add db web udp tcp/5432 --direction in",
					},
					{"a peering", "<vnetd:peer network='db' ports='tcp/5432' direction='out'/>", "<vnetd:peer network='web' direction='in'/>", web, db, "network db, peer web", ""},
					{
						"a rule against it", "<vnetd:peer network='db' direction='out'/>",
						"<vnetd:peer network='web' direction='in'/><vnetd:rules><vnetd:rule direction='ingress' action='reject' proto='tcp'/></vnetd:rules>",
						web, db, "network db, rule 1", "vnetctl rule add db ingress allow tcp/5432 from 192.0.2.50 --at 1",
					},
					{"a default", "<vnetd:rules egress='drop'/>", "", web, beyond, "network web, default of egress", "vnetctl rule add web egress allow tcp/5432 to 203.0.113.1 --at 1"},
					{"an isolated network", "", "", db, beyond, "", "vnetctl rule add db egress allow tcp/5432 to 203.0.113.1 --at 1"},
					{
						"what a rule lets out", "", "<vnetd:rules><vnetd:rule direction='egress' action='allow' proto='tcp' ports='5432'/></vnetd:rules>",
						db, beyond, "network db, rule 1", "",
					},
					{"a closed network", "", "", beyond, web, "", "vnetctl rule add web ingress allow tcp/5432 from 203.0.113.1 --at 1"},
				} {
					h.defineWith(peerXML("web", "nat", "192.0.2", c.inWeb), api.DefineOptions{})
					h.defineWith(peerXML("db", "", "198.51.100", c.inDB), api.DefineOptions{})
					way := ask(c.from, c.to, 5432)
					rules := way.Accepted
					if way.Rule != nil {
						rules = append(rules, *way.Rule)
					}
					named := slices.ContainsFunc(rules, func(r api.ReachRule) bool { return r.Owner == c.owner })
					if c.owner != "" && !named || (way.Verdict == api.ReachYes) != (c.remedy == "") || c.remedy != "" && !slices.Contains(way.Remedies, c.remedy) {
						t.Errorf("%s: %s, by %+v, want %q; remedies %q, want %q", c.what, way.Verdict, rules, c.owner, way.Remedies, c.remedy)
					}
				}
			})
		})
	}
}
