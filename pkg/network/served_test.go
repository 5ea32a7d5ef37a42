package network_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// Values of names, from which records are made: those that clients of libvirt
// write, and those that no wire carries.
func names() []string {
	label := strings.Repeat("a", 63)
	return []string{
		"web", "Web.Example.Com", "a_b", "-a", "a-", "_sip", "*", "*.example.com", "a/b", "a+b", `a"b`, `a\b`, "a'b", "a@b", "a:b", "a;b", "a=b", "a#b",
		"bücher", "bücher.example.com", "☃", "xn--bcher-kva", "xn--", "日本語", "a.b.", label, label + ".a", "a" + label, "a..b", ".a", "a b", "a,b",
		"a&#10;b", "a&#13;b", "a&#9;b", "", ".", strings.Repeat("abcdefghi.", 25) + "abc", strings.Repeat("abcdefghi.", 26), strings.Repeat("ü", 60), "a\u00a0b", "a\u200db",
		"localhost", "0", "192.0.2.1", "gateway",
	}
}

// entry is an element of <dns> or <dhcp>, and what asks for it.
type entry struct{ xml, ask string }

// entries are the elements that are made of a name.
func entries(name string) map[string]entry {
	q := strings.NewReplacer("'", "&apos;").Replace(name)
	return map[string]entry{
		"txt":        {xml: "<txt name='" + q + "' value='v'/>", ask: name + " TXT"},
		"txt value":  {xml: "<txt name='value' value='" + q + "'/>", ask: "value TXT"},
		"host":       {xml: "<host ip='192.0.2.9'><hostname>" + q + "</hostname></host>", ask: name + " A"},
		"srv target": {xml: "<srv service='s' protocol='tcp' domain='e' target='" + q + "'/>", ask: "_s._tcp.e SRV"},
		"srv domain": {xml: "<srv service='s' protocol='tcp' domain='" + q + "' target='t.e'/>", ask: "_s._tcp." + name + " SRV"},
		"srv":        {xml: "<srv service='" + q + "' protocol='tcp' domain='e' target='t.e'/>", ask: "_" + name + "._tcp.e SRV"},
		"protocol":   {xml: "<srv service='s' protocol='" + q + "' domain='e' target='t.e'/>", ask: "_s._" + name + ".e SRV"},
		"forwarder":  {xml: "<forwarder domain='" + q + "' addr='192.0.2.53'/>"},
	}
}

// servedXML is a network with those elements of <dns>, <dhcp> and of its own.
func servedXML(records, hosts, others string) string {
	return "<network><name>served</name><bridge name='served' stp='off'/>" + others +
		"<dns><txt name='probe' value='here'/>" + records + "</dns>" +
		"<ip address='192.168.130.1' netmask='255.255.255.0'><dhcp><range start='192.168.130.2' end='192.168.130.9'/>" + hosts + "</dhcp></ip></network>"
}

// TestAcceptedIsServed holds every record that a definition may have to what a
// resolver gets: where Validate accepts it, the record is there, and in any case
// so is the rest.
func TestAcceptedIsServed(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(servedXML("", "", ""))
		accepted := 0
		for _, name := range names() {
			for what, e := range entries(name) {
				if _, err := h.Define(t.Context(), []byte(servedXML(e.xml, "", ""))); err != nil {
					continue // one clear error, and nothing is made
				}
				accepted++
				if faults := n.Detail(nil).Faults; len(faults) > 0 {
					t.Fatalf("%s %q ends a service: %v", what, name, faults)
				}
				if got := answer(t, "probe TXT"); got != `"here"` {
					t.Fatalf("%s %q: the record beside it is %q", what, name, got)
				}
				if e.ask == "" {
					continue
				}
				if got := answer(t, e.ask); got == "" {
					t.Errorf("%s %q is accepted and not served", what, name)
				}
			}
		}
		if accepted < 100 {
			t.Errorf("only %d of the records were accepted", accepted)
		}
	})
}

