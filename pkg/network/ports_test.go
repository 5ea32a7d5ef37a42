package network_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

func TestPortEndsWithItsFile(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		mac := net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}
		info, f := h.port(n, network.PortOptions{Name: "guest", MAC: mac, VnetHdr: true, Owner: 1000})
		want := api.Port{
			UUID: info.UUID, Network: "one", Name: "guest", Aliases: []string{}, MAC: "52:54:00:01:02:03", IfName: info.IfName,
			Bridge: "one", HostReach: true, MTU: 1500, Addresses: []netip.Addr{}, Reserved: []netip.Addr{}, Queues: 1, VnetHdr: true,
			Lifetime: "fd", Owner: 1000, Created: info.Created, Bandwidth: map[string]uint64{}, Guard: "gateway", Rules: []string{},
		}
		if diff := cmp.Diff(want, info, addrs); diff != "" {
			t.Errorf("port (-want +got):\n%s", diff)
		}
		if ifi, err := net.InterfaceByName(info.IfName); err != nil || ifi.HardwareAddr.String() != "fe:54:00:01:02:03" {
			t.Errorf("the TAP device is %v (%v), want MAC fe:54:00:01:02:03", ifi, err)
		}
		if h.master(info.IfName) != "one" {
			t.Errorf("the TAP device is on %q", h.master(info.IfName))
		}
		if live := string(n.XML(false)); !strings.Contains(live, "connections='1'") {
			t.Errorf("the live document does not count the port:\n%s", live)
		}
		must(t, f.Close())
		until(t, "the port is gone", func() bool { return len(h.Ports().List()) == 0 && h.saw(network.PortRemoved) })
		if ports, _, err := h.store.Ports(); len(ports) != 0 || err != nil {
			t.Errorf("run-state of ports: %v (%v)", ports, err)
		}
	})
}

func TestReleaseDeletesTheDevice(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		info, f := h.port(n, network.PortOptions{IfName: "mytap"})
		defer f.Close()
		if got, err := h.Ports().Find("mytap"); err != nil || got.UUID != info.UUID {
			t.Errorf("the port by its interface: %v, %v", got, err)
		}
		must(t, h.Ports().Release(t.Context(), strings.ToUpper(info.UUID)))
		if linkExists("mytap") || len(h.Ports().List()) != 0 {
			t.Error("after its release the port is still there")
		}
		if err := h.Ports().Release(t.Context(), info.UUID); network.KindOf(err) != api.NotFound {
			t.Errorf("second release: %v, want NotFound", err)
		}
	})
}

func TestRequestPortRefuses(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.define(natXML("one", "192.0.2"))
		refused := func(opts network.PortOptions, kind api.Kind) {
			t.Helper()
			_, _, err := h.Ports().Request(t.Context(), n, opts)
			if network.KindOf(err) != kind {
				t.Errorf("%+v: %v, want %s", opts, err, kind)
			}
		}
		refused(network.PortOptions{}, api.InvalidState)
		must(t, n.Start(t.Context()))
		links := nstest.Exec(t, "ip", "-br", "link")
		refused(network.PortOptions{Lifetime: "for ever"}, api.Invalid)
		refused(network.PortOptions{Queues: 1000}, api.Invalid)
		refused(network.PortOptions{IfName: "name-of-16-chars"}, api.Invalid)
		refused(network.PortOptions{IfName: "a/b"}, api.Invalid)
		refused(network.PortOptions{IfName: "one"}, api.Exists)
		refused(network.PortOptions{MAC: net.HardwareAddr{1, 0, 0, 0, 0, 1}}, api.Invalid)
		refused(network.PortOptions{MAC: make(net.HardwareAddr, 6)}, api.Invalid)
		refused(network.PortOptions{Name: "two\nlines"}, api.Invalid)
		refused(network.PortOptions{OwnerUUID: "mine"}, api.Invalid)
		refused(network.PortOptions{ID: strings.Repeat("x", 256)}, api.Invalid)
		refused(network.PortOptions{Addrs: ips("192.0.2.5", "192.0.2.6")}, api.Invalid)
		refused(network.PortOptions{Addrs: ips("192.0.2.1")}, api.Invalid)
		refused(network.PortOptions{Addrs: ips("198.51.100.5")}, api.Invalid)
		refused(network.PortOptions{Addrs: ips("2001:db8::5")}, api.Invalid)
		refused(network.PortOptions{Addrs: ips("192.0.2.10")}, api.Conflict)
		bridge, err := net.InterfaceByName("one")
		must(t, err)
		refused(network.PortOptions{MAC: bridge.HardwareAddr}, api.Conflict)
		if diff := cmp.Diff(links, nstest.Exec(t, "ip", "-br", "link")); diff != "" {
			t.Errorf("refused requests left links (-before +after):\n%s", diff)
		}
	})
}

// TestPortsOverRestart restarts the hub while one of two ports ends.
func TestPortsOverRestart(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		stays, f1 := h.port(n, network.PortOptions{Name: "stays"})
		defer f1.Close()
		_, f2 := h.port(n, network.PortOptions{Name: "goes"})
		h.end()
		must(t, f2.Close())

		h = newHub(t, root, hubOptions{})
		ports := h.Ports().List()
		if diff := cmp.Diff([]api.Port{stays}, ports, addrs); diff != "" {
			t.Errorf("ports after the restart (-want +got):\n%s", diff)
		}
		must(t, f1.Close())
		until(t, "the other port is gone, too", func() bool { return len(h.Ports().List()) == 0 })
	})
}

// TestPortsOutliveAStop stops and starts a network under a living guest.
func TestPortsOutliveAStop(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		info, f := h.port(n, network.PortOptions{})
		defer f.Close()
		must(t, n.Stop(t.Context()))
		if !linkExists(info.IfName) || h.master(info.IfName) != "" {
			t.Error("after the stop the TAP device is gone or still on a bridge")
		}
		must(t, n.Start(t.Context()))
		if h.master(info.IfName) != "one" {
			t.Error("after the start the port is not back on the bridge")
		}
	})
}

// TestPortNamesItsGuest gives a guest that has no name of its own the name of
// its port, and its MAC address to nobody else.
func TestPortNamesItsGuest(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{unguarded: true})
		n := h.started(natXML("one", "192.0.2"))
		// The guest is behind another device than the port's: its MAC counts.
		mac := net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}
		_, f := h.port(n, network.PortOptions{Name: "web", MAC: mac})
		defer f.Close()
		_, _, err := h.Ports().Request(t.Context(), n, network.PortOptions{MAC: mac})
		if network.KindOf(err) != api.Conflict {
			t.Errorf("a second port with the same MAC address: %v, want Conflict", err)
		}
		guest := nstest.Guest(t, "one", "guest", mac.String())
		guest.Exec("udhcpc", "-i", "eth0", "-n", "-q", "-t", "20", "-T", "1", "-x", "hostname:", "-s", "/bin/true")
		leases, err := n.Leases()
		must(t, err)
		if got := lookup(t, "192.0.2.1", "web"); len(leases) != 1 || len(got) != 1 || got[0] != leases[0].Addr.String() {
			t.Errorf("web is %v, the leases are %v", got, leases)
		}
	})
}

// addrs compares addresses as they are.
var addrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// ips parses addresses.
func ips(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// hardware parses a MAC address.
func hardware(t *testing.T, text string) net.HardwareAddr {
	t.Helper()
	mac, err := net.ParseMAC(text)
	must(t, err)
	return mac
}
