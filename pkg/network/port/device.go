package port

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/store"
	"github.com/vnetd/vnetd/pkg/tap"
)

// Make makes a TAP device with that MTU for a port of the network with that name and
// UUID. The port is not in the registry yet: Add or Abandon follows. The error is Exists
// where the name of the device is taken.
func (r *Registry) Make(network, uuid string, o Spec, mtu int) (*Port, *tap.Device, error) {
	record := store.Port{UUID: ether.RandomUUID(), Network: uuid, Created: time.Now().Truncate(time.Second), Holder: o.Holder}
	o.record(&record)
	r.mu.Lock()
	r.making[record.UUID] = true
	r.mu.Unlock()
	dev, err := create(r, tap.Config{
		Name: o.IfName, MAC: tap.HostMAC(o.MAC), MTU: mtu, Alias: Mark(record),
		Queues: o.Queues, VnetHdr: o.VnetHdr, Owner: o.Owner,
	})
	if err != nil {
		Abandon(r, record.UUID)
	}
	if errors.Is(err, tap.ErrExists) {
		return nil, nil, api.Errorf(api.Exists, "option ifname: an interface %q already exists", o.IfName)
	}
	if err != nil {
		return nil, nil, err
	}
	record.IfName, record.Index, record.Queues = dev.Name, dev.Index, max(o.Queues, 1)
	return newPort(r, Own, network, record), dev, nil
}

// Abandon forgets the port with that UUID, which was being made and is not put into r.
func Abandon(r *Registry, uuid string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.making, uuid)
}

// Owns reports whether a link is the device of a port of vnetd's own, by its mark of one that is
// being made. Others that have a mark are nobody's any more.
func Owns(r *Registry, l bridge.Link) bool {
	marked, ok := Marked(l)
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.index.byIndex[l.Index]
	return ok && r.making[marked.UUID] || p != nil && p.Kind == Own
}

// othersDevices is how many names in a row may be those of others' devices before the kernel is
// asked for one, which looks at all devices for it.
const othersDevices = 20

// create makes a device for a port that is to be in r, with a name that is free where cfg has none.
func create(r *Registry, cfg tap.Config) (*tap.Device, error) {
	if cfg.Name != "" {
		return tap.Create(cfg)
	}
	for range othersDevices {
		r.mu.Lock()
		cfg.Name = r.index.claimName()
		r.mu.Unlock()
		dev, err := tap.Create(cfg)
		if err == nil {
			return dev, nil
		}
		if !errors.Is(err, tap.ErrExists) {
			r.mu.Lock()
			r.index.freeName(cfg.Name)
			r.mu.Unlock()
			return nil, err
		}
	}
	cfg.Name = ""
	return tap.Create(cfg)
}

// ErrGone says that a port's device is not there any more.
var ErrGone = errors.New("device of a port is gone")

// busyError is that of a port which somebody has open.
func (p *Port) busyError(s Status) error {
	return api.Errorf(api.Busy, "option id: port %q is there already, and somebody has %s open", p.ID, s.IfName)
}

// Open opens the device of p, whom its owner calls id, anew. Device nodes that /dev lacks
// are made in nodes. The error is ErrGone, or Busy where somebody has it open.
func (p *Port) Open(links Links, nodes string) (*tap.Device, error) {
	s := p.Status()
	if p.OnMacvtap() {
		return p.openMacvtap(s, nodes)
	}
	l, err := links.LookupIndex(s.Index)
	busy := p.busyError(s)
	switch {
	case errors.Is(err, bridge.ErrNotFound):
		return nil, ErrGone
	case err != nil:
		return nil, err
	case l.Carrier:
		return nil, busy
	}
	dev, err := tap.Reopen(tap.Config{Name: s.IfName, Queues: p.Queues, VnetHdr: p.VnetHdr}, s.Index)
	switch {
	case errors.Is(err, tap.ErrGone):
		return nil, ErrGone
	case errors.Is(err, tap.ErrBusy):
		return nil, busy
	}
	return dev, err
}

// openMacvtap is Open for a macvtap device.
func (p *Port) openMacvtap(s Status, nodes string) (*tap.Device, error) {
	held, err := tap.Held(s.Lock)
	switch {
	case err != nil:
		return nil, err
	case held:
		return nil, p.busyError(s)
	}
	dev, err := tap.ReopenMacvtap(tap.MacvtapConfig{Name: s.IfName, Queues: p.Queues, VnetHdr: p.VnetHdr, Nodes: nodes}, s.Index)
	if errors.Is(err, tap.ErrGone) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, err
	}
	p.reg.mu.Lock()
	p.status.Node, p.status.Lock = dev.Node, dev.Lock
	p.reg.mu.Unlock()
	if err := tap.SetAlias(dev.Index, Mark(p.Record())); err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return &dev.Device, nil
}

// Attach puts p's device on the bridge with that ifindex, as cfg and the port's
// Spec say; where it is there already, it is brought to that.
func (p *Port) Attach(ctx context.Context, links Links, bridgeIndex int, cfg bridge.PortConfig) error {
	cfg = p.plugged(cfg)
	if p.Kind == Own {
		cfg.Alias = Mark(p.Record())
	}
	return links.Attach(ctx, bridgeIndex, p.Status().Index, cfg)
}

// MarkDevice has the device of a port of an older vnetd say what it is.
func (p *Port) MarkDevice(links Links) error {
	record := p.Record()
	l, err := links.LookupIndex(record.Index)
	if err == nil && l.Alias == "" {
		err = links.SetAlias(record.Index, Mark(record))
	}
	if errors.Is(err, bridge.ErrNotFound) {
		return nil
	}
	return err
}

// There reports whether the device of a port of vnetd's own still is there, and not one that
// is to go because nobody has it open. What can't be found out is taken to be so.
func There(links Links, p store.Port) bool {
	l, err := links.LookupIndex(p.Index)
	return (err == nil && l.Name == p.IfName || err != nil && !errors.Is(err, bridge.ErrNotFound)) && !closed(p)
}

// DeleteDevice deletes the TAP or macvtap device of a port, if that still is its own and vnetd
// made it.
func DeleteDevice(links Links, p store.Port) error {
	if p.Lifetime == api.LifetimeExternal {
		return nil
	}
	l, err := links.LookupIndex(p.Index)
	switch {
	case errors.Is(err, bridge.ErrNotFound):
		return nil
	case err == nil && l.Name == p.IfName:
		return links.DeleteLink(p.Index)
	}
	return err
}

// NewMAC makes up an address in the range of KVM guests that no port has, nor the
// bridge. With an ID it is always the same one, if that is free: a machine that comes
// back is known to DHCP by it.
func (r *Registry) NewMAC(networkUUID string, bridge net.HardwareAddr, o *Spec) net.HardwareAddr {
	mac := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0}
	if o.ID != "" {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %s", networkUUID, o.Owner, o.ID))
		copy(mac[3:], sum[:])
	} else {
		_, _ = rand.Read(mac[3:])
	}
	for r.MAC("", mac) != nil || bytes.Equal(mac, bridge) {
		_, _ = rand.Read(mac[3:])
	}
	return mac
}
