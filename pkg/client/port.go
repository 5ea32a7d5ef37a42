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
	// Isolated keeps the port from the network's other isolated ports.
	Isolated bool
	// ID makes the request repeatable: the same owner with the same ID gets the
	// same port again, while nobody has it open (ErrBusy). Empty means a new port
	// every time.
	ID string
	// Owner is the user id of whose port it is: who may open its device by name,
	// and release it. Nil means the caller's.
	Owner *uint32
	// Lifetime empty means LifetimeFD.
	Lifetime api.Lifetime
	// OwnerUUID is the UUID of the virtual machine, for display. May be empty.
	OwnerUUID string
}

// PortInfo is a snapshot of one port.
type PortInfo struct {
	UUID string
	// Network is the name of the port's network.
	Network string
	// Name is the guest's name, or empty.
	Name string
	// MAC is the guest's address, not that of the TAP device.
	MAC net.HardwareAddr
	// IfName is the name of the TAP device.
	IfName string
	// Bridge is the name of the bridge device that the port is plugged into.
	Bridge string
	// MTU is in bytes; zero if vnetd did not say.
	MTU int
	// Addresses are what the guest has leased, in order.
	Addresses []netip.Addr
	// Reserved are the addresses that were asked for.
	Reserved []netip.Addr
	Queues   int
	Isolated bool
	Lifetime api.Lifetime
	// Owner is the numeric id of whose port it is.
	Owner uint32
	// OwnerUUID is that of the virtual machine, ID the owner's word for the port;
	// both may be empty.
	OwnerUUID, ID string
}

// Port is a port that this process asked for and holds open.
type Port struct {
	// Info has what vnetd told with the port: UUID, Network, MAC, IfName,
	// Bridge and MTU. The other fields are zero; ask for them with Client.Port.
	Info PortInfo
	// Files are the TAP descriptors, one per queue, close-on-exec. They are
	// the caller's, to pass on or to close.
	Files []*os.File
}

// Close closes the port's files. With LifetimeFD and no other copy of them,
// that ends the port.
func (p *Port) Close() error {
	errs := make([]error, 0, len(p.Files))
	for _, file := range p.Files {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}

// RequestPort makes a port on a network, named by its name, its UUID or its
// bridge's name. The network must be active. If ctx ends first, the port is
// given back as soon as vnetd hands it over. The caller must close the port.
func (c *Client) RequestPort(ctx context.Context, network string, opts PortOptions) (*Port, error) {
	body, err := c.callForFDs(ctx, managerInterface+".RequestPort", network, opts.wire())
	if err != nil {
		return nil, err
	}
	port, err := newPort(body)
	if err != nil {
		sysbus.CloseFDs(body)
		return nil, badReply("RequestPort", err)
	}
	return port, nil
}

// Ports returns all ports, sorted by network, then by device name.
func (c *Client) Ports(ctx context.Context) ([]PortInfo, error) {
	objects, err := c.managedObjects(ctx, portInterface)
	if err != nil {
		return nil, err
	}
	ports := make([]PortInfo, 0, len(objects))
	for path, props := range objects {
		info, err := newPortInfo(path, props)
		if err != nil {
			return nil, badReply("GetManagedObjects", err)
		}
		ports = append(ports, info)
	}
	slices.SortFunc(ports, func(a, b PortInfo) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.IfName, b.IfName), cmp.Compare(a.UUID, b.UUID))
	})
	return ports, nil
}

// Port returns the port with the UUID.
func (c *Client) Port(ctx context.Context, uuid string) (PortInfo, error) {
	path, err := c.portPath(ctx, uuid)
	if err != nil {
		return PortInfo{}, err
	}
	props, err := c.objectProperties(ctx, path, portInterface)
	if err != nil {
		return PortInfo{}, err
	}
	info, err := newPortInfo(path, props)
	if err != nil {
		return PortInfo{}, badReply("GetAll", err)
	}
	return info, nil
}

// DescribePort returns vnetd's description of the port, a JSON object.
func (c *Client) DescribePort(ctx context.Context, uuid string) (json.RawMessage, error) {
	path, err := c.portPath(ctx, uuid)
	if err != nil {
		return nil, err
	}
	return c.describe(ctx, path, portInterface)
}