// TestAcceptedStarts starts networks with values of every element beside those of
// DNS that a definition may have: each starts as a whole.
func TestAcceptedStarts(t *testing.T) {
	long, duid := strings.Repeat("f", 127), "0:3:0:1:52:54:0:12:34:56"
	v6 := func(address, prefix, dhcp string) string {
		return "<ip family='ipv6' address='" + address + "' prefix='" + prefix + "'>" + dhcp + "</ip>"
	}
	var docs []string
	for _, mtu := range []string{"68", "576", "1279", "1280", "9000", "65535"} {
		docs = append(docs, servedXML("", "", "<mtu size='"+mtu+"'/>"), servedXML("", "", "<mtu size='"+mtu+"'/>"+v6("2001:db8::1", "64", "")))
	}
	for _, name := range names() {
		docs = append(docs, servedXML("", "", "<domain name='"+name+"'/>"), servedXML("", "", "<domain name='"+name+"' localOnly='yes' register='yes'/>"))
		docs = append(docs, servedXML("", "<host name='"+name+"' ip='192.168.130.5'/>", ""), servedXML("", "<host mac='52:54:00:00:00:01' name='"+name+"' ip='192.168.130.5'/>", ""))
	}
	for _, host := range []string{
		"<host mac='52:54:00:0:0:1' ip='10.9.9.9'/>", "<host mac='52:54:00:00:00:01' ip='192.168.130.1'/>", "<host mac='52:54:00:00:00:01' id=':' ip='192.168.130.5'/>",
		"<host mac='52:54:00:00:00:01' ip='192.168.130.0'/>", "<host mac='52:54:00:00:00:01' ip='192.168.130.255'/>", "<host mac='52:54:00:00:00:01' ip='0.0.0.0'/>",
		"<host mac='52:54:00:00:00:01' ip='224.0.0.1'/>", "<bootp file='" + long + "'/>", "<bootp file='f' server='0.0.0.0'/>", "<bootp file='f&#10;g'/>",
		"<host mac='52:54:00:00:00:01' ip='192.168.130.5'/><host mac='52:54:00:00:00:01' ip='192.168.130.6'/>",
		"<host mac='52:54:00:00:00:01' ip='192.168.130.5'><lease expiry='4294967294' unit='seconds'/></host>",
	} {
		docs = append(docs, servedXML("", host, ""))
	}
	for _, dhcp := range []string{
		"<dhcp><host id='" + duid + "' ip='2001:db8::9'/></dhcp>", "<dhcp><host id='0:1' ip='2001:db8::9'/></dhcp>", "<dhcp><host id='::' ip='2001:db8::9'/></dhcp>",
		"<dhcp><host id='" + duid + "' ip='::ffff:192.0.2.1'/></dhcp>", "<dhcp><host name='a_b' ip='2001:db8::9'/></dhcp>", "<dhcp><host id='000100' name='x' ip='2001:db8::9'/></dhcp>",
		"<dhcp><range start='2001:db8::' end='2001:db8::ff'/></dhcp>", "<dhcp><range start='2001:db8::1' end='2001:db8::1'/></dhcp>",
	} {
		docs = append(docs, servedXML("", "", v6("2001:db8::1", "64", dhcp)))
	}
	for _, address := range [][2]string{
		{"2001:db8::1", "1"}, {"2001:db8::1", "127"}, {"2001:db8::1", "128"}, {"fe80::1", "64"}, {"::1", "128"}, {"::ffff:192.0.2.1", "120"}, {"2001:db8::", "64"},
	} {
		docs = append(docs, servedXML("", "", v6(address[0], address[1], "")))
	}
	for _, ip := range []string{
		"<ip address='192.0.2.1' prefix='32'/>", "<ip address='192.0.2.1' prefix='31'/>", "<ip address='192.0.2.0' prefix='24'/>", "<ip address='192.0.2.255' prefix='24'/>",
		"<ip address='127.0.0.2' prefix='8'/>", "<ip address='255.255.255.255' prefix='32'/>", "<ip address='240.0.0.1' prefix='8'/>", "<ip address='0.0.0.1' prefix='8'/>",
		"<ip address='10.0.0.1' prefix='1'/>",
	} {
		docs = append(docs, servedXML("", "", ip))
	}
	for _, route := range []string{
		"<route address='192.0.2.0' prefix='24' gateway='192.168.130.7'/>", "<route address='0.0.0.0' prefix='0' gateway='192.168.130.7'/>",
		"<route address='192.168.130.0' prefix='24' gateway='192.168.130.7'/>", "<route address='192.0.2.0' prefix='24' gateway='192.168.130.1'/>",
		"<route address='192.0.2.0' prefix='24' gateway='192.168.130.255'/>", "<route address='192.0.2.0' prefix='24' gateway='192.168.130.0'/>",
		"<route address='224.0.0.0' prefix='4' gateway='192.168.130.7'/>", "<route address='127.0.0.0' prefix='8' gateway='192.168.130.7'/>",
		"<route address='192.0.2.0' prefix='24' gateway='192.168.130.7' metric='4294967295'/>", "<route address='255.255.255.255' prefix='32' gateway='192.168.130.7'/>",
		"<route address='192.0.2.0' prefix='24' gateway='192.168.130.7'/><route address='192.0.2.0' prefix='24' gateway='192.168.130.8'/>",
		"<route address='192.0.2.0' prefix='24' gateway='192.168.130.7'/><route address='192.0.2.0' prefix='24' gateway='192.168.130.7'/>",
	} {
		docs = append(docs, servedXML("", "", route))
	}
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		started := 0
		for _, doc := range docs {
			n, err := h.Define(t.Context(), []byte(doc))
			if err != nil {
				continue
			}
			if err := n.Start(t.Context()); err != nil {
				t.Errorf("is accepted and does not start: %s\n%v", doc, err)
			} else {
				if faults := n.Detail(nil).Faults; len(faults) > 1 || len(faults) == 1 && faults["the host's resolver"] == "" {
					t.Errorf("starts without %v: %s", faults, doc)
				}
				must(t, n.Stop(t.Context()))
				started++
			}
			must(t, n.Undefine(t.Context()))
		}
		if started < 100 {
			t.Errorf("only %d of %d networks started", started, len(docs))
		}
	})
}

