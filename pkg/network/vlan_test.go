package network_test

import (
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// groupsXML is a network on a bridge of the host's, whose groups are in VLANs.
const groupsXML = `<network><name>one</name><forward mode='bridge'/><bridge name='br0'/>
  <portgroup name='a'><vlan><tag id='42'/></vlan></portgroup>
  <portgroup name='b'><vlan trunk='yes'><tag id='7'/><tag id='43' nativeMode='untagged'/></vlan></portgroup>
  <portgroup name='none'/>
</network>`

// TestVLANsAreRefused holds that nobody is promised VLANs that nothing keeps apart: here, as
// this machine's kernel can't, and elsewhere, as the bridge is the host's and was not told to.
func TestVLANsAreRefused(t *testing.T) {
	refused := func(kind api.Kind, words string) func(t *testing.T) {
		return func(t *testing.T) {
			h := newHub(t, t.TempDir(), hubOptions{})
			nstest.IP(t, "link add br0 type bridge")
			nstest.IP(t, "link add up0 type veth peer name lan0")
			n := h.define(groupsXML)
			if err := n.Start(t.Context()); network.KindOf(err) != kind || err == nil || !strings.Contains(err.Error(), words) {
				t.Errorf("start: %v, want %s with %q", err, kind, words)
			}
			flat := h.started("<network><name>flat</name><forward mode='bridge'/><bridge name='br0'/></network>")
			_, _, err := h.Ports().Request(t.Context(), flat, network.PortOptions{Settings: network.PortSettings{VLAN: "42"}})
			if network.KindOf(err) != kind || err == nil {
				t.Errorf("a port with a VLAN: %v, want %s", err, kind)
			}
			doc := libvirts(1)
			doc.VLAN = &netdef.VLAN{Tags: []netdef.VLANTag{{ID: 42}}}
			if _, err := h.Ports().Register(t.Context(), flat, doc, false, 0); network.KindOf(err) != kind || err == nil {
				t.Errorf("a port of libvirt's with a VLAN: %v, want %s", err, kind)
			}
			nat := h.started(natXML("nat", "192.0.2"))
			for option, opts := range map[string]network.PortSettings{"vlan": {VLAN: "42"}, "portgroup": {PortGroup: "a"}} {
				_, _, err := h.Ports().Request(t.Context(), nat, network.PortOptions{Settings: opts})
				if err == nil || !strings.Contains(err.Error(), option) {
					t.Errorf("option %s on a network of mode nat: %v", option, err)
				}
			}
		}
	}
	t.Run("here", func(t *testing.T) {
		nstest.Run(t, refused(api.Unsupported, "CONFIG_BRIDGE_VLAN_FILTERING"))
	})
}

// TestVLANsOfLibvirtsPorts holds that guests of libvirt's are in the VLANs of their group
// as soon as libvirt has plugged in their device, move to another with a new port that
// takes the place of theirs, and that their port's document, which libvirt's driver reads, has no
// VLAN but its own.
func TestVLANsOfLibvirtsPorts(t *testing.T) {
	files := nstest.GuestFiles{Modules: []string{"llc", "stp", "bridge", "tun", "veth"}}
	nstest.RunInGuest(t, files, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		nstest.IP(t, "link add br0 type bridge")
		n := h.define(groupsXML)
		if err := n.Start(t.Context()); network.KindOf(err) != api.InvalidState || err == nil || !strings.Contains(err.Error(), "ip link set br0 type bridge vlan_filtering 1") {
			t.Errorf("start on a bridge that does not filter: %v", err)
		}
		nstest.IP(t, "link set br0 up type bridge vlan_filtering 1")
		must(t, n.Start(t.Context()))
		has := func(when, want string) {
			t.Helper()
			until(t, when+", the VLANs are "+want, func() bool {
				fields := strings.Fields(nstest.Exec(t, "bridge", "vlan", "show", "dev", "vnet0"))
				i := strings.Index(strings.Join(fields, " "), "vnet0 ")
				return i >= 0 && strings.Join(fields, " ")[i+len("vnet0 "):] == want
			})
		}
		register := func(n byte, group string) {
			t.Helper()
			doc := libvirts(1)
			doc.UUID, doc.Group = libvirts(n).UUID, group
			one, err := h.ByName("one")
			must(t, err)
			full, err := h.Ports().Register(t.Context(), one, doc, false, 0)
			must(t, err)
			if full.VLAN != nil {
				t.Errorf("the port's document has a VLAN:\n%s", full.XML())
			}
		}
		register(1, "a")
		tap, err := nstest.OpenTAP("vnet0")
		must(t, err)
		defer func() { must(t, tap.Close()) }()
		nstest.IP(t, "link set vnet0 address fe:54:00:00:00:01")
		nstest.IP(t, "link set vnet0 master br0 up")
		has("plugged in", "42 PVID Egress Untagged")
		nstest.Exec(t, "bridge", "vlan", "add", "dev", "vnet0", "vid", "99")
		has("after somebody changed it", "42 PVID Egress Untagged")
		// As libvirt does: the new port first. Until the former one has ended the guest stays
		// there, as libvirt may think better of it.
		register(2, "b")
		nstest.Exec(t, "bridge", "vlan", "add", "dev", "vnet0", "vid", "99")
		has("with a second port", "42 PVID Egress Untagged")
		must(t, h.Ports().Release(t.Context(), libvirts(2).UUID))
		nstest.Exec(t, "bridge", "vlan", "add", "dev", "vnet0", "vid", "99")
		has("when the second port has ended", "42 PVID Egress Untagged")
		register(2, "b")
		must(t, h.Ports().Release(t.Context(), libvirts(1).UUID))
		has("in another group", "7 43 PVID Egress Untagged")
		nstest.Exec(t, "bridge", "vlan", "add", "dev", "vnet0", "vid", "99")
		has("kept in another group", "7 43 PVID Egress Untagged")
		register(3, "none")
		must(t, h.Ports().Release(t.Context(), libvirts(2).UUID))
		has("in a group without VLANs", "1 PVID Egress Untagged")
		one, err := h.ByName("one")
		must(t, err)
		must(t, h.Ports().Bandwidth().Set(t.Context(), one, libvirts(3).UUID, func(s *network.PortSettings) error {
			s.PortGroup = "a"
			return nil
		}))
		has("in a group by its settings", "42 PVID Egress Untagged")
		doc := libvirts(4)
		doc.VLAN = &netdef.VLAN{Tags: []netdef.VLANTag{{ID: 7}}}
		full, err := h.Ports().Register(t.Context(), n, doc, false, 0)
		must(t, err)
		if full.VLAN.String() != "7" {
			t.Errorf("the port's document lacks its own VLAN:\n%s", full.XML())
		}
		doc = libvirts(5)
		doc.VLAN = &netdef.VLAN{Tags: []netdef.VLANTag{{ID: 4095}}}
		if _, err := h.Ports().Register(t.Context(), n, doc, false, 0); network.KindOf(err) != api.Invalid || err == nil {
			t.Errorf("VLAN 4095: %v, want Invalid", err)
		}
	})
}