// Release takes a port away, even from a guest that still runs.
func (c *Client) Release(ctx context.Context, uuid string) error {
	path, err := c.portPath(ctx, uuid)
	if err != nil {
		return err
	}
	return c.call(ctx, path, portInterface+".Release").into()
}

// RegisterPort tells vnetd of a port of an active network whose TAP device somebody
// else makes and plugs in, as libvirt's QEMU driver does. xml is libvirt's
// <networkport> document. vnetd finds the device by its MAC address, the guest's
// with fe in front. The result is the document with what the network adds. The port
// ends with Release, or when its device has been gone for ten seconds. ErrExists if
// a port has that UUID, ErrInvalidState if the network is not active.
func (c *Client) RegisterPort(ctx context.Context, network, xml string) (string, error) {
	var path dbus.ObjectPath
	var full string
	err := c.callNetwork(ctx, network, "RegisterPort", xml, uint32(0)).into(&path, &full)
	return full, err
}

// patience is how long one call of WaitForAddress waits; longer ones are repeated.
const patience = time.Minute

// WaitForAddress waits until the guest of the port has an address, and returns
// those that it has. The error is ErrNotFound when the port ends, and ctx's when
// that ends first.
func (c *Client) WaitForAddress(ctx context.Context, uuid string) ([]netip.Addr, error) {
	path, err := c.portPath(ctx, uuid)
	if err != nil {
		return nil, err
	}
	for {
		var texts []string
		r := c.call(ctx, path, portInterface+".WaitForAddress", uint32(patience.Milliseconds()))
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

// portPath returns the object of the port with the UUID.
func (c *Client) portPath(ctx context.Context, uuid string) (dbus.ObjectPath, error) {
	var path dbus.ObjectPath
	err := c.call(ctx, rootPath, managerInterface+".GetPort", uuid).into(&path)
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

// newPort makes a Port of the body of RequestPort's reply, (o, ah, a{sv}). On
// error the descriptors in body are still the caller's.
func newPort(body []any) (*Port, error) {
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
	mac, err := parseMAC(property[string](info, "mac"))
	if err != nil {
		return nil, err
	}
	port := &Port{Info: PortInfo{
		UUID:    cmp.Or(property[string](info, "uuid"), uuidOf(path)),
		Network: property[string](info, "network"),
		MAC:     mac,
		IfName:  property[string](info, "ifname"),
		Bridge:  property[string](info, "bridge"),
		MTU:     int(property[uint32](info, "mtu")),
	}}
	for _, fd := range fds {
		port.Files = append(port.Files, os.NewFile(uintptr(fd), "tap "+port.Info.IfName))
	}
	return port, nil
}

// newPortInfo makes a PortInfo of the properties of the object at path.
func newPortInfo(path dbus.ObjectPath, props properties) (PortInfo, error) {
	mac, err := parseMAC(property[string](props, "MAC"))
	if err != nil {
		return PortInfo{}, err
	}
	info := PortInfo{
		UUID:     uuidOf(path),
		Network:  property[string](props, "Network"),
		Name:     property[string](props, "Name"),
		MAC:      mac,
		IfName:   property[string](props, "IfName"),
		Bridge:   property[string](props, "Bridge"),
		MTU:      int(property[uint32](props, "MTU")),
		Lifetime: api.Lifetime(property[string](props, "Lifetime")),
		Queues:   int(property[uint32](props, "Queues")),
		Isolated: property[bool](props, "Isolated"),
		Owner:    property[uint32](props, "Owner"),

		OwnerUUID: property[string](props, "OwnerUUID"),
		ID:        property[string](props, "ID"),
	}
	if info.Addresses, err = parseAddrs(property[[]string](props, "Addresses")); err != nil {
		return PortInfo{}, err
	}
	info.Reserved, err = parseAddrs(property[[]string](props, "Reserved"))
	return info, err
}

// parseAddrs reads addresses in text form; nil for none.
func parseAddrs(texts []string) (addrs []netip.Addr, err error) {
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
	call := c.conn.Object(busName, rootPath).Go(method, c.flags, make(chan *dbus.Call, 1), args...)
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
