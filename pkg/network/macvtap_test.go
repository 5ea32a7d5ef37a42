package network_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// directXML is a network whose guests have macvtap devices on interfaces of the host.
func directXML(name, mode string, devs ...string) string {
	pool := ""
	for _, dev := range devs {
		pool += "<interface dev='" + dev + "'/>"
	}
	return "<network><name>" + name + "</name><forward mode='" + mode + "'>" + pool + "</forward></network>"
}

// cables makes veths lan0, lan1, … whose other ends, peer0, peer1, …, are a neighbour's.
func cables(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		nstest.IP(t, fmt.Sprintf("link add lan%d type veth peer name peer%d", i, i))
		nstest.IP(t, fmt.Sprintf("link set lan%d up", i))
		nstest.IP(t, fmt.Sprintf("link set peer%d up", i))
	}
}

// frame is one of a card to another, of an experimental EtherType.
func frame(to, from net.HardwareAddr) []byte {
	f := append(bytes.Clone(to), from...)
	return append(append(f, 0x88, 0xb5), bytes.Repeat([]byte("x"), 50)...)
}

func hwaddr(t *testing.T, s string) net.HardwareAddr {
	t.Helper()
	mac, err := net.ParseMAC(s)
	must(t, err)
	return mac
}

// hears fails the test unless a file, without virtio headers, reads the frame.
func hears(t *testing.T, f *os.File, want []byte) {
	t.Helper()
	must(t, f.SetReadDeadline(time.Now().Add(wait)))
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		if err != nil {
			t.Fatalf("no frame: %v", err)
		}
		if bytes.Equal(buf[:n], want) {
			return
		}
	}
}

// opened is port of one that stays open until the test ends, unless that closes it before:
// a file that nobody uses any more is closed by itself.
func (h *hub) opened(n *network.Network, opts network.PortOptions) (api.Port, *os.File) {
	h.t.Helper()
	p, f := h.port(n, opts)
	h.t.Cleanup(func() { _ = f.Close() })
	return p, f
}

// isMacvtap holds that a port is a macvtap device on lan0.
func isMacvtap(t *testing.T, p api.Port, mac net.HardwareAddr) {
	t.Helper()
	if p.Parent != "lan0" || p.Mode != "bridge" || p.Bridge != "" || p.HostReach || p.MAC != mac.String() || p.MTU != 1500 {
		t.Errorf("the port is %+v", p)
	}
	if got := nstest.IP(t, "-d link show "+p.IfName); !strings.Contains(got, "macvtap mode bridge") || !strings.Contains(got, "@lan0") || !strings.Contains(got, ",UP") {
		t.Errorf("its device: %s", got)
	}
	if got := nstest.IP(t, "-6 addr show dev "+p.IfName); got != "" {
		t.Errorf("the host has IPv6 on it: %s", got)
	}
}

// TestMacvtapPorts has two guests on one interface of the host reach each other and the
// neighbour, and not the host.
func TestMacvtapPorts(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cables(t, 1)
		before := kernel(t)
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(directXML("lan", "bridge", "lan0"))
		macA, macB := hwaddr(t, "52:54:00:00:53:0a"), hwaddr(t, "52:54:00:00:53:0b")
		a, fileA := h.opened(n, network.PortOptions{MAC: macA, Name: "a"})
		b, fileB := h.opened(n, network.PortOptions{MAC: macB, Name: "b"})
		isMacvtap(t, a, macA)
		f := frame(macB, macA)
		_, err := fileA.Write(f)
		must(t, err)
		hears(t, fileB, f)

		if n.Info().State != api.Active {
			t.Errorf("the network is %+v", n.Info())
		}
		if xml := string(n.XML(false)); !strings.Contains(xml, "connections='2'") || !strings.Contains(xml, "<interface dev='lan0' connections='2'/>") {
			t.Errorf("what it is: %s", xml)
		}
		must(t, fileA.Close())
		until(t, "the port ends with its descriptor", func() bool {
			_, err := h.Ports().Find(a.UUID)
			return !linkExists(a.IfName) && network.KindOf(err) == api.NotFound
		})
		must(t, h.Ports().Release(t.Context(), b.UUID))
		if linkExists(b.IfName) {
			t.Error("a port that was released is there")
		}
		must(t, n.Stop(t.Context()))
		if after := kernel(t); after != before {
			t.Errorf("left behind: before\n%safter\n%s", before, after)
		}
	})
}