// answer asks the network's server for "NAME TYPE" and returns the first answer's
// data; ask may have letters outside of ASCII, which resolvers ask for in Punycode.
func answer(t *testing.T, ask string) string {
	t.Helper()
	name, qtype, _ := strings.Cut(ask, " ")
	for _, special := range [][2]string{
		{"bücher", "xn--bcher-kva"}, {"☃", "xn--n3h"}, {"日本語", "xn--wgv71a119e"}, {`\`, `\\`}, {`"`, `\"`}, {"@", `\@`}, {";", `\;`}, {"'", `\'`}, {"a\u200db", "ab"},
	} {
		name = strings.ReplaceAll(name, special[0], special[1])
	}
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), dns.StringToType[qtype])
	c := dns.Client{Timeout: 5 * time.Second}
	reply, _, err := c.ExchangeContext(t.Context(), m, "192.168.130.1:53")
	if err != nil || len(reply.Answer) == 0 {
		t.Logf("%s: %v", ask, err)
		return ""
	}
	return strings.Join(strings.Split(reply.Answer[0].String(), "\t")[4:], "\t")
}

// TestReservationsWithoutEffect names each static host that can never have its
// address, until it is gone.
func TestReservationsWithoutEffect(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		hosts := "<host mac='52:54:00:00:00:21' ip='192.168.130.5'/>"
		bad := "<host mac='52:54:00:00:00:22' ip='192.168.130.5'/><host mac='52:54:00:00:00:23' ip='10.99.1.22'/>"
		n := h.started(servedXML("", hosts+bad, ""))
		named := func(want ...string) {
			t.Helper()
			until(t, fmt.Sprintf("the reservations of %q to be named", want), func() bool {
				var seen []string
				for _, c := range n.Conditions() {
					if c.Kind == "reservation-unusable" {
						seen = append(seen, c.Message)
					}
				}
				return slices.EqualFunc(seen, want, strings.Contains)
			})
		}
		named("192.168.130.5 for 52:54:00:00:00:22", "10.99.1.22 for 52:54:00:00:00:23")
		h.define(servedXML("", hosts, ""))
		named()
	})
}

