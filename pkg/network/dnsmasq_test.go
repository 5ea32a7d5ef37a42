package network_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/test/libvirtcorpus"
)

// deliberate are the ways in which names are answered otherwise than by dnsmasq as
// libvirt runs it. Each stands in docs/dns.md, under "Differences from dnsmasq",
// with what is said here at the beginning of its row.
var deliberate = []struct {
	row  string
	fits func(q asked, theirs, ours string) bool
}{
	{"a type that a known name has not got", func(q asked, _, ours string) bool { return q.known && ours == "NOERROR" }},
	{"reverse names of the subnets, without `localPtr`", func(q asked, _, _ string) bool { return q.reverse }},
	{"the gateway's name", func(q asked, _, _ string) bool { return strings.HasPrefix(q.name, "gateway.") }},
	{"names of `<host>` in `<dhcp>`", func(q asked, _, ours string) bool { return q.reserved && ours != "" }},
	{"`version.bind` and its like", func(q asked, _, ours string) bool { return q.class == dns.ClassCHAOS && ours == "REFUSED" }},
	{"an alias (`cname=`) whose target is not known here", func(q asked, _, _ string) bool { return strings.HasSuffix(q.name, ".cloudapps.example.com.") }},
	{"ANY of a known name", func(q asked, _, _ string) bool { return q.qtype == dns.TypeANY }},
}

// asked is a question, and what is known of its name from the document.
type asked struct {
	name                     string
	qtype, class             uint16
	known, reserved, reverse bool
}

// questionsOf are the questions to a network's name server: all its names, and
// some that are not.
func questionsOf(n *netdef.Network) []asked {
	var all []asked
	ask := func(name string, like asked, qtypes ...uint16) {
		like.name, like.class = dns.Fqdn(name), dns.ClassINET
		for _, like.qtype = range qtypes {
			all = append(all, like)
		}
	}
	domain := "example.com"
	if n.Domain != nil {
		domain = n.Domain.Name
	}
	host := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeMX, dns.TypeANY}
	known := asked{known: true}
	if d := n.DNS; d != nil {
		for _, h := range d.Hosts {
			for _, name := range h.Hostnames {
				ask(name, known, host...)
				ask(strings.ToUpper(name)+"."+domain, known, host...)
			}
			ask(reversed(h.IP), asked{}, dns.TypePTR)
		}
		for _, r := range d.TXT {
			ask(r.Name, asked{}, dns.TypeTXT, dns.TypeA)
		}
		for _, r := range d.SRV {
			name := "_" + r.Service + "._" + r.Protocol
			ask(name+"."+domain, asked{}, dns.TypeSRV)
			if r.Domain != "" {
				ask(name+"."+r.Domain, asked{}, dns.TypeSRV, dns.TypeA)
			}
		}
	}
	for i := range n.IPs {
		ip := &n.IPs[i]
		ask(reversed(ip.Address), asked{reverse: true}, dns.TypePTR)
		ask(reversed(ip.Address.Next().Next()), asked{reverse: true}, dns.TypePTR)
		if ip.DHCP == nil {
			continue
		}
		for _, h := range ip.DHCP.Hosts {
			if h.Name != "" {
				ask(h.Name, asked{reserved: true}, dns.TypeA, dns.TypeAAAA)
			}
		}
	}
	plain := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV}
	ask("gateway", asked{}, plain...)
	ask("gateway."+domain, asked{}, plain...)
	ask("localhost", asked{}, dns.TypeA)
	for _, name := range []string{"nobody", "nobody." + domain, domain, "www.up.test", "nobody.up.test", "www.example.com", "a.cloudapps.example.com", "1.2.0.192.in-addr.arpa"} {
		ask(name, asked{}, plain...)
	}
	return append(all, asked{name: "version.bind.", qtype: dns.TypeTXT, class: dns.ClassCHAOS})
}

// reversed is the reverse name of an address.
func reversed(a netip.Addr) string {
	name, err := dns.ReverseAddr(a.String())
	if err != nil {
		panic(err)
	}
	return name
}

// gist is what matters of an answer: the rcode, and the data of the records.
func gist(m *dns.Msg) string {
	var data []string
	for _, rr := range m.Answer {
		fields := []string{dns.TypeToString[rr.Header().Rrtype]}
		for i := range dns.NumField(rr) {
			fields = append(fields, dns.Field(rr, i+1))
		}
		data = append(data, strings.ToLower(strings.Join(fields, " ")))
	}
	slices.Sort(data)
	return strings.Join(append([]string{dns.RcodeToString[m.Rcode]}, data...), "; ")
}

// askFrom asks server from a guest; "silence" stands for no answer.
func askFrom(t *testing.T, guest *nstest.NS, transport, server string, q asked) string {
	t.Helper()
	answer := askOnce(guest, transport, server, q, time.Second)
	if answer == "silence" {
		answer = askOnce(guest, transport, server, q, wait) // it was lost, perhaps
	}
	return answer
}

