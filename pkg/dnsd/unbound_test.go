package dnsd_test

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
)

// signedZone is a small zone under DNSSEC. big has more than fits into a datagram, vm is
// another zone, of which it is proved that nobody signs it.
func signedZone(t *testing.T) (text, anchor string) {
	t.Helper()
	key := &dns.DNSKEY{
		Hdr:   dns.RR_Header{Name: "signed.example.", Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: 60},
		Flags: dns.ZONE | dns.SEP, Protocol: 3, Algorithm: dns.ECDSAP256SHA256,
	}
	private, err := key.Generate(256)
	if err != nil {
		t.Fatal(err)
	}
	var big strings.Builder
	for i := range 12 {
		fmt.Fprintf(&big, "big 60 IN TXT \"%d%s\"\n", i, strings.Repeat("x", 200))
	}
	parser := dns.NewZoneParser(strings.NewReader("$ORIGIN signed.example.\n"+
		"@ 60 IN SOA ns hostmaster 1 3600 600 86400 60\n@ 60 IN NS ns\n"+
		"@ 60 IN NSEC big SOA NS RRSIG NSEC DNSKEY\n"+
		big.String()+"big 60 IN NSEC ns TXT RRSIG NSEC\n"+
		"ns 60 IN A 127.0.0.11\nns 60 IN NSEC vm A RRSIG NSEC\n"+
		"vm 60 IN NS ns.vm\nvm 60 IN NSEC www NS RRSIG NSEC\n"+
		"www 60 IN A 198.51.100.1\nwww 60 IN NSEC @ A RRSIG NSEC\n"), "", "")
	sets := map[string][]dns.RR{"key": {key}}
	for rr, ok := parser.Next(); ok; rr, ok = parser.Next() {
		of := rr.Header().Name + dns.TypeToString[rr.Header().Rrtype]
		sets[of] = append(sets[of], rr)
	}
	if err := parser.Err(); err != nil {
		t.Fatal(err)
	}
	var zone strings.Builder
	for of, set := range sets {
		if of == "vm.signed.example.NS" { // RFC 4035 section 2.2: not signed where a zone is cut
			fmt.Fprintln(&zone, set[0])
			continue
		}
		sig := &dns.RRSIG{
			Hdr: dns.RR_Header{Ttl: 60}, Algorithm: key.Algorithm, KeyTag: key.KeyTag(), SignerName: "signed.example.",
			Inception: uint32(time.Now().Add(-time.Hour).Unix()), Expiration: uint32(time.Now().Add(time.Hour).Unix()),
		}
		if err := sig.Sign(private.(crypto.Signer), set); err != nil {
			t.Fatal(err)
		}
		for _, rr := range append(set, sig) {
			fmt.Fprintln(&zone, rr)
		}
	}
	return zone.String(), fmt.Sprintf("trust-anchors { signed.example. static-key 257 3 13 %q; };\n", key.PublicKey)
}

// unbound is a real name server, at upstream.
type unbound struct {
	dir string
	cmd *exec.Cmd
}

// startUnbound runs it with a zone until the test ends, or until it is killed.
func startUnbound(t *testing.T, zone string) *unbound {
	t.Helper()
	u := &unbound{dir: t.TempDir()}
	for name, text := range map[string]string{
		"zone": zone,
		"conf": "server:\n interface: " + upstream + "\n do-daemonize: no\n use-syslog: no\n username: \"\"\n chroot: \"\"\n" +
			" pidfile: \"\"\n directory: \"" + u.dir + "\"\n module-config: \"iterator\"\n num-threads: 1\n" +
			"auth-zone:\n name: signed.example\n zonefile: zone\nremote-control:\n control-enable: no\n",
	} {
		if err := os.WriteFile(filepath.Join(u.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	u.start(t)
	t.Cleanup(func() { u.kill() })
	return u
}

// start runs it, and returns when it answers.
func (u *unbound) start(t *testing.T) {
	t.Helper()
	u.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), "unbound", "-d", "-c", filepath.Join(u.dir, "conf"))
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, limit, "unbound answers", func() error {
		c := &dns.Client{Timeout: time.Second}
		r, _, err := c.Exchange(question("www.signed.example.", dns.TypeA), upstream+":53")
		if err == nil && len(r.Answer) == 0 {
			err = errors.New(dns.RcodeToString[r.Rcode])
		}
		return err
	})
}

func (u *unbound) kill() { _, _ = u.cmd.Process.Kill(), u.cmd.Wait() }

