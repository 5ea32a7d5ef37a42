package dnsd_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// theirs is where dnsmasq serves.
const theirs = "192.0.2.9"

// likeDnsmasq are questions to two servers of one network, dnsmasq as libvirt runs it and ours:
// an OpenShift cluster's names, a domain of the network's own, and records of each kind.
// Where the answers differ, row begins the row of docs/dns.md that says so.
var likeDnsmasq = []struct {
	names, types, row string
}{
	{"api.cluster.example. API.Cluster.example. host.vm.example. host. many.vm.example. x.apps.cluster.example. apps.cluster.example. v6.apps6.example.", "A AAAA", ""},
	{"www.vm.example.", "A AAAA CNAME MX", ""},
	{"far.example.org. gone.example.org.", "CNAME", ""},
	{"far.example.org. gone.example.org.", "A", "an alias (`cname=`) whose target is not known here"},
	{"a.wild.example.org. a.b.wild.example.org.", "A AAAA CNAME", "an alias of all names below a domain"},
	{"note.example.org.", "TXT A AAAA HTTPS", ""},
	{"_sip._tcp.vm.example. _ldap._tcp.example.org.", "SRV A AAAA", ""},
	{"5.2.0.192.in-addr.arpa. 30.2.0.192.in-addr.arpa.", "PTR", ""},
	{"nobody.vm.example. a.host.vm.example. nobody.local.example.", "A AAAA HTTPS MX", ""},
	{"local.example.", "A AAAA HTTPS MX", "a domain without upstream servers"},
	{"host.vm.example.", "ANY", ""},
	{"many.vm.example.", "ANY", ""},
	{"www.example.net.", "A AAAA MX", ""},
	{"nobody.example.net. x.y.nobody.example.net.", "A AAAA HTTPS SVCB", ""},
	{"0.0.0.0.example. blocked.example. x.blocked.example.", "A AAAA", ""},
	{"vm.example.", "A AAAA", ""},
	{"api.cluster.example. note.example.org. _ldap._tcp.example.org. host.vm.example.", "HTTPS SVCB MX CAA DS", ""},
	{"x.apps.cluster.example. apps.cluster.example.", "HTTPS SVCB MX CAA", ""},
}

// startDnsmasq runs dnsmasq until the test ends.
func startDnsmasq(t *testing.T, resolvConf string) {
	t.Helper()
	nstest.IP(t, "addr add "+theirs+"/32 dev lo")
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(dir+"/hosts", []byte("192.0.2.5 host\n192.0.2.11 many\n192.0.2.12 many\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "dnsmasq", "--conf-file=/dev/null", "--keep-in-foreground", "--user=root", "--pid-file=",
		"--log-facility="+dir+"/log", "--no-hosts", "--addn-hosts="+dir+"/hosts", "--resolv-file="+resolvConf,
		"--listen-address="+theirs, "--bind-interfaces", "--except-interface=lo",
		"--domain=vm.example", "--expand-hosts", "--local=/vm.example/", "--local=/local.example/", "--domain-needed",
		"--host-record=api.cluster.example,192.0.2.30", "--address=/apps.cluster.example/192.0.2.31", "--address=/apps6.example/2001:db8::31",
		"--address=/blocked.example/#",
		"--cname=www.vm.example,host.vm.example", "--cname=*.wild.example.org,host.vm.example", "--cname=far.example.org,www.example.net", "--cname=gone.example.org,gone.example.net",
		"--txt-record=note.example.org,a,b", "--srv-host=_sip._tcp.vm.example,host.vm.example,5060", "--srv-host=_ldap._tcp.example.org,dc.example.org,389,1,2")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = cmd.Process.Kill(), cmd.Wait()
		if log, _ := os.ReadFile(dir + "/log"); t.Failed() {
			t.Logf("dnsmasq: %s", log)
		}
	})
	nstest.Eventually(t, limit, "dnsmasq answers", func() error {
		c := &dns.Client{Timeout: time.Second}
		_, _, err := c.Exchange(question("host.", dns.TypeA), theirs+":53")
		return err
	})
}

// likeDnsmasqConfig is startDnsmasq's network.
func likeDnsmasqConfig(t *testing.T) dnsd.Config {
	t.Helper()
	cfg := loConfig(t)
	cfg.Domain, cfg.LocalOnly, cfg.NoPlainNames = "vm.example", true, true
	cfg.Prefixes = nil
	cfg.LocalDomains = []string{"local.example"}
	cfg.Static = append(cfg.Static,
		dnsd.Host{Name: "host", Addr: addr("192.0.2.5")}, dnsd.Host{Name: "many", Addr: addr("192.0.2.11")},
		dnsd.Host{Name: "many", Addr: addr("192.0.2.12")}, dnsd.Host{Name: "api.cluster.example", Addr: addr("192.0.2.30")})
	cfg.Addresses = []dnsd.Address{
		{Domain: "apps.cluster.example", Addr: addr("192.0.2.31")},
		{Domain: "apps6.example", Addr: addr("2001:db8::31")},
		{Domain: "blocked.example", Addr: addr("0.0.0.0")},
		{Domain: "blocked.example", Addr: addr("::")},
	}
	cfg.CNAMEs = []dnsd.CNAME{
		{Name: "www.vm.example", Target: "host.vm.example"},
		{Name: "*.wild.example.org", Target: "host.vm.example"},
		{Name: "far.example.org", Target: "www.example.net"},
		{Name: "gone.example.org", Target: "gone.example.net"},
	}
	cfg.TXT = []dnsd.TXT{{Name: "note.example.org", Value: "a,b"}}
	cfg.SRV = []dnsd.SRV{
		{Service: "sip", Protocol: "tcp", Target: "host.vm.example", Port: 5060},
		{Service: "ldap", Protocol: "tcp", Domain: "example.org", Target: "dc.example.org", Port: 389, Priority: 1, Weight: 2},
	}
	return cfg
}

// TestLikeDnsmasq: an answer is dnsmasq's, or the difference stands in the table and in
// docs/dns.md.
func TestLikeDnsmasq(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "dns.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, differences, _ := strings.Cut(string(doc), "## Differences from dnsmasq")
	nstest.Run(t, func(t *testing.T) {
		startResolver(t, upstream, outside)
		cfg := likeDnsmasqConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		startDnsmasq(t, cfg.ResolvConf)
		start(t, cfg)
		for _, row := range likeDnsmasq {
			if !strings.Contains(differences, "\n| "+row.row) {
				t.Errorf("docs/dns.md does not say: %s", row.row)
			}
			for _, name := range strings.Fields(row.names) {
				for _, qtype := range strings.Fields(row.types) {
					q := question(name, dns.StringToType[qtype])
					a, b := said(ask(t, "udp", theirs, q)), said(ask(t, "udp", gateway, q))
					if (a == b) != (row.row == "") {
						t.Errorf("%s %s: dnsmasq says %q, we %q; in the table: %q", name, qtype, a, b, row.row)
					}
				}
			}
		}
	})
}

// said is the rcode of an answer and the data of its records.
func said(m *dns.Msg) string {
	var data []string
	for _, one := range m.Answer {
		data = append(data, strings.ToLower(strings.TrimPrefix(one.String(), one.Header().String())))
	}
	slices.Sort(data)
	return strings.Join(append([]string{dns.RcodeToString[m.Rcode]}, data...), "; ")
}
