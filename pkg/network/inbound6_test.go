package network_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
)

// The guest and a host that is two routers away, behind a link of the least MTU.
const (
	guest6 = "2001:db8:1::2"
	far6   = "2001:db8:fffe::2"
)

// routedTo6 is a network of a mode with a prefix of IPv6 that the LAN routes here.
func routedTo6(mode, inside string) string {
	return "<network xmlns:vnetd='urn:vnetd:network:1'><name>six</name><forward mode='" + mode + "'/><bridge name='six' stp='off'/>" +
		"<ip address='192.168.66.1' prefix='24'/><ip family='ipv6' address='2001:db8:1::1' prefix='64'/>" + inside + "</network>"
}

// neighbourhood is a guest of the network six, the LAN, and the host behind it.
func neighbourhood(t *testing.T) (guest, lan, far *nstest.NS) {
	t.Helper()
	lan = nstest.NewLAN(t)
	lan.IP("-6 route add 2001:db8:1::/64 via " + nstest.Uplink6)
	far = nstest.NewNS(t, "far")
	lan.IP("link add far0 mtu 1280 type veth peer name eth0 mtu 1280 netns far")
	lan.IP("-6 addr add 2001:db8:fffe::1/64 dev far0 nodad")
	lan.IP("link set far0 up")
	lan.Exec("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	far.IP("-6 addr add " + far6 + "/64 dev eth0 nodad")
	far.IP("link set eth0 up")
	far.IP("-6 route add default via 2001:db8:fffe::1 advmss 1440") // so that others send what does not fit
	nstest.IP(t, "-6 route add 2001:db8:fffe::/64 via "+nstest.LANHost6)
	guest = nstest.Guest(t, "six", "guest", "")
	guest.IP("-6 addr add " + guest6 + "/64 dev eth0 nodad")
	guest.IP("-6 route add default via 2001:db8:1::1 metric 7")
	return guest, lan, far
}

// serve6 has ns answer on port 80 of TCP whatever it is sent, and say nothing else.
func serve6(t *testing.T, ns *nstest.NS) {
	t.Helper()
	var l net.Listener
	must(t, ns.Do(func() (err error) {
		l, err = (&net.ListenConfig{KeepAlive: -1}).Listen(t.Context(), "tcp6", ":80")
		return err
	}))
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn) }()
		}
	}()
}

// dial6 connects to port 80, once links that came up a moment ago have all their addresses.
func dial6(t *testing.T, from *nstest.NS, to string) (conn net.Conn, err error) {
	t.Helper()
	for end := time.Now().Add(wait); ; {
		_ = from.Do(func() error {
			conn, err = (&net.Dialer{Deadline: end, KeepAlive: -1}).Dial("tcp6", net.JoinHostPort(to, "80"))
			return nil
		})
		if !errors.Is(err, syscall.EHOSTUNREACH) || time.Now().After(end) {
			break
		}
	}
	if err == nil {
		t.Cleanup(func() { _ = conn.Close() })
	}
	return conn, err
}

// echoes sends data by a connection and waits for it to come back.
func echoes(conn net.Conn, size int) error {
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(make([]byte, size))
		sent <- err
	}()
	_, err := io.ReadFull(conn, make([]byte, size))
	return errors.Join(err, <-sent)
}

// TestInbound6 takes from the LAN what it may begin by IPv6, while the network is
// active: connections that are under way go on, as do those of guests, and routers on
// their way tell them what does not fit.
func TestInbound6(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		h.started(routedTo6("nat", ""))
		guest, lan, far := neighbourhood(t)
		serve6(t, guest)
		serve6(t, far)
		serve6(t, lan)
		before, err := dial6(t, lan, guest6)
		must(t, err)
		must(t, echoes(before, 1))
		own, err := dial6(t, guest, nstest.LANHost6)
		must(t, err)
		must(t, echoes(own, 1))

		if d := h.defineWith(routedTo6("nat", "<vnetd:ipv6 inbound='no'/>"), api.DefineOptions{}); len(d.Pending) > 0 {
			t.Errorf("pending: %v", d.Pending)
		}
		if _, err := dial6(t, lan, guest6); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a connection from the LAN: %v", err)
		}
		if err := echoes(before, 1000); err != nil {
			t.Errorf("the connection from before: %v", err)
		}
		if err := echoes(own, 1000); err != nil {
			t.Errorf("the guest's connection from before: %v", err)
		}
		upload, err := dial6(t, guest, far6)
		must(t, err)
		if err := echoes(upload, 300_000); err != nil {
			t.Errorf("a connection of the guest's: %v", err)
		}
		if route := guest.IP("-6 route get " + far6); !strings.Contains(route, "mtu 1280") {
			t.Errorf("the guest has not heard of the MTU: %s", route)
		}
		h.defineWith(routedTo6("nat", "<vnetd:ipv6 inbound='yes'/>"), api.DefineOptions{})
		if _, err := dial6(t, lan, guest6); err != nil {
			t.Errorf("a connection from the LAN, with inbound='yes': %v", err)
		}
	})
}

// TestInbound6OfRouted leaves connections into a routed network, which nobody knows,
// until its next start.
func TestInbound6OfRouted(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(routedTo6("route", ""))
		guest, lan, _ := neighbourhood(t)
		serve6(t, guest)
		d := h.defineWith(routedTo6("route", "<vnetd:ipv6 inbound='no'/>"), api.DefineOptions{})
		if got := fmt.Sprint(d.Pending); !strings.Contains(got, "vnetd:ipv6") {
			t.Errorf("pending: %v", got)
		}
		if _, err := dial6(t, lan, guest6); err != nil {
			t.Errorf("a connection from the LAN while the change is pending: %v", err)
		}
		h.defineWith(routedTo6("route", "<vnetd:ipv6 inbound='no'/>"), api.DefineOptions{Apply: api.ApplyAll})
		if _, err := dial6(t, lan, guest6); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a connection from the LAN: %v", err)
		}
		if _, ok := find(n, "ipv6-reachable"); ok {
			t.Error("a routed network is told of as one whose IPv6 is reachable")
		}
	})
}

// TestReachableByIPv6 tells of a network of mode nat whose IPv6 is reachable until its document says
// what is wanted.
func TestReachableByIPv6(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(routedTo6("nat", ""))
		c := await(t, n, "ipv6-reachable", true)
		for in, want := range map[string]string{
			c.Message: "outside", c.Evidence: "2001:db8:1::/64", c.Remedy: "<vnetd:ipv6 xmlns:vnetd='urn:vnetd:network:1' inbound='no'/>",
		} {
			if !strings.Contains(in, want) {
				t.Errorf("%q does not contain %q", in, want)
			}
		}
		if c.Severity != api.SeverityInfo {
			t.Errorf("severity %s", c.Severity)
		}
		for _, said := range []string{"<vnetd:ipv6 inbound='no'/>", "<vnetd:ipv6 inbound='yes'/>", "<vnetd:rules ingress='reject'/>", "<vnetd:rules ingress='allow'/>"} {
			h.defineWith(routedTo6("nat", "<vnetd:rules egress='reject'/>"), api.DefineOptions{})
			await(t, n, "ipv6-reachable", true)
			h.defineWith(routedTo6("nat", said), api.DefineOptions{})
			await(t, n, "ipv6-reachable", false)
		}
	})
}
