package network

import (
	"context"

	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// setRules makes the rules of live what they should be.
func (n *Network) setRules(ctx context.Context, live *netdef.Network) error {
	n.rules.Lock()
	defer n.rules.Unlock()
	return n.setRulesLocked(ctx, live)
}

// setRulesLocked is setRules for who holds n.rules.
func (n *Network) setRulesLocked(ctx context.Context, live *netdef.Network) error {
	fw := translate.Firewall(live)
	if n.redirected {
		fw.DNS = translate.OtherDNS(live)
	}
	return n.m.cfg.Rules.Set(ctx, fw)
}

// adoptRules tells the firewall of the rules that may stand for live.
func (n *Network) adoptRules(live *netdef.Network) {
	fw := translate.Firewall(live)
	n.m.cfg.Rules.Adopt(fw)
	if translate.Redirectable(live) && translate.ServesDNS(live) {
		fw.DNS = translate.OtherDNS(live)
		n.m.cfg.Rules.Adopt(fw)
	}
}

// deleteRules removes the rules of live.
func (n *Network) deleteRules(ctx context.Context, live *netdef.Network) error {
	n.rules.Lock()
	defer n.rules.Unlock()
	n.redirected = false
	n.adoptRules(live)
	return n.m.cfg.Rules.Delete(ctx, translate.Firewall(live))
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
