package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/guardtest"
)

// ownLine is what a status says of a host's own link.
var ownLine = regexp.MustCompile(`Host: (10\.50\.\S+?)(?:, (fd00:50::?\S+))? on vh7, (06:\S+)`)

// ownOf is what a host has of its own in the network, once it has it.
func (l *spanLab) ownOf(i int) (v4, v6, mac string) {
	l.Helper()
	nstest.Eventually(l, spanLimit, fmt.Sprintf("h%d has an address of its own", i+1), func() error {
		status := l.ctl(i, "", "status", "apps")
		found := ownLine.FindStringSubmatch(status)
		if found == nil {
			return errors.New(status)
		}
		v4, v6, mac = found[1], found[2], found[3]
		return nil
	})
	return v4, v6, mac
}

// withHost is a document by which hosts have addresses of their own.
func withHost(document string) string {
	return strings.Replace(document, "vni='7'", "vni='7' host-address='yes'", 1)
}

// gatewayOf is the card that a guest takes its gateway to have.
func gatewayOf(guest *nstest.NS, address string) string {
	return guest.Exec("sh", "-c", "ip neigh show "+address+" dev eth0 | grep -o 'lladdr [^ ]*'")
}

// TestSpanHostAddress has two of three hosts get addresses of their own while guests are at work: their programs reach
// guests of all hosts, and these them. What guests had goes on as it was.
func TestSpanHostAddress(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newSpanLab(t, 3, false, 1500)
		a, b := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(1, "b", client.PortOptions{Name: "b"})
		a4, b4 := l.lease(a), l.lease(b)
		a6, b6 := l.address(a, "-6", "fd00:50:"), l.address(b, "-6", "fd00:50:")
		h1, h2 := l.hosts[0].NS, l.hosts[1].NS
		if h1.Command(t.Context(), "ping", "-c2", "-W1", b4).Run() == nil {
			t.Error("a host reaches guests of another one without an address of its own")
		}
		through := l.counts(a, b4)
		outside := l.counts(a, l.underlay(2))
		gateway := l.counts(a, "10.50.0.1")
		for i := range 2 {
			l.ctl(i, withHost(l.document(i)), "define", "-")
		}
		own4, own6, mac := l.ownOf(0)
		far4, far6, farMAC := l.ownOf(1)
		if !strings.HasPrefix(own4, "10.50.1.") || !strings.HasPrefix(far4, "10.50.2.") || mac == farMAC || own6 == "" || own6 == far6 {
			t.Errorf("hosts have %s, %s, %s and %s, %s, %s", own4, own6, mac, far4, far6, farMAC)
		}
		l.reach([]reach{
			{h1, []string{a4, a6, b4, b6, far4, far6}}, {h2, []string{a4, a6, b4, b6, own4, own6}}, {a, []string{own4, own6, far4, far6}}, {b, []string{own4, own6, far4, far6}},
		})
		through.end("between guests while hosts get addresses")
		outside.end("to the outside meanwhile")
		gateway.end("to the gateway meanwhile")
		l.transfers(h1, b, b4)
		l.transfers(h1, a, a4)
		l.transfers(b, h1, own4)
		l.transfers(h2, a, a6)
		for _, guest := range []*nstest.NS{a, b} {
			l.pings(guest, "10.50.0.1")
			l.pings(guest, "fd00:50::1")
			for _, address := range []string{"10.50.0.1", "fd00:50::1"} {
				if got := gatewayOf(guest, address); !strings.Contains(got, "02:76:6e:00:00:07") {
					t.Errorf("%s takes %s to be %s", guest.Name, address, got)
				}
			}
		}
		// What the kernel tells of errors comes from the gateway, as does DHCP.
		if out, _ := a.Command(t.Context(), "ping", "-c1", "-W1", "-t1", l.underlay(2)).CombinedOutput(); !strings.Contains(strings.ToLower(string(out)), "from 10.50.0.1") {
			t.Errorf("the first on the way of a guest is\n%s", out)
		}
		if again := l.lease(a); again != a4 {
			t.Errorf("the guest had %s, and has %s", a4, again)
		}
		if got := gatewayOf(b, own4); !strings.Contains(got, mac) {
			t.Errorf("b takes the host to be %s, want %s", got, mac)
		}
		l.hostGoesOn(b, b4)
		l.hostMends(b4)
		l.hostCeases(a, a4, b4)
	})
}

