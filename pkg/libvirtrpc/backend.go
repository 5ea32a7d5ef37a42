package libvirtrpc

import (
	"context"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// Backend is what the server asks of the daemon: NewBackend makes one of a
// *network.Manager, whose contracts hold. Define takes a network to be known by its
// UUID alone.
type Backend interface {
	Networks() []Network // in order of name
	ByName(name string) (Network, error)
	ByUUID(uuid string) (Network, error)
	Define(ctx context.Context, xml []byte) (Network, error)
	Create(ctx context.Context, xml []byte) (Network, error)
	ReleasePort(ctx context.Context, uuid string) error
	Subscribe(f func(network.Event)) (cancel func())
}

// Network is one network of a Backend.
type Network interface {
	Info() api.Network
	XML(inactive bool) []byte
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
	Undefine(ctx context.Context) error
	SetAutostart(on bool) error
	Update(ctx context.Context, u netdef.Update, target network.Target) error
	Edit(ctx context.Context, target network.Target, change func(*netdef.Network) error) error
	Leases() ([]network.Lease, error)
	RegisterPort(ctx context.Context, doc *netdef.Port, reclaim bool, owner uint32) (*netdef.Port, error)
	PortDocuments() []*netdef.Port
	SetPortBandwidth(ctx context.Context, uuid string, b *netdef.Bandwidth) error
}

// NewBackend puts the server on a manager.
func NewBackend(m *network.Manager) Backend { return manager{m} }

// manager is a *network.Manager with its networks as what the server knows.
type manager struct{ *network.Manager }

// attached is a *network.Network with its ports.
type attached struct {
	*network.Network
	ports *network.Ports
}

func (m manager) Networks() []Network {
	var list []Network
	for _, n := range m.Manager.Networks() {
		list = append(list, attached{n, m.Ports()})
	}
	return list
}

func (m manager) ByName(name string) (Network, error) { return m.known(m.Manager.ByName(name)) }
func (m manager) ByUUID(uuid string) (Network, error) { return m.known(m.Manager.ByUUID(uuid)) }
func (m manager) Define(ctx context.Context, xml []byte) (Network, error) {
	d, err := m.DefineWith(ctx, xml, api.DefineOptions{Strict: true})
	return m.known(d.Network, err)
}

func (m manager) Create(ctx context.Context, xml []byte) (Network, error) {
	return m.known(m.Manager.Create(ctx, xml))
}

func (m manager) ReleasePort(ctx context.Context, uuid string) error {
	return m.Ports().Release(ctx, uuid)
}

// known makes sure that no network is nil and not a nil inside an interface.
func (m manager) known(n *network.Network, err error) (Network, error) {
	if err != nil {
		return nil, err
	}
	return attached{n, m.Ports()}, nil
}

func (n attached) RegisterPort(ctx context.Context, doc *netdef.Port, reclaim bool, owner uint32) (*netdef.Port, error) {
	return n.ports.Register(ctx, n.Network, doc, reclaim, owner)
}

func (n attached) PortDocuments() []*netdef.Port { return n.ports.Documents(n.Network) }

func (n attached) SetPortBandwidth(ctx context.Context, uuid string, b *netdef.Bandwidth) error {
	return n.ports.Bandwidth().Set(ctx, n.Network, uuid, func(s *network.PortSettings) error {
		s.Bandwidth = b
		return nil
	})
}
