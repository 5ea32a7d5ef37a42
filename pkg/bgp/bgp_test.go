package bgp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bgp"
	"github.com/vnetd/vnetd/pkg/bgp/speaker"
)

// limit only ends tests that would hang.
const limit = time.Minute

// lab is this host and a router beside it, on one link.
type lab struct {
	*testing.T
	router *nstest.NS
	bird   *nstest.Bird
	path   string
}

// The ends of the link.
const (
	here4, router4 = "192.0.2.2", "192.0.2.1"
	here6, router6 = "2001:db8::2", "2001:db8::1"
)

// config is the router's: it learns of this host by one session of each family.
const config = `router id 192.0.2.1;
protocol device {}
protocol kernel k4 { ipv4 { export all; }; }
protocol kernel k6 { ipv6 { export all; }; }
protocol direct { ipv4; ipv6; }
protocol bgp host4 { local 192.0.2.1 as 64512; neighbor 192.0.2.2 as 64513; MODE graceful restart on; ipv4 { import all; export all; }; }
protocol bgp host6 { local 2001:db8::1 as 64512; neighbor 2001:db8::2 as 64513; MODE graceful restart on; ipv6 { import all; export all; }; }
`

// newLab starts the router; mode is what its sessions have beside.
func newLab(t *testing.T, mode string) *lab {
	t.Helper()
	l := &lab{T: t, router: nstest.NewNS(t, "router")}
	nstest.IP(t, "link add up0 type veth peer name down0 netns router")
	for _, a := range []string{"addr add " + here4 + "/24 dev up0", "-6 addr add " + here6 + "/64 dev up0 nodad", "link set up0 up"} {
		nstest.IP(t, a)
	}
	for _, a := range []string{"addr add " + router4 + "/24 dev down0", "-6 addr add " + router6 + "/64 dev down0 nodad", "link set down0 up"} {
		l.router.IP(a)
	}
	l.bird = nstest.StartBird(t, l.router, strings.ReplaceAll(config, "MODE", mode))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l.path = filepath.Join(t.TempDir(), bgp.Program)
	if err := os.WriteFile(l.path, []byte("#!/bin/sh\n"+envProgram+"=1 exec "+self+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return l
}

// envProgram has this test binary be the program that a speaker runs.
const envProgram = "VNETD_BGP_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(envProgram) == "" {
		os.Exit(m.Run())
	}
	if err := speaker.Run(os.Stdin, os.Stdout, os.Stderr); err != nil {
		os.Exit(1)
	}
}

// neighbours is a configuration of both sessions.
func neighbours() bgp.Config {
	n := func(address string) bgp.Neighbour {
		return bgp.Neighbour{Address: netip.MustParseAddr(address), AS: 64512, Hold: bgp.UsualHold, Retry: 2 * time.Second, Hops: 1}
	}
	return bgp.Config{AS: 64513, Restart: bgp.UsualRestart, Neighbours: []bgp.Neighbour{n(router4), n(router6)}}
}

