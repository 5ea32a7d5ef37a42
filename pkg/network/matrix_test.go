package network_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
)

// Addresses of the network under test; the other network is natXML's.
const (
	subnet4 = "192.0.2"
	subnet6 = "2001:db8:1::"
)

// modeXML is a network under test in one mode, with both families.
func modeXML(forward string) string {
	return "<network><name>one</name>" + forward + "<bridge name='one'/>" +
		"<ip address='" + subnet4 + ".1' netmask='255.255.255.0'><dhcp><range start='" + subnet4 + ".2' end='" + subnet4 + ".254'/></dhcp></ip>" +
		"<ip family='ipv6' address='" + subnet6 + "1' prefix='64'/></network>"
}

// reach is who reaches whom: "+" for yes, "-" for no, IPv4 before IPv6.
type reach struct {
	Guest, Host, LAN, FromLAN, Other string
}

// TestReachability sends packets over every way that a guest may take, in every
// mode, and compares with what libvirt's rules allow.
func TestReachability(t *testing.T) {
	for name, tt := range map[string]struct {
		forward string
		want    reach
	}{
		// IPv6 of a NAT network without ipv6='yes' is plainly routed.
		"nat":           {"<forward mode='nat'/>", reach{Guest: "++", Host: "++", LAN: "++", FromLAN: "-+", Other: "-"}},
		"nat dev":       {"<forward mode='nat' dev='eno1'/>", reach{Guest: "++", Host: "++", LAN: "++", FromLAN: "-+", Other: "-"}},
		"nat closed":    {"<forward mode='nat'/><vnetd:ipv6 xmlns:vnetd='urn:vnetd:network:1' inbound='no'/>", reach{Guest: "++", Host: "++", LAN: "++", FromLAN: "--", Other: "-"}},
		"nat66":         {"<forward mode='nat'><nat ipv6='yes'/></forward>", reach{Guest: "++", Host: "++", LAN: "++", FromLAN: "--", Other: "-"}},
		"route":         {"<forward mode='route'/>", reach{Guest: "++", Host: "++", LAN: "++", FromLAN: "++", Other: "-"}},
		"route dev":     {"<forward mode='route' dev='eno1'/>", reach{Guest: "++", Host: "++", LAN: "++", FromLAN: "++", Other: "-"}},
		"route another": {"<forward mode='route' dev='eth9'/>", reach{Guest: "++", Host: "++", LAN: "--", FromLAN: "--", Other: "-"}},
		"open":          {"<forward mode='open'/>", reach{Guest: "++", Host: "++", LAN: "++", FromLAN: "++", Other: "-"}},
		"isolated":      {"", reach{Guest: "++", Host: "++", LAN: "--", FromLAN: "--", Other: "-"}},
	} {
		t.Run(name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				lan := nstest.NewLAN(t)
				outside := guest{NS: lan, t: t}
				h := newHub(t, t.TempDir(), hubOptions{})
				h.started(modeXML(tt.forward))
				h.started(natXML("other", "198.51.100"))
				a, b := tenant(t, "one", "a"), tenant(t, "one", "b")
				other := staticGuest(t, "other", "c", "198.51.100.77", "198.51.100.1")
				lan.IP("route add " + subnet4 + ".0/24 via " + nstest.Uplink)
				lan.IP("route add 198.51.100.0/24 via " + nstest.Uplink)
				lan.IP("-6 route add " + subnet6 + "/64 via " + nstest.Uplink6)
				// The way that must work says when the guests' links are up.
				nstest.Eventually(t, wait, "the guests reach each other", func() error { return a.pings(b.v4, b.v6) })

				got := reach{
					Guest:   a.sees(b.v4) + a.sees(b.v6),
					Host:    a.sees(subnet4+".1") + a.sees(subnet6+"1"),
					LAN:     a.sees(nstest.LANHost) + a.sees(nstest.LANHost6),
					FromLAN: outside.sees(a.v4) + outside.sees(a.v6),
					Other:   a.sees(other.v4),
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("who reaches whom (-want +got):\n%s\n%s", diff, kernel(t))
				}
				if got := a.Exec("dig", "+short", "@"+subnet4+".1", "b"); strings.TrimSpace(got) != b.v4 {
					t.Errorf("the guest asks for the other's name and gets %q, want %s", got, b.v4)
				}
			})
		})
	}
}

// guest is a namespace with the addresses it has.
type guest struct {
	*nstest.NS
	t      *testing.T
	v4, v6 string
}

// tenant is a guest of the network under test that takes its IPv4 address by
// DHCP, under its name, and has an IPv6 address.
func tenant(t *testing.T, bridge, name string) guest {
	t.Helper()
	n := nstest.Guest(t, bridge, name, "")
	script := filepath.Join(t.TempDir(), "bound")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" = bound ] || exit 0\n"+
		"ip addr add $ip/$mask dev $interface && { [ -z \"$router\" ] || ip route add default via $router; }\n"), 0o755))
	n.Exec("udhcpc", "-i", "eth0", "-n", "-q", "-t", "20", "-T", "1", "-x", "hostname:"+name, "-s", script)
	fields := strings.Fields(n.IP("-4 -br addr show dev eth0"))
	if len(fields) < 3 {
		t.Fatalf("guest %s has no address: %v", name, fields)
	}
	v4, _, _ := strings.Cut(fields[2], "/")
	g := guest{n, t, v4, fmt.Sprintf("%s%x", subnet6, name[0])}
	n.IP("-6 addr add " + g.v6 + "/64 dev eth0 nodad")
	n.IP("-6 route add default via " + subnet6 + "1 metric 7")
	return g
}

// staticGuest is a guest with a fixed IPv4 address.
func staticGuest(t *testing.T, bridge, name, address, gateway string) guest {
	t.Helper()
	n := nstest.Guest(t, bridge, name, "")
	n.IP("addr add " + address + "/24 dev eth0")
	n.IP("route add default via " + gateway)
	return guest{n, t, address, ""}
}

// pings fails unless every address answers.
func (g guest) pings(addresses ...string) error {
	for _, a := range addresses {
		if g.sees(a) != "+" {
			return fmt.Errorf("%s does not answer", a)
		}
	}
	return nil
}

// sees reports whether an address answers a ping, or another one for which there is more time.
func (g guest) sees(address string) string {
	for _, patience := range []string{"-W1", "-W5"} {
		if g.Command(g.t.Context(), "ping", "-c1", patience, address).Run() == nil {
			return "+"
		}
	}
	return "-"
}

// TestHostBridge uses a bridge of the admin's, which gets guests and is
// otherwise left alone.
func TestHostBridge(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link add br0 type bridge")
		nstest.IP(t, "addr add 203.0.113.9/24 dev br0")
		nstest.IP(t, "link set br0 up")
		before := nstest.IP(t, "addr show br0") + kernel(t)
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started("<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/></network>")
		if diff := cmp.Diff(before, nstest.IP(t, "addr show br0")+kernel(t)); diff != "" {
			t.Errorf("a started network changed the admin's bridge (-before +after):\n%s", diff)
		}
		a := staticGuest(t, "br0", "a", "203.0.113.77", "203.0.113.9")
		nstest.Eventually(t, wait, "a guest reaches the host", func() error { return a.pings("203.0.113.9") })
		must(t, n.Stop(t.Context()))
		must(t, a.pings("203.0.113.9"))
	})
}