// TestFaultyRecordOfAnOlderVersion starts a network from a definition file with
// records that no Define takes any more: they are named, and the rest is served.
func TestFaultyRecordOfAnOlderVersion(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		doc := servedXML("<srv service='s' protocol='tcp' domain='e' target='a..b'/><txt name='a,b' value='v'/><txt name='lf' value='a&#10;b'/>"+
			"<host ip='192.0.2.9'><hostname>a..b</hostname><hostname>good</hostname></host><host ip='192.0.2.10'><hostname>c..d</hostname></host><forwarder domain='a..b' addr='192.0.2.53'/>", "<host name='a*b' ip='192.168.130.5'/>", "<domain name='a*b'/>"+
			"<vnetd:record xmlns:vnetd='urn:vnetd:network:1' name='r' type='NS' value='x'/><vnetd:record xmlns:vnetd='urn:vnetd:network:1' name='r' type='TXT' value='kept'/>")
		uuid := "<uuid>11111111-2222-3333-4444-555555555555</uuid><mac address='52:54:00:00:00:09'/>"
		must(t, os.MkdirAll(filepath.Join(root, "networks"), 0o755))
		must(t, os.WriteFile(filepath.Join(root, "networks", "served.xml"), []byte(strings.Replace(doc, "<bridge", uuid+"<bridge", 1)), 0o600))
		h := newHub(t, root, hubOptions{})
		if _, err := h.Define(t.Context(), []byte(doc)); network.KindOf(err) != api.Invalid {
			t.Errorf("defining it now: %v", err)
		}
		n, err := h.ByName("served")
		must(t, err)
		must(t, n.Start(t.Context()))
		check := func() {
			t.Helper()
			if got := n.Info(); got.State != api.Active {
				t.Errorf("the network is %s: %s", got.State, got.LastError)
			}
			if got := answer(t, "good A") + answer(t, "probe TXT") + answer(t, "r TXT"); got != `192.0.2.9"here""kept"` {
				t.Errorf("beside the faulty records there is %s", got)
			}
			until(t, "every faulty record to be named", func() bool {
				var seen []string
				for _, c := range n.Conditions() {
					if c.Kind == "faulty-record" {
						seen = append(seen, c.Evidence)
					}
				}
				for _, want := range []string{"srv[1]/@target", "txt[2]/@name", "txt[3]/@value", "forwarder[1]/@domain", "host[1]/@name", "domain/@name", "host[1]/hostname[1]", "host[2]/hostname[1]", "vnetd:record[1]/@type"} {
					if !slices.ContainsFunc(seen, func(s string) bool { return strings.Contains(s, want) }) {
						return false
					}
				}
				return len(seen) == 9
			})
		}
		check()
		h.end()
		h = newHub(t, root, hubOptions{})
		n, err = h.ByName("served")
		must(t, err)
		check()
		// Each can be taken out by itself, while the others are still there.
		for _, u := range []netdef.Update{
			{Command: netdef.CommandDelete, Section: netdef.SectionDNSSRV, XML: []byte("<srv service='s' protocol='tcp' domain='e' target='a..b'/>")},
			{Command: netdef.CommandAddLast, Section: netdef.SectionDNSTXT, XML: []byte("<txt name='new' value='v'/>")},
		} {
			must(t, n.Update(t.Context(), u, 0))
		}
		err = n.Update(t.Context(), netdef.Update{Command: netdef.CommandAddLast, Section: netdef.SectionDNSTXT, XML: []byte("<txt name='b,c' value='v'/>")}, 0)
		if err == nil || strings.Contains(fmt.Sprint(err), "a,b") || !strings.Contains(fmt.Sprint(err), "b,c") {
			t.Errorf("another faulty record: %v", err)
		}
	})
}

// TestRecordsWhileAsked changes the records of an active network one by one while its names
// are asked for: each change is seen at once, no question is lost, and what is
// defined is what is.
func TestRecordsWhileAsked(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(servedXML("", "", ""))
		asking, stop := make(chan string, 1), make(chan struct{})
		go func() {
			for asked := 1; ; asked++ {
				select {
				case <-stop:
					asking <- ""
					return
				default:
				}
				m := new(dns.Msg).SetQuestion("probe.", dns.TypeTXT)
				r, _, err := (&dns.Client{Timeout: 10 * time.Second}).Exchange(m, "192.168.130.1:53")
				if err != nil || len(r.Answer) != 1 {
					asking <- fmt.Sprintf("question %d: %v, %v", asked, r, err)
					return
				}
			}
		}()
		update := func(command netdef.Command, xml string) {
			t.Helper()
			must(t, n.Update(t.Context(), netdef.Update{Command: command, Section: netdef.SectionRecord, XML: []byte(xml)}, network.TargetLive|network.TargetConfig))
		}
		for i := range 20 {
			first, second := fmt.Sprintf("192.0.2.%d", 10+i), fmt.Sprintf("192.0.2.%d", 110+i)
			for _, step := range []struct {
				command  netdef.Command
				xml, has string
			}{
				{netdef.CommandAddLast, "<vnetd:record name='live' type='A' value='" + first + "'/>", first},
				{netdef.CommandModify, "<record name='live' type='A' value='" + second + "' ttl='5'/>", second},
				{netdef.CommandDelete, "<record name='live'/>", ""},
			} {
				update(step.command, step.xml)
				if got := answer(t, "live A"); got != step.has {
					t.Errorf("after %s the name has %q", step.xml, got)
				}
			}
		}
		update(netdef.CommandAddLast, "<record name='stays' type='TXT' value='x'/>")
		before := string(n.XML(false))
		h.define(servedXML("", "", "<vnetd:record xmlns:vnetd='urn:vnetd:network:1' name='stays' type='TXT' value='x'/>"))
		if after := string(n.XML(false)); after != before || len(n.Pending()) > 0 {
			t.Errorf("defined with the record that an update made, it is\n%s\nand was\n%s\npending: %v", after, before, n.Pending())
		}
		close(stop)
		if lost := <-asking; lost != "" {
			t.Error(lost)
		}
	})
}

