package attach

import (
	"errors"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Pools are what ports of networks without a bridge are on.
type Pools struct{ *Ports }

// Of is what a network that is live has its ports on in place of a bridge, and how much
// that is used now; empty for a network with a bridge. Nothing of it is known beforehand:
// virtual functions and interfaces come and go. Who chooses of it holds s.choosing.
func (s Pools) Of(live *netdef.Network) (*translate.Pool, error) {
	p, err := translate.NewPool(live, s.env.Functions)
	if err != nil {
		return nil, err
	}
	p.Uses, p.UsesPCI = port.Uses(s.reg, "")
	p.Away = func(dev string) bool {
		_, err := s.env.Links.Lookup(dev)
		return errors.Is(err, bridge.ErrNotFound)
	}
	p.AwayPCI = func(a netdef.PCIAddress) bool { return !s.env.IsFunction(a) }
	return p, nil
}

// Connections are those of n as its document has them, which is live.
func (s Pools) Connections(live *netdef.Network) netdef.Connections {
	c := netdef.Connections{Ports: s.reg.Count(live.Name, port.Own, port.External)}
	if live.PortPlug() == netdef.PlugNetwork || live.PortPlug() == netdef.PlugBridge {
		return c
	}
	c.Devs, _ = port.Uses(s.reg, live.Name)
	if pool, err := translate.NewPool(live, s.env.Functions); err == nil {
		c.Interfaces, c.Addresses = pool.Devs, pool.Addresses
	}
	return c
}
