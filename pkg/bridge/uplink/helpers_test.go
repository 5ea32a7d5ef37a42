package uplink_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge/uplink"
)

// hypervisor makes a LAN behind eno1, with about everything on eno1 that an
// uplink may have, and returns the LAN's namespace.
func hypervisor(t *testing.T) *nstest.NS {
	t.Helper()
	lan := nstest.NewLAN(t)
	for _, args := range []string{
		"link add eno2 type veth peer name eno2p",
		"link set eno2 up",
		"link set eno2p up",
		"addr add 198.51.100.2/24 dev eno2",
		"addr add 203.0.113.3/24 dev eno1", // secondary
		"addr add 203.0.113.4/24 brd 203.0.113.127 dev eno1 label eno1:web valid_lft 500000 preferred_lft 400000",
		"addr add 192.0.2.2/32 dev eno1",
		"addr add 192.0.2.130 peer 192.0.2.131 dev eno1",
		"addr add 192.0.2.193/28 dev eno1 noprefixroute scope link",
		"-6 addr add 2001:db8:1::2/64 dev eno1 nodad valid_lft 600000 preferred_lft 0",
		"-6 addr add 2001:db8:2::2/64 dev eno1 nodad noprefixroute home",
		"-6 addr add 2001:db8:ffff::3/128 dev eno1",
		"route add 198.18.0.0/24 via 203.0.113.1 metric 7 proto static mtu 1300",
		"route add 198.18.1.0/24 via 203.0.113.1 src 203.0.113.3 table 100",
		"route add 198.18.2.0/24 via 10.9.9.9 dev eno1 onlink proto 77",
		"route add 198.18.3.0/24 dev eno1 scope link tos 0x10",
		"route add 198.18.4.0/24 nexthop via 203.0.113.1 dev eno1 weight 2 nexthop via 198.51.100.1 dev eno2",
		"route add 192.0.2.192/28 dev eno1 metric 9",
		"route add 10.8.0.1/32 dev eno1",
		"route add 198.18.5.0/24 via 10.8.0.1 dev eno1",
		"route add default via 203.0.113.1 table 100",
		"-6 route add 2001:db8:18::/64 via 2001:db8:ffff::1 metric 7 proto static",
		"-6 route add 2001:db8:19::/64 via fe80::1 dev eno1 table 100 expires 300000",
		"-6 route add 2001:db8:20::/64 dev eno1 pref high src 2001:db8:ffff::2",
		"-6 route add 2001:db8:21::/64 nexthop via 2001:db8:ffff::1 dev eno1 nexthop via fe80::9 dev eno2",
		"-6 route add 2001:db8:2::/64 dev eno1 metric 9",
		"rule add from 203.0.113.3 table 100",
		"rule add iif eno1 table 100",
		"neigh add 203.0.113.77 lladdr 00:00:5e:00:53:77 dev eno1 nud permanent",
		"-6 neigh add 2001:db8:ffff::77 lladdr 00:00:5e:00:53:77 dev eno1 nud permanent",
	} {
		nstest.IP(t, args)
	}
	settle(t)
	return lan
}

// settle waits until the kernel has seen that links have carrier, given them their link-local
// addresses, is done with duplicate address detection, and knows addresses as the host's own.
func settle(t *testing.T) {
	t.Helper()
	nstest.Eventually(t, soon, "links are up", func() error {
		for _, link := range []string{"eno1", "eno2"} {
			if exists(t, link) && nstest.IP(t, "-6 addr show dev "+link+" scope link") == "" {
				return errors.New(link + " has no link-local address")
			}
		}
		if out := nstest.IP(t, "-6 addr show tentative"); out != "" {
			return errors.New(out)
		}
		own := nstest.IP(t, "-6 route show table local")
		for line := range strings.Lines(nstest.IP(t, "-6 -o addr show dev eno1")) {
			if addr, _, _ := strings.Cut(strings.Fields(line)[3], "/"); !strings.Contains(own, "local "+addr+" ") {
				return errors.New(addr + " is not known as the host's own")
			}
		}
		return carried(t)
	})
}

// carried tells of routes whose links have no carrier that the kernel has seen.
func carried(t *testing.T) error {
	t.Helper()
	for line := range strings.Lines(nstest.IP(t, "route show table all")) {
		if strings.Contains(line, "linkdown") {
			return errors.New(line)
		}
	}
	return nil
}

// hostState is what `ip` shows of all links, addresses, routes, rules and
// permanent neighbours.
func hostState(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, args := range []string{
		"-j addr", "-d -j route show table all", "-d -6 -j route show table all", "-j rule", "-j -6 rule",
		"-j neigh show nud permanent", "-j -6 neigh show nud permanent",
	} {
		var all any
		if err := json.Unmarshal([]byte(nstest.IP(t, args)), &all); err != nil {
			t.Fatalf("ip %s: %v", args, err)
		}
		steady(all)
		data, err := json.MarshalIndent(all, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "ip %s\n%s\n", args, data)
	}
	return out.String()
}