// TestMissingHostBridge starts a network on a bridge of the host's that comes
// later, and goes again.
func TestMissingHostBridge(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		const doc = "<network><name>office</name><forward mode='bridge'/><bridge name='br77'/></network>"
		plan, err := h.Plan([]byte(doc))
		must(t, err)
		const fault = `network/bridge/@name: the host has no bridge "br77"`
		if !strings.Contains(strings.Join(plan.Conflicts, "\n"), fault) {
			t.Errorf("the plan says nothing of the bridge that is not there: %q", plan.Conflicts)
		}
		n := h.started(doc)
		state := func(want api.State) func() bool {
			return func() bool {
				info := n.Info()
				return info.State == want && strings.Contains(info.LastError, fault) == (want == api.Degraded)
			}
		}
		until(t, "the network to be degraded", state(api.Degraded))
		nstest.IP(t, "link add br77 type bridge")
		until(t, "the network to find its bridge", state(api.Active))
		if plan, err = h.Plan([]byte(doc)); err != nil || len(plan.Conflicts) > 0 {
			t.Errorf("the plan with the bridge there: %v, %q", err, plan.Conflicts)
		}
		index := func() int {
			ifi, err := net.InterfaceByName("br77")
			must(t, err)
			return ifi.Index
		}
		before := index()
		nstest.IP(t, "link del br77")
		until(t, "the network to be degraded again", state(api.Degraded))
		nstest.IP(t, "link add br77 type bridge")
		until(t, "the network to find its bridge again", state(api.Active))
		if index() == before {
			t.Fatal("the bridge is the former one")
		}
	})
}

// TestMissingTFTPRoot starts a network whose directory of files comes later.
func TestMissingTFTPRoot(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		root := filepath.Join(t.TempDir(), "boot")
		n := h.started(strings.Replace(servedXML("", "", ""), "<dhcp>", "<tftp root='"+root+"'/><dhcp>", 1))
		until(t, "the directory to be named", func() bool {
			info := n.Info()
			return info.State == api.Degraded && strings.Contains(info.LastError, root)
		})
		if got := answer(t, "probe TXT"); got != `"here"` {
			t.Errorf("DNS beside it says %q", got)
		}
		must(t, os.Mkdir(root, 0o755))
		until(t, "the directory to be served", func() bool { return n.Info().State == api.Active })
	})
}

// TestPlanNamesWhatIsMissing plans networks on links that the host has not.
func TestPlanNamesWhatIsMissing(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		for _, c := range []struct{ doc, want string }{
			{
				"<network xmlns:vnetd='urn:vnetd:network:1'><name>lan</name><forward mode='bridge'/><bridge name='br0'/><vnetd:uplink dev='ens99'/></network>",
				`network/vnetd:uplink/@dev: "ens99" is no link of this host: the network waits for it`,
			},
			{
				"<network><name>d</name><forward mode='nat' dev='ens99'/><bridge name='virbr9'/><ip address='192.168.99.1' netmask='255.255.255.0'/></network>",
				`network/forward/@dev: "ens99" is no link of this host: nothing would be forwarded`,
			},
		} {
			plan, err := h.Plan([]byte(c.doc))
			if must(t, err); !slices.Contains(plan.Conflicts, c.want) {
				t.Errorf("the plan has %q, want %s", plan.Conflicts, c.want)
			}
		}
	})
}
