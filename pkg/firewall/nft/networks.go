package nft

import "github.com/vnetd/vnetd/pkg/firewall"

// RemoveNetwork forgets the network of a bridge, and its ports.
func (g *Guards) RemoveNetwork(bridge string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.networks[bridge]
	if n == nil {
		return nil
	}
	delete(g.networks, bridge)
	var gone []*port
	for index, p := range g.ports {
		if p.Bridge == bridge {
			delete(g.ports, index)
			gone = append(gone, p)
		}
	}
	if !g.stands {
		_ = g.settle(g.rewrite) // of others; a kernel without nftables has nothing of this one
		return nil
	}
	if len(g.networks) == 0 {
		return g.settle(g.rewrite)
	}
	return g.settle(func() error { return g.takeNetwork(n, gone) })
}

// takeNetwork takes away what stands for a network and its ports, and touches nothing
// of others.
func (g *Guards) takeNetwork(n *firewall.GuardedNetwork, ports []*port) error {
	b := g.kernel.begin()
	for _, p := range ports {
		g.exchange(b, p.elements, nil)
		if p.profile == "" {
			continue
		}
		if err := g.forget(b, p); err != nil {
			return err
		}
	}
	for _, p := range ports {
		g.leave(b, p.profile) // no port's chain leads to it any more
	}
	g.exchange(b, networkElements(n), nil)
	b.deleteSets(networkSets(n))
	return b.commit()
}
