package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/internal/sysbus"
	"github.com/vnetd/vnetd/pkg/api"
)

// PortOptions say what a port shall be. The zero value asks for a port with a
// chosen MAC address and one queue, that lives as long as its file.
type PortOptions struct {
	// Name is the guest's host name, which the network's DNS serves. Empty
	// means none.
	Name string
	// Aliases are further names of the guest, which must have a Name.
	Aliases []string
	// MAC is the guest's address. Nil lets vnetd choose one.
	MAC net.HardwareAddr
	// IfName is the name of the TAP device. Empty lets vnetd choose one.
	IfName string
	// Addresses are reserved for this port. Empty leaves it to DHCP.
	Addresses []netip.Addr
	// Queues is the number of queues and of files. Zero means one.
	Queues int
	// VnetHdr makes the TAP carry virtio-net headers (IFF_VNET_HDR), which
	// QEMU probes. Leave it out only for programs that cannot.
	VnetHdr bool
	// Guard is what the port is kept from sending: off, gateway or strict, and behind it
	// kinds with levels of their own, as in "strict,arp=off". Empty: as the network says.
	Guard string
	// Allow is what the port may send beside its own: MAC addresses, IP addresses,
	// prefixes, and VLANs as vlan=N.
	Allow []string
	// PortGroup is the network's <portgroup> that the port shall be of. Empty means the
	// default one.
	PortGroup string
	// Bandwidth is what the port's traffic is held to, by the names of api.Port.Bandwidth,
	// 0 for no limit. Nil means as the network's <portgroup> says.
	Bandwidth map[string]uint64
	// VLAN is what the port has in place of the VLANs of group and network: "42", or a trunk
	// as "trunk:10,20" and "trunk:10,native=20". Empty means none of its own.
	VLAN string
	// Rules are the port's own, ahead of those of its network, as "egress allow tcp/443 to
	// www.example.org".
	Rules []string
	// Isolated keeps the port from the network's other isolated ports.
	Isolated bool
	// ID makes the request repeatable: the same owner with the same ID gets the
	// same port again, while nobody has it open (api.Busy). Empty means a new port
	// every time.
	ID string
	// Owner is the user id of whose port it is: who may open its device by name,
	// and release it. Nil means the caller's.
	Owner *uint32
	// Lifetime empty means LifetimeFD.
	Lifetime api.Lifetime
	// OwnerUUID is the UUID of the virtual machine, for display. May be empty.
	OwnerUUID string
	// Forwards are ports of the host that lead to the port's guest, until the port ends. To
	// and Lifetime are to be left empty.
	Forwards []api.ForwardOptions
}

// Port is a port of vnetd's, by its UUID. api.NotFound, of every method, if there is
// none.
type Port struct {
	c    *Client
	uuid string
}

// Port returns a handle of the port with the UUID. It asks nothing of vnetd: the port
// may be absent.
func (c *Client) Port(uuid string) Port { return Port{c, uuid} }

// OpenPort is a port that this process asked for and holds open.
type OpenPort struct {
	Port
	// Info has what vnetd told with the port: UUID, Network, MAC, IfName,
	// Bridge and MTU. The other fields are zero; ask for them with Get.
	Info api.Port
	// Files are the TAP descriptors, one per queue, close-on-exec. They are
	// the caller's, to pass on or to close.
	Files []*os.File
}

// Close closes the port's files. With LifetimeFD and no other copy of them,
// that ends the port.
func (p *OpenPort) Close() error {
	errs := make([]error, 0, len(p.Files))
	for _, file := range p.Files {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}

// RequestPort makes a port on a network, named by its name, its UUID or its
// bridge's name. The network must be active. If ctx ends first, the port is
// given back as soon as vnetd hands it over. The caller must close the port.
func (c *Client) RequestPort(ctx context.Context, network string, opts PortOptions) (*OpenPort, error) {
	body, err := c.callForFDs(ctx, managerInterface+".RequestPort", network, opts.wire())
	if err != nil {
		return nil, err
	}
	port, err := newPort(c, body)
	if err != nil {
		sysbus.CloseFDs(body)
		return nil, badReply("RequestPort", err)
	}
	return port, nil
}

// Ports returns all ports, sorted by network, then by device name.
func (c *Client) Ports(ctx context.Context) ([]api.Port, error) {
	objects, err := c.managedObjects(ctx, portInterface)
	if err != nil {
		return nil, err
	}
	ports := make([]api.Port, 0, len(objects))
	for path, props := range objects {
		info, err := newPortInfo(path, props)
		if err != nil {
			return nil, badReply("GetManagedObjects", err)
		}
		ports = append(ports, info)
	}
	slices.SortFunc(ports, func(a, b api.Port) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.IfName, b.IfName), cmp.Compare(a.UUID, b.UUID))
	})
	return ports, nil
}

// Get returns what the port is now.
func (p Port) Get(ctx context.Context) (api.Port, error) {
	path, err := p.path(ctx)
	if err != nil {
		return api.Port{}, err
	}
	props, err := p.c.objectProperties(ctx, path, portInterface)
	if err != nil {
		return api.Port{}, err
	}
	info, err := newPortInfo(path, props)
	if err != nil {
		return api.Port{}, badReply("GetAll", err)
	}
	return info, nil
}