// TestMacvtapPortSurvivesRestart has a port with several queues live on while vnetd restarts,
// with its run-state or without, and end while no vnetd is there.
func TestMacvtapPortSurvivesRestart(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cables(t, 1)
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		n := h.started(directXML("lan", "bridge", "lan0"))
		p, files, err := h.Ports().Request(t.Context(), n, network.PortOptions{Queues: 3, VnetHdr: true, Name: "web"})
		must(t, err)
		if len(files) != 3 || p.Queues != 3 {
			t.Fatalf("%d descriptors of %+v", len(files), p)
		}
		for _, f := range files[1:] {
			must(t, f.Close())
		}
		h.end()
		must(t, os.RemoveAll(h.dirs.Run))
		h = newHub(t, root, hubOptions{})
		if n, err := h.ByName("lan"); err != nil || n.Info().State != api.Active {
			t.Errorf("the network is not active by its port: %v, %v", n, err)
		}
		again, err := h.Ports().Find(p.UUID)
		must(t, err)
		if again.IfName != p.IfName || again.Parent != "lan0" || again.Mode != "bridge" || again.Queues != 3 || again.Name != "web" {
			t.Errorf("the port was %+v and is %+v", p, again)
		}
		h.end()
		must(t, files[0].Close())
		h = newHub(t, root, hubOptions{})
		if got, err := h.Ports().Find(p.UUID); network.KindOf(err) != api.NotFound || linkExists(p.IfName) {
			t.Errorf("the port that was closed meanwhile is %+v, %v", got, err)
		}
	})
}

// TestMacvtapCleanup takes away all that vnetd made on an interface of the host.
func TestMacvtapCleanup(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cables(t, 1)
		before, root := kernel(t), t.TempDir()
		h := newHub(t, root, hubOptions{})
		n := h.started("<network xmlns:vnetd='urn:vnetd:network:1'><name>lan</name><forward mode='bridge' dev='lan0'/><vnetd:host-access dev='host0'/></network>")
		h.opened(n, network.PortOptions{Lifetime: api.LifetimePersistent})
		h.opened(n, network.PortOptions{})
		h.end()
		bare := newHub(t, root, hubOptions{bare: true})
		must(t, bare.Cleanup(t.Context()))
		if after := kernel(t); after != before {
			t.Errorf("left behind: before\n%safter\n%s", before, after)
		}
	})
}

// TestMacvtapAsksAgain opens a port that stays by its id again, on a network that was stopped
// in between, and not while somebody has it open.
func TestMacvtapAsksAgain(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cables(t, 1)
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(directXML("lan", "bridge", "lan0"))
		opts := network.PortOptions{ID: "vm1/0", Lifetime: api.LifetimePersistent}
		p, file := h.opened(n, opts)
		if _, _, err := h.Ports().Request(t.Context(), n, opts); network.KindOf(err) != api.Busy {
			t.Errorf("while it is open: %v", err)
		}
		must(t, n.Stop(t.Context()))
		if got := nstest.IP(t, "-br link show "+p.IfName); strings.Contains(got, ",UP") || strings.Contains(got, "<UP") {
			t.Errorf("with the network stopped: %s", got)
		}
		must(t, n.Start(t.Context()))
		if got := nstest.IP(t, "link show "+p.IfName); !strings.Contains(got, ",UP") {
			t.Errorf("with the network started again: %s", got)
		}
		must(t, file.Close())
		until(t, "it is the same port again", func() bool {
			again, files, err := h.Ports().Request(t.Context(), n, opts)
			return err == nil && again.UUID == p.UUID && again.IfName == p.IfName && again.MAC == p.MAC && len(files) == 1
		})
	})
}

