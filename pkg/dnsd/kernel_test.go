package dnsd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// bridgeConfig is libvirt's default network on a bridge without ports, which
// therefore has no carrier and whose IPv6 address stays tentative.
func bridgeConfig(t *testing.T) dnsd.Config {
	t.Helper()
	nstest.IP(t, "link add virbr0 type bridge")
	nstest.IP(t, "addr add 192.168.122.1/24 dev virbr0")
	nstest.IP(t, "-6 addr add 2001:db8:122::1/64 dev virbr0")
	nstest.IP(t, "link set virbr0 up")
	return dnsd.Config{
		Network:    "default",
		Interface:  "virbr0",
		Addrs:      []netip.Addr{addr("192.168.122.1"), addr("2001:db8:122::1")},
		Domain:     "vm.example",
		Prefixes:   []netip.Prefix{netip.MustParsePrefix("192.168.122.0/24"), netip.MustParsePrefix("2001:db8:122::/64")},
		Static:     []dnsd.Host{{Name: "gateway", Addr: addr("192.168.122.1")}},
		ResolvConf: filepath.Join(t.TempDir(), "resolv.conf"),
	}
}

// guest is a namespace plugged into virbr0, with 192.168.122.50.
func guest(t *testing.T) *nstest.NS {
	t.Helper()
	g := nstest.Guest(t, "virbr0", "guest", "52:54:00:12:34:56")
	g.IP("addr add 192.168.122.50/24 dev eth0")
	g.IP("route add default via 192.168.122.1")
	g.IP("-6 addr add 2001:db8:122::50/64 dev eth0 nodad")
	return g
}

// serverTests are asked with dig by a guest; each answer must match.
var serverTests = []struct {
	args string
	want string // regular expression
}{
	{"@192.168.122.1 gateway", `NOERROR.*flags: qr aa rd ra; QUERY: 1, ANSWER: 1.*udp: 1232.*gateway\.\s+0\s+IN\s+A\s+192\.168\.122\.1`},
	{"@192.168.122.1 gateway +tcp", `NOERROR.*ANSWER: 1.*192\.168\.122\.1\s.*\(TCP\)`},
	{"@192.168.122.1 gateway.vm.example +norec", `NOERROR.*flags: qr aa ra;.*192\.168\.122\.1`},
	{"@192.168.122.1 gateway +noedns", `NOERROR.*ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 0`},
	{"@192.168.122.1 gateway +bufsize=512 +dnssec", `NOERROR.*flags: do; udp: 1232`},
	{"@192.168.122.1 gateway +edns=1 +noednsneg", `BADVERS`},
	{"@192.168.122.1 gateway +ednsopt=65001:00 +cookie +subnet=192.0.2.0/24", `NOERROR.*udp: 1232.*gateway`},
	{"@192.168.122.1 gateway AAAA", `NOERROR.*ANSWER: 0, AUTHORITY: 1.*SOA`},
	{"@192.168.122.1 gateway ANY", `NOERROR.*ANSWER: 1`},
	{"@192.168.122.1 gateway AXFR +noidnout", `Transfer failed`},
	{"@192.168.122.1 -x 192.168.122.1", `NOERROR.*PTR\s+gateway\.vm\.example\.`},
	{"@192.168.122.1 -x 192.168.122.77", `NXDOMAIN.*SOA`},
	{"@192.168.122.1 -x 2001:db8:122::77", `NXDOMAIN.*SOA`},
	{"@192.168.122.1 version.bind CH TXT", `REFUSED`},
	{"@192.168.122.1 gateway +opcode=notify", `NOTIMP`},
	{"@192.168.122.1 +header-only", `FORMERR`},
	{"@192.168.122.1 www.example.com", `SERVFAIL`},
	{"@2001:db8:122::1 gateway", `NOERROR.*192\.168\.122\.1`},
	{"@2001:db8:122::1 gateway +tcp", `NOERROR.*192\.168\.122\.1`},
}

// TestDig starts on a bridge without carrier and is asked by the host, then by
// a guest that comes later.
func TestDig(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		start(t, bridgeConfig(t))
		want := []string{"gateway. 0 IN A 192.168.122.1"}
		for _, proto := range []string{"udp", "tcp"} {
			if diff := cmp.Diff(want, records(ask(t, proto, "192.168.122.1", question("gateway.", dns.TypeA)).Answer)); diff != "" {
				t.Errorf("the host over %s (-want +got):\n%s", proto, diff)
			}
		}
		g := guest(t)
		nstest.Eventually(t, limit, "the gateway's IPv6 address is there", func() error {
			if out := nstest.IP(t, "-6 addr show dev virbr0 tentative"); strings.Contains(out, "2001:") {
				return errors.New(out)
			}
			return nil
		})
		for _, c := range serverTests {
			args := append([]string{"+tries=1", "+time=5"}, strings.Fields(c.args)...)
			out := g.Exec("dig", args...)
			if !regexp.MustCompile(`(?s)` + c.want).MatchString(out) {
				t.Errorf("dig %s: no match for %s:\n%s", c.args, c.want, out)
			}
		}
		nstest.IP(t, "link set virbr0 down")
		nstest.IP(t, "link set virbr0 up")
		if diff := cmp.Diff(want, records(ask(t, "udp", "192.168.122.1", question("gateway.", dns.TypeA)).Answer)); diff != "" {
			t.Errorf("after the bridge was down (-want +got):\n%s", diff)
		}
	})
}

