package dnsd_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// startValidator runs unbound in a guest, who validates what the gateway says by the key of
// signed.example, and asks it at 127.0.0.1.
func startValidator(t *testing.T, g *nstest.NS, anchor string) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "conf")
	key := strings.NewReplacer("trust-anchors { ", "", "static-key", "DNSKEY", `"`, "", "; };\n", "").Replace(anchor)
	text := "server:\n interface: 127.0.0.1\n do-daemonize: no\n use-syslog: no\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n directory: \"" + dir +
		"\"\n num-threads: 1\n module-config: \"validator iterator\"\n trust-anchor: \"" + key + "\"\n unblock-lan-zones: yes\n" +
		"forward-zone:\n name: .\n forward-addr: 192.168.122.1\nremote-control:\n control-enable: no\n"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := g.Command(context.WithoutCancel(t.Context()), "unbound", "-d", "-c", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	nstest.Eventually(t, limit, "the guest's resolver answers", func() error {
		if out := g.Exec("sh", "-c", "dig @127.0.0.1 +tries=1 +time=1 www.signed.example || true"); !strings.Contains(out, "status: NOERROR") {
			return errors.New(out)
		}
		return nil
	})
}

// validateCases are asked of a guest's validating resolver with dig; each answer must match.
// ad: it was validated; unsigned names are right without.
var validateCases = []struct {
	args string
	want string // regular expression
}{
	{"www.signed.example", `NOERROR.*flags: qr rd ra ad;.*198\.51\.100\.1`},
	{"vm.signed.example DS", `NOERROR.*flags: qr rd ra ad;.*ANSWER: 0`},
	{"web.vm.signed.example", `NOERROR.*flags: qr rd ra; .*192\.168\.122\.60`},
	{"web.vm.signed.example +tcp", `NOERROR.*flags: qr rd ra; .*192\.168\.122\.60`},
	{"guest.vm.signed.example", `NOERROR.*flags: qr rd ra; .*192\.168\.122\.50`},
	{"guest.vm.signed.example AAAA", `NOERROR.*flags: qr rd ra; .*ANSWER: 0`},
	{"guest.vm.signed.example HTTPS", `NOERROR.*flags: qr rd ra; .*ANSWER: 0`},
	{"guest.vm.signed.example DS", `NOERROR.*flags: qr rd ra; .*ANSWER: 0`},
	{"vm.signed.example SOA", `NOERROR.*flags: qr rd ra; .*ANSWER: 1,`},
	{"vm.signed.example NS", `NOERROR.*flags: qr rd ra; .*ANSWER: 1,`},
	{"nobody.vm.signed.example", `NXDOMAIN.*flags: qr rd ra; `},
	{"a.b.apps.vm.signed.example", `NOERROR.*flags: qr rd ra; .*192\.168\.122\.61`},
	{"out.vm.signed.example", `NOERROR.*flags: qr rd ra; .*CNAME.*198\.51\.100\.1`},
	{"_ldap._tcp.vm.signed.example SRV", `NOERROR.*flags: qr rd ra; .*SRV`},
	{"_tcp.vm.signed.example", `NOERROR.*flags: qr rd ra; .*ANSWER: 0`},
	{"-x 192.168.122.50", `NOERROR.*PTR\s+guest\.vm\.signed\.example\.`},
	{"nobody.signed.example", `NXDOMAIN.*flags: qr rd ra ad;`},
}

// TestValidatingGuest: a guest that validates, below a signed domain that proves that the
// network's own is not signed, finds every name of it, and what is signed stays so.
func TestValidatingGuest(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		zone, anchor := signedZone(t)
		startUnbound(t, zone)
		cfg := bridgeConfig(t)
		cfg.Domain, cfg.LocalOnly = "vm.signed.example", true
		cfg.Static = append(cfg.Static, dnsd.Host{Name: "web", Addr: addr("192.168.122.60")})
		cfg.CNAMEs = []dnsd.CNAME{{Name: "out.vm.signed.example", Target: "www.signed.example"}}
		cfg.SRV = []dnsd.SRV{{Service: "ldap", Protocol: "tcp", Target: "web.vm.signed.example", Port: 389}}
		cfg.Records = []dnsd.Record{{Name: "*.apps.vm.signed.example", Type: "A", Value: "192.168.122.61"}}
		writeResolvConf(t, cfg.ResolvConf, upstream)
		s := start(t, cfg)
		s.SetHost(dnsd.Host{Name: "guest", Addr: addr("192.168.122.50")})
		g := guest(t)
		startValidator(t, g, anchor)
		for range 2 { // as it comes, and from caches
			for _, c := range validateCases {
				out := g.Exec("dig", append([]string{"@127.0.0.1", "+tries=1", "+time=5"}, strings.Fields(c.args)...)...)
				if !regexp.MustCompile(`(?s)` + c.want).MatchString(out) {
					t.Errorf("dig %s: no match for %s:\n%s", c.args, c.want, out)
				}
			}
		}
		file := filepath.Join(t.TempDir(), "anchor")
		if err := os.WriteFile(file, []byte(anchor), 0o644); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"web.vm.signed.example":    "; unsigned answer\n",
			"nobody.vm.signed.example": "; negative response, unsigned answer\n",
			"www.signed.example":       "; fully validated\n",
		} {
			if out := g.Exec("delv", "@192.168.122.1", "-a", file, "+root=signed.example", name, "A"); !strings.Contains(out, want) {
				t.Errorf("delv %s:\n%s", name, out)
			}
		}
		// What the domain above proves not to be there a guest who validates does not believe.
		cfg.Domain, cfg.CNAMEs, cfg.SRV, cfg.Records = "lab.signed.example", nil, nil, nil
		if err := s.Reconfigure(cfg); err != nil {
			t.Fatal(err)
		}
		if r := ask(t, "udp", "192.168.122.1", question("web.lab.signed.example.", dns.TypeA)); len(r.Answer) != 1 {
			t.Errorf("without validation: %v", r)
		}
		if out := g.Exec("dig", "@127.0.0.1", "web.lab.signed.example"); !strings.Contains(out, "ANSWER: 0") {
			t.Errorf("docs/dns.md says that this needs a word to the guest's resolver:\n%s", out)
		}
	})
}