// askOnce is askFrom with one query.
func askOnce(guest *nstest.NS, transport, server string, q asked, limit time.Duration) (answer string) {
	m := new(dns.Msg)
	m.SetQuestion(q.name, q.qtype)
	m.Question[0].Qclass = q.class
	err := guest.Do(func() error {
		c := &dns.Client{Net: transport, Timeout: limit}
		r, _, err := c.Exchange(m, net.JoinHostPort(server, "53"))
		if err == nil {
			answer = gist(r)
		}
		return err
	})
	if err != nil {
		return "silence"
	}
	return answer
}

// startUpstream runs a name server of the outside at an address of lo. Its name
// ends what it says, names that begin with "nobody" and reverse ones it does not
// know.
func startUpstream(t *testing.T, address string, last byte) {
	t.Helper()
	if !netip.MustParseAddr(address).IsLoopback() {
		nstest.IP(t, "addr add "+address+"/32 dev lo")
	}
	conn, err := net.ListenPacket("udp", net.JoinHostPort(address, "53"))
	must(t, err)
	srv := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true
		name := strings.ToLower(q.Question[0].Name)
		switch {
		case strings.HasPrefix(name, "nobody"), strings.HasSuffix(name, ".arpa."):
			m.Rcode = dns.RcodeNameError
		case q.Question[0].Qtype == dns.TypeA:
			m.Answer = []dns.RR{&dns.A{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET},
				A:   net.IPv4(198, 51, 100, last),
			}}
		}
		_ = w.WriteMsg(m)
	})}
	ready, ended := make(chan struct{}), make(chan struct{})
	srv.NotifyStartedFunc = func() { close(ready) }
	go func() { defer close(ended); _ = srv.ActivateAndServe() }()
	<-ready
	t.Cleanup(func() { _ = conn.Close(); <-ended })
}

// outside is where the host's own resolver is, and all that libvirt's networks
// forward to; nothing is sent to the real ones.
var outside = []string{"127.0.0.11", "8.8.8.8", "8.8.4.4", "192.168.1.1"}

// joinBridge plugs a guest in that can ask every address of the network.
func joinBridge(t *testing.T, def *netdef.Network, name string) *nstest.NS {
	t.Helper()
	g := nstest.Guest(t, def.Bridge.Name, name, "")
	for i := range def.IPs {
		p := def.IPs[i].Prefix()
		g.IP(addAddress(netip.PrefixFrom(p.Addr().Next().Next().Next(), p.Bits()), "eth0"))
	}
	return g
}

// addAddress is ip(8)'s command that gives a device an address, to be used at once.
func addAddress(p netip.Prefix, device string) string {
	option := ""
	if p.Addr().Is6() {
		option = " nodad"
	}
	return fmt.Sprintf("addr add %s dev %s%s", p, device, option)
}

// serves waits until a server answers.
func serves(t *testing.T, guest *nstest.NS, server string) {
	t.Helper()
	nstest.Eventually(t, wait, server+" answers", func() error {
		if askOnce(guest, "udp", server, asked{name: "up.", qtype: dns.TypeA, class: dns.ClassINET}, time.Second) == "silence" {
			return errors.New("silence")
		}
		return nil
	})
}

// theirs asks dnsmasq, with the settings that libvirt makes of the network.
func theirs(t *testing.T, def *netdef.Network, conf, resolvConf string, questions []asked) []string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	name := strings.TrimSuffix(conf, ".conf")
	text, err := os.ReadFile(conf)
	must(t, err)
	// The files that it names are in dir.
	settings := regexp.MustCompile(`(?m)^(dhcp-hostsfile|addn-hosts)=.*/[^/]*\.(\w+)$`).ReplaceAllString(string(text), "$1="+dir+"/$2")
	hosts, err := os.ReadFile(name + ".hostsfile")
	if !errors.Is(err, os.ErrNotExist) {
		must(t, err)
	}
	var added strings.Builder
	if def.DNS != nil {
		for _, h := range def.DNS.Hosts {
			_, _ = fmt.Fprintf(&added, "%s\t%s\n", h.IP, strings.Join(h.Hostnames, "\t"))
		}
	}
	must(t, os.WriteFile(dir+"/conf", []byte(settings), 0o644))
	must(t, os.WriteFile(dir+"/hostsfile", hosts, 0o644))
	must(t, os.WriteFile(dir+"/addnhosts", []byte(added.String()), 0o644))

	br := def.Bridge.Name
	nstest.IP(t, "link add "+br+" type bridge")
	defer nstest.IP(t, "link del "+br)
	for i := range def.IPs {
		nstest.IP(t, addAddress(def.IPs[i].Prefix(), br))
	}
	nstest.IP(t, "link set "+br+" up")
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "dnsmasq", "--conf-file="+dir+"/conf", "--keep-in-foreground",
		"--user=root", "--pid-file=", "--resolv-file="+resolvConf, "--dhcp-leasefile="+dir+"/leases", "--log-facility="+dir+"/log")
	must(t, cmd.Start())
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	g := joinBridge(t, def, "theirs")
	gateway := def.IPs[0].Address.String()
	defer func() {
		if log, _ := os.ReadFile(dir + "/log"); t.Failed() {
			t.Logf("dnsmasq: %s", log)
		}
	}()
	serves(t, g, gateway)
	var answers []string
	for _, q := range questions {
		answers = append(answers, askFrom(t, g, "udp", gateway, q))
	}
	return answers
}