// TestOtherInterface asks the gateway's address from a LAN host, who reaches
// the machine by another interface.
func TestOtherInterface(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cfg := bridgeConfig(t)
		s := start(t, cfg)
		g := guest(t)
		lan := nstest.NewLAN(t)
		lan.IP("route add 192.168.122.0/24 via " + nstest.Uplink)
		if out := g.Exec("dig", "+short", "@192.168.122.1", "gateway"); out != "192.168.122.1\n" {
			t.Errorf("the guest got %q", out)
		}
		before := s.Stats().Queries
		for _, args := range []string{"+notcp", "+tcp"} {
			cmd := lan.Command(context.Background(), "dig", "+tries=1", "+time=10", args, "@192.168.122.1", "gateway")
			if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "refused") {
				t.Errorf("the LAN got (%v):\n%s", err, out)
			}
		}
		if n := s.Stats().Queries; n != before {
			t.Errorf("%d queries were seen", n-before)
		}
	})
}

// TestSpoofedSource: what a guest asks under the name of somebody beyond the bridge is
// answered on the bridge. He who is beyond gets nothing.
func TestSpoofedSource(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cfg := bridgeConfig(t)
		startResolver(t, upstream, always("198.51.100.1"))
		writeResolvConf(t, cfg.ResolvConf, upstream)
		start(t, cfg)
		g := guest(t)
		lan := nstest.NewLAN(t)
		nstest.Exec(t, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.virbr0.rp_filter=0")
		g.IP("addr add " + nstest.LANHost + "/32 dev eth0")
		unasked := func() string {
			return lan.Exec("awk", "/^Udp: [0-9]/ { print $2, $3 }", "/proc/net/snmp") // InDatagrams, NoPorts
		}
		before := unasked()
		for name, want := range map[string]string{"gateway": "192.168.122.1\n", "www.example.com": "198.51.100.1\n"} {
			if out := g.Exec("dig", "+short", "+time=10", "-b", nstest.LANHost, "@192.168.122.1", name); out != want {
				t.Errorf("the guest got %q", out)
			}
		}
		if after := unasked(); after != before {
			t.Errorf("the host beyond got datagrams: %s before, %s after", before, after)
		}
	})
}

// TestAddressInUse finds somebody else on port 53: this process, whose name in
// its namespaces is exe.
func TestAddressInUse(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cfg := bridgeConfig(t)
		for _, c := range []struct{ network, at string }{
			{"udp", "0.0.0.0:53"},
			{"tcp", "[::]:53"},
			{"udp", "192.168.122.1:53"},
			{"tcp", "[2001:db8:122::1]:53"},
		} {
			occupy(t, c.network, c.at, func() {
				s, err := dnsd.Open(cfg)
				if err == nil {
					_ = s.Close()
				}
				if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "(taken by exe, pid 1)") {
					t.Errorf("%s %s is taken: %v", c.network, c.at, err)
				}
			})
		}
		start(t, cfg) // nothing was left behind
	})
}

// TestAddressInUseUnprivileged finds another user's program on port 53 without the
// right to look at its files, as vnetd does as a service.
func TestAddressInUseUnprivileged(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cfg := bridgeConfig(t)
		other := exec.CommandContext(t.Context(), "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=", "--no-resolv", "--no-hosts")
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = other.Process.Kill(), other.Wait() })
		// Not by trying to open a server, which may be in its way.
		nstest.Eventually(t, limit, "dnsmasq has the port", func() error {
			if out := nstest.Exec(t, "ss", "-Hlnu", "sport", "=", ":53"); out == "" {
				return errors.New("nobody has")
			}
			return nil
		})
		opened := make(chan error)
		go func() {
			// Never unlocked: the thread ends with its rights.
			runtime.LockOSThread()
			opened <- errors.Join(keepNetworkRights(), openAndClose(cfg))
		}()
		if err := <-opened; !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "(taken by a program of the user root: ") {
			t.Errorf("opening: %v", err)
		}
	})
}

// keepNetworkRights takes from this thread all rights but those of the service.
func keepNetworkRights() error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETFSUID, 1, 0, 0); errno != 0 {
		return errno
	}
	const rights = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_NET_BIND_SERVICE
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: rights, Permitted: rights}}
	return unix.Capset(&header, &data[0])
}

