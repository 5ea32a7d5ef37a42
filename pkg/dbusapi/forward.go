package dbusapi

import (
	"context"

	"github.com/vnetd/vnetd/pkg/api"
)

// forward is the Forward interface of f, as f was when the call came.
func (o *objects) forward(f api.Forward) iface {
	constant := func(name, sig string, v any) property {
		return property{name: name, sig: sig, constant: true, get: func() any { return v }}
	}
	return iface{
		name: forwardInterface,
		methods: []method{
			{"Release", nil, nil, selfCheck, func(ctx context.Context, c *call) ([]any, error) {
				return nil, o.releaseForward(ctx, c, f)
			}},
			{"Describe", nil, []arg{{"json", "s"}}, read, func(context.Context, *call) ([]any, error) {
				is, err := o.cfg.Manager.Forwards().Count(f.UUID)
				if err != nil {
					return nil, err
				}
				return toJSON(is)
			}},
		},
		properties: []property{
			constant("Network", "s", f.Network),
			constant("Protocol", "s", f.Protocol),
			constant("Ports", "s", f.Ports),
			constant("Address", "s", f.Address),
			{name: "To", sig: "s", get: func() any { return f.To }},
			{name: "ToPort", sig: "q", get: func() any { return f.ToPort }},
			{name: "From", sig: "as", get: func() any { return prefixTexts(f.From) }},
			{name: "Lifetime", sig: "s", get: func() any { return f.Lifetime }},
			{name: "Port", sig: "s", get: func() any { return f.Port }},
			{name: "State", sig: "s", get: func() any { return string(f.State) }},
			{name: "Targets", sig: "as", get: func() any { return texts(f.Targets) }},
		},
	}
}

// releaseForward ends a forward for its holder, and for those who manage networks.
func (o *objects) releaseForward(ctx context.Context, c *call, f api.Forward) error {
	if err := o.rights.identify(ctx, c); err != nil {
		return err
	}
	if !o.owns(c, f) {
		if err := o.rights.authorize(ctx, c, manageNetworks, f.Network); err != nil {
			return err
		}
	}
	return o.cfg.Manager.Forwards().Release(ctx, f.UUID)
}

// owns reports whether the forward ends with a port of the caller's, or with a client of the
// bus that is.
func (o *objects) owns(c *call, f api.Forward) bool {
	if f.Port == "" {
		holder := o.cfg.Manager.Forwards().Holder(f.UUID)
		return holder != "" && o.holders.isOf(holder, c.who.uid)
	}
	p, err := o.cfg.Manager.Ports().Find(f.Port)
	return err == nil && p.Owner == c.who.uid
}
