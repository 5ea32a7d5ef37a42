package network_test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// hostXML is a network with an address of this host's own, of a range of that length.
func hostXML(vni, addresses int) string {
	return strings.Replace(spanXML(spanOf(vni, " underlay='203.0.113.2' host-address='yes'", "203.0.113.8")), "192.0.2.199", fmt.Sprintf("192.0.2.%d", 99+addresses), 1)
}

// leftOfHost is what there is of this host's own links.
func leftOfHost(t *testing.T) string {
	t.Helper()
	return nstest.Exec(t, "sh", "-c", "ip -o link show type veth | grep -o 'vh[p0-9]*'; ip rule | grep 'proto 66'; ip route show table 1000000007 2>/dev/null; true")
}

// hostHas waits until the network has those addresses for this host, in that state.
func hostHas(t *testing.T, n *network.Network, state api.State, addresses ...netip.Addr) (mac string) {
	t.Helper()
	nstest.Eventually(t, wait, fmt.Sprintf("this host has %v", addresses), func() error {
		s, info := n.Detail(nil).Span, n.Info()
		if s == nil || s.Host == nil || fmt.Sprint(s.Host.Addresses) != fmt.Sprint(addresses) || info.State != state {
			return fmt.Errorf("%+v, %s: %s", s.Host, info.State, info.LastError)
		}
		mac = s.Host.MAC
		return nil
	})
	return mac
}

// TestSpanHostAddress has this host get an address of its own once there is one, keep it for as long as the network is
// active, and leave nothing.
func TestSpanHostAddress(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		root := t.TempDir()
		h := newHub(t, root, hubOptions{nftables: true})
		n := h.define(hostXML(7, 1))
		first := netip.MustParseAddr("192.0.2.100")
		// A guest has the only address, for a moment.
		if taken, refused, err := n.ImportLeases(t.Context(), fmt.Sprintf("%d 52:54:00:00:00:42 %v * *\n", time.Now().Add(3*time.Second).Unix(), first)); taken != 1 {
			t.Fatal(refused, err)
		}
		must(t, n.Start(t.Context()))
		mac := hostHas(t, n, api.Degraded)
		if err := n.Info().LastError; !strings.Contains(err, "network/vnetd:span/@host-address: no address is free") {
			t.Errorf("it is degraded: %s", err)
		}
		if again := hostHas(t, n, api.Active, first); again != mac {
			t.Errorf("the card was %s and is %s", mac, again)
		}
		uuid := h.hostPort(n, mac)
		was := leftOfHost(t)
		h.end()
		h = newHub(t, root, hubOptions{nftables: true})
		n, err := h.ByName("one")
		must(t, err)
		if hostHas(t, n, api.Active, first) != mac || leftOfHost(t) != was {
			t.Errorf("adopted, there is\n%s\nwas\n%s", leftOfHost(t), was)
		}
		// Who ends its port gets another one.
		must(t, h.Ports().Release(t.Context(), uuid))
		nstest.Eventually(t, wait, "the port is there again", func() error {
			if again := h.Ports().On(n); len(again) != 1 || again[0].UUID != uuid {
				return fmt.Errorf("%+v", again)
			}
			return nil
		})
		hostHas(t, n, api.Active, first)
		must(t, n.Stop(t.Context()))
		h.noHostPort(n)
		nothingOfSpans(t, "after the stop")
		must(t, n.Start(t.Context()))
		if hostHas(t, n, api.Active, first) != mac {
			t.Error("started again, it is another card")
		}
		h.end()
		must(t, newHub(t, root, hubOptions{nftables: true, bare: true}).Cleanup(t.Context()))
		if left := leftOfHost(t); left != "" {
			t.Errorf("after a clean-up there is left:\n%s", left)
		}
	})
}

// hostPort holds that this host is in the network by a card as others are, and returns the port's UUID.
func (h *hub) hostPort(n *network.Network, mac string) (uuid string) {
	h.t.Helper()
	held, err := n.Leases()
	must(h.t, err)
	if len(held) != 1 || held[0].MAC.String() != mac || !held[0].Expiry.IsZero() {
		h.t.Errorf("leases %+v", held)
	}
	ports := h.Ports().On(n)
	if len(ports) != 1 || ports[0].MAC != mac || ports[0].IfName != "vhp7" || len(ports[0].Addresses) != 1 {
		h.t.Fatalf("ports %+v", ports)
	}
	return ports[0].UUID
}

// noHostPort holds that it is not in it any more.
func (h *hub) noHostPort(n *network.Network) {
	h.t.Helper()
	if held, err := n.Leases(); leftOfHost(h.t) != "" || err != nil || len(held) != 0 || len(h.Ports().On(n)) != 0 {
		h.t.Errorf("after the stop there are leases %+v (%v), and\n%s", held, err, leftOfHost(h.t))
	}
}