// run runs a speaker until the function that is returned is called, or the test ends.
func (l *lab) run(cfg bgp.Config, announced ...string) (s *bgp.Speaker, end func()) {
	l.Helper()
	if faults := cfg.Check(); len(faults) > 0 {
		l.Fatal(faults)
	}
	s = bgp.New(cfg, l.path, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	s.Announce(prefixes(announced...))
	ctx, cancel := context.WithCancel(l.Context())
	ended := make(chan struct{})
	go func() { s.Run(ctx); close(ended) }()
	end = func() { cancel(); <-ended }
	l.Cleanup(end)
	return s, end
}

func prefixes(all ...string) (out []netip.Prefix) {
	for _, p := range all {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// routes has the kernel of the router have those routes, and no others of BIRD's.
func (l *lab) routes(want ...string) {
	l.Helper()
	nstest.Eventually(l, limit, fmt.Sprintf("the router has %v", want), func() error {
		has := l.router.IP("-4 route show proto bird") + l.router.IP("-6 route show proto bird")
		if lines := strings.Count(has, " via "); lines != len(want) {
			return fmt.Errorf("%s\n%s", has, l.bird.Do("show protocols all"))
		}
		for _, w := range want {
			if !strings.Contains(has, w+" ") {
				return errors.New(has)
			}
		}
		return nil
	})
}

// state has the session with a neighbour be up, or down for that reason.
func (l *lab) state(s *bgp.Speaker, neighbour string, up bool, reason string) {
	l.Helper()
	nstest.Eventually(l, limit, fmt.Sprintf("%s is up: %t %s", neighbour, up, reason), func() error {
		for _, p := range s.State().Neighbours {
			if p.Address.String() == neighbour && p.Up == up && strings.Contains(p.Reason, reason) {
				return nil
			}
		}
		return fmt.Errorf("%+v", s.State())
	})
}

// The routes to what the tests announce by default.
var own = []string{"10.1.0.0/24 via " + here4, "fd00:1::/64 via " + here6}

// TestAnnounce has a router learn prefixes of both families, forget one that is withdrawn, and
// keep the rest while the program ends and is started again.
func TestAnnounce(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t, "")
		l.router.IP("addr add 198.51.100.1/24 dev down0") // which the router tells of
		s, end := l.run(neighbours(), "10.1.0.0/24", "fd00:1::/64", "10.2.0.7/32")
		l.routes(append(own, "10.2.0.7 via "+here4)...)
		s.Announce(prefixes("10.1.0.0/24", "fd00:1::/64"))
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		s.Settle(ctx)
		l.routes(own...)
		if routes := nstest.IP(t, "route show"); strings.Contains(routes, "198.51.100.0/24") {
			t.Errorf("this host has a route of the router's:\n%s", routes)
		}
		lost := l.watch()
		end()
		s, _ = l.run(neighbours(), "10.1.0.0/24", "fd00:1::/64")
		l.hears(s)
		if gone := lost(); gone != "" {
			t.Errorf("the router lost routes while the program was not there:\n%s", gone)
		}
	})
}

// hears has the router learn something new by both sessions, and forget it: by then it has
// forgotten what it knew of former sessions.
func (l *lab) hears(s *bgp.Speaker) {
	l.Helper()
	s.Announce(prefixes("10.1.0.0/24", "fd00:1::/64", "10.9.0.0/24", "fd00:9::/64"))
	l.routes(append(own, "10.9.0.0/24 via "+here4, "fd00:9::/64 via "+here6)...)
	s.Announce(prefixes("10.1.0.0/24", "fd00:1::/64"))
	l.routes(own...)
}

// TestSessionIsCutOff has the router keep its routes while sessions end and begin anew with the
// same program, which tells the time and why.
func TestSessionIsCutOff(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t, "")
		s, _ := l.run(neighbours(), "10.1.0.0/24", "fd00:1::/64")
		l.routes(own...)
		lost := l.watch()
		l.router.Exec("nft", "add table inet cut; add chain inet cut in { type filter hook input priority 0; }; add chain inet cut out { type filter hook output priority 0; };"+
			"add rule inet cut in tcp sport 179 reject with tcp reset; add rule inet cut in tcp dport 179 reject with tcp reset")
		s.Announce(prefixes("10.1.0.0/24", "fd00:1::/64", "10.8.0.0/24", "fd00:8::/64")) // which is not heard
		l.state(s, router4, false, "")
		l.state(s, router6, false, "")
		s.Announce(prefixes("10.1.0.0/24", "fd00:1::/64"))
		l.state(s, router4, false, "connection refused")
		l.router.Exec("nft", "delete table inet cut")
		l.hears(s)
		if gone := lost(); strings.Contains(gone, "10.1.0.0/24") || strings.Contains(gone, "fd00:1::/64") {
			t.Errorf("the router lost routes while the session was cut off:\n%s", gone)
		}
		for _, p := range s.State().Neighbours {
			if p.Flaps != 1 || !p.Up || p.Reason != "" {
				t.Errorf("%+v, want one flap", p)
			}
		}
	})
}

// TestListen has routers connect that can't be connected, and take what goes by one session for
// the other family where the next hop is said.
func TestListen(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t, "")
		l.router.Exec("nft", "add table inet closed; add chain inet closed in { type filter hook input priority 0; }; add rule inet closed in tcp dport 179 drop")
		cfg := neighbours()
		cfg.RouterID = netip.MustParseAddr("198.51.100.7")
		cfg.Listen = []netip.Addr{netip.MustParseAddr(here4), netip.MustParseAddr(here6)}
		cfg.NextHops = []netip.Addr{netip.MustParseAddr("192.0.2.9")}
		s, _ := l.run(cfg, "10.1.0.0/24", "fd00:1::/64")
		l.routes("10.1.0.0/24 via 192.0.2.9", "fd00:1::/64 via "+here6)
		if out := l.bird.Do("show protocols all host4"); !strings.Contains(out, "198.51.100.7") || s.State().RouterID != cfg.RouterID {
			t.Errorf("the router knows the host by another id:\n%s", out)
		}
	})
}

