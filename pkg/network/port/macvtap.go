package port

import (
	"bytes"
	"errors"
	"time"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/store"
	"github.com/vnetd/vnetd/pkg/tap"
)

// MakeMacvtap makes a macvtap device on the interface parent, in that mode, for a port of
// the network with that name and UUID, as Make makes a TAP device. Device nodes that /dev
// lacks are made in nodes. The device is up. The error is Exists where its name or its
// address is taken, Conflict where the parent can't have it. After an error nothing is left.
func MakeMacvtap(r *Registry, network, uuid string, o Spec, parent bridge.Link, mode, nodes string) (*Port, *tap.Device, error) {
	record := store.Port{
		UUID: ether.RandomUUID(), Network: uuid, Created: time.Now().Truncate(time.Second), Holder: o.Holder,
		Parent: parent.Name, Mode: mode,
	}
	o.record(&record)
	dev, err := tap.CreateMacvtap(tap.MacvtapConfig{
		Parent: parent.Index, Mode: mode, Name: o.IfName, MAC: o.MAC, Alias: Mark(record),
		Queues: o.Queues, VnetHdr: o.VnetHdr, Nodes: nodes,
	})
	if err != nil {
		return nil, nil, macvtapError(err, &o, parent.Name)
	}
	record.IfName, record.Index, record.Queues = dev.Name, dev.Index, max(o.Queues, 1)
	record.Node, record.Lock = dev.Node, dev.Lock
	// Not before: it is its mark that says by what it is known whether somebody has it open.
	err = tap.SetAlias(dev.Index, Mark(record))
	if err == nil {
		err = tap.SetUp(dev.Index)
	}
	if err != nil {
		return nil, nil, errors.Join(macvtapError(err, &o, parent.Name), dev.Close(), dev.Delete(nodes))
	}
	return newPort(r, Own, network, record), &dev.Device, nil
}

// macvtapError is why a device that o asks for could not be made on a parent.
func macvtapError(err error, o *Spec, parent string) error {
	switch {
	case errors.Is(err, tap.ErrAddressTaken):
		return api.Errorf(api.Exists, "option mac: another device on %q has the address %v: %w", parent, o.MAC, err)
	case errors.Is(err, tap.ErrExists):
		return api.Errorf(api.Exists, "option ifname: an interface %q already exists", o.IfName)
	case errors.Is(err, tap.ErrParentBusy):
		return api.Errorf(api.Conflict, "the interface %q can't have a macvtap device: it is a port of a bridge or a bond, or another has it for itself: %w", parent, err)
	case errors.Is(err, tap.ErrParentDown):
		return api.Errorf(api.Conflict, "the interface %q is down: ip link set %s up", parent, parent)
	case errors.Is(err, tap.ErrGone):
		return api.Errorf(api.Conflict, "the interface %q has gone away", parent)
	case errors.Is(err, tap.ErrNoMacvtap):
		return api.Errorf(api.Unsupported, "this host can't do macvtap: %w", err)
	}
	return err
}

// KeepMacvtap brings the device of p to what it shall be, as far as amend allows.
func (p *Port) KeepMacvtap(links Links, amend bridge.Amend) error {
	s := p.Status()
	l, err := links.LookupIndex(s.Index)
	if err != nil {
		return err
	}
	var errs []error
	mend := func(differs bool, what bridge.Aspect, has, want string, do func() error) {
		if differs && (amend == nil || amend(bridge.Difference{Link: l.Name, Aspect: what, Has: has, Want: want})) {
			errs = append(errs, do())
		}
	}
	mark, mac := Mark(p.Record()), p.CardAddr()
	mend(l.Alias == "", bridge.AspectAlias, "", mark, func() error { return links.SetAlias(l.Index, mark) })
	mend(!bytes.Equal(l.MAC, mac), bridge.AspectMAC, l.MAC.String(), mac.String(), func() error { return tap.SetMAC(l.Index, mac) })
	mend(!l.Up, bridge.AspectUp, "down", "up", func() error { return macvtapDown(tap.SetUp(l.Index)) })
	return errors.Join(errs...)
}

// macvtapDown leaves out that a parent is down: its macvtap devices are up when it is.
func macvtapDown(err error) error {
	if errors.Is(err, tap.ErrParentDown) {
		return nil
	}
	return err
}

// Uses counts the ports of vnetd's own and of other programs on each device of the host that
// pools have, of the network of that name, of all for "".
func Uses(r *Registry, network string) (devs map[string]int, addresses map[netdef.PCIAddress]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	devs, addresses = make(map[string]int), make(map[netdef.PCIAddress]int)
	for key, on := range r.index.byNetwork {
		if network != "" && key.network != network {
			continue
		}
		for p := range on {
			switch {
			case (p.Kind == Own || p.Kind == Orphan) && p.OnMacvtap():
				devs[p.Macvtap.Parent]++
			case p.Kind != External:
			case p.document.Plug.Type == netdef.PlugDirect:
				devs[p.document.Plug.Dev]++
			case p.document.Plug.Type == netdef.PlugHostdevPCI:
				addresses[p.document.Plug.Address]++
			}
		}
	}
	return devs, addresses
}
