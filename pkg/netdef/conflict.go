package netdef

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// Conflict is a claim of a network on something that another network has.
type Conflict struct {
	Path    string // the claiming element, as in Fault
	Value   string // what it claims
	Network string // name of the network that has it
	Problem string // how the two collide
}

// Error renders c on one line.
func (c *Conflict) Error() string {
	return fmt.Sprintf("%s: '%s': %s", c.Path, xmldoc.OneLine(c.Value), c.Problem)
}

// Conflicts returns what keeps n from being known beside others: the name with
// another UUID, the UUID with another name, or a bridge or a VNI of its own that another has. The network in others with n's name and UUID, or with
// n's name if n has no UUID yet, is n itself and skipped. The error joins every
// *Conflict; it is nil if there is none.
func Conflicts(n *Network, others []*Network) error {
	var errs []error
	for _, o := range others {
		sameName, sameUUID := n.Name == o.Name, n.UUID != "" && n.UUID == o.UUID
		if sameName && (sameUUID || n.UUID == "") {
			continue
		}
		add := func(path, value, format string, args ...any) {
			errs = append(errs, &Conflict{path, value, o.Name, fmt.Sprintf(format, args...)})
		}
		if sameName {
			add("network/name", n.Name, "a network of this name exists with uuid %s", o.UUID)
			continue // what else collides is a consequence
		}
		if sameUUID {
			add("network/uuid", n.UUID, "the uuid is that of network '%s'", o.Name)
		}
		bridgeConflict(n, o, add)
	}
	return errors.Join(errs...)
}

// bridgeConflict finds a bridge that n would make and o already uses. Networks
// on bridges of the host may share one.
func bridgeConflict(n, o *Network, add func(path, value, format string, args ...any)) {
	if n.Uplink != "" && n.UplinkDevice() == o.UplinkDevice() {
		add("network/vnetd:uplink/@dev", n.Uplink, "the interface is the uplink of network '%s'", o.Name)
	}
	if n.HostAccess != nil && o.HostAccess != nil && n.HostAccess.Dev == o.HostAccess.Dev {
		add("network/vnetd:host-access/@dev", n.HostAccess.Dev, "the interface is that of network '%s'", o.Name)
	}
	if n.Span != nil && o.Span != nil && n.Span.VNI == o.Span.VNI {
		add("network/vnetd:span/@vni", fmt.Sprint(n.Span.VNI), "the VNI is that of network '%s'", o.Name)
	}
	if n.OwnsBridge() && n.Bridge.Name != "" && n.Bridge.Name == o.Bridge.Name {
		add("network/bridge/@name", n.Bridge.Name, "the bridge is that of network '%s'", o.Name)
	}
}

// Overlaps returns what keeps n from being active beside others: subnets that
// overlap one of theirs, and forwards of the same ports. libvirt looks only for exactly
// equal subnets; two overlapping networks can't both reach their guests. Those that has, which may be nil, has as
// well are left out. The error joins every *Conflict; it is nil if there is none.
func Overlaps(n, has *Network, others []*Network) error {
	var errs []error
	for i := range n.IPs {
		mine := n.IPs[i].Prefix()
		if has.hasSubnet(mine) {
			continue
		}
		for _, o := range others {
			if theirs, ok := o.overlapping(mine); ok {
				errs = append(errs, &Conflict{
					fmt.Sprintf("network/ip[%d]/@address", i+1), mine.String(), o.Name,
					fmt.Sprintf("overlaps the subnet %s of network '%s'", theirs, o.Name),
				})
			}
		}
	}
	for _, o := range others {
		forwardConflicts(n, o, func(path, value, format string, args ...any) {
			errs = append(errs, &Conflict{path, value, o.Name, fmt.Sprintf(format, args...)})
		})
	}
	return errors.Join(errs...)
}

// hasSubnet reports whether n, which may be nil, has an address in exactly the subnet
// of p.
func (n *Network) hasSubnet(p netip.Prefix) bool {
	return n != nil && slices.ContainsFunc(n.IPs, func(ip IP) bool { return ip.Prefix().Masked() == p.Masked() })
}

// overlapping is the first subnet of n that overlaps p.
func (n *Network) overlapping(p netip.Prefix) (subnet netip.Prefix, ok bool) {
	for i := range n.IPs {
		if theirs := n.IPs[i].Prefix(); p.Overlaps(theirs) {
			return theirs.Masked(), true
		}
	}
	return netip.Prefix{}, false
}

// forwardConflicts finds forwards of n that clash with one of o, or with the ports that o
// has for connections of its guests.
func forwardConflicts(n, o *Network, add func(path, value, format string, args ...any)) {
	if len(n.PortForwards) == 0 {
		return
	}
	theirs := indexPorts(o.PortForwards)
	for i := range n.PortForwards {
		f := &n.PortForwards[i]
		at := fmt.Sprintf("network/vnetd:forward[%d]/@port", i+1)
		if r, ok := o.natPorts(); ok && f.Ports.overlaps(r) {
			add(at, f.Ports.String(), "overlaps the ports %s that connections of guests of network '%s' get", r, o.Name)
		}
		for _, j := range theirs.clashing(f) {
			add(at, f.Ports.String(), "is forwarded to %s by network '%s'", xmldoc.OneLine(o.PortForwards[j].To), o.Name)
		}
	}
}
