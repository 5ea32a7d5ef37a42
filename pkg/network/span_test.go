package network_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// spanXML is a network with that inside of its <vnetd:span>.
func spanXML(span string) string {
	return "<network xmlns:vnetd='urn:vnetd:network:1'><name>one</name><forward mode='nat'/><bridge name='one'/>" +
		"<ip address='192.0.2.1' prefix='24'><dhcp><range start='192.0.2.100' end='192.0.2.199'/></dhcp></ip>" + span + "</network>"
}

// spanOf is a span with that VNI, to those peers.
func spanOf(vni int, more string, peers ...string) string {
	text := fmt.Sprintf("<vnetd:span vni='%d'%s>", vni, more)
	for _, p := range peers {
		text += "<vnetd:peer underlay='" + p + "'/>"
	}
	return text + "</vnetd:span>"
}

// indexOf is the ifindex of a link, "" where there is none.
func indexOf(t *testing.T, name string) string {
	t.Helper()
	return strings.TrimSpace(nstest.Exec(t, "sh", "-c", "cat /sys/class/net/"+name+"/ifindex 2>/dev/null; true"))
}

// leftOfSpan is what there is of networks that span hosts.
func leftOfSpan(t *testing.T) string {
	t.Helper()
	return nstest.Exec(t, "sh", "-c", "ip -o link show type vxlan; nft list tables | grep span; true")
}

// nothingOfSpans holds that nothing is left of networks that span hosts.
func nothingOfSpans(t *testing.T, when string) {
	t.Helper()
	if left := leftOfSpan(t); left != "" {
		t.Errorf("%s there is left:\n%s", when, left)
	}
}

// TestSpanFollowsTheHost has a network that spans hosts wait for the address of this one, and
// be what it asks for once that is there: a tunnel to the others, and to no address of its own.
func TestSpanFollowsTheHost(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		h := newHub(t, t.TempDir(), hubOptions{nftables: true})
		n := h.started(spanXML(spanOf(7, "", "203.0.113.7", "203.0.113.8", "203.0.113.9")))
		if info := n.Info(); info.MTU != 1450 || info.MAC != "02:76:6e:00:00:07" || info.State != api.Degraded {
			t.Errorf("MTU %d, MAC address %s, %s: %s", info.MTU, info.MAC, info.State, info.LastError)
		}
		await(t, n, "span-underlay", true)
		if indexOf(t, "vx7") != "" {
			t.Error("there is a tunnel from nowhere")
		}
		nstest.Exec(t, "sh", "-c", "printf 'addr add 203.0.113.7/24 dev eno1\\naddr add 203.0.113.9/32 dev lo\\n' | ip -batch -")
		await(t, n, "span-underlay", false)
		nstest.Eventually(t, wait, "the tunnel", func() error {
			out := nstest.Exec(t, "sh", "-c", "ip -d link show vx7; bridge fdb show dev vx7; true")
			if !strings.Contains(out, "master one") || !strings.Contains(out, "local 203.0.113.7") || !strings.Contains(out, "dst 203.0.113.8") || strings.Contains(out, "dst 203.0.113.7") || strings.Contains(out, "dst 203.0.113.9") {
				return errors.New(out)
			}
			if state := n.Info().State; state != api.Active {
				return fmt.Errorf("the network is %s", state)
			}
			return nil
		})
		if s := n.Detail(nil).Span; s == nil || s.Link != "eno1" || s.Underlay.String() != "203.0.113.7" || len(s.Peers) != 1 {
			t.Errorf("the tunnel is told of as %+v", s)
		}
		must(t, n.Stop(t.Context()))
		nothingOfSpans(t, "after the stop")
	})
}

// TestSpanMTU has guests be told of the MTU that a tunnel leaves of the link's, and says when
// the link takes less than it did.
func TestSpanMTU(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		h := newHub(t, t.TempDir(), hubOptions{nftables: true})
		doc := spanXML(spanOf(7, "", nstest.Uplink, "203.0.113.8"))
		n := h.started(doc)
		nstest.IP(t, "link set eno1 mtu 1400")
		if c := await(t, n, "span-mtu", true); !strings.Contains(c.Evidence, "needs 1500, and has 1400") || c.Remedy != "vnetctl set one mtu=1350" {
			t.Errorf("got %+v", c)
		}
		nstest.IP(t, "link set eno1 mtu 9000")
		await(t, n, "span-mtu", false)
		must(t, n.Stop(t.Context()))
		if info := h.define(doc).Info(); info.MTU != 8950 {
			t.Errorf("the MTU is %d, want 8950", info.MTU)
		}
		nstest.IP(t, "link set eno1 mtu 100")
		if _, err := h.Define(t.Context(), []byte(doc)); err == nil || !strings.Contains(err.Error(), "link eno1 has MTU 100, of which the tunnel to other hosts leaves too little") {
			t.Errorf("a link that is too small: %v", err)
		}
	})
}