// TestSpanHostInTheWay names what keeps this host's own link from being made, before and as the network starts, and
// leaves nothing behind; a network that is at work goes on as it was.
func TestSpanHostInTheWay(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		h := newHub(t, t.TempDir(), hubOptions{nftables: true})
		const want = "network/vnetd:span/@host-address: "
		n := h.define(hostXML(7, 10))
		p, err := h.Plan([]byte(hostXML(7, 10)))
		must(t, err)
		if l := p.Links[len(p.Links)-1]; len(p.Conflicts) != 0 || l.Kind != api.LinkHost || l.Name != "vh7" || len(p.Opens) != 3 {
			t.Errorf("planned is %+v, %q, with %q in the way", l, p.Opens, p.Conflicts)
		}
		for _, name := range []string{"vh7", "vhp7"} {
			nstest.IP(t, "link add "+name+" type bridge")
			h.hostRefused(n, want)
			nstest.IP(t, "link del "+name)
			h.define(hostXML(7, 10))
		}
		must(t, n.Start(t.Context()))
		if s := n.Detail(nil).Span; s == nil || s.Host == nil || len(s.Host.Addresses) != 1 {
			t.Errorf("it has %+v", s)
		}
	})
}

// hostRefused holds that the network can't have this host's own link now, with that error, and leaves it without.
func (h *hub) hostRefused(n *network.Network, want string) {
	t := h.t
	t.Helper()
	p, err := h.Plan([]byte(hostXML(7, 10)))
	must(t, err)
	if got := strings.Join(p.Conflicts, "\n"); !strings.Contains(got, want) {
		t.Errorf("planned: %q, want %q", got, want)
	}
	if err := n.Start(t.Context()); err == nil || !strings.Contains(err.Error(), want) || network.KindOf(err) != api.Conflict {
		t.Errorf("started: %v, want %q", err, want)
	}
	if left := nstest.Exec(t, "sh", "-c", "ip -o link show one 2>/dev/null; nft list tables | grep span; true") + leftOfHost(t); left != "" {
		t.Errorf("left:\n%s", left)
	}
	h.defineWith(strings.Replace(hostXML(7, 10), "host-address='yes'", "", 1), api.DefineOptions{Apply: api.ApplyAll})
	must(t, n.Start(t.Context()))
	if _, err := h.Define(t.Context(), []byte(hostXML(7, 10))); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("changed: %v, want %q", err, want)
	}
	if info := n.Info(); info.State != api.Active || n.Live().Span.HostAddress {
		t.Errorf("the network is %s: %s", info.State, info.LastError)
	}
	must(t, n.Stop(t.Context()))
}

// TestReachByHostAddress holds what is told of connections by this host's own link to what packets do, where the way
// back is strict: in both directions, and beside rules that are about that link or about the bridge.
func TestReachByHostAddress(t *testing.T) {
	for _, bridged := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables "+bridged, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				nstest.NewLAN(t)
				h := newHub(t, t.TempDir(), hubOptions{nftables: true})
				n := h.started(hostXML(7, 10))
				own := n.Detail(nil).Span.Host.Addresses[0].String()
				guest := asker(t, "one", "guest", "192.0.2")
				nstest.Exec(t, "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables="+bridged, "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.one.rp_filter=1", "net.ipv4.conf.vh7.rp_filter=1")
				nstest.IP(t, fmt.Sprint("netns attach here ", os.Getpid()))
				host := &nstest.NS{Name: "here"}
				listen(t, guest, "80")
				listen(t, host, "80")
				nstest.Exec(t, "nft", "add table ip mine; add chain ip mine in { type filter hook input priority 5; }; add chain ip mine out { type filter hook postrouting priority 5; }")
				for rule, want := range map[string]struct{ into, out bool }{
					"":                              {true, true},
					"in iifname one tcp dport 80":   {true, true},
					"in iifname vh7 tcp dport 80":   {false, true},
					"out oifname vh7 tcp dport 80":  {true, false},
					"in iifname vh7 tcp sport 80":   {true, false},
					"out oifname vh7 tcp sport 80":  {false, true},
					"in iifname vh7 ct state new":   {false, true},
					"in iifname one ct state new":   {true, true},
					"out oifname one tcp dport 443": {true, true},
				} {
					nstest.Exec(t, "nft", "flush table ip mine")
					if rule != "" {
						nstest.Exec(t, "nft", "add rule ip mine "+rule+" drop")
					}
					for _, c := range []struct {
						from, to string
						by       *nstest.NS
						want     bool
					}{{"192.0.2.50", own, guest, want.into}, {"host", "192.0.2.50", host, want.out}} {
						r, err := h.Reach(t.Context(), api.ReachQuestion{From: c.from, To: c.to, Protocol: "tcp", Port: 80})
						must(t, err)
						patience := wait
						if !c.want {
							patience = 700 * time.Millisecond
						}
						told, open := r.Ways[0].Verdict == api.ReachYes, canOpen(c.by, c.to+":80", patience)
						if told != c.want || open != c.want {
							t.Errorf("beside %q %s opens to %s: %v, want %v, and is told %+v", rule, c.from, c.to, open, c.want, r.Ways[0])
						}
					}
				}
			})
		})
	}
}
