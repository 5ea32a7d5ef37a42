package network_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// functions makes a sysfs of a card ens1 with n virtual functions, of which each has an
// interface of the test's namespace: this kernel has no SR-IOV.
func functions(t *testing.T, n int) (sys string) {
	t.Helper()
	sys = t.TempDir()
	card := filepath.Join(sys, "devices/0000:01:00.0")
	must(t, os.MkdirAll(card, 0o755))
	must(t, os.WriteFile(filepath.Join(card, "sriov_totalvfs"), []byte("8\n"), 0o644))
	must(t, os.MkdirAll(filepath.Join(sys, "class/net/ens1"), 0o755))
	must(t, os.Symlink(card, filepath.Join(sys, "class/net/ens1/device")))
	must(t, os.MkdirAll(filepath.Join(sys, "bus/pci/devices"), 0o755))
	for i := range n {
		address := fmt.Sprintf("0000:01:10.%d", 2*i)
		at := filepath.Join(sys, "devices", address)
		must(t, os.MkdirAll(filepath.Join(at, "net", fmt.Sprintf("lan%d", i)), 0o755))
		must(t, os.Symlink(card, filepath.Join(at, "physfn")))
		must(t, os.Symlink("../"+address, filepath.Join(card, fmt.Sprintf("virtfn%d", i))))
		must(t, os.Symlink(at, filepath.Join(sys, "bus/pci/devices", address)))
	}
	return sys
}

// TestHostdevPool hands out virtual functions to libvirt's clients, one each, with what the
// network says of them, and takes them back.
func TestHostdevPool(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root, sys := t.TempDir(), functions(t, 2)
		h := newHub(t, root, hubOptions{sysfs: sys})
		n := h.started("<network><name>fast</name><forward mode='hostdev' managed='yes'><driver name='vfio'/><pf dev='ens1'/></forward><vlan><tag id='42'/></vlan></network>")
		register := func(nth int) (*netdef.Port, error) {
			return h.Ports().Register(t.Context(), n, document(nth, ""), false, 0)
		}
		first, err := register(1)
		must(t, err)
		want := "<plug type='hostdev-pci' managed='yes'>\n    <driver name='vfio'/>\n    <address domain='0x0000' bus='0x01' slot='0x10' function='0x0'/>\n  </plug>"
		if xml := string(first.XML()); !strings.Contains(xml, want) || !strings.Contains(xml, "<tag id='42'/>") || !strings.Contains(xml, "<mac address='52:54:00:00:54:01'/>") {
			t.Errorf("the port is %s", xml)
		}
		second, err := register(2)
		must(t, err)
		if second.Plug.Address.Function != 2 {
			t.Errorf("the second port is %+v", second.Plug)
		}
		if _, err := register(3); network.KindOf(err) != api.Conflict || !strings.Contains(err.Error(), "requires exclusive access") {
			t.Errorf("a third port: %v", err)
		}
		if xml := string(n.XML(false)); !strings.Contains(xml, "<network connections='2'>") || !strings.Contains(xml, "<address type='pci' domain='0x0000' bus='0x01' slot='0x10' function='0x2'/>") {
			t.Errorf("what it is: %s", xml)
		}
		if xml := string(n.XML(true)); strings.Contains(xml, "type='pci'") {
			t.Errorf("what it will be: %s", xml)
		}
		info, err := h.Ports().Find(first.UUID)
		if err != nil || info.Parent != "0000:01:10.0" || info.Mode != "hostdev" || info.HostReach {
			t.Errorf("the port is %+v, %v", info, err)
		}
	})
}

// TestHostdevPoolGivenBack hands out again what was given back, after a restart too, and has
// libvirt's clients claim what they have.
func TestHostdevPoolGivenBack(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root, sys := t.TempDir(), functions(t, 2)
		h := newHub(t, root, hubOptions{sysfs: sys})
		n := h.started("<network><name>fast</name><forward mode='hostdev'><pf dev='ens1'/></forward></network>")
		register := func(nth int) (*netdef.Port, error) {
			return h.Ports().Register(t.Context(), n, document(nth, ""), false, 0)
		}
		first, err := register(1)
		must(t, err)
		second, err := register(2)
		must(t, err)
		h.end()
		h = newHub(t, root, hubOptions{sysfs: sys})
		n, err = h.ByName("fast")
		must(t, err)
		if _, err := register(4); network.KindOf(err) != api.Conflict {
			t.Errorf("a third port, after a restart: %v", err)
		}
		must(t, h.Ports().Release(t.Context(), first.UUID))
		again, err := register(5)
		must(t, err)
		if again.Plug.Address.Function != 0 {
			t.Errorf("what was given back is not handed out: %+v", again.Plug)
		}
		if _, _, err := h.Ports().Request(t.Context(), n, network.PortOptions{}); network.KindOf(err) != api.Unsupported || !strings.Contains(err.Error(), "PCI devices") {
			t.Errorf("a port of vnetd's own: %v", err)
		}
		must(t, h.Ports().Release(t.Context(), second.UUID))
		claimed, err := h.Ports().Register(t.Context(), n, document(6, "<plug type='hostdev-pci' managed='yes'><address domain='0' bus='1' slot='0x10' function='2'/></plug>"), true, 0)
		if err != nil || claimed.Plug.Address.Function != 2 {
			t.Errorf("claimed: %+v, %v", claimed, err)
		}
		for _, function := range []string{"2", "4"} {
			plug := "<plug type='hostdev-pci'><address domain='0' bus='1' slot='0x10' function='" + function + "'/></plug>"
			if _, err := h.Ports().Register(t.Context(), n, document(7, plug), true, 0); network.KindOf(err) != api.Conflict {
				t.Errorf("claiming function %s: %v", function, err)
			}
		}
	})
}