// TestMacvtapLearnsItsCard has a guest whose launcher did not say which card it has receive
// what is for that.
func TestMacvtapLearnsItsCard(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cables(t, 1)
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(directXML("lan", "bridge", "lan0"))
		p, file := h.opened(n, network.PortOptions{})
		known, other := hwaddr(t, "52:54:00:00:53:0b"), hwaddr(t, "52:54:00:12:34:56")
		_, fileB := h.opened(n, network.PortOptions{MAC: known})
		nstest.Eventually(t, wait, "the port has its guest's card", func() error {
			_, err := file.Write(frame(known, other))
			must(t, err)
			l, err := h.links.Lookup(p.IfName)
			if got, _ := h.Ports().Find(p.UUID); got.MAC != other.String() || l.MAC.String() != got.MAC {
				return fmt.Errorf("%s, and of its device %v, %w", got.MAC, l.MAC, err)
			}
			return nil
		})
		f := frame(other, known)
		_, err := fileB.Write(f)
		must(t, err)
		hears(t, file, f)
	})
}

// TestMacvtapPool has ports on the least used interface of a pool, and where a port has it
// for itself, no other.
func TestMacvtapPool(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cables(t, 2)
		nstest.IP(t, "link set lan1 down")
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(directXML("through", "passthrough", "lan0", "lan1"))
		mac := hwaddr(t, "52:54:00:00:53:0a")
		before := nstest.IP(t, "-br link show lan0")
		a, fileA := h.opened(n, network.PortOptions{MAC: mac})
		b, _ := h.opened(n, network.PortOptions{})
		if a.Parent != "lan0" || b.Parent != "lan1" {
			t.Errorf("ports on %s and %s", a.Parent, b.Parent)
		}
		if got := nstest.IP(t, "-br link show lan0"); !strings.Contains(got, mac.String()) {
			t.Errorf("the interface does not have the guest's address: %s", got)
		}
		_, _, err := h.Ports().Request(t.Context(), n, network.PortOptions{})
		if network.KindOf(err) != api.Conflict || !strings.Contains(err.Error(), "requires exclusive access") {
			t.Errorf("a third port: %v", err)
		}
		// Another network's ports count as well.
		other := h.started(directXML("other", "passthrough", "lan1"))
		if _, _, err := h.Ports().Request(t.Context(), other, network.PortOptions{}); network.KindOf(err) != api.Conflict {
			t.Errorf("a port of another network on an interface that is in use: %v", err)
		}
		must(t, fileA.Close())
		until(t, "the interface is free", func() bool { return !linkExists(a.IfName) })
		if after := nstest.IP(t, "-br link show lan0"); after != before {
			t.Errorf("the interface was %s and is %s", before, after)
		}
		until(t, "it can be used again", func() bool {
			c, files, err := h.Ports().Request(t.Context(), n, network.PortOptions{})
			return err == nil && c.Parent == "lan0" && len(files) == 1
		})
	})
}

// document is a port as libvirt asks for it.
func document(nth int, rest string) *netdef.Port {
	p, err := netdef.ParsePort(fmt.Appendf(nil, "<networkport><uuid>77777777-0000-4000-8000-%012d</uuid><owner><name>vm%d</name>"+
		"<uuid>77777777-0000-4000-8000-000000000099</uuid></owner><mac address='52:54:00:00:54:%02x'/>%s</networkport>", nth, nth, nth, rest))
	if err != nil {
		panic(err)
	}
	return p
}