// unboundCases are asked with dig, through a server whose upstream is unbound;
// each answer must match.
var unboundCases = []struct {
	args string
	want string // regular expression
}{
	{"www.signed.example", `NOERROR.*flags: qr (aa )?rd ra;.*ANSWER: 1,.*198\.51\.100\.1`},
	{"www.signed.example +dnssec", `NOERROR.*ANSWER: 2,.*flags: do; udp: 1232.*RRSIG\s+A 13`},
	{"www.signed.example +cd +dnssec", `flags: qr (aa )?rd ra cd;.*RRSIG`},
	{"www.signed.example +tcp +dnssec", `RRSIG\s+A 13.*\(TCP\)`},
	{"www.signed.example +noedns", `ANSWER: 1, AUTHORITY: \d, ADDITIONAL: 0`},
	{"www.signed.example +nocookie", `198\.51\.100\.1`},
	{"www.signed.example +ednsopt=65001:00ff +subnet=192.0.2.0/24", `udp: 1232\n;; QUESTION`},
	{"www.signed.example +bufsize=4096", `udp: 1232.*198\.51\.100\.1`},
	{"signed.example DNSKEY +dnssec +bufsize=512", `ANSWER: 2,.*DNSKEY\s+257 3 13`},
	{"big.signed.example TXT +ignore", `flags: qr (aa )?tc rd ra;`},
	{"big.signed.example TXT +ignore +bufsize=512 +dnssec", `flags: qr (aa )?tc rd ra;.*MSG SIZE\s+rcvd: \d{1,3}\n`},
	{"big.signed.example TXT", `Truncated, retrying in TCP.*ANSWER: 12,`},
	{"big.signed.example TXT +tcp +dnssec", `ANSWER: 13,.*RRSIG\s+TXT`},
	{"nobody.signed.example +dnssec", `NXDOMAIN.*AUTHORITY: [4-9],.*NSEC.*RRSIG`},
	{"www.signed.example MX +dnssec", `NOERROR.*ANSWER: 0,.*NSEC\s+signed\.example\. A RRSIG NSEC`},
}

// TestUnbound has a real upstream, with DNSSEC: dig and delv see through the
// server what it says, the first time and from the cache.
func TestUnbound(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		zone, anchor := signedZone(t)
		startUnbound(t, zone)
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		start(t, cfg)
		for range 2 {
			for _, c := range unboundCases {
				out := nstest.Exec(t, "dig", append([]string{"@" + gateway, "+tries=1", "+time=5"}, strings.Fields(c.args)...)...)
				if !regexp.MustCompile(`(?s)` + c.want).MatchString(out) {
					t.Errorf("dig %s: no match for %s:\n%s", c.args, c.want, out)
				}
			}
		}
		file := filepath.Join(t.TempDir(), "anchor")
		if err := os.WriteFile(file, []byte(anchor), 0o644); err != nil {
			t.Fatal(err)
		}
		for args, want := range map[string]string{
			"www.signed.example A":     "; fully validated\n",
			"big.signed.example TXT":   "; fully validated\n",
			"nobody.signed.example A":  "; negative response, fully validated\n",
			"www.signed.example AAAA":  "; negative response, fully validated\n",
			"www.signed.example A +cd": "; fully validated\n",
		} {
			out := nstest.Exec(t, "delv", append([]string{"@" + gateway, "-a", file, "+root=signed.example"}, strings.Fields(args)...)...)
			if !strings.Contains(out, want) {
				t.Errorf("delv %s:\n%s", args, out)
			}
		}
	})
}

// TestUnboundKilled: what is not known fails and is not left without an answer,
// what is known goes on, and it is noticed when the upstream is back.
func TestUnboundKilled(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		zone, _ := signedZone(t)
		u := startUnbound(t, zone)
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		start(t, cfg)
		www, ns := question("www.signed.example.", dns.TypeA), question("ns.signed.example.", dns.TypeA)
		if r := ask(t, "udp", gateway, www); len(r.Answer) != 1 {
			t.Fatal(r)
		}
		u.kill()
		if r := ask(t, "udp", gateway, ns); r.Rcode != dns.RcodeServerFailure {
			t.Errorf("an unknown name: %v", r)
		}
		if r := ask(t, "udp", gateway, www); len(r.Answer) != 1 {
			t.Errorf("a known name: %v", r)
		}
		u.start(t)
		nstest.Eventually(t, limit, "the upstream is asked again", func() error {
			if r := ask(t, "udp", gateway, ns); len(r.Answer) != 1 {
				return errors.New(dns.RcodeToString[r.Rcode])
			}
			return nil
		})
	})
}