// ours asks vnetd's server the same, at every gateway over either transport, all
// of which must agree.
func ours(t *testing.T, def *netdef.Network, xml, resolvConf string, questions []asked) []string {
	t.Helper()
	h := newHub(t, t.TempDir(), hubOptions{resolvConf: resolvConf})
	n := h.started(xml)
	g := joinBridge(t, def, "ours")
	var answers []string
	for i := range def.IPs {
		gateway := def.IPs[i].Address.String()
		serves(t, g, gateway)
		for _, transport := range []string{"udp", "tcp"} {
			for j, q := range questions {
				a := askFrom(t, g, transport, gateway, q)
				if j == len(answers) {
					answers = append(answers, a)
				}
				if a != answers[j] {
					t.Errorf("%s %s over %s at %s: %q, elsewhere %q", q.name, dns.TypeToString[q.qtype], transport, gateway, a, answers[j])
				}
			}
		}
	}
	nstest.IP(t, "link del v-ours")
	must(t, n.Stop(t.Context()))
	return answers
}

// sameDNS are networks of libvirt's tests whose names are those of another one.
var sameDNS = regexp.MustCompile(`^(leasetime-|netboot-|nat-network-mtu|routed-network-no-dns)`)

// TestNamesAsDnsmasq puts questions to the networks of libvirt's own tests: to
// vnetd's name server and to dnsmasq with the settings that libvirt expects for
// them. An answer is the same, or the difference stands in docs/dns.md.
func TestNamesAsDnsmasq(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir, err := libvirtcorpus.Dir(ctx)
	if err != nil && os.Getenv("CI") != "true" {
		t.Skipf("without libvirt's test files: %v", err)
	}
	must(t, err)
	confs, err := filepath.Glob(filepath.Join(dir, "networkxml2confdata", "*.conf"))
	must(t, err)
	confs = slices.DeleteFunc(confs, func(conf string) bool { return sameDNS.MatchString(filepath.Base(conf)) })
	if len(confs) < 10 {
		t.Fatalf("%s has %d networks", dir, len(confs))
	}
	for _, conf := range confs {
		t.Run(strings.TrimSuffix(filepath.Base(conf), ".conf"), func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) { compareNames(t, conf) })
		})
	}
}

// compareNames compares the answers for one network.
func compareNames(t *testing.T, conf string) {
	xml, err := os.ReadFile(strings.TrimSuffix(conf, ".conf") + ".xml")
	must(t, err)
	// With STP the port of a guest would wait for four seconds before it forwards.
	xml = regexp.MustCompile(`(<bridge name=['"]\w+['"])( stp='on')?`).ReplaceAll(xml, []byte("$1 stp='off'"))
	def, err := netdef.Parse(xml)
	must(t, err)
	nstest.IP(t, "link set lo up")
	for i, address := range outside {
		startUpstream(t, address, byte(i+1))
	}
	resolvConf := filepath.Join(t.TempDir(), "resolv.conf")
	must(t, os.WriteFile(resolvConf, []byte("nameserver "+outside[0]+"\n"), 0o644))
	questions := questionsOf(def)
	a := ours(t, def, string(xml), resolvConf, questions)
	b := theirs(t, def, conf, resolvConf, questions)
	for i, q := range questions {
		if a[i] != b[i] && !isDeliberate(t, q, b[i], a[i]) {
			t.Errorf("%s %s: dnsmasq says %q, vnetd %q", q.name, dns.TypeToString[q.qtype], b[i], a[i])
		}
	}
}

// isDeliberate reports whether a difference is one that docs/dns.md names.
func isDeliberate(t *testing.T, q asked, theirs, ours string) bool {
	t.Helper()
	doc, err := os.ReadFile("../../docs/dns.md")
	must(t, err)
	_, table, _ := strings.Cut(string(doc), "## Differences from dnsmasq")
	for _, d := range deliberate {
		if !strings.Contains(table, "\n| "+d.row) {
			t.Errorf("docs/dns.md does not say: %s", d.row)
		}
		if d.fits(q, theirs, ours) {
			t.Logf("%s %s: dnsmasq says %q, vnetd %q: %s", q.name, dns.TypeToString[q.qtype], theirs, ours, d.row)
			return true
		}
	}
	return false
}
