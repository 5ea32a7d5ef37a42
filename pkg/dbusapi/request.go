package dbusapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/internal/sysbus"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// requestPort makes a port, or opens one again, for a caller who may have it.
func (o *objects) requestPort(ctx context.Context, c *call) ([]any, error) {
	if err := o.paced(ctx, c, "ports"); err != nil {
		return nil, err
	}
	opts, forwards, err := portOptions(c.body[1].(map[string]dbus.Variant), c.who.uid)
	if err != nil {
		return nil, err
	}
	n, err := o.cfg.Manager.Lookup(c.body[0].(string))
	if err != nil {
		return nil, err
	}
	choosing := chooses(opts, c.who.uid)
	if err := o.rights.mayRequest(ctx, c, n, choosing); err != nil {
		return nil, err
	}
	led, err := o.forwardsOf(ctx, c, n, forwards)
	if err != nil {
		return nil, err
	}
	done, err := o.promiseForwards(ctx, c, n, led)
	if err != nil {
		return nil, err
	}
	defer done()
	opts.Untrusted = !choosing && !o.rights.mayChoose(ctx, c, n)
	if opts.Lifetime == api.LifetimeBus {
		opts.Holder = o.holders.holder(c.sender)
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	again := opts.ID != "" && o.cfg.Manager.Ports().Registry().ID(opts.Owner, opts.ID) != nil
	info, files, err := o.cfg.Manager.Ports().Request(ctx, n, opts)
	if err != nil {
		return nil, err
	}
	c.files = files
	if err := o.cfg.Manager.Forwards().AddToPort(ctx, info, led); err != nil {
		if !again {
			err = errors.Join(err, o.cfg.Manager.Ports().Release(ctx, info.UUID))
		}
		return nil, err
	}
	if opts.Holder != "" && !o.holders.isConnected(ctx, c.sender) {
		o.cfg.Manager.Ports().HolderGone(opts.Holder) // it left before the port was its own
	}
	return []any{pathOf(portPaths, info.UUID), sysbus.Files(files), portReply(info)}, nil
}

// portReply is the info that comes with a port.
func portReply(info api.Port) map[string]dbus.Variant {
	return map[string]dbus.Variant{
		"uuid":    dbus.MakeVariant(info.UUID),
		"network": dbus.MakeVariant(info.Network),
		"mac":     dbus.MakeVariant(info.MAC),
		"ifname":  dbus.MakeVariant(info.IfName),
		"bridge":  dbus.MakeVariant(info.Bridge),
		"parent":  dbus.MakeVariant(info.Parent),
		"mode":    dbus.MakeVariant(info.Mode),
		"mtu":     dbus.MakeVariant(uint32(info.MTU)),
		"guard":   dbus.MakeVariant(info.Guard),

		"host_reach": dbus.MakeVariant(info.HostReach),
	}
}

// chooses reports whether the caller wants to say what others rely on.
func chooses(o network.PortOptions, caller uint32) bool {
	return o.MAC != nil || len(o.Addrs) > 0 || o.IfName != "" || o.Owner != caller || o.Guard != "" || len(o.Allow) > 0 ||
		o.Settings.PortGroup != "" || o.Settings.Bandwidth != nil || o.Settings.VLAN != "" || len(o.Settings.Rules) > 0
}

// portOptions reads the options of RequestPort. An option that is not known, or
// not of its type, is an error: ignored, it would be a promise not kept.
func portOptions(options map[string]dbus.Variant, caller uint32) (opts network.PortOptions, forwards []map[string]dbus.Variant, err error) {
	opts = network.PortOptions{VnetHdr: true, Owner: caller}
	var mac string
	var addresses []string
	var queues uint32
	var bandwidth map[string]uint64
	known := map[string]any{
		"name": &opts.Name, "aliases": &opts.Aliases, "mac": &mac, "ifname": &opts.IfName, "address": &addresses, "queues": &queues,
		"vnet_hdr": &opts.VnetHdr, "isolated": &opts.Isolated, "lifetime": &opts.Lifetime,
		"id": &opts.ID, "owner_uid": &opts.Owner, "owner_uuid": &opts.OwnerUUID, "guard": &opts.Guard, "allow": &opts.Allow,
		"portgroup": &opts.Settings.PortGroup, "bandwidth": &bandwidth, "vlan": &opts.Settings.VLAN,
		"rules":    &opts.Settings.Rules,
		"forwards": &forwards,
	}
	for key, v := range options {
		into, ok := known[key]
		if !ok {
			return opts, nil, api.Errorf(api.Invalid,
				"option %.80q is not known: want name, aliases, mac, ifname, address, queues, vnet_hdr, isolated, lifetime, id, owner_uid, owner_uuid, guard, allow, portgroup, bandwidth, vlan, rules or forwards", key)
		}
		if err := v.Store(into); err != nil {
			return opts, nil, api.Errorf(api.Invalid, "option %s: type %s is not what it takes", key, v.Signature())
		}
	}
	opts.Queues = int(queues)
	own, err := network.OwnBandwidth(bandwidth)
	if err != nil {
		return opts, nil, api.Errorf(api.Invalid, "option bandwidth: %w", err)
	}
	opts.Settings.Bandwidth = own
	return opts, forwards, parsePortOptions(&opts, mac, addresses)
}

// parsePortOptions reads the options that have a syntax of their own.
func parsePortOptions(opts *network.PortOptions, mac string, addresses []string) error {
	if mac != "" {
		parsed, err := net.ParseMAC(mac)
		if err != nil {
			return api.Errorf(api.Invalid, "option mac: %.80q is not a MAC address, want a form like 52:54:00:12:34:56", mac)
		}
		opts.MAC = parsed
	}
	for _, text := range addresses {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return api.Errorf(api.Invalid, "option address: %.80q is not an IP address", text)
		}
		opts.Addrs = append(opts.Addrs, a.Unmap())
	}
	return nil
}