// TestHostdevAddresses hands out the devices that a network lists, as far as they are there.
func TestHostdevAddresses(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{sysfs: functions(t, 2)})
		n := h.started("<network><name>fast</name><forward mode='hostdev'><address type='pci' domain='0' bus='9' slot='0' function='0'/>" +
			"<address type='pci' domain='0' bus='1' slot='0x10' function='2'/></forward></network>")
		p, err := h.Ports().Register(t.Context(), n, document(1, ""), false, 0)
		if err != nil || p.Plug.Address != (netdef.PCIAddress{Bus: 1, Slot: 16, Function: 2}) || p.Plug.Managed != netdef.No {
			t.Errorf("%+v, %v", p, err)
		}
		if _, err := h.Ports().Register(t.Context(), n, document(2, ""), false, 0); network.KindOf(err) != api.Conflict {
			t.Errorf("a second: %v", err)
		}
	})
}

// TestFunctionsAsMacvtapPool has macvtap devices on the interfaces of a card's virtual
// functions, and the network wait for the card.
func TestFunctionsAsMacvtapPool(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cables(t, 2)
		h := newHub(t, t.TempDir(), hubOptions{sysfs: functions(t, 2)})
		n := h.started("<network><name>vf</name><forward mode='passthrough'><pf dev='ens1'/></forward></network>")
		a, _ := h.opened(n, network.PortOptions{})
		b, _ := h.opened(n, network.PortOptions{})
		if a.Parent != "lan0" || b.Parent != "lan1" {
			t.Errorf("the ports are on %s and %s", a.Parent, b.Parent)
		}
		if xml := string(n.XML(false)); !strings.Contains(xml, "<pf dev='ens1'/>\n    <interface dev='lan0' connections='1'/>") || strings.Contains(xml, "<forward dev=") {
			t.Errorf("what it is: %s", xml)
		}
		away := h.started("<network><name>away</name><forward mode='vepa'><pf dev='ens9'/></forward></network>")
		if info := away.Info(); info.State != api.Degraded || !strings.Contains(info.LastError, "ens9") {
			t.Errorf("a network without its card is %+v", info)
		}
	})
}

// TestOpenVSwitch starts a network on a bridge of Open vSwitch, which is the admin's, and
// gives libvirt's clients their ports.
func TestOpenVSwitch(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link add ovsbr0 type bridge") // as far as vnetd has to do with it
		before := kernel(t)
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started("<network><name>ovs</name><forward mode='bridge'/><bridge name='ovsbr0'/><vlan trunk='yes'><tag id='7'/><tag id='8'/></vlan>" +
			"<virtualport type='openvswitch'/><portgroup name='web'><virtualport><parameters profileid='web-profile'/></virtualport><vlan><tag id='9'/></vlan></portgroup></network>")
		if after := kernel(t); after != before {
			t.Errorf("something was made: before\n%safter\n%s", before, after)
		}
		p, err := h.Ports().Register(t.Context(), n, document(1, "<virtualport><parameters interfaceid='00000000-0000-4000-8000-000000000077'/></virtualport>"), false, 0)
		must(t, err)
		want := netdef.VirtualPort{Type: "openvswitch", InterfaceID: "00000000-0000-4000-8000-000000000077"}
		if *p.VirtualPort != want || len(p.VLAN.Tags) != 2 || p.Plug.Type != netdef.PlugBridge || p.Plug.Bridge != "ovsbr0" {
			t.Errorf("the port is %s", p.XML())
		}
		p, err = h.Ports().Register(t.Context(), n, document(2, "<group>web</group>"), false, 0)
		must(t, err)
		if v := p.VirtualPort; v.Type != "openvswitch" || v.ProfileID != "web-profile" || len(v.InterfaceID) != 36 || p.VLAN.Tags[0].ID != 9 {
			t.Errorf("the port of a group is %s", p.XML())
		}
		if _, _, err := h.Ports().Request(t.Context(), n, network.PortOptions{}); network.KindOf(err) != api.Unsupported || !strings.Contains(err.Error(), "ovs-vsctl") {
			t.Errorf("a port of vnetd's own: %v", err)
		}
		other := "<virtualport type='802.1Qbh'><parameters profileid='p'/></virtualport>"
		if _, err := h.Ports().Register(t.Context(), n, document(3, other), false, 0); err == nil || !strings.Contains(err.Error(), "mismatched types") {
			t.Errorf("a port with another type of profile: %v", err)
		}
	})
}

// TestUsedInterfaceStays keeps an interface in the pool of an active network on which a port
// is.
func TestUsedInterfaceStays(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cables(t, 2)
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(directXML("pool", "vepa", "lan0", "lan1"))
		_, file := h.opened(n, network.PortOptions{})
		remove := func(dev string) error {
			return n.Update(t.Context(), netdef.Update{Command: netdef.CommandDelete, Section: netdef.SectionForwardInterface, Index: -1, XML: []byte("<interface dev='" + dev + "'/>")}, network.TargetLive)
		}
		if err := remove("lan0"); network.KindOf(err) != api.InvalidState || !strings.Contains(err.Error(), "currently being used by 1 domains") {
			t.Errorf("removing an interface that is used: %v", err)
		}
		must(t, remove("lan1"))
		must(t, file.Close())
		until(t, "the interface is not used", func() bool { return len(h.Ports().On(n)) == 0 })
	})
}
