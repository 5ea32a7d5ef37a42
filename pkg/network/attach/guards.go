package attach

import (
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/guard"
)

// Guards are the guards of all ports; nil for none.
func (s *Ports) Guards() *guard.Keeper { return s.guards }

// StoppedBy is how many frames of each kind the guard of the port with that UUID has
// stopped.
func (s *Ports) StoppedBy(uuid string) map[string]uint64 { return s.guards.StoppedBy(s.reg.UUID(uuid)) }

// Stopped is what the guards of all ports have stopped, by the port's UUID.
func (s *Ports) Stopped() map[string]firewall.Stopped { return s.guards.Stopped() }

// actives are the active networks, as guards ask for them.
type actives struct{ Networks }

func (a actives) Live(name string) *netdef.Network {
	if n := a.Named(name); n != nil {
		return n.Live()
	}
	return nil
}

func (a actives) OnBridge(index int) (on *netdef.Network) {
	a.Each(func(n Network) {
		if index != 0 && n.BridgeIndex() == index {
			on = n.Live()
		}
	})
	return on
}

func (a actives) Names() (names []string) {
	a.Each(func(n Network) {
		if n.Live() != nil {
			names = append(names, n.Name())
		}
	})
	return names
}
