package host

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"net"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/tap"
)

// AccessLinks is what is asked of pkg/bridge for an interface of the host beside guests.
type AccessLinks interface {
	Lookup(name string) (bridge.Link, error)
	DeleteLink(index int) error
}

// access is the host's interface on the parent of its network's guests.
type access struct {
	links AccessLinks
	doc   *netdef.Network
	mark  string // by which it is known to be vnetd's
}

// EnsureAccess has the host have the interface of its own that live asks for, with that
// mark, as far as amend allows. While its parent is away it is away, too, without an error.
// Addresses on it are the admin's. The error is Conflict where a device that is not vnetd's
// has its name.
func EnsureAccess(links AccessLinks, live *netdef.Network, mark string, amend bridge.Amend) error {
	if live.HostAccess == nil {
		return nil
	}
	a := access{links, live, mark}
	parent, err := links.Lookup(live.Forward.Interfaces[0])
	if errors.Is(err, bridge.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	l, err := a.find()
	switch {
	case err != nil:
		return err
	case l.Index != 0 && l.Parent == parent.Index:
		return a.mend(l, parent, amend)
	}
	has := ""
	if l.Index != 0 {
		has = "another interface"
	}
	if amend != nil && !amend(bridge.Difference{Link: a.doc.HostAccess.Dev, Aspect: bridge.AspectParent, Has: has, Want: parent.Name}) {
		return nil
	}
	if err := links.DeleteLink(l.Index); l.Index != 0 && err != nil {
		return err
	}
	err = tap.CreateMacvlan(tap.MacvlanConfig{Parent: parent.Index, Name: a.doc.HostAccess.Dev, MAC: a.mac(), Alias: mark})
	if errors.Is(err, tap.ErrParentBusy) {
		return api.Errorf(api.Conflict, "network/vnetd:host-access: %q can't have it: %w", parent.Name, err)
	}
	if err != nil {
		return err
	}
	if l, err = a.find(); err != nil {
		return err
	}
	return a.mend(l, parent, nil)
}

// RemoveAccess deletes what EnsureAccess made.
func RemoveAccess(links AccessLinks, live *netdef.Network, mark string) error {
	if live.HostAccess == nil {
		return nil
	}
	l, err := access{links, live, mark}.find()
	if kind, _ := api.KindOf(err); kind == api.Conflict || err == nil && l.Index == 0 {
		return nil // it is not vnetd's, or not there
	}
	if err != nil {
		return err
	}
	return links.DeleteLink(l.Index)
}

// find is the interface; its index is 0 where it is not there. The error is Conflict where
// a device has its name that is not vnetd's.
func (a access) find() (bridge.Link, error) {
	l, err := a.links.Lookup(a.doc.HostAccess.Dev)
	switch {
	case errors.Is(err, bridge.ErrNotFound):
		return bridge.Link{}, nil
	case err == nil && (l.Kind != bridge.KindMacvlan || l.Alias != a.mark):
		return l, accessTaken(l)
	}
	return l, err
}

// accessTaken is the error of an interface whose name l has.
func accessTaken(l bridge.Link) error {
	return api.Errorf(api.Conflict, "network/vnetd:host-access/@dev: a device %q (%s) already exists and is not vnetd's: delete it, or choose another name", l.Name, l.Kind)
}

// mend brings the interface l to what it shall be.
func (a access) mend(l, parent bridge.Link, amend bridge.Amend) error {
	var errs []error
	if mac := a.mac(); !bytes.Equal(l.MAC, mac) && (amend == nil || amend(bridge.Difference{Link: l.Name, Aspect: bridge.AspectMAC, Has: l.MAC.String(), Want: mac.String()})) {
		errs = append(errs, tap.SetMAC(l.Index, mac))
	}
	if !l.Up && parent.Up && (amend == nil || amend(bridge.Difference{Link: l.Name, Aspect: bridge.AspectUp, Has: "down", Want: "up"})) {
		errs = append(errs, tap.RaiseMacvlan(l.Index))
	}
	return errors.Join(errs...)
}

// mac is the interface's address: always the same one, so that the LAN knows the host by it.
func (a access) mac() net.HardwareAddr {
	if mac := a.doc.HostAccess.MAC; mac != nil {
		return mac
	}
	sum := sha256.Sum256([]byte("host-access " + a.doc.UUID))
	return net.HardwareAddr{0x52, 0x54, 0, sum[0], sum[1], sum[2]}
}
