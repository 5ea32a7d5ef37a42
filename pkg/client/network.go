package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"slices"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/api"
)

// Networks returns all networks, sorted by name.
func (c *Client) Networks(ctx context.Context) ([]api.Network, error) {
	objects, err := c.managedObjects(ctx, networkInterface)
	if err != nil {
		return nil, err
	}
	networks := make([]api.Network, 0, len(objects))
	for _, props := range objects {
		networks = append(networks, newNetwork(props))
	}
	slices.SortFunc(networks, func(a, b api.Network) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID))
	})
	return networks, nil
}

// Network returns a handle of the network with the name or the UUID. It asks nothing
// of vnetd: the network may be absent.
func (c *Client) Network(name string) Network { return Network{c, name} }

// CreateNetwork starts a network that is not written to disk and goes when it
// is stopped. A document with the name and the UUID of an inactive network starts
// that one, whose definition stays for its next start.
func (c *Client) CreateNetwork(ctx context.Context, xml string) (api.Network, error) {
	var path dbus.ObjectPath
	if err := c.call(ctx, rootPath, managerInterface+".CreateNetwork", xml).into(&path); err != nil {
		return api.Network{}, err
	}
	return c.networkAt(ctx, path)
}

// DefineNetwork writes a network's definition, a libvirt <network> document,
// to disk; it replaces the definition with the same name, unless that has another
// UUID or opts forbid it. It does not start the network; an active one becomes at once
// what cuts no guest off, or what opts say. It tells what has changed, and what of it
// is still to come. api.Invalid, api.Exists and api.Conflict say what is wrong with it.
func (c *Client) DefineNetwork(ctx context.Context, xml string, opts api.DefineOptions) (api.Defined, error) {
	options := map[string]dbus.Variant{"new": dbus.MakeVariant(opts.New), "strict": dbus.MakeVariant(opts.Strict)}
	if opts.Apply != "" {
		options["apply"] = dbus.MakeVariant(string(opts.Apply))
	}
	var path dbus.ObjectPath
	var result properties
	if err := c.call(ctx, rootPath, managerInterface+".DefineNetworkWithOptions", xml, options).into(&path, &result); err != nil {
		return api.Defined{}, err
	}
	n, err := c.networkAt(ctx, path)
	return api.Defined{
		Network: n, Action: api.Action(property[string](result, "action")),
		Changes: property[[]string](result, "changes"), Pending: property[[]string](result, "pending"),
	}, err
}

// Network is a network of vnetd's, by name or UUID; a name wins over a UUID. Every
// method looks the network up: api.NotFound if there is none.
type Network struct {
	c    *Client
	name string
}

// Get returns what the network is now.
func (n Network) Get(ctx context.Context) (api.Network, error) {
	path, err := n.path(ctx)
	if err != nil {
		return api.Network{}, err
	}
	return n.c.networkAt(ctx, path)
}

// Start starts a defined network. It returns when the network serves.
// api.InvalidState if it is active already.
func (n Network) Start(ctx context.Context) error {
	return n.call(ctx, "Start").into()
}

// Stop stops a network and takes its ports off. api.InvalidState if it is not
// active.
func (n Network) Stop(ctx context.Context) error {
	return n.call(ctx, "Stop").into()
}

// Undefine removes a network's definition. An active network goes on as a
// transient one.
func (n Network) Undefine(ctx context.Context) error {
	return n.call(ctx, "Undefine").into()
}

// Rename gives an inactive network another name, in one step. Its UUID stays, and with it
// all that goes by it. api.InvalidState while it is active, api.Exists where another network
// has the name.
func (n Network) Rename(ctx context.Context, name string) error {
	return n.call(ctx, "Rename", name).into(new(dbus.ObjectPath))
}

// Update is one change of one entry of a network, in the words of virsh
// net-update.
type Update struct {
	// Command is add-first, add-last (or add), delete or modify.
	Command string
	// Section is ip-dhcp-host, ip-dhcp-range, dns-host, dns-txt, dns-srv,
	// portgroup, forward-interface or vnetd-record.
	Section string
	// Index is the <ip> whose DHCP is meant, counted from 0. Negative: the first
	// that has DHCP.
	Index int
	// XML is the entry.
	XML string
	// Live and Config say which documents change: what the network is, what it
	// will be at its next start. Neither: the first while it is active, otherwise
	// the second.
	Live, Config bool
}

// Update changes one entry of a network. An active network changes in place.
// Where both documents are asked for, neither changes when one can't.
func (n Network) Update(ctx context.Context, u Update) error {
	var flags uint32
	if u.Live {
		flags |= 1
	}
	if u.Config {
		flags |= 2
	}
	return n.call(ctx, "Update", u.Command, u.Section, int32(u.Index), u.XML, flags).into()
}

// SetAutostart says whether a persistent network is started with the host.
func (n Network) SetAutostart(ctx context.Context, on bool) error {
	path, err := n.path(ctx)
	if err != nil {
		return err
	}
	return n.c.setProperty(ctx, path, networkInterface, "Autostart", on)
}

// XML returns a network's libvirt document: that of the running network, or
// with inactive the one on disk, which the next start will use. An inactive
// network has only the second.
func (n Network) XML(ctx context.Context, inactive bool) (string, error) {
	// Flag 1 is libvirt's VIR_NETWORK_XML_INACTIVE.
	var flags uint32
	if inactive {
		flags = 1
	}
	var xml string
	err := n.call(ctx, "GetXML", flags).into(&xml)
	return xml, err
}

// Describe returns vnetd's description of the network, a JSON object.
func (n Network) Describe(ctx context.Context) (json.RawMessage, error) {
	path, err := n.path(ctx)
	if err != nil {
		return nil, err
	}
	return n.c.describe(ctx, path, networkInterface)
}

// call looks the network up and calls a method of its interface.
func (n Network) call(ctx context.Context, method string, args ...any) reply {
	path, err := n.path(ctx)
	if err != nil {
		return reply{method: method, err: err}
	}
	return n.c.call(ctx, path, networkInterface+"."+method, args...)
}

// path returns the object of the network.
func (n Network) path(ctx context.Context) (dbus.ObjectPath, error) {
	var path dbus.ObjectPath
	err := n.c.call(ctx, rootPath, managerInterface+".GetNetwork", n.name).into(&path)
	if errors.Is(err, api.NotFound) && looksLikeUUID(n.name) {
		err = n.c.call(ctx, rootPath, managerInterface+".GetNetworkByUUID", n.name).into(&path)
	}
	return path, err
}

// networkAt reads the network object at path.
func (c *Client) networkAt(ctx context.Context, path dbus.ObjectPath) (api.Network, error) {
	props, err := c.objectProperties(ctx, path, networkInterface)
	if err != nil {
		return api.Network{}, err
	}
	return newNetwork(props), nil
}

// newNetwork makes a Network of its object's properties.
func newNetwork(props properties) api.Network {
	return api.Network{
		Name:       property[string](props, "Name"),
		UUID:       property[string](props, "UUID"),
		Active:     property[bool](props, "Active"),
		Persistent: property[bool](props, "Persistent"),
		Autostart:  property[bool](props, "Autostart"),
		Bridge:     property[string](props, "Bridge"),
		Mode:       property[string](props, "Mode"),
		State:      api.State(property[string](props, "State")),
		LastError:  property[string](props, "LastError"),
	}
}

// looksLikeUUID reports whether s is worth a look-up by UUID. libvirt takes
// UUIDs without dashes and in upper case, too.
func looksLikeUUID(s string) bool {
	matched, _ := regexp.MatchString(`^[0-9a-fA-F-]{32,36}$`, s)
	return matched
}