// Describe returns vnetd's description of the port, a JSON object.
func (p Port) Describe(ctx context.Context) (json.RawMessage, error) {
	path, err := p.path(ctx)
	if err != nil {
		return nil, err
	}
	return p.c.describe(ctx, path, portInterface)
}

// Release takes the port away, even from a guest that still runs.
func (p Port) Release(ctx context.Context) error {
	path, err := p.path(ctx)
	if err != nil {
		return err
	}
	return p.c.call(ctx, path, portInterface+".Release").into()
}

// PortSettings are what of a port can be changed while it lives. What is nil stays.
type PortSettings struct {
	PortGroup *string
	// VLAN is as PortOptions.VLAN; empty has the port be in that of its group again.
	VLAN *string
	// Rules are as PortOptions.Rules, all of them; nil: they stay.
	Rules *[]string
	// Bandwidth has the limits that change, 0 for none. Where it is empty and not nil, the
	// port is held to those of its <portgroup> again.
	Bandwidth map[string]uint64
}

// Set changes settings of the port at once, all of them or none. Of a port whose device
// another program made, that is to limit its device itself.
func (p Port) Set(ctx context.Context, s PortSettings) error {
	path, err := p.path(ctx)
	if err != nil {
		return err
	}
	settings := make(map[string]dbus.Variant)
	if s.PortGroup != nil {
		settings["portgroup"] = dbus.MakeVariant(*s.PortGroup)
	}
	if s.Rules != nil {
		settings["rules"] = dbus.MakeVariant(append([]string{}, *s.Rules...))
	}
	if s.VLAN != nil {
		settings["vlan"] = dbus.MakeVariant(*s.VLAN)
	}
	if s.Bandwidth != nil {
		settings["bandwidth"] = dbus.MakeVariant(s.Bandwidth)
	}
	return p.c.call(ctx, path, portInterface+".Set", settings).into()
}

// RegisterPort tells vnetd of a port of the network, which is active, whose TAP device somebody
// else makes and plugs in, as libvirt's QEMU driver does. xml is libvirt's
// <networkport> document. vnetd finds the device by its MAC address, the guest's
// with fe in front. The result is the document with what the network adds. The port
// ends with Release, or when its device has been gone for ten seconds. api.Exists if
// a port has that UUID, api.InvalidState if the network is not active.
func (n Network) RegisterPort(ctx context.Context, xml string) (string, error) {
	var path dbus.ObjectPath
	var full string
	err := n.call(ctx, "RegisterPort", xml, uint32(0)).into(&path, &full)
	return full, err
}

// patience is how long one call of WaitForAddress waits; longer ones are repeated.
const patience = time.Minute

// WaitForAddress waits until the guest of the port has an address, and returns
// those that it has. The error is api.NotFound when the port ends, and ctx's when
// that ends first.
func (p Port) WaitForAddress(ctx context.Context) ([]netip.Addr, error) {
	path, err := p.path(ctx)
	if err != nil {
		return nil, err
	}
	for {
		var texts []string
		r := p.c.call(ctx, path, portInterface+".WaitForAddress", uint32(patience.Milliseconds()))
		if errors.Is(r.err, errTimeout) {
			continue
		}
		if err := r.into(&texts); err != nil {
			return nil, err
		}
		addrs, err := parseAddrs(texts)
		if err != nil {
			return nil, badReply("WaitForAddress", err)
		}
		return addrs, nil
	}
}

// path returns the object of the port.
func (p Port) path(ctx context.Context) (dbus.ObjectPath, error) {
	var path dbus.ObjectPath
	err := p.c.call(ctx, rootPath, managerInterface+".GetPort", p.uuid).into(&path)
	return path, err
}

// wire returns the options as RequestPort's a{sv}. What is zero is left out,
// but for vnet_hdr, which is always said.
func (o PortOptions) wire() map[string]dbus.Variant {
	options := map[string]dbus.Variant{"vnet_hdr": dbus.MakeVariant(o.VnetHdr)}
	for key, text := range map[string]string{
		"name":       o.Name,
		"mac":        o.MAC.String(),
		"ifname":     o.IfName,
		"id":         o.ID,
		"lifetime":   string(o.Lifetime),
		"owner_uuid": o.OwnerUUID,
		"guard":      o.Guard,
		"portgroup":  o.PortGroup,
		"vlan":       o.VLAN,
	} {
		if text != "" {
			options[key] = dbus.MakeVariant(text)
		}
	}
	if o.Queues != 0 {
		options["queues"] = dbus.MakeVariant(uint32(o.Queues))
	}
	if o.Owner != nil {
		options["owner_uid"] = dbus.MakeVariant(*o.Owner)
	}
	if o.Isolated {
		options["isolated"] = dbus.MakeVariant(true)
	}
	if len(o.Bandwidth) > 0 {
		options["bandwidth"] = dbus.MakeVariant(o.Bandwidth)
	}
	if len(o.Aliases) > 0 {
		options["aliases"] = dbus.MakeVariant(o.Aliases)
	}
	if len(o.Rules) > 0 {
		options["rules"] = dbus.MakeVariant(o.Rules)
	}
	if len(o.Allow) > 0 {
		options["allow"] = dbus.MakeVariant(o.Allow)
	}
	if len(o.Forwards) > 0 {
		var forwards []map[string]dbus.Variant
		for _, f := range o.Forwards {
			forwards = append(forwards, forwardWire(f))
		}
		options["forwards"] = dbus.MakeVariant(forwards)
	}
	if len(o.Addresses) > 0 {
		options["address"] = dbus.MakeVariant(addressTexts(o.Addresses))
	}
	return options
}

