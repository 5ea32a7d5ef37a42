package dbusapi

import (
	"context"

	"github.com/vnetd/vnetd/pkg/network"
)

// port is the Port interface of p, as p was when the call came.
func (s *Server) port(p network.PortInfo) iface {
	constant := func(name, sig string, v any) property {
		return property{name: name, sig: sig, constant: true, get: func() any { return v }}
	}
	return iface{
		name: portInterface,
		methods: []method{
			{"Release", nil, nil, requestPort, func(ctx context.Context, c *call) ([]any, error) {
				return nil, s.release(ctx, c, p)
			}},
			{"Describe", nil, []arg{{"json", "s"}}, read, func(context.Context, *call) ([]any, error) { return toJSON(p) }},
		},
		properties: []property{
			constant("Network", "s", p.Network),
			constant("Name", "s", p.Name),
			constant("MAC", "s", p.MAC),
			constant("IfName", "s", p.IfName),
			constant("Bridge", "s", p.Bridge),
			{name: "MTU", sig: "u", get: func() any { return uint32(p.MTU) }},
			{name: "Addresses", sig: "as", get: func() any { return s.addresses(p) }},
			constant("Lifetime", "s", p.Lifetime),
			constant("Owner", "u", p.Owner),
		},
	}
}

// release ends a port for root or the port's owner.
func (s *Server) release(ctx context.Context, c *call, p network.PortInfo) error {
	if c.uid != 0 && c.uid != p.Owner {
		return network.Errorf(network.Denied, "port %s belongs to user %d: only that user and root may release it", p.UUID, p.Owner)
	}
	return s.cfg.Manager.ReleasePort(ctx, p.UUID)
}

// addresses lists what the port's guest has leased, by its MAC address.
func (s *Server) addresses(p network.PortInfo) []string {
	held := []string{}
	n, err := s.cfg.Manager.ByName(p.Network)
	if err != nil {
		return held
	}
	leases, err := n.Leases()
	if err != nil {
		return held
	}
	for _, l := range leases {
		if l.MAC.String() == p.MAC {
			held = append(held, l.Addr.String())
		}
	}
	return held
}