// TestSpanInTheWay names what keeps a network from spanning hosts, before and as it starts, and
// leaves nothing behind.
func TestSpanInTheWay(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		h := newHub(t, t.TempDir(), hubOptions{nftables: true})
		doc := spanXML(spanOf(7, " underlay='203.0.113.2'", "203.0.113.8"))
		n := h.define(doc)
		plan := func() string {
			t.Helper()
			p, err := h.Plan([]byte(doc))
			must(t, err)
			return strings.Join(p.Conflicts, "\n")
		}
		if got := plan(); got != "" {
			t.Errorf("nothing is in the way, but %s", got)
		}
		p, err := h.Plan([]byte(doc))
		must(t, err)
		if l := p.Links[len(p.Links)-1]; l.Kind != api.LinkTunnel || l.Name != "vx7" || l.MTU != 1500 || l.Span == nil || l.Span.Link != "eno1" || len(l.Span.Peers) != 1 || len(p.Opens) != 2 {
			t.Errorf("planned is %+v, %+v, %q", l, l.Span, p.Opens)
		}
		refused := func(want string) {
			t.Helper()
			if got := plan(); !strings.Contains(got, want) {
				t.Errorf("planned: %q, want %q", got, want)
			}
			if err := n.Start(t.Context()); err == nil || !strings.Contains(err.Error(), want) || network.KindOf(err) != api.Conflict {
				t.Errorf("started: %v, want %q", err, want)
			}
			if left := nstest.Exec(t, "sh", "-c", "ip -o link show type bridge; nft list tables | grep span; true"); left != "" {
				t.Errorf("left after %q:\n%s", want, left)
			}
		}
		pc, err := net.ListenPacket("udp4", ":4789")
		must(t, err)
		refused("network/vnetd:span/@port: ")
		must(t, pc.Close())
		nstest.IP(t, "link add vx7 type vxlan id 8 dstport 8472")
		refused("network/vnetd:span/@vni: ")
		nstest.IP(t, "link del vx7")
		doc = strings.Replace(doc, "203.0.113.8", "203.0.113.255", 1)
		n = h.define(doc)
		refused("network/vnetd:span/vnetd:peer[1]/@underlay: 203.0.113.255 is the address by which a link of this host reaches all")
	})
}

// TestSpanCopied tells the plan of a network with the VNI of an active one by whose it is.
func TestSpanCopied(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		h := newHub(t, t.TempDir(), hubOptions{nftables: true})
		doc := spanXML(spanOf(7, " underlay='203.0.113.2'", "203.0.113.8"))
		h.started(doc)
		p, err := h.Plan([]byte(strings.NewReplacer("one", "two", "192.0.2.", "198.51.100.").Replace(doc)))
		must(t, err)
		if got := strings.Join(p.Conflicts, "\n"); !strings.Contains(got, "the VNI is that of network 'one'") || strings.Contains(got, "vnetd's") {
			t.Errorf("planned: %q", got)
		}
	})
}

// TestSpansShareAPort has tunnels of several networks, and of others, use one port.
func TestSpansShareAPort(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		h := newHub(t, t.TempDir(), hubOptions{nftables: true})
		h.started(spanXML(spanOf(7, " underlay='203.0.113.2'", "203.0.113.8")))
		nstest.IP(t, "link add other type vxlan id 9 dstport 8472")
		nstest.IP(t, "link set other up")
		for _, port := range []string{"4789", "8472"} {
			more := strings.NewReplacer("one", "two", "192.0.2.", "198.51.100.").Replace(
				spanXML(spanOf(10, " underlay='203.0.113.2' port='"+port+"'", "203.0.113.8")))
			p, err := h.Plan([]byte(more))
			must(t, err)
			if len(p.Conflicts) > 0 {
				t.Errorf("a second network at port %s is in the way of %q", port, p.Conflicts)
			}
			second := h.define(more)
			must(t, second.Start(t.Context()))
			must(t, second.Stop(t.Context()))
			must(t, second.Undefine(t.Context()))
		}
	})
}

