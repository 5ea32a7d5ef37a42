package host

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// Conflicts refuses what would clash with the host: a device of the bridge's name, a
// route or an address of one of its subnets. A start that failed half way leaves
// nothing, so what is there is not vnetd's; but for a bridge that waits with the host's
// addresses for its uplink.
func Conflicts(links Links, uplinks *Keeper, doc *netdef.Network) error {
	if uplinks.Holds(doc.Bridge.Name) {
		return nil
	}
	if err := BridgeConflict(links, doc); err != nil {
		return err
	}
	if !doc.OwnsBridge() {
		return nil
	}
	for i := range doc.IPs {
		if err := SubnetConflict(links, doc.IPs[i].Prefix(), i+1); err != nil {
			return err
		}
	}
	return nil
}

// BridgeConflict refuses a bridge to be made whose name a device of the host has.
func BridgeConflict(links Links, doc *netdef.Network) error {
	if !doc.OwnsBridge() {
		return nil
	}
	l, err := links.Lookup(doc.Bridge.Name)
	switch {
	case err == nil:
		return api.Errorf(api.Conflict, "network/bridge/@name: a device %q (%s) already exists and is not vnetd's: delete it, or choose another bridge name", l.Name, l.Kind)
	case !errors.Is(err, bridge.ErrNotFound):
		return err
	}
	return nil
}

// SubnetConflict refuses the subnet of the nth <ip> when the host already has
// it elsewhere.
func SubnetConflict(links Links, p netip.Prefix, nth int) error {
	owner, err := links.AddressOwner(p, "")
	if err != nil {
		return fmt.Errorf("looking for other owners of %v: %w", p.Masked(), err)
	}
	if owner != "" {
		return api.Errorf(api.Conflict, "network/ip[%d]: subnet %v is already in use by interface %q", nth, p.Masked(), owner)
	}
	return nil
}

// Missing lists what of the host the network needs and is not there.
func Missing(links Links, functions Functions, doc *netdef.Network) error {
	errs := []error{NoParent(links, functions, doc)}
	need := func(name string, err error) {
		if _, lookup := links.Lookup(name); name != "" && errors.Is(lookup, bridge.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	switch {
	case doc.Uplink != "":
		need(doc.Uplink, awayError(doc.Uplink))
	case doc.PortPlug() == netdef.PlugBridge:
		need(doc.Bridge.Name, NoSuchBridge(doc))
	}
	if doc.Forward != nil && doc.Mode().OwnsBridge() {
		need(doc.Forward.Dev, api.Errorf(api.Conflict, "network/forward/@dev: %q is no link of this host: nothing would be forwarded", doc.Forward.Dev))
	}
	return errors.Join(errs...)
}

// NoSuchBridge is the error of a network whose bridge the host has not.
func NoSuchBridge(doc *netdef.Network) error {
	return api.Errorf(api.Conflict, "network/bridge/@name: the host has no bridge %q: make it, or name another", doc.Bridge.Name)
}