// setting changes one of a port's settings to what a caller says, p being what the port
// is.
type setting func(s *network.PortSettings, p api.Port, v dbus.Variant) error

// portSettings are the settings of Port.Set by their names.
func portSettings() map[string]setting {
	return map[string]setting{
		"portgroup": func(s *network.PortSettings, _ api.Port, v dbus.Variant) error { return v.Store(&s.PortGroup) },
		"bandwidth": setBandwidth,
		"vlan":      func(s *network.PortSettings, _ api.Port, v dbus.Variant) error { return v.Store(&s.VLAN) },
		"rules": func(s *network.PortSettings, _ api.Port, v dbus.Variant) error {
			s.Rules = nil // Store appends
			return v.Store(&s.Rules)
		},
	}
}

// setBandwidth changes the limits that are named, 0 for none; where none is, the port is
// held to those of its group again.
func setBandwidth(s *network.PortSettings, p api.Port, v dbus.Variant) error {
	var limits map[string]uint64
	if err := v.Store(&limits); err != nil {
		return err
	}
	if len(limits) > 0 {
		all := maps.Clone(p.Bandwidth)
		maps.Copy(all, limits)
		limits = all
	}
	b, err := network.OwnBandwidth(limits)
	if err != nil {
		return api.Errorf(api.Invalid, "setting bandwidth: %w", err)
	}
	s.Bandwidth = b
	return nil
}

// setPort changes settings of a port, all that are named or none.
func (o *objects) setPort(ctx context.Context, c *call, p api.Port) error {
	known := portSettings()
	named := c.body[0].(map[string]dbus.Variant)
	for name := range named {
		if known[name] == nil {
			return api.Errorf(api.Invalid, "setting %.80q is not known: want portgroup, bandwidth, vlan or rules", name)
		}
	}
	n, err := o.cfg.Manager.ByName(p.Network)
	if err != nil {
		return err
	}
	return o.cfg.Manager.Ports().Bandwidth().Set(ctx, n, p.UUID, func(s *network.PortSettings) error {
		p, err := o.cfg.Manager.Ports().Find(p.UUID) // as it is by now: it is the network's turn
		if err != nil {
			return err
		}
		for name, v := range named {
			err := known[name](s, p, v)
			if _, said := api.KindOf(err); err != nil && !said {
				err = api.Errorf(api.Invalid, "setting %s: type %s is not what it takes", name, v.Signature())
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// forwardsOf reads the option forwards of RequestPort, for a caller who may have them.
func (o *objects) forwardsOf(ctx context.Context, c *call, n *network.Network, all []map[string]dbus.Variant) (out []api.ForwardOptions, err error) {
	for i, options := range all {
		f, err := forwardOptions(options)
		switch {
		case err == nil && f.Lifetime != "" && f.Lifetime != api.LifetimePort:
			err = api.Errorf(api.Invalid, "option lifetime: want none: the forward ends with the port")
		case err == nil && f.To != "":
			err = api.Errorf(api.Invalid, "option to: want none: the forward leads to the port's guest")
		}
		f.Lifetime = api.LifetimePort
		if err == nil {
			err = o.rights.mayForward(ctx, c, n, f)
		}
		if err != nil {
			return nil, fmt.Errorf("option forwards, entry %d: %w", i+1, err)
		}
		out = append(out, f)
	}
	return out, nil
}