// openAndClose opens a server and closes it again.
func openAndClose(cfg dnsd.Config) error {
	s, err := dnsd.Open(cfg)
	if err != nil {
		return err
	}
	return s.Close()
}

// occupy calls do while a socket is bound.
func occupy(t *testing.T, network, at string, do func()) {
	t.Helper()
	lc := net.ListenConfig{Control: freebind}
	if network == "udp" {
		c, err := lc.ListenPacket(context.Background(), network, at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	} else {
		l, err := lc.Listen(context.Background(), network, at)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	do()
}

// TestTwoNetworks serves two bridges side by side, and both start again.
func TestTwoNetworks(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		one := bridgeConfig(t)
		nstest.IP(t, "link add virbr1 type bridge")
		nstest.IP(t, "addr add 192.0.2.1/24 dev virbr1")
		nstest.IP(t, "link set virbr1 up")
		two := dnsd.Config{Interface: "virbr1", Addrs: []netip.Addr{addr("192.0.2.1")}, NoForward: true}
		for range 2 {
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 2)
			for _, cfg := range []dnsd.Config{one, two} {
				s, err := dnsd.Open(cfg)
				if err != nil {
					t.Fatal(err)
				}
				go func() { ended <- s.Run(ctx) }()
			}
			if r := ask(t, "tcp", "192.168.122.1", question("gateway.", dns.TypeA)); len(r.Answer) != 1 {
				t.Errorf("first: %v", r)
			}
			if r := ask(t, "tcp", "192.0.2.1", question("gateway.", dns.TypeA)); r.Rcode != dns.RcodeRefused {
				t.Errorf("second: %v", r)
			}
			cancel()
			for range 2 {
				if err := <-ended; err != nil {
					t.Errorf("Run: %v", err)
				}
			}
		}
	})
}

// TestStop ends a server that has an idle TCP client and a query on its way.
func TestStop(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, stop := range []string{"ctx", "Close"} {
			t.Log(stop)
			stopBusy(t, stop == "Close")
		}
	})
}

func stopBusy(t *testing.T, byClose bool) {
	t.Helper()
	cfg := loConfigOnce(t)
	writeResolvConf(t, cfg.ResolvConf, upstream)
	silentSocket, err := net.ListenPacket("udp", upstream+":53")
	if err != nil {
		t.Fatal(err)
	}
	defer silentSocket.Close()
	s, err := dnsd.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.SetTiming(patience, patience, patience)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	c := dialTCP(t)
	if _, err := c.Write(frame(mustPack(t, question("www.example.com.", dns.TypeA)))); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, limit, "the query waits", func() error { return waiting(s, 1) })
	if byClose {
		_ = s.Close()
	} else {
		cancel()
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(8 * time.Second): // sooner than an idle client is left alone
		t.Fatal("Run has not returned")
	}
	if st := s.Stats(); st.TCPClients != 0 || st.Forwarding != 0 {
		t.Errorf("left behind: %+v", st)
	}
}

// loConfigOnce is loConfig for a namespace that may have the addresses already.
func loConfigOnce(t *testing.T) dnsd.Config {
	t.Helper()
	nstest.IP(t, "addr flush dev lo")
	nstest.IP(t, "addr add 127.0.0.1/8 dev lo")
	return loConfig(t)
}

// TestInvalid wants all the faults of a configuration at once.
func TestInvalid(t *testing.T) {
	_, err := dnsd.Open(dnsd.Config{
		Network:   "default",
		Interface: "much-too-long-a-name",
		Domain:    "vm example",
		Addrs:     []netip.Addr{{}},
		Prefixes:  []netip.Prefix{{}},
		Static:    []dnsd.Host{{Name: "a..b", Addr: addr("192.0.2.1")}, {Name: "x"}},
		Port:      70000,

		TXT:          []dnsd.TXT{{Name: "a b", Value: strings.Repeat("x", 10000)}},
		SRV:          []dnsd.SRV{{Service: "s p", Protocol: "tcp", Target: "a..b"}},
		CNAMEs:       []dnsd.CNAME{{Name: "x"}},
		LocalDomains: []string{"*"},
		Forwarders:   []dnsd.Forwarder{{}, {Domain: "a/b"}},
		Addresses:    []dnsd.Address{{Domain: "x"}},
	})
	got := fmt.Sprint(err)
	for _, fault := range []string{"much-too-long", "vm example", "addrs[0]", "prefixes[0]", `static[0]: name "a..b"`, "static[1]", "70000", `txt[0]: name "a b": want`, "10000 bytes", "srv[0]", "cnames[0]", "localDomains[0]", "forwarders[0]", "forwarders[1]", "addresses[0]"} {
		if !strings.Contains(got, fault) {
			t.Errorf("%s is not in %s", fault, got)
		}
	}
	if _, err := dnsd.Open(dnsd.Config{}); err == nil {
		t.Error("no address is no fault")
	}
}