// steady rounds lifetimes to 10,000 seconds, as they pass.
func steady(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			steady(e)
		}
	case map[string]any:
		for _, key := range []string{"valid_life_time", "preferred_life_time", "expires"} {
			if n, ok := v[key].(float64); ok {
				v[key] = math.Round(n / 1e4)
			}
		}
		for _, e := range v {
			steady(e)
		}
	}
}

// routesOf are the routes of a link that go along with its addresses, with its
// name replaced by "uplink".
func routesOf(t *testing.T, dev string) []string {
	t.Helper()
	var lines []string
	for _, family := range []string{"-4", "-6"} {
		for line := range strings.Lines(nstest.IP(t, family+" -d -o route show table all")) {
			own := strings.Contains(line, "table local") || strings.HasPrefix(line, "unicast fe80:") || strings.HasPrefix(line, "multicast")
			if strings.Contains(line, "dev "+dev+" ") && !own {
				line, _, _ = strings.Cut(strings.ReplaceAll(line, "dev "+dev+" ", "dev uplink "), "expires")
				lines = append(lines, strings.TrimSpace(line))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// sameHost fails the test unless the host is as it was, once the kernel has seen which
// addresses are its own: that it does by a worker, which is late on a busy machine.
func sameHost(t *testing.T, when, before string) {
	t.Helper()
	nstest.Eventually(t, soon, when+", the host is as before", func() error {
		if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(hostState(t), "\n")); diff != "" {
			return fmt.Errorf("it isn't (-before +after):\n%s", diff)
		}
		return nil
	})
}

// saved keeps the last state that Attach saved, as JSON.
type saved struct{ data []byte }

func (s *saved) save(state uplink.State) (err error) {
	s.data, err = json.Marshal(state)
	return err
}

func (s *saved) state(t *testing.T) uplink.State {
	t.Helper()
	var state uplink.State
	if err := json.Unmarshal(s.data, &state); err != nil {
		t.Fatal(err)
	}
	return state
}

func attachUplink(t *testing.T, u *uplink.Uplinks, device string) uplink.State {
	t.Helper()
	s, err := u.Attach(t.Context(), uplink.Config{Bridge: "br0", Uplink: device})
	if err != nil {
		t.Fatal(err)
	}
	return *s
}

func detachUplink(t *testing.T, u *uplink.Uplinks, s uplink.State) {
	t.Helper()
	if err := u.Detach(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

// stream is a TCP connection that is written to and echoed all the time.
type stream struct {
	conn net.Conn
	done sync.WaitGroup
	stop context.CancelFunc

	mu       sync.Mutex
	echoed   int           // bytes
	last     time.Time     // when bytes came
	maxStall time.Duration // the longest time without
	err      error
}

// openStream connects to an echo server in the namespace.
func openStream(t *testing.T, lan *nstest.NS, address string) *stream {
	t.Helper()
	var listener net.Listener
	if err := lan.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(address, "0"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s := new(stream)
	s.done.Add(1)
	go func() {
		defer s.done.Done()
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(conn, conn)
		_ = conn.Close()
	}()
	t.Cleanup(func() { _ = listener.Close() })
	var err error
	if s.conn, err = net.DialTimeout("tcp", listener.Addr().String(), soon); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.done.Add(2)
	go func() { defer s.done.Done(); s.write(ctx) }()
	go func() { defer s.done.Done(); s.read() }()
	return s
}

// pattern is the stream's bytes from offset on.
func pattern(offset, n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte((offset + i) * 7 >> 2)
	}
	return data
}

func (s *stream) write(ctx context.Context) {
	for offset := 0; ctx.Err() == nil; offset += 700 {
		if _, err := s.conn.Write(pattern(offset, 700)); err != nil {
			s.fail(fmt.Errorf("writing at %d: %w", offset, err))
			return
		}
		time.Sleep(time.Millisecond) // the stream's pace
	}
	if err := s.conn.(*net.TCPConn).CloseWrite(); err != nil {
		s.fail(err)
	}
}

func (s *stream) read() {
	buf := make([]byte, 1<<16)
	for {
		n, err := s.conn.Read(buf)
		s.mu.Lock()
		if !bytes.Equal(buf[:n], pattern(s.echoed, n)) && s.err == nil {
			s.err = fmt.Errorf("wrong bytes at %d", s.echoed)
		}
		s.echoed += n
		if !s.last.IsZero() {
			s.maxStall = max(s.maxStall, time.Since(s.last))
		}
		s.last = time.Now()
		s.mu.Unlock()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			s.fail(err)
			return
		}
	}
}

func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = errors.Join(s.err, err)
}

// flows waits until further bytes came through and returns the longest stall
// since the last call.
func (s *stream) flows(t *testing.T) time.Duration {
	t.Helper()
	s.mu.Lock()
	from := s.echoed
	s.mu.Unlock()
	nstest.Eventually(t, soon, "the stream flows", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err != nil {
			t.Fatal(s.err)
		}
		if s.echoed < from+50_000 {
			return os.ErrDeadlineExceeded
		}
		return nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	stall := s.maxStall
	s.maxStall = 0
	return stall
}

// close ends the stream; every byte must have come back.
func (s *stream) close(t *testing.T) {
	t.Helper()
	s.stop()
	s.done.Wait()
	_ = s.conn.Close()
	if s.err != nil {
		t.Error(s.err)
	}
}
