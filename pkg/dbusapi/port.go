package dbusapi

import (
	"context"
	"errors"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
)

// port is the Port interface of p, as p was when the call came.
func (o *objects) port(p api.Port) iface {
	constant := func(name, sig string, v any) property {
		return property{name: name, sig: sig, constant: true, get: func() any { return v }}
	}
	return iface{
		name: portInterface,
		methods: []method{
			{"Release", nil, nil, selfCheck, func(ctx context.Context, c *call) ([]any, error) {
				return nil, o.release(ctx, c, p)
			}},
			{"Set", []arg{{"settings", "a{sv}"}}, nil, manageNetworks, func(ctx context.Context, c *call) ([]any, error) {
				return nil, o.setPort(ctx, c, p)
			}},
			{"WaitForAddress", []arg{{"timeout_ms", "u"}}, []arg{{"addresses", "as"}}, selfCheck, func(ctx context.Context, c *call) ([]any, error) {
				return o.waitForAddress(ctx, c, p)
			}},
			{"Describe", nil, []arg{{"json", "s"}}, read, func(context.Context, *call) ([]any, error) {
				p.Stopped = o.cfg.Manager.Ports().Guards().StoppedBy(p.UUID)
				return toJSON(p)
			}},
		},
		properties: []property{
			{name: "Network", sig: "s", get: func() any { return p.Network }},
			constant("Name", "s", p.Name),
			constant("Aliases", "as", append([]string{}, p.Aliases...)),
			constant("MAC", "s", p.MAC),
			constant("IfName", "s", p.IfName),
			constant("Bridge", "s", p.Bridge),
			constant("Parent", "s", p.Parent),
			constant("Mode", "s", p.Mode),
			{name: "HostReach", sig: "b", get: func() any { return p.HostReach }},
			{name: "MTU", sig: "u", get: func() any { return uint32(p.MTU) }},
			{name: "Addresses", sig: "as", get: func() any { return texts(p.Addresses) }},
			constant("Reserved", "as", texts(p.Reserved)),
			constant("Queues", "u", uint32(p.Queues)),
			constant("Isolated", "b", p.Isolated),
			constant("Lifetime", "s", p.Lifetime),
			constant("Owner", "u", p.Owner),
			constant("OwnerUUID", "s", p.OwnerUUID),
			constant("ID", "s", p.ID),
			{name: "PortGroup", sig: "s", get: func() any { return p.PortGroup }},
			{name: "Bandwidth", sig: "a{st}", get: func() any { return p.Bandwidth }},
			{name: "Rules", sig: "as", get: func() any { return append([]string{}, p.Rules...) }},
			{name: "VLAN", sig: "s", get: func() any { return p.VLAN }},
			{name: "Guard", sig: "s", get: func() any { return p.Guard }},
			{name: "Stopped", sig: "a{st}", get: func() any { return o.cfg.Manager.Ports().Guards().StoppedBy(p.UUID) }},
		},
	}
}

// release ends a port for its owner, and for those who manage networks.
func (o *objects) release(ctx context.Context, c *call, p api.Port) error {
	if err := o.rights.identify(ctx, c); err != nil {
		return err
	}
	if c.who.uid != p.Owner {
		if err := o.rights.authorize(ctx, c, manageNetworks, p.Network); err != nil {
			return api.Errorf(api.Denied, "port %s belongs to user %d: %w", p.UUID, p.Owner, err)
		}
	}
	return o.cfg.Manager.Ports().Release(ctx, p.UUID)
}

// waitForAddress waits for as long as the caller says, and is there to hear it.
func (o *objects) waitForAddress(ctx context.Context, c *call, p api.Port) ([]any, error) {
	if err := o.rights.authorize(ctx, c, read, p.Network); err != nil {
		return nil, err
	}
	limit := time.Duration(c.body[0].(uint32)) * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer context.AfterFunc(c.left, cancel)()
	held, err := o.cfg.Manager.Ports().WaitForAddress(ctx, p.UUID)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, busError{errTimeout, "the guest of port " + p.UUID + " (" + p.IfName + ") has no address after " + limit.String()}
	}
	if err != nil {
		return nil, err
	}
	return []any{texts(held)}, nil
}
