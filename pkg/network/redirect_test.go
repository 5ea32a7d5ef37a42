package network_test

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
)

// take has this process listen on a port of all addresses, as the host's own
// name server may, until the returned function is called.
func take(t *testing.T, port string) (free func()) {
	t.Helper()
	udp, err := net.ListenPacket("udp", ":"+port)
	must(t, err)
	tcp, err := net.Listen("tcp", ":"+port)
	must(t, err)
	return func() { _, _ = udp.Close(), tcp.Close() }
}

// prerouting are the rules of nat PREROUTING, of both families.
func prerouting(t *testing.T) string {
	t.Helper()
	return nstest.Exec(t, "iptables", "-t", "nat", "-S", "PREROUTING") + nstest.Exec(t, "ip6tables", "-t", "nat", "-S", "PREROUTING")
}

// dual is a NAT network of both families.
func dual(name string) string {
	return strings.Replace(natXML(name, "192.0.2"), "</network>", "<ip family='ipv6' address='2001:db8:1::1' prefix='64'/></network>", 1)
}

// TestNameServerOfTheHost starts a network on a host whose own name server
// listens on all addresses: guests' questions to the gateway are answered all
// the same, over either transport and family, after a restart too.
func TestNameServerOfTheHost(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		free := take(t, "53")
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		before := prerouting(t)
		n := h.started(dual("one"))
		g := nstest.Guest(t, "one", "guest", "")
		g.IP("addr add 192.0.2.50/24 dev eth0")
		g.IP("-6 addr add 2001:db8:1::50/64 dev eth0 nodad")
		answers := func(server string, option string) bool {
			out, _ := g.Command(t.Context(), "dig", "+short", "+tries=1", "+time=2", option, "@"+server, "myhost").Output()
			return string(out) == "192.0.2.10\n"
		}
		for range 2 {
			if info := n.Info(); info.State != api.Active {
				t.Errorf("the network is %s: %s", info.State, info.LastError)
			}
			for _, server := range []string{"192.0.2.1", "2001:db8:1::1"} {
				for _, option := range []string{"+notcp", "+tcp"} {
					until(t, server+" answers over "+option, func() bool { return answers(server, option) })
				}
			}
			redirects := prerouting(t)
			h.end()
			h = newHub(t, root, hubOptions{})
			var err error
			n, err = h.ByName("one")
			must(t, err)
			if after := prerouting(t); after != redirects {
				t.Errorf("after a restart the rules are\n%s, not\n%s", after, redirects)
			}
		}
		h.end()
		free()
		h = newHub(t, root, hubOptions{})
		if after := prerouting(t); after != before {
			t.Errorf("with port 53 free there are\n%s", after)
		}
		until(t, "the gateway answers at port 53", func() bool { return answers("192.0.2.1", "+notcp") })
		n, err := h.ByName("one")
		must(t, err)
		must(t, n.Stop(t.Context()))
	})
}

// TestAskerWithOnePort has a guest's resolver ask from the same port again and again, of which the
// kernel keeps where it led: it is answered wherever the name server listens by then, over restarts
// too.
func TestAskerWithOnePort(t *testing.T) {
	for _, backend := range []string{"iptables", "nftables"} {
		t.Run(backend, func(t *testing.T) { nstest.Run(t, func(t *testing.T) { askWithOnePort(t, backend == "nftables") }) })
	}
}

func askWithOnePort(t *testing.T, nftables bool) {
	const right = "192.0.2.10\n"
	root := t.TempDir()
	h := newHub(t, root, hubOptions{nftables: nftables})
	h.started(dual("one"))
	g := nstest.Guest(t, "one", "guest", "")
	g.IP("addr add 192.0.2.50/24 dev eth0")
	g.IP("-6 addr add 2001:db8:1::50/64 dev eth0 nodad")
	ask := func(source, server string) string {
		out, _ := g.Command(t.Context(), "dig", "+short", "+tries=1", "+time=5", "-b", source, "@"+server, "myhost").Output()
		return string(out)
	}
	answers := func(when string) {
		t.Helper()
		for source, server := range map[string]string{"192.0.2.50#4000": "192.0.2.1", "2001:db8:1::50#4000": "2001:db8:1::1"} {
			if got := ask(source, server); got != right {
				t.Errorf("%s: %s says %q", when, server, got)
			}
		}
	}
	next := func() { h.end(); h = newHub(t, root, hubOptions{nftables: nftables}) }
	served := func() bool {
		return ask("192.0.2.50", "192.0.2.1") == right && ask("2001:db8:1::50", "2001:db8:1::1") == right
	}
	until(t, "the guest is there", served)
	answers("at first")
	next()
	answers("after a restart")
	h.end()
	free := take(t, "53")
	h = newHub(t, root, hubOptions{nftables: nftables})
	answers("when another program has taken port 53")
	next()
	answers("after a restart beside that")
	h.end()
	free()
	h = newHub(t, root, hubOptions{nftables: nftables})
	answers("when port 53 is free again")
	n, err := h.ByName("one")
	must(t, err)
	for _, beside := range []bool{true, false} {
		must(t, n.Stop(t.Context()))
		free()
		if beside {
			free = take(t, "53")
		}
		must(t, n.Start(t.Context()))
		nstest.IP(t, "link set v-guest master one")
		until(t, "the guest is there again", served)
		answers(fmt.Sprintf("as the network starts anew, beside another program %v", beside))
	}
}

// TestRedirectGoes stops a network whose queries are redirected.
func TestRedirectGoes(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		defer take(t, "53")()
		h := newHub(t, t.TempDir(), hubOptions{})
		before := prerouting(t)
		n := h.started(natXML("one", "192.0.2"))
		if rules := prerouting(t); rules == before {
			t.Error("there is no redirect")
		}
		must(t, n.Stop(t.Context()))
		if after := prerouting(t); after != before {
			t.Errorf("after the stop there are\n%s", after)
		}
	})
}

// TestDegradedUntilPortIsFree starts a network where DNS finds no port: the rest
// of it works, it is said who is in the way, and DNS comes when it can.
func TestDegradedUntilPortIsFree(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		free53, free := take(t, "53"), take(t, "10053")
		defer free()
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		until(t, "the network is degraded", func() bool {
			info := n.Info()
			return info.State == api.Degraded && info.Active && strings.Contains(info.LastError, "192.0.2.1:53: bind: address already in use (taken by")
		})
		if _, err := net.ListenPacket("udp", ":67"); err == nil {
			t.Error("DHCP is not served")
		}
		free53()
		until(t, "the network is whole", func() bool {
			info := n.Info()
			return info.State == api.Active && info.LastError == ""
		})
	})
}