// TestMacvtapOfLibvirt has libvirt's clients get their plugs of a pool, least used first,
// give them back, and claim them again.
func TestMacvtapOfLibvirt(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cables(t, 2)
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		n := h.started(directXML("pool", "vepa", "lan0", "lan1"))
		var devs []string
		for i := range 3 {
			p, err := h.Ports().Register(t.Context(), n, document(i+1, ""), false, 0)
			must(t, err)
			if p.Plug.Type != netdef.PlugDirect || p.Plug.Mode != "vepa" {
				t.Errorf("the plug is %+v", p.Plug)
			}
			devs = append(devs, p.Plug.Dev)
		}
		if fmt.Sprint(devs) != "[lan0 lan1 lan0]" {
			t.Errorf("the ports are on %v", devs)
		}
		counted := func(h *hub, n *network.Network, want ...string) {
			t.Helper()
			for _, part := range want {
				if xml := string(n.XML(false)); !strings.Contains(xml, part) {
					t.Errorf("no %s in %s", part, xml)
				}
			}
		}
		counted(h, n, "<network connections='3'>", "<interface dev='lan0' connections='2'/>", "<interface dev='lan1' connections='1'/>")
		h.end()
		h = newHub(t, root, hubOptions{})
		n, err := h.ByName("pool")
		must(t, err)
		counted(h, n, "<network connections='3'>", "<interface dev='lan0' connections='2'/>")
		must(t, h.Ports().Release(t.Context(), document(1, "").UUID))
		must(t, h.Ports().Release(t.Context(), document(3, "").UUID))
		counted(h, n, "<network connections='1'>", "<interface dev='lan0'/>", "<interface dev='lan1' connections='1'/>")
		p, err := h.Ports().Register(t.Context(), n, document(4, "<plug type='direct' dev='lan1' mode='vepa'/>"), true, 0)
		must(t, err)
		if p.Plug.Dev != "lan1" {
			t.Errorf("the plug that was claimed is %+v", p.Plug)
		}
		counted(h, n, "<interface dev='lan1' connections='2'/>")
		for rest, want := range map[string]string{
			"<plug type='direct' dev='eth9' mode='vepa'/>": "doesn't have dev='eth9'",
			"<plug type='bridge' bridge='lan0'/>":          "those of network 'pool' are of type direct",
		} {
			if _, err := h.Ports().Register(t.Context(), n, document(5, rest), true, 0); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("claiming %s: %v", rest, err)
			}
		}
	})
}

// TestMacvtapParentGoes has ports end with their interface, and the network wait for it.
func TestMacvtapParentGoes(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(directXML("lan", "bridge", "lan0"))
		if info := n.Info(); info.State != api.Degraded || !strings.Contains(info.LastError, "lan0") {
			t.Errorf("a network without its interface is %+v", info)
		}
		_, _, err := h.Ports().Request(t.Context(), n, network.PortOptions{})
		if network.KindOf(err) != api.Conflict {
			t.Errorf("a port on an interface that is not there: %v", err)
		}
		cables(t, 1)
		until(t, "the network has its interface", func() bool { return n.Info().State == api.Active })
		p, _ := h.opened(n, network.PortOptions{})
		nstest.IP(t, "link del lan0")
		until(t, "the network lacks its interface", func() bool { return n.Info().State == api.Degraded })
		until(t, "the port ends", func() bool {
			_, err := h.Ports().Find(p.UUID)
			return network.KindOf(err) == api.NotFound
		})
		until(t, "a condition says so", func() bool {
			for _, c := range h.Conditions() {
				if c.Kind == "parent-away" && c.Networks[0] == "lan" {
					return true
				}
			}
			return false
		})
	})
}

// TestMacvtapIsKept has what others change of a port's device put back.
func TestMacvtapIsKept(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cables(t, 1)
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(directXML("lan", "bridge", "lan0"))
		p, _ := h.opened(n, network.PortOptions{MAC: hwaddr(t, "52:54:00:00:53:0a")})
		for _, args := range []string{"link set %s down", "link set %s address 52:54:00:00:53:99"} {
			nstest.IP(t, fmt.Sprintf(args, p.IfName))
			until(t, "what was changed by "+args+" is put back", func() bool {
				got := nstest.IP(t, "link show "+p.IfName)
				return strings.Contains(got, p.MAC) && strings.Contains(got, ",UP")
			})
		}
	})
}

// TestMacvtapHasNoGuard shows no guard where there is none, refuses to be asked for one, and
// says so of users who are not trusted with addresses.
func TestMacvtapHasNoGuard(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cables(t, 1)
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(directXML("lan", "bridge", "lan0"))
		mac, other, posed := hwaddr(t, "52:54:00:00:53:0a"), hwaddr(t, "52:54:00:00:53:0b"), hwaddr(t, "52:54:00:00:53:99")
		p, file := h.opened(n, network.PortOptions{MAC: mac, Untrusted: true, Owner: 1000})
		_, heard := h.opened(n, network.PortOptions{MAC: other})
		if p.Guard != "off" {
			t.Errorf("the port's guard is %s", p.Guard)
		}
		f := frame(other, posed)
		_, err := file.Write(f)
		must(t, err)
		hears(t, heard, f) // which a guard would have to stop
		for _, opts := range []network.PortOptions{{Guard: "strict"}, {Allow: []string{"192.0.2.1"}}} {
			if _, _, err := h.Ports().Request(t.Context(), n, opts); network.KindOf(err) != api.Unsupported {
				t.Errorf("a port with %+v: %v", opts, err)
			}
		}
		until(t, "a condition says so", func() bool {
			for _, c := range h.Conditions() {
				if c.Kind == "port-unguarded" && c.Networks[0] == "lan" && strings.HasPrefix(c.Evidence, "1 ") {
					return true
				}
			}
			return false
		})
	})
}

