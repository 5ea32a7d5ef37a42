package network

import (
	"context"
	"net/netip"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// otherDNSPort is where DNS is served when another program of the host has port
// 53 of all addresses. It is the same for all networks and at all times, so that
// the rules that lead there are known without a record of them.
const otherDNSPort = 10053

// redirectable tells whether guests' queries can be led to another port: n has
// rules.
func redirectable(n *netdef.Network) bool {
	switch n.Mode() {
	case netdef.ModeNAT, netdef.ModeRoute, netdef.ModeIsolated:
		return true
	}
	return false
}

// otherDNS is where n's names are served instead of at port 53.
func otherDNS(n *netdef.Network) []netip.AddrPort {
	var all []netip.AddrPort
	for _, a := range dnsConfig(n).Addrs {
		all = append(all, netip.AddrPortFrom(a, otherDNSPort))
	}
	return all
}

// setRules makes the rules of live what they should be.
func (n *Network) setRules(ctx context.Context, live *netdef.Network) error {
	n.rules.Lock()
	defer n.rules.Unlock()
	return n.setRulesLocked(ctx, live)
}

// setRulesLocked is setRules for who holds n.rules.
func (n *Network) setRulesLocked(ctx context.Context, live *netdef.Network) error {
	fw := firewallNetwork(live)
	if n.redirected {
		fw.DNS = otherDNS(live)
	}
	return n.m.cfg.Rules.Set(ctx, fw)
}

// adoptRules tells the firewall of the rules that may stand for live.
func (n *Network) adoptRules(live *netdef.Network) {
	fw := firewallNetwork(live)
	n.m.cfg.Rules.Adopt(fw)
	if redirectable(live) && servesDNS(live) {
		fw.DNS = otherDNS(live)
		n.m.cfg.Rules.Adopt(fw)
	}
}

// deleteRules removes the rules of live.
func (n *Network) deleteRules(ctx context.Context, live *netdef.Network) error {
	n.rules.Lock()
	defer n.rules.Unlock()
	n.redirected = false
	n.adoptRules(live)
	return n.m.cfg.Rules.Delete(ctx, firewallNetwork(live))
}

// redirectDNS leads guests' queries to the other port of live's server, or no
// longer.
func (n *Network) redirectDNS(ctx context.Context, live *netdef.Network, redirected bool) error {
	n.rules.Lock()
	defer n.rules.Unlock()
	was := n.redirected
	if was == redirected {
		return nil
	}
	n.redirected = redirected
	err := n.setRulesLocked(ctx, live)
	if err != nil {
		n.redirected = was
	}
	return err
}