// TestSpanChanges changes who the hosts are while guests are at work.
func TestSpanChanges(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		h := newHub(t, t.TempDir(), hubOptions{nftables: true})
		h.started(spanXML(spanOf(7, " underlay='203.0.113.2'", "203.0.113.8")))
		index := indexOf(t, "vx7")
		d := h.defineWith(spanXML(spanOf(7, " underlay='203.0.113.2'", "203.0.113.9")), api.DefineOptions{Apply: api.ApplyHarmless})
		if len(d.Pending) > 0 || indexOf(t, "vx7") != index {
			t.Errorf("the tunnel is made anew, or is to be: %q", d.Pending)
		}
		for _, command := range []string{"bridge fdb show dev vx7", "nft list set inet vnetd_span members4"} {
			if out := nstest.Exec(t, "sh", "-c", command); strings.Contains(out, "203.0.113.8") || !strings.Contains(out, "203.0.113.9") {
				t.Errorf("with another host:\n%s", out)
			}
		}
	})
}

// TestSpanEnds has what would cut guests off from others wait for the next start, leaves
// nothing of what was, and cleans up.
func TestSpanEnds(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		root := t.TempDir()
		h := newHub(t, root, hubOptions{nftables: true})
		h.started(spanXML(spanOf(7, " underlay='203.0.113.2'", "203.0.113.9")))
		index := indexOf(t, "vx7")
		h.end()
		h = newHub(t, root, hubOptions{nftables: true})
		n, err := h.ByName("one")
		must(t, err)
		if indexOf(t, "vx7") != index || n.Info().State != api.Active {
			t.Errorf("adopted, the network is %s: %s", n.Info().State, n.Info().LastError)
		}
		other := spanXML(spanOf(8, " underlay='203.0.113.2' port='8472'", "203.0.113.9"))
		if d := h.defineWith(other, api.DefineOptions{Apply: api.ApplyHarmless}); len(d.Pending) == 0 || indexOf(t, "vx7") != index {
			t.Errorf("another VNI at once; pending: %q", d.Pending)
		}
		if d := h.defineWith(other, api.DefineOptions{Apply: api.ApplyAll}); len(d.Pending) != 0 {
			t.Errorf("pending: %q", d.Pending)
		}
		if out := leftOfSpan(t) + nstest.Exec(t, "nft", "list", "table", "bridge", "vnetd_span"); strings.Contains(out, "vx7") || strings.Count(out, "vx8") < 2 {
			t.Errorf("with another VNI:\n%s", out)
		}
		h.defineWith(spanXML(""), api.DefineOptions{Apply: api.ApplyAll})
		nothingOfSpans(t, "of a network of this host alone")
		h.defineWith(other, api.DefineOptions{Apply: api.ApplyAll})
		if indexOf(t, "vx8") == "" {
			t.Error("no tunnel again")
		}
		h.end()
		must(t, newHub(t, root, hubOptions{nftables: true, bare: true}).Cleanup(t.Context()))
		nothingOfSpans(t, "after a clean-up")
	})
}

// TestSpanPinsOthersPorts keeps the card of a port that libvirt registered behind its device,
// whatever comes by the tunnel.
func TestSpanPinsOthersPorts(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		h := newHub(t, t.TempDir(), hubOptions{nftables: true})
		n := h.started(spanXML(spanOf(7, " underlay='203.0.113.2'", "203.0.113.8")))
		doc := libvirts(1)
		registered, err := h.Ports().Register(t.Context(), n, doc, false, 0)
		must(t, err)
		if plug := string(registered.XML()); !strings.Contains(plug, "macTableManager='libvirt'") {
			t.Errorf("libvirt is not told that cards are not learned:\n%s", plug)
		}
		for _, args := range []string{"tuntap add vnet9 mode tap", "link set vnet9 address fe" + doc.MAC.String()[2:], "link set vnet9 master one up"} {
			nstest.IP(t, args)
		}
		nstest.Eventually(t, wait, "the card stays where it is", func() error {
			if out := nstest.Exec(t, "bridge", "fdb", "show", "dev", "vnet9"); !strings.Contains(out, doc.MAC.String()+" sticky master one static") {
				return errors.New(out)
			}
			return nil
		})
	})
}
