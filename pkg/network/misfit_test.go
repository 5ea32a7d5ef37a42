package network_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// TestPortsThatDoNotFit redefines networks while they are inactive so that a port of theirs is of
// another kind: they start, say so of the port, and have it again when they are what they were.
func TestPortsThatDoNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		is, becomes string
		opts        network.PortOptions
		evidence    string
	}{
		"macvtap to nat":       {directXML("one", "bridge", "lan0"), natXML("one", "192.0.2"), network.PortOptions{}, "stays unplugged"},
		"nat to macvtap":       {natXML("one", "192.0.2"), directXML("one", "bridge", "lan0"), network.PortOptions{}, "stays unplugged"},
		"nat with rules, open": {natXML("one", "192.0.2"), strings.Replace(natXML("one", "192.0.2"), "'nat'", "'open'", 1), network.PortOptions{Settings: network.PortSettings{Rules: []string{"egress drop tcp to 10.0.0.0/8"}}}, "mode open"},
	} {
		t.Run(name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				cables(t, 1)
				h := newHub(t, t.TempDir(), hubOptions{})
				n := h.started(c.is)
				c.opts.Lifetime = api.LifetimePersistent
				p, file := h.port(n, c.opts)
				must(t, file.Close())
				become := func(xml string) string {
					t.Helper()
					must(t, n.Stop(t.Context()))
					h.define(strings.Replace(xml, "</name>", "</name><uuid>"+n.Info().UUID+"</uuid>", 1))
					must(t, n.Start(t.Context()))
					return nstest.IP(t, "-br link show dev "+p.IfName)
				}
				device := nstest.IP(t, "-br link show dev "+p.IfName)
				misfit := func() bool {
					return slices.ContainsFunc(h.Conditions(), func(found api.Condition) bool {
						return found.Kind == "port-misfit" && strings.Contains(found.Message, p.IfName) && strings.Contains(found.Evidence, c.evidence)
					})
				}
				mac := strings.Fields(device)[2]
				if got := become(c.becomes); !strings.Contains(got, mac) {
					t.Errorf("its device is %s, and was %s", got, device)
				}
				until(t, "a condition names the port", misfit)
				if got := become(c.is); got != device {
					t.Errorf("its device is %s, and was %s", got, device)
				}
				until(t, "nothing is said of it any more", func() bool { return !misfit() })
			})
		})
	}
}

// TestVLANOfAPortOutsideModeBridge holds that a port's own VLAN keeps no network of another mode
// from having the port.
func TestVLANOfAPortOutsideModeBridge(t *testing.T) {
	own := &netdef.VLAN{Tags: []netdef.VLANTag{{ID: 42}}}
	for xml, want := range map[string]string{
		natXML("one", "192.0.2"): "",
		"<network><name>one</name><forward mode='bridge'/><bridge name='br0'/></network>": "42",
	} {
		n, err := netdef.Parse([]byte(xml))
		must(t, err)
		if got := translate.PortVLAN(n, "", own).String(); got != want {
			t.Errorf("its VLAN is %q, want %q on\n%s", got, want, xml)
		}
	}
}

// TestVLANThatIsItsGroups holds that a port may ask for the VLAN that it is in anyway, in any mode.
func TestVLANThatIsItsGroups(t *testing.T) {
	live, err := netdef.Parse([]byte(strings.Replace(natXML("one", "192.0.2"), "</network>", "<portgroup name='a'><vlan><tag id='42'/></vlan></portgroup></network>", 1)))
	must(t, err)
	for group, want := range map[string]api.Kind{"a": "", "": api.Unsupported} {
		doc := libvirts(1)
		doc.Group, doc.VLAN = group, &netdef.VLAN{Tags: []netdef.VLANTag{{ID: 42}}}
		full, err := translate.NetworkPort(live, doc, false, nil)
		if kind, _ := api.KindOf(err); kind != want || err == nil && full.VLAN != nil {
			t.Errorf("in group %q: %v, %+v", group, err, full)
		}
	}
}
