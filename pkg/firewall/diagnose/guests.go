package diagnose

import (
	"os"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// guests are the bridges of one family, by what their guests need of the host.
type guests struct {
	served    []string // bridges with this host's DHCP and DNS: needs INPUT
	forwarded []string // bridges to and from which packets are forwarded, by our rules
	open      []string // the same, without rules of ours
	bridged   []string // bridges that lead to the LAN
	routed6   bool     // guests look for routers
}

// none reports whether nobody needs anything.
func (g guests) none() bool { return len(g.served)+len(g.open)+len(g.bridged) == 0 }

// guestsOf sorts the networks' bridges.
func guestsOf(f firewall.Family, networks []firewall.Network) guests {
	var g guests
	for _, n := range networks {
		if n.Mode == firewall.ModeBridge {
			g.bridged = append(g.bridged, n.Bridge)
			continue
		}
		none := len(n.SubnetsOf(f)) == 0
		if f == firewall.IPv6 && none {
			continue
		}
		if n.Mode.Filtered() {
			g.served = append(g.served, n.Bridge)
			g.routed6 = f == firewall.IPv6
		}
		switch {
		case none:
		case n.Mode == firewall.ModeNAT || n.Mode == firewall.ModeRoute:
			g.forwarded = append(g.forwarded, n.Bridge)
		case n.Mode == firewall.ModeOpen:
			g.open = append(g.open, n.Bridge)
		}
	}
	return g
}

// on are the bridges that a drop on a hook concerns, whether our rules stand
// before it or not.
func (g guests) on(hook string) []string {
	if hook == "input" {
		return slices.Concat(g.served, g.open)
	}
	return slices.Concat(g.forwarded, g.open)
}

// Concerned reports whether guests of any network need the host in a family.
func Concerned(f firewall.Family, networks []firewall.Network) bool {
	return !guestsOf(f, networks).none()
}

// Settings are the conditions of the kernel's settings for a family.
func Settings(f firewall.Family, networks []firewall.Network) []firewall.Condition {
	g := guestsOf(f, networks)
	var out []firewall.Condition
	forward, bridged, prefix := "net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables", "IPv4"
	if f == firewall.IPv6 {
		forward, bridged, prefix = "net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-ip6tables", "IPv6"
	}
	if needs := g.on("forward"); len(needs) > 0 && sysctl(forward) == "0" {
		out = append(out, firewall.Condition{
			Kind:     firewall.KindForwardingOff,
			Summary:  prefix + " forwarding is off: guests on " + strings.Join(needs, ", ") + " reach nothing beyond this host",
			Evidence: dotted(forward) + " = 0",
			Remedy:   "sysctl -w " + dotted(forward) + "=1",
			Bridges:  needs,
		})
	}
	if sysctl(bridged) == "1" {
		out = append(out, firewall.Condition{
			Kind:     firewall.KindBridgeNetfilter,
			Summary:  prefix + " packets between guests on one bridge pass through the FORWARD chain",
			Evidence: dotted(bridged) + " = 1",
			Remedy:   "sysctl -w " + dotted(bridged) + "=0",
			Bridges:  slices.Concat(g.open, g.bridged),
			Harmless: true, // what rules do to them is found by themselves
		})
	}
	return out
}

// sysctl reads a setting, "" if the kernel does not have it.
func sysctl(path string) string {
	text, err := os.ReadFile("/proc/sys/" + path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// dotted is a setting's name for sysctl(8).
func dotted(path string) string { return strings.ReplaceAll(path, "/", ".") }
