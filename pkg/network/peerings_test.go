package network_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/network"
)

// intents are real rules that note what was asked for last, by network.
type intents struct {
	realRules
	mu   sync.Mutex
	last map[string]firewall.Network
	sets int
}

func (i *intents) Set(ctx context.Context, n firewall.Network) error {
	i.mu.Lock()
	if i.last == nil {
		i.last = make(map[string]firewall.Network)
	}
	i.last[n.Name] = n
	i.sets++
	i.mu.Unlock()
	return i.realRules.Set(ctx, n)
}

// of is what was asked for last for a network.
func (i *intents) of(name string) firewall.Network {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.last[name]
}

// peers are those of a network, a word each.
func (i *intents) peers(name string) string {
	var all []string
	for _, p := range i.of(name).Peers {
		text := p.Name + "@" + p.Bridge
		for _, s := range p.Services {
			text += fmt.Sprintf(" %s/%d-%d", s.Protocol, s.Ports.Start, s.Ports.End)
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// remotes are those of a network's policy, of its first rule.
func (i *intents) remotes(name string) []string {
	var all []string
	if rules := i.of(name).Policy.Rules; len(rules) > 0 {
		for _, p := range rules[0].Remote {
			all = append(all, p.String())
		}
	}
	return all
}

func (i *intents) hub(t *testing.T, root string, opts hubOptions) *hub {
	opts.rules = func(r network.Rules) network.Rules {
		i.realRules = r
		return i
	}
	return newHub(t, root, opts)
}

// peerXML is a network with a domain of its own, .example, and elements of vnetd's.
func peerXML(name, mode, subnet, inside string) string {
	forward := ""
	if mode != "" {
		forward = "<forward mode='" + mode + "'/>"
	}
	return "<network xmlns:vnetd='urn:vnetd:network:1'><name>" + name + "</name>" + forward + "<bridge name='" + name + "'/><domain name='" + name + ".example'/>" +
		"<ip address='" + subnet + ".1' netmask='255.255.255.0'><dhcp><range start='" + subnet + ".2' end='" + subnet + ".254'/>" +
		"<host name='" + name + "1' ip='" + subnet + ".10'/></dhcp></ip>" + inside + "</network>"
}

// asks is what a guest is answered, each record a word.
func asks(t *testing.T, g *nstest.NS, server string, words ...string) string {
	t.Helper()
	out, _ := g.Command(t.Context(), "dig", append([]string{"+short", "+tries=1", "+time=3", "@" + server}, words...)...).Output()
	return strings.Join(strings.Fields(string(out)), " ")
}

// asker is a guest of a network which has its name server answer.
func asker(t *testing.T, bridge, name, subnet string) *nstest.NS {
	t.Helper()
	g := nstest.Guest(t, bridge, name, "")
	g.IP("addr add " + subnet + ".50/24 dev eth0")
	eventually(t, "guests find their gateway", subnet+".1", func() string { return asks(t, g, subnet+".1", "gateway") })
	return g
}

// eventually waits until a value is what it should be.
func eventually(t *testing.T, what, want string, is func() string) {
	t.Helper()
	nstest.Eventually(t, wait, what, func() error {
		if got := is(); got != want {
			return fmt.Errorf("%q, want %q", got, want)
		}
		return nil
	})
}

// peerState is where the first peering of a network stands.
func peerState(h *hub, n *network.Network) string {
	p := h.Peerings().On(n)[0]
	return strings.TrimSpace(string(p.State) + " " + p.Reason)
}

// TestPeersAgree has networks come, change and go, and looks at who may open what to whom, who is
// found by name, and what waits.
func TestPeersAgree(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		var rules intents
		root := t.TempDir()
		resolvConf := upstreamIn(t, func(dns.Question) []string { return nil })
		h := rules.hub(t, root, hubOptions{resolvConf: resolvConf})
		const alice, bob = "<vnetd:access><vnetd:user name='alice'/></vnetd:access>", "<vnetd:access><vnetd:user name='bob'/></vnetd:access>"
		web := h.started(peerXML("web", "nat", "192.0.2", "<vnetd:peer network='db' ports='tcp/5432 icmp' direction='out'/>"+alice))
		if got, want := peerState(h, web), `waiting network "db" does not exist`; got != want {
			t.Errorf("before there is another: %q, want %q", got, want)
		}
		db := h.define(peerXML("db", "", "198.51.100", bob))
		if got, want := peerState(h, web), `waiting network "db" is not active`; got != want {
			t.Errorf("before it is active: %q, want %q", got, want)
		}
		must(t, db.Start(t.Context()))
		if got, want := peerState(h, web), `waiting network "db" does not agree: it would need <vnetd:peer network='web' ports='tcp/5432 icmp' direction='in'/>`; got != want {
			t.Errorf("before it agrees: %q, want %q", got, want)
		}
		if got := rules.peers("db"); got != "" {
			t.Errorf("before it agrees there are the peers %s", got)
		}
		until(t, "a condition tells of it", func() bool {
			return slices.ContainsFunc(h.Conditions(), func(c api.Condition) bool { return c.Kind == "peer-waiting" && c.Networks[0] == "web" })
		})
		g := asker(t, "web", "guest", "192.0.2")
		if got := asks(t, g, "192.0.2.1", "db1.db.example"); got != "" {
			t.Errorf("a network that has not agreed is found by name: %s", got)
		}

		h.defineWith(peerXML("db", "", "198.51.100", "<vnetd:peer network='web' ports='tcp/5000-6000' direction='in'/>"+bob), api.DefineOptions{})
		eventually(t, "what both say is open", "web@web tcp/5432-5432", func() string { return rules.peers("db") })
		if got := rules.peers("web"); got != "" {
			t.Errorf("nobody may open anything to web, but %s", got)
		}
		if got, want := peerState(h, web), `waiting network "db" does not agree: it would need <vnetd:peer network='web' ports='icmp' direction='in'/>`; got != want {
			t.Errorf("half agreed: %q, want %q", got, want)
		}
		eventually(t, "the host is found by name", "198.51.100.10", func() string { return asks(t, g, "192.0.2.1", "db1.db.example") })
		eventually(t, "and by address", "db1.db.example.", func() string { return asks(t, g, "192.0.2.1", "-x", "198.51.100.10") })
		o := asker(t, "db", "other", "198.51.100")
		if got := asks(t, o, "198.51.100.1", "web1.web.example"); got != "" {
			t.Errorf("who may open nothing finds %s", got)
		}
		logs := h.started(peerXML("logs", "nat", "203.0.113", ""))
		l := asker(t, "logs", "third", "203.0.113")
		if got := asks(t, l, "203.0.113.1", "db1.db.example"); got != "" {
			t.Errorf("who is no peer finds %s", got)
		}

		h.end()
		rules.forget()
		h = rules.hub(t, root, hubOptions{resolvConf: resolvConf})
		eventually(t, "after a restart it is open", "web@web tcp/5432-5432", func() string { return rules.peers("db") })
		eventually(t, "and named", "198.51.100.10", func() string { return asks(t, g, "192.0.2.1", "db1.db.example") })
		web, err := h.ByName("web")
		must(t, err)
		must(t, web.Stop(t.Context()))
		eventually(t, "nothing is open to db", "", func() string { return rules.peers("db") })
		must(t, web.Start(t.Context()))
		eventually(t, "it is open again", "web@web tcp/5432-5432", func() string { return rules.peers("db") })
		db, err = h.ByName("db")
		must(t, err)
		must(t, db.Stop(t.Context()))
		if got, want := peerState(h, web), `waiting network "db" is not active`; got != want {
			t.Errorf("after it is stopped: %q, want %q", got, want)
		}
		must(t, db.Undefine(t.Context()))
		_ = logs
	})
}

// upstreamIn is a name server on lo that answers by f, and its resolv.conf.
func upstreamIn(t *testing.T, f func(q dns.Question) []string) (resolvConf string) {
	t.Helper()
	nstest.IP(t, "link set lo up")
	pc, err := net.ListenPacket("udp", "127.0.0.53:53")
	must(t, err)
	srv := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		for _, text := range f(q.Question[0]) {
			rr, err := dns.NewRR(text)
			if err != nil {
				t.Error(err)
				continue
			}
			m.Answer = append(m.Answer, rr)
		}
		if len(m.Answer) == 0 {
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = srv.ActivateAndServe() }()
	t.Cleanup(func() { _ = srv.Shutdown() })
	resolvConf = filepath.Join(t.TempDir(), "resolv.conf")
	must(t, os.WriteFile(resolvConf, []byte("nameserver 127.0.0.53\n"), 0o600))
	return resolvConf
}

// namesOpen has a guest of a new network ask for names in its rules.
func namesOpen(t *testing.T, h *hub, rules *intents, name, mode, subnet string) {
	t.Helper()
	const allow = "<vnetd:rules egress='reject'><vnetd:rule direction='egress' action='allow' proto='tcp' to='www.allowed.test *.wild.test 192.0.2.200' ports='443'/></vnetd:rules>"
	n := h.started(peerXML(name, mode, subnet, allow))
	g := asker(t, name, "guest"+name, subnet)
	if got := rules.remotes(name); !slices.Equal(got, []string{"192.0.2.200/32"}) {
		t.Fatalf("%s: before anybody asks there is %v", name, got)
	}
	server := subnet + ".1"
	open := func(what string, want ...string) {
		t.Helper()
		if got := rules.remotes(name); !slices.Equal(got, append([]string{"192.0.2.200/32"}, want...)) {
			t.Errorf("%s: after %s there is %v, want also %v", name, what, got, want)
		}
	}
	if got := asks(t, g, server, "www.allowed.test"); !strings.Contains(got, "203.0.113.7") {
		t.Fatalf("%s: www.allowed.test is %q", name, got)
	}
	open("an alias", "203.0.113.7/32")
	// What is not in a rule opens nothing, the end of an alias by its own name neither.
	for _, other := range []string{"other.test", "cdn.elsewhere.test", "wild.test", "www.allowed.test." + name + ".example"} {
		got := asks(t, g, server, other)
		if mode == "" && got != "" {
			t.Errorf("an isolated network is told that %s is %s", other, got)
		}
	}
	open("others", "203.0.113.7/32")
	for _, transport := range []string{"+notcp", "+tcp", "+notcp"} { // the last from the cache
		if got := asks(t, g, server, transport, "a.b.wild.test"); got != "203.0.113.8" {
			t.Errorf("%s: a.b.wild.test is %q over %s", name, got, transport)
		}
	}
	open("a wildcard", "203.0.113.7/32", "203.0.113.8/32")
	names := h.Peerings().Rules(n).Names
	if len(names) != 2 || names[0].Name != "*.wild.test" || time.Until(names[0].Until) > 300*time.Second {
		t.Errorf("%s: the names are %+v", name, names)
	}
}

// TestNamesOpen has guests ask for names in rules: what they are answered is open before they
// are, by aliases and wildcards too, of an isolated network as well, and nothing else is.
func TestNamesOpen(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		var rules intents
		var h *hub
		resolvConf := upstreamIn(t, func(q dns.Question) []string {
			name := strings.ToLower(q.Name)
			switch {
			case q.Qtype != dns.TypeA:
			case name == "www.allowed.test.":
				return []string{"www.allowed.test. 300 CNAME cdn.elsewhere.test.", "cdn.elsewhere.test. 300 A 203.0.113.7", "cdn.elsewhere.test. 300 A 127.0.0.1"}
			case strings.HasSuffix(name, ".wild.test."):
				return []string{name + " 300 A 203.0.113.8"}
			case name == "cdn.elsewhere.test." || name == "other.test.":
				return []string{name + " 300 A 203.0.113.99"}
			}
			return nil
		})
		root := t.TempDir()
		h = rules.hub(t, root, hubOptions{resolvConf: resolvConf})
		namesOpen(t, h, &rules, "one", "nat", "192.0.2")
		namesOpen(t, h, &rules, "two", "", "198.51.100")
		h.end()
		rules.forget()
		h = rules.hub(t, root, hubOptions{resolvConf: resolvConf})
		until(t, "a restart keeps what is open", func() bool {
			return slices.Equal(rules.remotes("one"), []string{"192.0.2.200/32", "203.0.113.7/32", "203.0.113.8/32"})
		})
		n, err := h.ByName("one")
		must(t, err)
		h.defineWith(peerXML("one", "nat", "192.0.2", ""), api.DefineOptions{})
		until(t, "rules go while the network is active", func() bool {
			p := rules.of("one").Policy
			return len(p.Rules) == 0 && p.Egress == "" && len(h.Peerings().Rules(n).Names) == 0
		})
	})
}