// hostGoesOn ends a vnetd and starts another, while a host and a guest of another one talk.
func (l *spanLab) hostGoesOn(b *nstest.NS, b4 string) {
	l.Helper()
	h := l.hosts[0]
	own4, own6, mac := l.ownOf(0)
	state := func() string {
		return h.Exec("sh", "-c", "cat /sys/class/net/vh7/ifindex /sys/class/net/vhp7/ifindex; ip -o addr show dev vh7 | sed 's/valid.*//'; ip rule; ip -6 rule; nft -s list table inet vnetd_span")
	}
	was := state()
	there, back := l.counts(h.NS, b4), l.counts(b, own4)
	h.KillVnetd()
	h.StartVnetd()
	if again4, again6, againMAC := l.ownOf(0); again4 != own4 || again6 != own6 || againMAC != mac {
		l.Errorf("another vnetd has %s, %s, %s, want %s, %s, %s", again4, again6, againMAC, own4, own6, mac)
	}
	there.end("from the host while vnetd was away")
	back.end("to the host while vnetd was away")
	if is := state(); is != was {
		l.Errorf("another vnetd has it otherwise; was\n%s\nis\n%s", was, is)
	}
}

// hostMends has what others do to a host's own link be put back.
func (l *spanLab) hostMends(b4 string) {
	l.Helper()
	h := l.hosts[0]
	own4, _, _ := l.ownOf(0)
	for _, damage := range []string{
		"ip link del vh7", "ip link set vhp7 nomaster", "ip rule del pref 32702", "ip route flush table 1000000007", "ip addr flush dev vh7 scope global", "ip link set vh7 down",
		"sysctl -qw net.ipv4.conf.virbr7.arp_ignore=0 net.ipv4.conf.vh7.forwarding=1",
	} {
		h.Exec("sh", "-c", damage)
		nstest.Eventually(l, spanLimit, "mended after "+damage, func() error {
			if out := h.Exec("sh", "-c", "ip -o addr show dev vh7; ip rule; cat /proc/sys/net/ipv4/conf/virbr7/arp_ignore /proc/sys/net/ipv4/conf/vh7/forwarding; true"); !strings.Contains(out, own4+"/32") || !strings.Contains(out, "32702:") || !strings.HasSuffix(out, "\n1\n0\n") {
				return errors.New(out)
			}
			return nil
		})
		l.pings(h.NS, b4)
	}
}

// hostCeases has a host have no address of its own any more: nothing is left of it, and it reaches its own guests as before.
func (l *spanLab) hostCeases(a *nstest.NS, a4, b4 string) {
	l.Helper()
	h := l.hosts[0]
	_, _, mac := l.ownOf(0)
	through := l.counts(a, b4)
	l.ctl(0, l.document(0), "define", "-")
	through.end("between guests while a host loses its address")
	h1 := h.NS
	l.pings(h1, a4)
	if h1.Command(l.Context(), "ping", "-c2", "-W1", b4).Run() == nil {
		l.Error("the host still reaches guests of another one")
	}
	if left := h.Exec("sh", "-c", "ip -br link; ip rule; ip -6 rule; nft list table inet vnetd_span") + l.ctl(0, "", "status", "apps"); strings.Contains(left, "vh7") || strings.Contains(left, "3270") || strings.Contains(left, mac) {
		l.Errorf("left on the host:\n%s", left)
	}
	l.ctl(1, "", "stop", "apps")
	if left := l.hosts[1].Exec("sh", "-c", "ip -br link; ip rule; ip -6 rule"); strings.Contains(left, "vh") || strings.Contains(left, "3270") {
		l.Errorf("left on a host that has stopped the network:\n%s", left)
	}
}

