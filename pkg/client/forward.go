package client

import (
	"cmp"
	"context"
	"encoding/json"
	"net/netip"
	"slices"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/api"
)

// Forward is ports of the host that lead to a guest, by its UUID. api.NotFound, of every
// method, if there is none.
type Forward struct {
	c    *Client
	uuid string
}

// Forward returns a handle of the forward with the UUID. It asks nothing of vnetd: the
// forward may be absent.
func (c *Client) Forward(uuid string) Forward { return Forward{c, uuid} }

// AddForward has ports of the host lead to a guest of the network. Without
// api.LifetimeBus it is part of the network's definition; one that is there just so is no
// error. api.Exists and api.Conflict say who has a port already.
func (n Network) AddForward(ctx context.Context, opts api.ForwardOptions) (api.Forward, error) {
	var path dbus.ObjectPath
	if err := n.call(ctx, "AddForward", forwardWire(opts)).into(&path); err != nil {
		return api.Forward{}, err
	}
	return forwardAt(ctx, n.c, path)
}

// Forwards returns all forwards, sorted by network, then by protocol and port.
func (c *Client) Forwards(ctx context.Context) ([]api.Forward, error) {
	objects, err := c.managedObjects(ctx, forwardInterface)
	if err != nil {
		return nil, err
	}
	all := make([]api.Forward, 0, len(objects))
	for path, props := range objects {
		f, err := newForward(path, props)
		if err != nil {
			return nil, badReply("GetManagedObjects", err)
		}
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b api.Forward) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(len(a.Ports), len(b.Ports)), cmp.Compare(a.Ports, b.Ports), cmp.Compare(a.Address, b.Address))
	})
	return all, nil
}

// CountForwards returns the forwards of active networks, with the connections that go on by
// each: the kernel is asked for all of them at once.
func CountForwards(ctx context.Context, c *Client) (all []api.Forward, err error) {
	err = c.document(ctx, &all, "CountForwards")
	return all, err
}

// Get returns what the forward is now.
func (f Forward) Get(ctx context.Context) (api.Forward, error) { return forwardAt(ctx, f.c, f.path()) }

// Describe returns vnetd's description of the forward, a JSON object; it tells how many
// connections go on by it.
func (f Forward) Describe(ctx context.Context) (json.RawMessage, error) {
	return f.c.describe(ctx, f.path(), forwardInterface)
}

// Release ends the forward, and the connections that go on by it.
func (f Forward) Release(ctx context.Context) error {
	return f.c.call(ctx, f.path(), forwardInterface+".Release").into()
}

// path is the object of the forward.
func (f Forward) path() dbus.ObjectPath { return forwardPath(f.uuid) }

// forwardAt reads the forward object at path.
func forwardAt(ctx context.Context, c *Client, path dbus.ObjectPath) (api.Forward, error) {
	props, err := c.objectProperties(ctx, path, forwardInterface)
	if err != nil {
		return api.Forward{}, err
	}
	f, err := newForward(path, props)
	if err != nil {
		return api.Forward{}, badReply("GetAll", err)
	}
	return f, nil
}

// forwardWire returns options as AddForward's a{sv}. What is zero is left out.
func forwardWire(o api.ForwardOptions) map[string]dbus.Variant {
	options := map[string]dbus.Variant{"ports": dbus.MakeVariant(o.Ports)}
	for key, text := range map[string]string{"protocol": o.Protocol, "address": o.Address, "to": o.To, "lifetime": string(o.Lifetime)} {
		if text != "" {
			options[key] = dbus.MakeVariant(text)
		}
	}
	if o.ToPort != 0 {
		options["to_port"] = dbus.MakeVariant(o.ToPort)
	}
	if len(o.From) > 0 {
		options["from"] = dbus.MakeVariant(o.From)
	}
	return options
}

// newForward reads the properties of the forward at path.
func newForward(path dbus.ObjectPath, props properties) (api.Forward, error) {
	targets, err := parseAddrs(property[[]string](props, "Targets"))
	if err != nil {
		return api.Forward{}, err
	}
	from := []netip.Prefix{}
	for _, text := range property[[]string](props, "From") {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return api.Forward{}, err
		}
		from = append(from, p)
	}
	return api.Forward{
		UUID: uuidOf(path), Network: property[string](props, "Network"), Protocol: property[string](props, "Protocol"),
		Ports: property[string](props, "Ports"), Address: property[string](props, "Address"), To: property[string](props, "To"),
		ToPort: property[uint16](props, "ToPort"), From: from, Lifetime: api.Lifetime(property[string](props, "Lifetime")),
		Port: property[string](props, "Port"), State: api.ForwardState(property[string](props, "State")), Targets: targets,
	}, nil
}
