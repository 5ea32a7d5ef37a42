package attach

import (
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/guard"
)

// Guards are the guards of all ports; nil for none.
func (s *Ports) Guards() *guard.Keeper { return s.guards }

// actives are the active networks, as guards ask for them.
type actives struct{ Networks }

func (a actives) Live(name string) *netdef.Network {
	if n := a.Named(name); n != nil {
		return n.Live()
	}
	return nil
}

func (a actives) OnBridge(index int) *netdef.Network {
	if n := a.Networks.OnBridge(index); n != nil {
		return n.Live()
	}
	return nil
}

func (a actives) Index(name string) int {
	if n := a.Named(name); n != nil {
		return n.BridgeIndex()
	}
	return 0
}

func (a actives) Names() (names []string) {
	a.Each(func(n Network) {
		if n.Live() != nil {
			names = append(names, n.Name())
		}
	})
	return names
}