// TestHostAccess has the host and a guest reach each other by an interface of the host's own
// on the guest's parent, which is kept, and goes with the network.
func TestHostAccess(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cables(t, 1)
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		n := h.started("<network xmlns:vnetd='urn:vnetd:network:1'><name>lan</name><forward mode='bridge' dev='lan0'/><vnetd:host-access dev='host0'/></network>")
		mac := hwaddr(t, "52:54:00:00:53:0a")
		p, file := h.opened(n, network.PortOptions{MAC: mac})
		if !p.HostReach {
			t.Errorf("the port is %+v", p)
		}
		reach := func() {
			t.Helper()
			link, err := h.links.Lookup("host0")
			must(t, err)
			nstest.IP(t, "addr replace 192.0.2.1/24 dev host0")
			nstest.IP(t, "neigh replace 192.0.2.9 lladdr "+mac.String()+" dev host0")
			ping := make(chan error, 1)
			go func() {
				conn, err := net.Dial("udp4", "192.0.2.9:9")
				if err == nil {
					_, err = conn.Write([]byte("hello"))
				}
				ping <- err
			}()
			must(t, <-ping)
			must(t, file.SetReadDeadline(time.Now().Add(wait)))
			buf := make([]byte, 4096)
			for {
				size, err := file.Read(buf)
				if err != nil {
					t.Fatalf("the guest hears nothing of the host: %v", err)
				}
				if size > 14 && bytes.Equal(buf[:6], mac) && bytes.Equal(buf[6:12], link.MAC) {
					return
				}
			}
		}
		reach()
		nstest.IP(t, "link del host0")
		until(t, "the interface is there again", func() bool { return linkExists("host0") })
		reach()
		h.end()
		h = newHub(t, root, hubOptions{})
		n, err := h.ByName("lan")
		must(t, err)
		reach()
		must(t, n.Stop(t.Context()))
		if linkExists("host0") {
			t.Error("the host's interface stays when the network is stopped")
		}
		nstest.IP(t, "link add host0 type veth peer name x0")
		if err := n.Start(t.Context()); network.KindOf(err) != api.Conflict || !strings.Contains(err.Error(), "host0") {
			t.Errorf("a start where the name is taken: %v", err)
		}
	})
}

// TestMacvtapBandwidth holds what a guest sends at its device's way out, and what it receives
// at its way in: it is the guest's card, the other way round than a TAP device.
func TestMacvtapBandwidth(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cables(t, 1)
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(directXML("lan", "bridge", "lan0"))
		macs := []net.HardwareAddr{hwaddr(t, "52:54:00:00:53:0a"), hwaddr(t, "52:54:00:00:53:0b")}
		rate := &netdef.Rate{Average: 1000}
		limited := func(mac net.HardwareAddr, b netdef.Bandwidth) (qdiscs string, f *os.File) {
			p, f := h.opened(n, network.PortOptions{MAC: mac, Settings: network.PortSettings{Bandwidth: &b}})
			return nstest.Exec(t, "tc", "qdisc", "show", "dev", p.IfName), f
		}
		held := func() int { return strings.Count(nstest.IP(t, "-br link show type ifb"), "\n") }
		got, sends := limited(macs[0], netdef.Bandwidth{Outbound: rate})
		if !strings.Contains(got, "htb") || held() != 0 {
			t.Errorf("what the guest sends is held by %s", got)
		}
		got, receives := limited(macs[1], netdef.Bandwidth{Inbound: rate})
		if strings.Contains(got, "htb") || held() != 1 {
			t.Errorf("what the guest receives is held by %s", got)
		}
		for i, from := range []*os.File{sends, receives} {
			f := frame(macs[1-i], macs[i])
			_, err := from.Write(f)
			must(t, err)
			hears(t, []*os.File{receives, sends}[i], f)
		}
	})
}