// TestPassword has sessions be protected by TCP MD5 where the kernel can, and none be tried
// without where it can't, where the other end has another password, and without the file.
func TestPassword(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t, `password "s3cret of the rack";`)
		file := filepath.Join(t.TempDir(), "password")
		write := func(text string) {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cfg := neighbours()
		for i := range cfg.Neighbours {
			cfg.Neighbours[i].PasswordFile = file
		}
		s, end := l.run(cfg, "10.1.0.0/24", "fd00:1::/64")
		l.state(s, router4, false, "password_file: open "+file)
		end()
		write("two\nlines\n")
		s, end = l.run(cfg, "10.1.0.0/24", "fd00:1::/64")
		l.state(s, router4, false, "want one line of 1 to 80 bytes")
		end()
		write("s3cret of the rack\n")
		s, end = l.run(cfg, "10.1.0.0/24", "fd00:1::/64")
		if !signsTCP(t) {
			l.state(s, router4, false, "this kernel does not sign TCP (CONFIG_TCP_MD5SIG)")
			return
		}
		l.routes(own...)
		end()
		write("another\n")
		s, _ = l.run(cfg, "10.1.0.0/24", "fd00:1::/64")
		l.state(s, router4, false, "timeout")
	})
}

// signsTCP asks the kernel whether it has TCP MD5.
func signsTCP(t *testing.T) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	key := unix.TCPMD5Sig{Addr: unix.SockaddrStorage{Family: unix.AF_INET}, Keylen: 1}
	return !errors.Is(unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, &key), unix.ENOPROTOOPT)
}

// TestReasons tells why neighbours are not up.
func TestReasons(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t, "error wait time 1, 1;")
		cfg := neighbours()
		cfg.AS = 64999 // the router wants another one
		s, end := l.run(cfg, "10.1.0.0/24")
		l.state(s, router4, false, "the neighbour refuses the session")
		end()
		cfg = neighbours()
		cfg.Neighbours[0].AS = 64999 // the router is another one
		s, end = l.run(cfg, "10.1.0.0/24")
		l.state(s, router4, false, "this host refuses the session: ")
		end()
		l.bird.Stop()
		s, end = l.run(neighbours(), "10.1.0.0/24")
		l.state(s, router4, false, "connection refused")
		end()
		cfg = neighbours()
		cfg.Listen = []netip.Addr{netip.MustParseAddr("192.0.2.77")}
		s, _ = l.run(cfg, "10.1.0.0/24")
		l.state(s, router4, false, "cannot assign requested address")
		if s.State().Failure == nil {
			t.Error("the program failed, and that is not said")
		}
	})
}

// TestWithdraw has routers forget what a former program announced.
func TestWithdraw(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t, "")
		_, end := l.run(neighbours(), "10.1.0.0/24", "fd00:1::/64")
		l.routes(own...)
		end()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		if err := bgp.New(neighbours(), l.path, slog.New(slog.DiscardHandler)).Withdraw(ctx); err != nil {
			t.Error(err)
		}
		l.routes()
		l.bird.Stop()
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := bgp.New(neighbours(), l.path, slog.New(slog.DiscardHandler)).Withdraw(soon)
		if err == nil || !strings.Contains(err.Error(), "BGP neighbour 192.0.2.1 is not reached") {
			t.Errorf("of routers that are not there: %v", err)
		}
	})
}

// watch collects routes that the router's kernel deletes until the function is called.
func (l *lab) watch() (gone func() string) {
	l.Helper()
	ctx, cancel := context.WithCancel(l.Context())
	cmd := l.router.Command(ctx, "ip", "monitor", "route")
	var said bytes.Buffer
	cmd.Stdout = &said
	if err := cmd.Start(); err != nil {
		l.Fatal(err)
	}
	return func() string {
		cancel()
		_ = cmd.Wait() // killed
		var gone strings.Builder
		for line := range strings.Lines(said.String()) {
			if strings.HasPrefix(line, "Deleted ") && !strings.Contains(line, " 10.9.0.0") && !strings.Contains(line, " fd00:9:") {
				gone.WriteString(line)
			}
		}
		return gone.String()
	}
}
