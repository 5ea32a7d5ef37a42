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
// another UUID, the UUID with another name, or a bridge of the same name. The network in others with n's name and UUID, or with
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
	if n.Uplink != "" && n.Uplink == o.Uplink {
		add("network/vnetd:uplink/@dev", n.Uplink, "the interface is the uplink of network '%s'", o.Name)
	}
	if n.OwnsBridge() && n.Bridge.Name != "" && n.Bridge.Name == o.Bridge.Name {
		add("network/bridge/@name", n.Bridge.Name, "the bridge is that of network '%s'", o.Name)
	}
}

// Overlaps returns what keeps n from being active beside others: subnets that
// overlap one of theirs. libvirt looks only for exactly equal ones; two overlapping
// networks can't both reach their guests. Those that has, which may be nil, has as
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
