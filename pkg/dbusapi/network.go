package dbusapi

import (
	"context"
	"fmt"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// inactiveXML is the flag of GetXML that asks for what the network will be at
// its next start.
const inactiveXML = 1

// network is the Network interface of n.
func (o *objects) network(n *network.Network) iface {
	// do is a method without arguments and results.
	do := func(f func(context.Context) error) func(context.Context, *call) ([]any, error) {
		return func(ctx context.Context, _ *call) ([]any, error) { return nil, f(ctx) }
	}
	get := func(f func(api.Network) any) func() any { return func() any { return f(n.Info()) } }
	return iface{
		name: networkInterface,
		methods: []method{
			{"Start", nil, nil, manageNetworks, do(n.Start)},
			{"Stop", nil, nil, manageNetworks, do(n.Stop)},
			{"Undefine", nil, nil, manageNetworks, do(n.Undefine)},
			{"Rename", []arg{{"name", "s"}}, []arg{{"network", "o"}}, manageNetworks, func(ctx context.Context, c *call) ([]any, error) {
				renamed, err := o.cfg.Manager.Rename(ctx, n, c.body[0].(string))
				if err != nil {
					return nil, err
				}
				return []any{pathOf(networkPaths, renamed.Info().UUID)}, nil
			}},
			{
				"Update",
				[]arg{{"command", "s"}, {"section", "s"}, {"index", "i"}, {"xml", "s"}, {"flags", "u"}},
				nil, manageNetworks,
				func(ctx context.Context, c *call) ([]any, error) { return nil, update(ctx, n, c.body) },
			},
			{"GetXML", []arg{{"flags", "u"}}, []arg{{"xml", "s"}}, read, func(_ context.Context, c *call) ([]any, error) {
				return networkXML(n, c.body[0].(uint32))
			}},
			{"GetLeases", nil, []arg{{"leases", "a" + leaseSignature}}, read, func(context.Context, *call) ([]any, error) {
				leases, err := leasesOf(n)
				return []any{leases}, err
			}},
			{"ExportLeases", nil, []arg{{"text", "s"}}, read, func(context.Context, *call) ([]any, error) {
				text, err := n.ExportLeases()
				return []any{text}, err
			}},
			{
				"ImportLeases",
				[]arg{{"text", "s"}},
				[]arg{{"imported", "u"}, {"refused", "as"}},
				manageNetworks,
				func(ctx context.Context, c *call) ([]any, error) {
					taken, refused, err := n.ImportLeases(ctx, c.body[0].(string))
					return []any{uint32(taken), append([]string{}, refused...)}, err
				},
			},
			{
				"RegisterPort",
				[]arg{{"xml", "s"}, {"flags", "u"}},
				[]arg{{"port", "o"}, {"xml", "s"}},
				manageNetworks,
				func(ctx context.Context, c *call) ([]any, error) {
					return registerPort(ctx, o.cfg.Manager.Ports(), n, c)
				},
			},
			{"AddForward", []arg{{"options", "a{sv}"}}, []arg{{"forward", "o"}}, selfCheck, func(ctx context.Context, c *call) ([]any, error) {
				return o.addForward(ctx, c, n)
			}},
			{"Describe", nil, []arg{{"json", "s"}}, read, func(ctx context.Context, _ *call) ([]any, error) {
				d := describeNetwork(o.cfg.Manager, n)
				if err := o.cfg.Manager.Peerings().Count(ctx, n, d.Peers, &d.Rules); err != nil { // all else is still told
					d.Rules.Met = nil
				}
				return toJSON(d)
			}},
		},
		properties: []property{
			{name: "Name", sig: "s", constant: true, get: get(func(i api.Network) any { return i.Name })},
			{name: "UUID", sig: "s", constant: true, get: get(func(i api.Network) any { return i.UUID })},
			{name: "Active", sig: "b", get: get(func(i api.Network) any { return i.Active })},
			{name: "Persistent", sig: "b", get: get(func(i api.Network) any { return i.Persistent })},
			{
				name: "Autostart", sig: "b", get: get(func(i api.Network) any { return i.Autostart }),
				set: func(_ context.Context, v any) error { return n.SetAutostart(v.(bool)) },
			},
			{name: "Bridge", sig: "s", get: get(func(i api.Network) any { return i.Bridge })},
			{name: "Mode", sig: "s", get: get(func(i api.Network) any { return i.Mode })},
			{name: "State", sig: "s", get: get(func(i api.Network) any { return string(i.State) })},
			{name: "LastError", sig: "s", get: get(func(i api.Network) any { return i.LastError })},
			{name: "Pending", sig: "as", get: func() any { return append([]string{}, n.Pending()...) }},
			{name: "Conditions", sig: "aa{sv}", get: func() any { return busConditions(n.Conditions()) }},
		},
		signals: []signal{
			{"LeaseChanged", []arg{{"change", "s"}, {"lease", leaseSignature}}},
		},
	}
}

// update changes one entry of n by the arguments of Update.
func update(ctx context.Context, n *network.Network, args []any) error {
	command, err := netdef.ParseCommand(args[0].(string))
	if err != nil {
		return api.Errorf(api.Invalid, "%w", err)
	}
	section, err := netdef.ParseSection(args[1].(string))
	if err != nil {
		return api.Errorf(api.Invalid, "%w", err)
	}
	u := netdef.Update{Command: command, Section: section, Index: int(args[2].(int32)), XML: []byte(args[3].(string))}
	return n.Update(ctx, u, network.Target(args[4].(uint32)))
}

// networkXML is the reply of GetXML.
func networkXML(n *network.Network, flags uint32) ([]any, error) {
	if flags&^inactiveXML != 0 {
		return nil, api.Errorf(api.Invalid, "flags: %#x is not known, want 0 or %d (inactive)", flags, inactiveXML)
	}
	return []any{string(n.XML(flags&inactiveXML != 0))}, nil
}

// reclaimPort is the flag of RegisterPort that says that the device is there
// already.
const reclaimPort = 1

// registerPort is the reply of RegisterPort.
func registerPort(ctx context.Context, ports *network.Ports, n *network.Network, c *call) ([]any, error) {
	xml, flags := c.body[0].(string), c.body[1].(uint32)
	if flags&^reclaimPort != 0 {
		return nil, api.Errorf(api.Invalid, "flags: %#x is not known, want 0 or %d (reclaim)", flags, reclaimPort)
	}
	doc, err := netdef.ParsePort([]byte(xml))
	if err != nil {
		return nil, api.Errorf(api.Invalid, "%w", err)
	}
	full, err := ports.Register(ctx, n, doc, flags&reclaimPort != 0, c.who.uid)
	if err != nil {
		return nil, err
	}
	return []any{pathOf(portPaths, full.UUID), string(full.XML())}, nil
}

// leasesOf lists n's leases as they go over the bus.
func leasesOf(n *network.Network) ([]lease, error) {
	held, err := n.Leases()
	leases := make([]lease, 0, len(held))
	for _, l := range held {
		leases = append(leases, busLease(l))
	}
	return leases, err
}

// describeNetwork is the document of a network's Describe.
func describeNetwork(m *network.Manager, n *network.Network) api.NetworkStatus {
	d := api.NetworkStatus{
		Network: n.Info(), Ports: m.Ports().On(n), Forwards: m.Forwards().On(n), Peers: m.Peerings().On(n), Rules: m.Peerings().Rules(n), Leases: []api.Lease{},
		Conditions: append([]api.Condition{}, n.Conditions()...),
	}
	leases, err := n.Leases()
	d.Detail = n.Detail(leases)
	if err != nil {
		d.LastError = fmt.Sprintf("reading leases: %v", err)
	}
	for _, l := range leases {
		ld := api.Lease{
			MAC: l.MAC.String(), Address: l.Addr, Prefix: l.PrefixLen,
			Hostname: l.Hostname, ClientID: busLease(l).ClientID,
		}
		if !l.Expiry.IsZero() {
			ld.Expiry = &l.Expiry
		}
		d.Leases = append(d.Leases, ld)
	}
	return d
}

// addForward adds a forward to n for a caller who may.
func (o *objects) addForward(ctx context.Context, c *call, n *network.Network) ([]any, error) {
	if err := o.paced(ctx, c, "forwards"); err != nil {
		return nil, err
	}
	opts, err := forwardOptions(c.body[0].(map[string]dbus.Variant))
	if err != nil {
		return nil, err
	}
	if err := o.rights.mayForward(ctx, c, n, opts); err != nil {
		return nil, err
	}
	done, err := o.promiseForwards(ctx, c, n, []api.ForwardOptions{opts})
	if err != nil {
		return nil, err
	}
	defer done()
	holder := ""
	switch opts.Lifetime {
	case "", api.LifetimePersistent:
	case api.LifetimeBus:
		holder = o.holders.holder(c.sender)
	default:
		return nil, api.Errorf(api.Invalid, "option lifetime: %.80q is not known: want %s or %s", opts.Lifetime, api.LifetimePersistent, api.LifetimeBus)
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	f, err := o.cfg.Manager.Forwards().Add(ctx, n, opts, holder)
	if err != nil {
		return nil, err
	}
	if holder != "" && !o.holders.isConnected(ctx, c.sender) {
		o.cfg.Manager.Forwards().HolderGone(holder) // it left before the forward was its own
	}
	return []any{pathOf(forwardPaths, f.UUID)}, nil
}
