package uplink

import (
	"net"
	"testing"

	"github.com/vnetd/vnetd/pkg/bridge"
)

// TestUplinkIsRecognised: a card is known by its permanent MAC address under any name, what
// has none by its MAC address, and whatever has the name takes the place of one that is
// gone.
func TestUplinkIsRecognised(t *testing.T) {
	first, second := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}, net.HardwareAddr{0x52, 0x54, 0, 0, 0, 2}
	link := func(index int, name, kind string, mac, permanent net.HardwareAddr, master int) nic {
		return nic{Link: bridge.Link{Name: name, Index: index, Kind: kind, MAC: mac, Master: master}, permanent: permanent}
	}
	card := Device{MAC: first, Permanent: first}
	const br = 9
	for _, tt := range []struct {
		name   string
		device Device
		links  []nic
		want   string
		sure   int
	}{
		{"as it was", card, []nic{link(2, "eno1", "", first, first, br)}, "eno1", certain},
		{"renamed", card, []nic{link(2, "lan0", "", first, first, br)}, "lan0", identical},
		{"its driver reloaded, under another name", card, []nic{link(7, "eth0", "", first, first, 0)}, "eth0", identical},
		{"two cards whose names are swapped", card, []nic{link(7, "eno1", "", second, second, 0), link(8, "eno2", "", first, first, 0)}, "eno2", identical},
		{"its MAC address changed", card, []nic{link(7, "lan0", "", second, first, 0), link(8, "lan1", "", first, second, 0)}, "lan0", identical},
		{"replaced by another card", card, []nic{link(7, "eno1", "", second, second, 0), link(8, "eno2", "", net.HardwareAddr{2, 0, 0, 0, 0, 3}, nil, 0)}, "eno1", namesake},
		{"an alternative name", card, []nic{{Link: bridge.Link{Name: "enp3s0", Index: 7, MAC: second}, alternative: []string{"eno1"}, permanent: second}}, "enp3s0", namesake},
		{"a VLAN device on the card has its MAC address", card, []nic{link(7, "eno1.5", "vlan", first, nil, 0)}, "", unlike},
		{"a port of another bridge", card, []nic{link(7, "eno1", "", first, first, 4)}, "", unlike},
		{"a bridge of its name", card, []nic{link(7, "eno1", bridge.Kind, first, nil, 0)}, "", unlike},
		{"a veth made anew under another name", Device{Kind: "veth", MAC: first}, []nic{link(7, "lan0", "veth", first, nil, 0)}, "lan0", alike},
		{"a card with the MAC address of a veth", Device{Kind: "veth", MAC: first}, []nic{link(7, "lan0", "", first, first, 0)}, "", unlike},
		{"another VLAN device of the same card", Device{Kind: "vlan", MAC: first}, []nic{link(7, "eno1.7", "vlan", first, nil, 0)}, "", unlike},
		{"a bond that is renamed", Device{Kind: "bond", MAC: first}, []nic{link(2, "bond7", "bond", first, nil, br)}, "bond7", identical},
		{"a bond whose cards changed", Device{Kind: "bond", MAC: first}, []nic{link(2, "eno1", "bond", second, nil, br)}, "eno1", certain},
		{"a state of old", Device{}, []nic{link(2, "eno1", "", first, nil, br)}, "eno1", certain},
		{"nothing", card, nil, "", unlike},
	} {
		s := &State{Bridge: "br0", Uplink: "eno1", Index: 2, MAC: first, Device: tt.device}
		if got, sure := s.choose(tt.links, br); got.Name != tt.want || sure != tt.sure {
			t.Errorf("%s: %q, %d, want %q, %d", tt.name, got.Name, sure, tt.want, tt.sure)
		}
	}
}
