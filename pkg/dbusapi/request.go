package dbusapi

import (
	"context"
	"net"
	"net/netip"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/internal/sysbus"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// requestPort makes a port, or opens one again, for a caller who may have it.
func (o *objects) requestPort(ctx context.Context, c *call) ([]any, error) {
	if err := o.rights.identify(ctx, c); err != nil {
		return nil, err
	}
	if !o.pace.allow(c.who.uid) {
		return nil, api.Errorf(api.LimitExceeded, "%s asks for ports too often: %d a second are allowed", c.who, o.pace.perSecond)
	}
	opts, err := portOptions(c.body[1].(map[string]dbus.Variant), c.who.uid)
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
	opts.Untrusted = !choosing && !o.rights.mayChoose(ctx, c, n)
	if opts.Lifetime == api.LifetimeBus {
		opts.Holder = o.holders.holder(c.sender)
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	info, files, err := o.cfg.Manager.Ports().Request(ctx, n, opts)
	if err != nil {
		return nil, err
	}
	c.files = files
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
		"mtu":     dbus.MakeVariant(uint32(info.MTU)),
		"guard":   dbus.MakeVariant(info.Guard),
	}
}

// chooses reports whether the caller wants to say what others rely on.
func chooses(o network.PortOptions, caller uint32) bool {
	return o.MAC != nil || len(o.Addrs) > 0 || o.IfName != "" || o.Owner != caller || o.Guard != "" || len(o.Allow) > 0
}

// portOptions reads the options of RequestPort. An option that is not known, or
// not of its type, is an error: ignored, it would be a promise not kept.
func portOptions(options map[string]dbus.Variant, caller uint32) (network.PortOptions, error) {
	opts := network.PortOptions{VnetHdr: true, Owner: caller}
	var mac string
	var addresses []string
	var queues uint32
	known := map[string]any{
		"name": &opts.Name, "aliases": &opts.Aliases, "mac": &mac, "ifname": &opts.IfName, "address": &addresses, "queues": &queues,
		"vnet_hdr": &opts.VnetHdr, "isolated": &opts.Isolated, "lifetime": &opts.Lifetime,
		"id": &opts.ID, "owner_uid": &opts.Owner, "owner_uuid": &opts.OwnerUUID, "guard": &opts.Guard, "allow": &opts.Allow,
	}
	for key, v := range options {
		into, ok := known[key]
		if !ok {
			return opts, api.Errorf(api.Invalid,
				"option %.80q is not known: want name, aliases, mac, ifname, address, queues, vnet_hdr, isolated, lifetime, id, owner_uid, owner_uuid, guard or allow", key)
		}
		if err := v.Store(into); err != nil {
			return opts, api.Errorf(api.Invalid, "option %s: type %s is not what it takes", key, v.Signature())
		}
	}
	opts.Queues = int(queues)
	return opts, parsePortOptions(&opts, mac, addresses)
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