// TestSpanHostClosed has guests of an isolated network send by the card of their host, and by that of another one,
// what its rules would stop at the gateway, and claim that card: nothing goes on by it, and what a guest may not open to its host it may not there.
func TestSpanHostClosed(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newSpanLab(t, 2, false, 1500)
		closed := func(i int, more string) {
			l.ctl(i, strings.NewReplacer("<forward mode='nat'/>", "", "</network>", more+"</network>").Replace(withHost(l.document(i))), "define", "--now", "-")
		}
		for i := range 2 {
			closed(i, "")
		}
		l.hosts[0].Exec("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1") // as other networks have it
		a, b := l.guest(0, "a", client.PortOptions{Name: "a", Guard: "off"}), l.guest(1, "b", client.PortOptions{Name: "b"})
		l.lease(a)
		l.lease(b)
		own4, own6, mac := l.ownOf(0)
		for _, guest := range []*nstest.NS{a, b} {
			l.pings(guest, own4)
			l.pings(guest, own6)
			was := echoes(t, l.hosts[1].NS)
			for _, way := range [][]string{
				{"203.0.113.12", "route replace 203.0.113.12 via " + own4},
				{"2001:db8:ffff::12", "-6 route replace 2001:db8:ffff::12 via " + own6},
				{"203.0.113.11", "route replace 203.0.113.11 via " + own4},
				{"2001:db8:ffff::11", "-6 route replace 2001:db8:ffff::11 via " + own6},
				{"10.50.0.1", "neigh replace 10.50.0.1 lladdr " + mac + " dev eth0"},
				{"fd00:50::1", "neigh replace fd00:50::1 lladdr " + mac + " dev eth0"},
			} {
				guest.IP(way[1])
				if out, err := guest.Command(t.Context(), "ping", "-c1", "-W1", way[0]).CombinedOutput(); err == nil {
					t.Errorf("%s reaches %s by the card of h1:\n%s", guest.Name, way[0], out)
				}
			}
			if is := echoes(t, l.hosts[1].NS); is != was {
				t.Errorf("%d packets of %s were forwarded", is-was, guest.Name)
			}
		}
		l.claims(a, own4, mac)
		l.opens(a, own4, true)
		l.opens(b, own4, true)
		closed(0, "<vnetd:rules egress='drop'/><vnetd:guard level='strict'/>")
		l.opens(a, own4, false)
		l.opens(b, own4, false)
		l.pings(l.hosts[0].NS, l.address(b, "-4", "10.50."))
		l.pings(l.hosts[0].NS, l.address(b, "-6", "fd00:50:"))
	})
}

// claims has a guest without a guard claim the card and the address of its host: neither the host nor the others
// believe the card, and the bridge has the card where it was.
func (l *spanLab) claims(guest *nstest.NS, own4, mac string) {
	l.Helper()
	h := l.hosts[0]
	card, err := net.ParseMAC(mac)
	if err != nil {
		l.Fatal(err)
	}
	l.raw(guest).send(guardtest.Ether(guardtest.Everybody, firewall.MAC(card), 0x88b5, []byte("a frame that claims to be the host's, long enough")))
	l.pings(guest, own4)
	if fdb := h.Exec("bridge", "fdb", "show", "br", "virbr7"); !strings.Contains(fdb, mac+" dev vhp7 sticky master virbr7") {
		l.Errorf("the card has moved:\n%s", fdb)
	}
	guarded := l.guest(0, "g", client.PortOptions{Name: "g"})
	l.lease(guarded)
	other, from := l.hosts[1].NS, l.raw(guarded)
	l.pings(other, own4)
	s := guardtest.Segment{Guest: guardtest.Card{MAC: from.mac}, Other: guardtest.Card{V4: netip.MustParseAddr(own4)}}
	from.send(s.ARP(2, from.mac, netip.MustParseAddr(own4)))
	from.send(s.ARP(1, from.mac, netip.MustParseAddr(own4)))
	l.pings(guarded, own4)
	l.pings(other, own4)
	if out := other.IP("neigh show " + own4); !strings.Contains(out, mac) {
		l.Errorf("another host takes the address to be %s", out)
	}
}

