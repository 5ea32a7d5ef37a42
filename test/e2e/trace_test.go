package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// verdict is what vnetctl trace says in JSON of what became of packets.
type verdict struct {
	Verdict struct{ Cause, Text, Remedy string }
	Reasons map[string]int
}

// traced has vnetctl trace a guest's port while it pings.
func traced(t *testing.T, l *nstest.Lab, guest *nstest.NS, to string, ping ...string) (v verdict) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = guest.Command(ctx, "ping", append(ping, "-c100", "-i0.1", to)...).Run()
	}()
	r := l.Vnetctl(ctx, "trace", guest.Name, "icmp", to, "--time", "3s", "--json")
	cancel()
	<-done
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(r.Stdout), &v); err != nil {
		t.Fatalf("%v: %s", err, r.Stdout)
	}
	return v
}

// TestTrace has vnetctl trace and capture a port of a network with NAT, guards and rules as
// vnetd makes them.
func TestTrace(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		if err := unix.Mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, ""); err != nil {
			t.Fatal(err)
		}
		s := newStreet(t)
		lan := s.LAN
		for _, n := range []int{gatewayLevel, gatewayLevel + 1} {
			s.define(n, "")
			vnetctl(t, s.Lab, "start", guardLevels[n])
		}
		web, _ := s.own(guardLevels[gatewayLevel], "web", "52:54:00:01:01:c9")
		net := fmt.Sprintf("198.18.%d.", gatewayLevel)
		web.IP("addr add " + net + "201/24 dev eth0")
		web.IP("route add default via " + net + "1")
		nstest.Eventually(t, limit, "the guest reaches the LAN", func() error { return web.Command(t.Context(), "ping", "-c1", "-W1", nstest.LANHost).Run() })

		expect := func(v verdict, cause, text string) {
			t.Helper()
			if v.Verdict.Cause != cause || !strings.Contains(v.Verdict.Text, text) {
				t.Errorf("%+v, want %s with %q", v, cause, text)
			}
		}
		expect(traced(t, s.Lab, web, nstest.LANHost), "answered", "both ways")
		expect(traced(t, s.Lab, web, fmt.Sprintf("198.18.%d.10", gatewayLevel+1)), "rule-of-vnetd", "LIBVIRT_FW")
		web.IP("addr add " + net + "1/32 dev eth0")
		expect(traced(t, s.Lab, web, nstest.LANHost, "-I", net+"1"), "port-guard", "kind ip")
		web.IP("addr del " + net + "1/32 dev eth0")
		lan.IP("addr del " + nstest.LANHost + "/24 dev lan0")
		nstest.IP(t, "neigh flush dev eno1")
		expect(traced(t, s.Lab, web, nstest.LANHost), "no-neighbour", "eno1")
		lan.IP("addr add " + nstest.LANHost + "/24 dev lan0")

		captured(t, s.Lab, web)
		killed(t, s.Lab)
	})
}

// captured holds that capture writes what tcpdump reads, prints lines, and says who may.
func captured(t *testing.T, l *nstest.Lab, guest *nstest.NS) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = guest.Command(ctx, "ping", "-c200", "-i0.05", nstest.LANHost).Run()
	}()
	defer func() { cancel(); <-done }()
	file := filepath.Join(t.TempDir(), "web.pcapng")
	r := l.Vnetctl(ctx, "capture", guardLevels[gatewayLevel], "icmp", "-w", file, "--count", "6")
	if out := nstest.Exec(t, "tcpdump", "-nr", file); r.Err() != nil || strings.Count(out, "ICMP echo") != 6 || !strings.Contains(r.Stderr, "6 packets (the number is reached") {
		t.Errorf("%v, %s\ntcpdump reads %s", r.Err(), r.Stderr, out)
	}
	r = l.Vnetctl(ctx, "capture", guest.Name, "icmp and dst host "+nstest.LANHost, "--count", "2")
	if lines := strings.Split(strings.TrimSpace(r.Stdout), "\n"); r.Err() != nil || len(lines) != 2 || !strings.HasSuffix(lines[0], " > "+nstest.LANHost+": icmp echo request, length 84") {
		t.Errorf("%v: %s", r.Err(), r.Stdout)
	}
	for _, command := range []string{"capture", "trace"} {
		out, err := exec.CommandContext(ctx, "setpriv", "--bounding-set=-net_raw,-net_admin", filepath.Join(l.Bin, "vnetctl"), command, guest.Name).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "CAP_NET_RAW: run it as root") {
			t.Errorf("%s without the right: %v, %s", command, err, out)
		}
	}
}

// killed holds that a trace that is killed leaves nothing in the kernel.
func killed(t *testing.T, l *nstest.Lab) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = l.Vnetctl(ctx, "trace", "web", "--time", "1m") }()
	marks := func() string { return nstest.Exec(t, "nft", "list", "tables") }
	nstest.Eventually(t, limit, "marks", func() error {
		if tables := marks(); strings.Count(tables, "vnetd_trace") != 3 {
			return fmt.Errorf("%s", tables)
		}
		return nil
	})
	time.Sleep(100 * time.Millisecond)
	cancel() // kills
	<-ended
	nstest.Eventually(t, limit, "no marks", func() error {
		if tables := marks(); strings.Contains(tables, "vnetd_trace") {
			return fmt.Errorf("%s", tables)
		}
		return nil
	})
}