// addressTexts returns the addresses in text form.
func addressTexts(addrs []netip.Addr) []string {
	texts := make([]string, 0, len(addrs))
	for _, addr := range addrs {
		texts = append(texts, addr.String())
	}
	return texts
}

// newPort makes an OpenPort of the body of RequestPort's reply, (o, ah, a{sv}). On
// error the descriptors in body are still the caller's.
func newPort(c *Client, body []any) (*OpenPort, error) {
	var (
		path dbus.ObjectPath
		fds  []dbus.UnixFD
		info properties
	)
	if err := dbus.Store(body, &path, &fds, &info); err != nil {
		return nil, err
	}
	if len(fds) == 0 {
		return nil, errors.New("no file descriptor")
	}
	told := api.Port{
		UUID:    cmp.Or(property[string](info, "uuid"), uuidOf(path)),
		Network: property[string](info, "network"),
		MAC:     property[string](info, "mac"),
		IfName:  property[string](info, "ifname"),
		Bridge:  property[string](info, "bridge"),
		Parent:  property[string](info, "parent"),
		Mode:    property[string](info, "mode"),
		MTU:     int(property[uint32](info, "mtu")),
		Guard:   property[string](info, "guard"),

		HostReach: property[bool](info, "host_reach"),
	}
	if err := checkMAC(told.MAC); err != nil {
		return nil, err
	}
	port := &OpenPort{Port: c.Port(told.UUID), Info: told}
	for _, fd := range fds {
		port.Files = append(port.Files, os.NewFile(uintptr(fd), "tap "+port.Info.IfName))
	}
	return port, nil
}

// newPortInfo reads the properties of the port at path.
func newPortInfo(path dbus.ObjectPath, props properties) (api.Port, error) {
	addresses, err := parseAddrs(property[[]string](props, "Addresses"))
	reserved, e := parseAddrs(property[[]string](props, "Reserved"))
	info := api.Port{
		UUID:      uuidOf(path),
		Network:   property[string](props, "Network"),
		Name:      property[string](props, "Name"),
		Aliases:   append([]string{}, property[[]string](props, "Aliases")...),
		MAC:       property[string](props, "MAC"),
		IfName:    property[string](props, "IfName"),
		Bridge:    property[string](props, "Bridge"),
		Parent:    property[string](props, "Parent"),
		Mode:      property[string](props, "Mode"),
		HostReach: property[bool](props, "HostReach"),
		MTU:       int(property[uint32](props, "MTU")),
		Addresses: addresses,
		Reserved:  reserved,
		Queues:    int(property[uint32](props, "Queues")),
		Isolated:  property[bool](props, "Isolated"),
		Lifetime:  api.Lifetime(property[string](props, "Lifetime")),
		Owner:     property[uint32](props, "Owner"),
		OwnerUUID: property[string](props, "OwnerUUID"),
		ID:        property[string](props, "ID"),
		PortGroup: property[string](props, "PortGroup"),
		VLAN:      property[string](props, "VLAN"),
		Rules:     property[[]string](props, "Rules"),
		Guard:     property[string](props, "Guard"),
		Bandwidth: property[map[string]uint64](props, "Bandwidth"),
		Stopped:   property[map[string]uint64](props, "Stopped"),
	}
	return info, cmp.Or(checkMAC(info.MAC), err, e)
}

// parseAddrs reads addresses in text form.
func parseAddrs(texts []string) ([]netip.Addr, error) {
	addrs := make([]netip.Addr, 0, len(texts))
	for _, text := range texts {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// callForFDs calls a method of the Manager whose reply carries descriptors. The
// descriptors in the returned body are the caller's. If ctx ends first, they are
// closed when the reply comes: the bus library would drop them unseen and open.
func (c *Client) callForFDs(ctx context.Context, method string, args ...any) ([]any, error) {
	if err := ctx.Err(); err != nil {
		return nil, convertError(err)
	}
	call := c.send(context.WithoutCancel(ctx), rootPath, method, args...)
	select {
	case <-call.Done:
		return call.Body, convertError(call.Err)
	case <-ctx.Done():
		c.abandoned.Go(func() {
			<-call.Done
			sysbus.CloseFDs(call.Body)
		})
		return nil, convertError(ctx.Err())
	}
}