// opens has a guest open a connection to a host, or fail to.
func (l *spanLab) opens(guest *nstest.NS, address string, may bool) {
	l.Helper()
	var server net.Listener
	if err := l.hosts[0].Do(func() (err error) {
		server, err = net.Listen("tcp", net.JoinHostPort(address, "8000"))
		return err
	}); err != nil {
		l.Fatal(err)
	}
	defer server.Close()
	dial := func() error {
		return guest.Do(func() error {
			c, err := net.DialTimeout("tcp", server.Addr().String(), time.Second)
			if err != nil {
				return err
			}
			return c.Close()
		})
	}
	if !may {
		if dial() == nil {
			l.Errorf("%s opens a connection to its host, which it may not", guest.Name)
		}
		return
	}
	nstest.Eventually(l, spanLimit, guest.Name+" opens a connection to "+address, dial)
}

// TestClusterHostAddress has the hosts of a cluster have addresses of their own, of the range that all share: no two have
// one, guests and hosts of all reach each other, and while etcd is away, and vnetd ends, all goes on.
func TestClusterHostAddress(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newClusterLab(t, 2)
		l.define(withHost(clusterDocument))
		a, b := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(1, "b", client.PortOptions{Name: "b"})
		a4, b4 := l.lease(a), l.lease(b)
		own4, _, mac := l.ownOf(0)
		far4, _, farMAC := l.ownOf(1)
		l.differ(a4, b4, own4, far4)
		nstest.Eventually(t, spanLimit, "h2 knows where the card of h1 is", func() error {
			if fdb := l.hosts[1].Exec("bridge", "fdb", "show", "dev", "vx7"); !strings.Contains(fdb, mac+" dst "+l.underlay(0)+" self") {
				return errors.New(fdb)
			}
			return nil
		})
		all := []reach{{l.hosts[0].NS, []string{a4, b4, far4}}, {l.hosts[1].NS, []string{a4, b4, own4}}, {a, []string{own4, far4}}, {b, []string{own4, far4}}}
		l.reach(all)
		if out := l.ctl(1, "", "where", mac); !strings.Contains(out, "h1") || !strings.Contains(out, own4) {
			t.Errorf("the card of h1 is\n%s", out)
		}
		l.etcd.Stop()
		there := l.counts(l.hosts[0].NS, b4)
		l.hosts[0].KillVnetd()
		l.hosts[0].StartVnetd()
		if again, _, _ := l.ownOf(0); again != own4 {
			t.Errorf("h1 had %s, and has %s", own4, again)
		}
		there.end("while neither etcd nor vnetd was there")
		l.reach(all)
		l.etcd.Start()
		c := l.guest(1, "c", client.PortOptions{Name: "c"})
		l.differ(l.lease(c), own4, far4)
		l.hosts[1].KillVnetd()
		l.hosts[1].StartVnetd()
		if again, _, againMAC := l.ownOf(1); again != far4 || againMAC != farMAC {
			t.Errorf("h2 had %s, %s, and has %s, %s", far4, farMAC, again, againMAC)
		}
		l.reach(all)
	})
}

// reach is who reaches whom.
type reach struct {
	from *nstest.NS
	to   []string
}

// reach holds that they do, and lose nothing.
func (l *spanLab) reach(all []reach) {
	l.Helper()
	for _, r := range all {
		for _, address := range r.to {
			l.pings(r.from, address)
			l.counts(r.from, address).end(r.from.Name + " reaches " + address)
		}
	}
}