// TestPortRules has ports have rules of their own: before anybody has the port, as its guest's
// addresses change, and until it ends.
func TestPortRules(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		var rules intents
		root := t.TempDir()
		h := rules.hub(t, root, hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		opts := network.PortOptions{
			Name: "guest", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.77")}, Lifetime: api.LifetimePersistent,
			Settings: network.PortSettings{Rules: []string{"egress reject tcp/25", "ingress allow tcp/22 from 198.51.100.0/24 log"}},
		}
		p, file := h.port(n, opts)
		must(t, file.Close())
		got := rules.of("one").Policy.Rules
		if len(got) != 2 || got[0].Guest == nil || fmt.Sprint(got[0].Guest.MACs) != "["+p.MAC+"]" || got[0].Label != p.IfName+" rule 1" ||
			!slices.Equal(got[1].Guest.Addrs, opts.Addrs) || !got[1].Log || got[1].Remote[0].String() != "198.51.100.0/24" {
			t.Fatalf("when the port is there, its rules are %+v", got)
		}
		set := func(rules ...string) error {
			return h.Ports().Bandwidth().Set(t.Context(), n, p.UUID, func(s *network.PortSettings) error {
				s.Rules = rules
				return nil
			})
		}
		if err := set("egress allow to @nowhere"); err == nil || !strings.Contains(err.Error(), "there is no such <vnetd:set>") {
			t.Errorf("a set that is not there: %v", err)
		}
		if got := rules.of("one").Policy.Rules; len(got) != 2 {
			t.Errorf("after what was refused there are %d rules", len(got))
		}
		must(t, set("egress drop"))
		if got := rules.of("one").Policy.Rules; len(got) != 1 || got[0].Action != firewall.ActionDrop {
			t.Errorf("changed, the rules are %+v", got)
		}
		h.end()
		rules.forget()
		h = rules.hub(t, root, hubOptions{})
		until(t, "a restart keeps them", func() bool { return len(rules.of("one").Policy.Rules) == 1 })
		must(t, h.Ports().Release(t.Context(), p.UUID))
		until(t, "they end with the port", func() bool { return len(rules.of("one").Policy.Rules) == 0 })
		n, err := h.ByName("one")
		must(t, err)
		before := rules.sets
		opts.Settings.Rules = []string{"egress permit"}
		if _, _, err := h.Ports().Request(t.Context(), n, opts); network.KindOf(err) != api.Invalid {
			t.Errorf("rules that are none: %v", err)
		}
		if rules.sets != before {
			t.Error("what is refused changes rules")
		}
	})
}

