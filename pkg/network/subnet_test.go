package network_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// autoXML is a network of mode nat whose subnets are chosen.
func autoXML(name, attrs string) string {
	return fmt.Sprintf("<network xmlns:vnetd='urn:vnetd:network:1'><name>%s</name><forward mode='nat'/><vnetd:subnet auto='yes'%s/></network>", name, attrs)
}

// subnets lists the subnets of the network, as it is defined.
func subnets(n *network.Network) string {
	var all []string
	for i := range n.Definition().IPs {
		all = append(all, n.Definition().IPs[i].Prefix().Masked().String())
	}
	return strings.Join(all, " ")
}

// TestSubnetIsFree defines networks that leave their subnet to vnetd, on a host that has
// some already: none of them meets another, and each starts.
func TestSubnetIsFree(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		nstest.IP(t, "link add lan type bridge")
		nstest.IP(t, "link set lan up")
		nstest.IP(t, "address add 192.168.100.7/22 dev lan")
		nstest.IP(t, "route add 192.168.104.16/28 dev lan")
		nstest.IP(t, "route add 128.0.0.0/1 dev lan") // half of a VPN's default route
		h.define(natXML("inactive", "192.168.105"))
		h.define(strings.Replace(natXML("routing", "198.51.100"), "</network>", "<route address='192.168.106.0' prefix='24' gateway='198.51.100.9'/></network>", 1))

		first := h.started(autoXML("first", " family='ipv4'"))
		second := h.started(autoXML("second", " family='ipv4'"))
		for n, want := range map[*network.Network]string{first: "192.168.107.0/24", second: "192.168.108.0/24"} {
			if got := subnets(n); got != want {
				t.Errorf("network %s has %s, want %s", n.Name(), got, want)
			}
		}
		// The same document is the same network, also once it is active.
		again, err := h.DefineWith(t.Context(), []byte(autoXML("first", " family='ipv4'")), api.DefineOptions{})
		must(t, err)
		if again.Action != api.ActionUnchanged || len(again.Pending) > 0 {
			t.Errorf("defined again: %+v, want it unchanged", again)
		}
		must(t, first.Stop(t.Context()))
		must(t, first.Undefine(t.Context()))

		// As an admin copies it there.
		h.end()
		must(t, os.WriteFile(filepath.Join(h.dirs.Networks, "a.xml"), []byte(autoXML("a", " family='ipv4'")), 0o600))
		h = newHub(t, root, hubOptions{})
		copied, err := h.ByName("a")
		must(t, err)
		text, err := os.ReadFile(filepath.Join(h.dirs.Networks, "a.xml"))
		must(t, err)
		if subnets(copied) != "192.168.107.0/24" || !strings.Contains(string(text), "address='192.168.107.1'") || strings.Contains(string(text), "vnetd:subnet") {
			t.Errorf("the copied definition has %q, the file is now:\n%s", subnets(copied), text)
		}
	})
}

// TestSubnetsOfBothFamilies leaves IPv6 to vnetd as well, and gives one family itself.
func TestSubnetsOfBothFamilies(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(autoXML("both", ""))
		ips := n.Definition().IPs
		local := netip.MustParsePrefix("fd00::/8")
		if len(ips) != 2 || ips[0].Prefix().String() != "192.168.100.1/24" || !local.Contains(ips[1].Address) || ips[1].Prefix().Bits() != 64 {
			t.Fatalf("the network has %+v, want 192.168.100.1/24 and a /64 of %v", ips, local)
		}
		for i := range ips {
			if ips[i].DHCP == nil || len(ips[i].DHCP.Ranges) != 1 {
				t.Errorf("<ip> %v has no range for guests", ips[i].Address)
			}
		}
		if other := h.started(autoXML("other", "")); other.Definition().IPs[1].Prefix().Overlaps(ips[1].Prefix()) {
			t.Error("two networks have the same IPv6 subnet")
		}
		own := strings.Replace(autoXML("own", ""), "</network>", "<ip address='192.0.2.1' prefix='24'/></network>", 1)
		if got := subnets(h.define(own)); !strings.HasPrefix(got, "192.0.2.0/24 fd") {
			t.Errorf("a network with an IPv4 subnet of its own has %s, want that and one of fd00::/8", got)
		}
		plan, err := h.Plan([]byte(autoXML("third", " family='ipv4'")))
		must(t, err)
		if len(plan.Conflicts) > 0 || len(plan.Addresses) != 1 || plan.Addresses[0].Address.String() != "192.168.102.1/24" {
			t.Errorf("the plan has the addresses %v and the conflicts %q, want 192.168.102.1/24", plan.Addresses, plan.Conflicts)
		}
		var chosen netdef.Families
		if def := n.Definition(); def.Chosen != chosen {
			t.Errorf("the definition still leaves %q to be chosen", def.Chosen)
		}
	})
}
