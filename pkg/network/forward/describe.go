package forward

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// UUID is the forward's, the same for the same ports of the same network.
func UUID(network string, f *netdef.PortForward) string {
	space, _ := ether.ParseUUID(network) // a network's is one
	return ether.NamedUUID(space, f.Key()).String()
}

// Leads are where the forwards of a network lead, found by what tells forwards apart.
type Leads map[place][]firewall.Forward

// place is a protocol, and an address, zero for any, and ports of this host.
type place struct {
	protocol string
	address  netip.Addr
	ports    firewall.PortRange
}

// IndexLeads returns where forwards lead, as Describe asks for it.
func IndexLeads(all []firewall.Forward) Leads {
	leads := make(Leads, len(all))
	for i := range all {
		at := place{all[i].Protocol, all[i].Address, all[i].Ports}
		leads[at] = append(leads[at], all[i])
	}
	return leads
}

// Of are those of one forward, at most one of each family.
func (l Leads) Of(f *netdef.PortForward) []firewall.Forward {
	at := place{protocol: f.Protocol, ports: firewall.PortRange{Start: f.Ports.Start, End: f.Ports.End}}
	if !f.AnyAddress() {
		at.address = f.Address
	}
	return slices.DeleteFunc(slices.Clone(l[at]), func(lead firewall.Forward) bool { return !f.Covers(lead.To.Is4()) })
}

// Describe is what the forward of doc is, of a network that leads to leads.
func Describe(doc *netdef.Network, f *netdef.PortForward, leads Leads) api.Forward {
	info := api.Forward{
		UUID: UUID(doc.UUID, f), Network: doc.Name, Protocol: f.Protocol, Ports: f.Ports.String(), To: f.To, ToPort: f.ToPort,
		From: append([]netip.Prefix{}, f.From...), Lifetime: api.LifetimePersistent, State: api.ForwardWaiting, Targets: []netip.Addr{},
	}
	if f.Address.IsValid() {
		info.Address = f.Address.String()
	}
	if info.ToPort == 0 {
		info.ToPort = f.Ports.Start
	}
	switch port, held := HeldByPort(f); {
	case held:
		info.Lifetime, info.Port = api.LifetimePort, port
	case f.Holder != "":
		info.Lifetime = api.LifetimeBus
	}
	for _, lead := range leads.Of(f) {
		info.State, info.Targets = api.ForwardActive, append(info.Targets, lead.To)
	}
	return info
}

// Count notes what goes on by the forward that is described.
func Count(info *api.Forward, t firewall.Tally) {
	info.Connections = &t.Connections
	if t.Counted {
		info.Packets, info.Bytes = &t.Packets, &t.Bytes
	}
}

// HeldByPort is the UUID of the port with which the forward ends, and whether it ends with
// one.
func HeldByPort(f *netdef.PortForward) (uuid string, held bool) {
	return strings.CutPrefix(f.Holder, portHolder)
}

// portHolder begins what a port is called as a holder. Names of clients of the bus stand
// behind the id of the bus, which has no colon.
const portHolder = "port:"

// New is the forward that is asked for. The network that it is for tells whether it can be.
func New(o api.ForwardOptions) (f netdef.PortForward, err error) {
	f = netdef.PortForward{Protocol: o.Protocol, To: o.To, ToPort: o.ToPort}
	if f.Protocol == "" {
		f.Protocol = "tcp"
	}
	switch f.Protocol {
	case "tcp", "udp", "sctp":
	default:
		return f, api.Errorf(api.Invalid, "protocol %.80q is not known: want tcp, udp or sctp", o.Protocol)
	}
	if f.Ports, err = netdef.ParsePortRange(o.Ports); err != nil {
		return f, api.Errorf(api.Invalid, "ports %.80q: %w", o.Ports, err)
	}
	if o.Address != "" {
		if f.Address, err = netip.ParseAddr(o.Address); err != nil || f.Address.Zone() != "" {
			return f, api.Errorf(api.Invalid, "address %.80q is not an IP address", o.Address)
		}
	}
	if f.From, err = netdef.ParsePrefixes(strings.Join(o.From, " ")); err != nil {
		return f, api.Errorf(api.Invalid, "from: %w", err)
	}
	return f, nil
}

// HoldByPort has the forward end with a port, whose guest it is for where it names none.
func HoldByPort(f *netdef.PortForward, uuid, mac string) {
	f.Holder = portHolder + uuid
	if f.To == "" {
		f.To = mac
	}
}

// Same reports whether both are the same forward, for the same guest.
func Same(a, b *netdef.PortForward) bool {
	if a.Key() != b.Key() || a.To != b.To || a.ToPort != b.ToPort || a.Holder != b.Holder || len(a.From) != len(b.From) {
		return false
	}
	for i := range a.From {
		if a.From[i] != b.From[i] {
			return false
		}
	}
	return true
}