// forget is for a hub that is started anew.
func (i *intents) forget() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.last = nil
}

// TestNamesEnd waits until what a name had has ended, and asks again.
func TestNamesEnd(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes as long as an address stays open at least")
	}
	nstest.Run(t, func(t *testing.T) {
		var rules intents
		resolvConf := upstreamIn(t, func(q dns.Question) []string {
			if q.Qtype != dns.TypeA {
				return nil
			}
			return []string{q.Name + " 1 A 203.0.113.7"}
		})
		h := rules.hub(t, t.TempDir(), hubOptions{resolvConf: resolvConf})
		n := h.started(peerXML("one", "nat", "192.0.2", "<vnetd:rules egress='drop'><vnetd:rule direction='egress' action='allow' to='www.allowed.test'/></vnetd:rules>"))
		g := asker(t, "one", "guest", "192.0.2")
		for range 2 {
			begin := time.Now()
			if got := asks(t, g, "192.0.2.1", "www.allowed.test"); got != "203.0.113.7" {
				t.Fatalf("www.allowed.test is %q", got)
			}
			if got := rules.remotes("one"); !slices.Equal(got, []string{"203.0.113.7/32"}) {
				t.Fatalf("after the answer there is %v", got)
			}
			nstest.Eventually(t, 2*wait, "the address ends", func() error {
				if left := rules.of("one").Policy.Rules; len(left) > 0 {
					return fmt.Errorf("there is %+v", left)
				}
				return nil
			})
			if took := time.Since(begin); took < 25*time.Second {
				t.Errorf("it ended after %v", took)
			}
		}
		must(t, n.Stop(t.Context()))
	})
}
