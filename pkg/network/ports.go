package network

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/store"
	"github.com/vnetd/vnetd/pkg/tap"
)

// RequestPort makes a TAP device on the network's bridge, up and forwarding,
// and returns its open file descriptors: the caller hands them over and closes
// its own. An inactive network is started, if that is configured; otherwise the
// error is InvalidState. With the ID of a port that the owner has, it is that
// port, opened anew; Exists where it is not what the options say, Busy while
// somebody has it open.
func (n *Network) RequestPort(ctx context.Context, opts PortOptions) (api.Port, []*os.File, error) {
	begin := time.Now()
	if err := opts.check(); err != nil {
		return api.Port{}, nil, err
	}
	opts.Lifetime = cmp.Or(opts.Lifetime, api.LifetimeFD)
	if err := n.begin(); err != nil {
		return api.Port{}, nil, err
	}
	defer n.op.Unlock()
	live, err := n.activeFor(ctx)
	if err != nil {
		return api.Port{}, nil, err
	}
	p, dev, err := n.sameAgain(opts)
	if p == nil && err == nil {
		p, dev, err = n.addPort(ctx, live, opts)
	}
	if err != nil {
		return api.Port{}, nil, err
	}
	n.m.portRequests.Add(time.Since(begin), 1)
	return n.m.portInfo(p), dev.Files, nil
}

// activeFor is the document of the network, which somebody wants a port of. The
// caller holds n.op.
func (n *Network) activeFor(ctx context.Context) (*netdef.Network, error) {
	if live := n.liveNetwork(); live != nil {
		return live, nil
	}
	live, err := n.startOnDemand(ctx)
	if live == nil && err == nil {
		err = api.Errorf(api.InvalidState, "network %q is not active: start it first", n.name)
	}
	return live, err
}

// sameAgain opens the port that the owner has under the ID of opts; nil when
// there is none.
func (n *Network) sameAgain(opts PortOptions) (*port, *tap.Device, error) {
	if opts.ID == "" {
		return nil, nil, nil
	}
	p := n.m.ports.id(opts.Owner, opts.ID)
	if p == nil {
		return nil, nil, nil
	}
	if p.network != n {
		return nil, nil, api.Errorf(api.Exists, "option id: port %q is there already, on network %q", opts.ID, p.network.name)
	}
	if option := opts.differs(p); option != "" {
		return nil, nil, api.Errorf(api.Exists, "option id: port %q is there already, with another %s", opts.ID, option)
	}
	l, err := n.m.cfg.Links.LookupIndex(p.Index)
	if errors.Is(err, bridge.ErrNotFound) {
		return nil, nil, n.m.end(p) // nobody noticed yet
	}
	if err != nil {
		return nil, nil, err
	}
	busy := api.Errorf(api.Busy, "option id: port %q is there already, and somebody has %s open", opts.ID, p.IfName)
	if l.Carrier {
		return nil, nil, busy
	}
	dev, err := tap.Reopen(tap.Config{Name: p.IfName, Queues: p.Queues, VnetHdr: p.VnetHdr}, p.Index)
	switch {
	case errors.Is(err, tap.ErrGone):
		return nil, nil, n.m.end(p)
	case errors.Is(err, tap.ErrBusy):
		return nil, nil, busy
	case err != nil:
		return nil, nil, err
	}
	if p.Lifetime == api.LifetimeBus {
		n.m.ports.hold(p, opts.Holder)
		err = n.m.cfg.Store.SavePort(n.m.ports.record(p))
	}
	if err != nil {
		return nil, nil, errors.Join(err, dev.Close())
	}
	return p, dev, nil
}

// addPort makes a port, and tells. The caller holds n.op.
func (n *Network) addPort(ctx context.Context, live *netdef.Network, opts PortOptions) (_ *port, _ *tap.Device, err error) {
	if err := n.portConflict(live, &opts); err != nil {
		return nil, nil, err
	}
	if err := n.m.ports.admit(&opts, n.m.cfg.Limits); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			n.m.ports.dismiss(&opts)
		}
	}()
	madeUp := opts.MAC == nil
	if madeUp {
		opts.MAC = n.m.newMAC(live, &opts)
	}
	guest := store.Port{Name: opts.Name, MAC: opts.MAC, Addrs: opts.Addrs}
	if err := n.expect(live, guest); err != nil {
		return nil, nil, err
	}
	p, dev, err := n.plugIn(ctx, live, opts, madeUp)
	if err != nil {
		n.runningServices().Withdraw(guestOf(guest))
		return nil, nil, err
	}
	info := n.m.portInfo(p)
	n.m.log.Info("port added", keyNetwork, n.name, keyPort, p.UUID, keyIfName, p.IfName, keyMAC, info.MAC, "owner", p.Owner, "lifetime", p.Lifetime)
	n.m.events.publish(Event{Kind: PortAdded, Network: n.Info(), Port: &info})
	return p, dev, nil
}

// portConflict refuses a MAC address that somebody on the network has already,
// since two cards with one address cut each other off, and the name of somebody
// else's guest.
func (n *Network) portConflict(live *netdef.Network, opts *PortOptions) error {
	if bytes.Equal(opts.MAC, live.MAC) && opts.MAC != nil {
		return api.Errorf(api.Conflict, "option mac: %q is the address of the bridge %q", opts.MAC, live.Bridge.Name)
	}
	if p := n.m.ports.mac(n, opts.MAC); p != nil {
		return api.Errorf(api.Conflict, "option mac: %q is the address of port %s (%s)", opts.MAC, p.UUID, p.IfName)
	}
	if x := n.m.external.mac(n, opts.MAC); x != nil {
		return api.Errorf(api.Conflict, "option mac: %q is the address of port %s", opts.MAC, n.m.external.portName(x).UUID)
	}
	if opts.Name == "" {
		return nil
	}
	if p := n.m.ports.named(n, opts.Name, opts.Owner); p != nil {
		return api.Errorf(api.Conflict, "option name: %q is the name of port %s (%s), which belongs to user %d", opts.Name, p.UUID, p.IfName, p.Owner)
	}
	if x := n.m.external.named(n, opts.Name, opts.Owner); x != nil {
		return api.Errorf(api.Conflict, "option name: %q is the name of port %s, which belongs to user %d", opts.Name, n.m.external.portName(x).UUID, x.owner)
	}
	return nil
}

// plugIn makes the TAP device of a port, puts it on the bridge, and records it
// as the last step but before anyone else has its file descriptors. What it
// made is gone when it fails.
func (n *Network) plugIn(ctx context.Context, live *netdef.Network, opts PortOptions, madeUp bool) (_ *port, _ *tap.Device, err error) {
	target, err := n.m.cfg.Links.Lookup(live.Bridge.Name)
	if err != nil {
		return nil, nil, fmt.Errorf("looking for bridge %q: %w", live.Bridge.Name, err)
	}
	record := store.Port{
		UUID: ether.RandomUUID(), Network: live.UUID, Name: opts.Name, MAC: opts.MAC, Addrs: opts.Addrs,
		Queues: opts.Queues, VnetHdr: opts.VnetHdr, Isolated: opts.Isolated,
		Lifetime: opts.Lifetime, Owner: opts.Owner, OwnerUUID: opts.OwnerUUID, ID: opts.ID, Holder: opts.Holder,
		MadeUp: madeUp, Created: time.Now().Truncate(time.Second),
	}
	dev, err := tap.Create(tap.Config{
		Name: opts.IfName, MAC: tap.HostMAC(opts.MAC), MTU: target.MTU, Alias: markOfPort(record),
		Queues: opts.Queues, VnetHdr: opts.VnetHdr, Owner: opts.Owner,
	})
	if errors.Is(err, tap.ErrExists) {
		return nil, nil, api.Errorf(api.Exists, "option ifname: an interface %q already exists", opts.IfName)
	}
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dev.Close())
		}
	}()
	record.IfName, record.Index = dev.Name, dev.Index
	p := newPort(n, record)
	if err := n.m.attach(ctx, live, target.Index, p); err != nil {
		return nil, nil, err
	}
	if err := n.m.hookPort(ctx, hookPortCreated, live, p); err != nil {
		return nil, nil, err
	}
	if err := n.m.cfg.Store.SavePort(p.Port); err != nil {
		return nil, nil, err
	}
	// Not before it is recorded: a crash must not leave a device that stays.
	if p.Lifetime != api.LifetimeFD {
		if err := dev.Persist(); err != nil {
			return nil, nil, errors.Join(err, n.m.cfg.Store.DeletePort(p.UUID))
		}
	}
	n.m.ports.add(p)
	return p, dev, nil
}

// newMAC makes up an address in the range of KVM guests that no port has. With an
// ID it is always the same one, if that is free: a machine that comes back is
// known to DHCP by it.
func (m *Manager) newMAC(live *netdef.Network, opts *PortOptions) net.HardwareAddr {
	mac := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0}
	if opts.ID != "" {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %s", live.UUID, opts.Owner, opts.ID))
		copy(mac[3:], sum[:])
	} else {
		_, _ = rand.Read(mac[3:])
	}
	for m.ports.mac(nil, mac) != nil || m.external.mac(nil, mac) != nil || bytes.Equal(mac, live.MAC) {
		_, _ = rand.Read(mac[3:])
	}
	return mac
}

// Ports lists the ports of every network: those that vnetd made in order of their
// creation, then those that other programs registered, then those whose network is not
// known, which is named "".
func (m *Manager) Ports() []api.Port {
	infos := m.portInfos(m.ports.all(), m.external.list(nil))
	for _, p := range m.orphans.list() {
		infos = append(infos, m.orphanInfo(p))
	}
	return infos
}

// Ports lists the network's ports, as Manager.Ports does.
func (n *Network) Ports() []api.Port {
	return n.m.portInfos(n.m.ports.of(n), n.m.external.list(n))
}

// portInfos tells what the ports are now.
func (m *Manager) portInfos(ports []*port, others []*external) []api.Port {
	infos := make([]api.Port, 0, len(ports)+len(others))
	for _, p := range ports {
		infos = append(infos, m.portInfo(p))
	}
	for _, x := range others {
		infos = append(infos, m.externalInfo(x))
	}
	return infos
}

// Port finds a port by its UUID, in any case, or by its interface's name.
func (m *Manager) Port(key string) (api.Port, error) {
	p := cmp.Or(m.ports.uuid(strings.ToLower(key)), m.ports.ifname(key))
	if p == nil {
		for _, x := range m.external.list(nil) {
			if info := m.externalInfo(x); strings.EqualFold(info.UUID, key) || info.IfName == key {
				return info, nil
			}
		}
		if p, ok := m.orphans.port(key); ok {
			return m.orphanInfo(p), nil
		}
		return api.Port{}, api.Errorf(api.NotFound, "no port %q is known here", key)
	}
	return m.portInfo(p), nil
}

// WaitForAddress waits until the guest of the port with that UUID has an address
// leased, and lists what it has. The error is NotFound when the port ends, and
// ctx's when that ends first.
func (m *Manager) WaitForAddress(ctx context.Context, uuid string) ([]netip.Addr, error) {
	for {
		held, news := m.external.addresses(strings.ToLower(uuid))
		if p := m.ports.uuid(strings.ToLower(uuid)); p != nil {
			if held, news = m.ports.addresses(p); m.ports.uuid(p.UUID) != p { // news is of nobody's interest
				continue
			}
		}
		switch {
		case news == nil:
			return nil, api.Errorf(api.NotFound, "no port %q is known here", uuid)
		case len(held) > 0:
			return held, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-news:
		}
	}
}

// Holders lists who holds ports of LifetimeBus.
func (m *Manager) Holders() []string { return m.ports.holders() }

// HolderGone ends the ports that a holder has.
func (m *Manager) HolderGone(holder string) {
	for _, p := range m.ports.heldBy(holder) {
		m.endLogged(p)
	}
}

// ReleasePort ends the port with that UUID: its TAP device is deleted, whoever
// still has it open; not so that of a port which another program registered.
func (m *Manager) ReleasePort(_ context.Context, uuid string) error {
	if x := m.external.uuid(strings.ToLower(uuid)); x != nil {
		return m.endExternal(x)
	}
	p := m.ports.uuid(strings.ToLower(uuid))
	if p == nil {
		if orphan, ok := m.orphans.port(uuid); ok {
			return m.endOrphan(orphan)
		}
		return api.Errorf(api.NotFound, "no port %q is known here", uuid)
	}
	return m.end(p)
}

// end deletes a port and its TAP device, and tells, unless that has been done.
// Its guest is gone: so are its leases, its reservation and its name. A port that can't
// be deleted stays in the books and is tried again.
func (m *Manager) end(p *port) error {
	p.ending.Lock()
	defer p.ending.Unlock()
	if m.ports.uuid(p.UUID) != p {
		return nil
	}
	info := m.portInfo(p)
	err := m.clearPort(p.Port)
	m.ports.fail(p, err)
	if err != nil {
		m.endAgain(p)
		return err
	}
	m.ports.remove(p)
	held, _ := m.ports.addresses(p)
	p.network.runningServices().Dismiss(guestOf(m.ports.record(p)), held)
	if live := p.network.liveNetwork(); live != nil {
		if err := m.hookPort(context.Background(), hookPortDeleted, live, p); err != nil {
			m.log.Warn("the port is gone all the same", keyPort, p.UUID, keyError, err)
		}
	}
	m.log.Info("port removed", keyNetwork, p.network.name, keyPort, p.UUID, keyIfName, p.IfName)
	m.events.publish(Event{Kind: PortRemoved, Network: p.network.Info(), Port: &info})
	return nil
}

func (m *Manager) endLogged(p *port) {
	if err := m.end(p); err != nil {
		m.log.Error("ending a port", keyPort, p.UUID, keyError, err)
	}
}

// releaseAll ends every port of n.
func (m *Manager) releaseAll(n *Network) error {
	var errs []error
	for _, p := range m.ports.of(n) {
		errs = append(errs, m.end(p))
	}
	for _, x := range m.external.list(n) {
		errs = append(errs, m.endExternal(x))
	}
	return errors.Join(errs...)
}

// portInfo tells what p is now.
func (m *Manager) portInfo(p *port) api.Port {
	held, _ := m.ports.addresses(p)
	info := api.Port{
		UUID: p.UUID, Network: p.network.name, Name: p.Name, MAC: m.ports.card(p).String(),
		IfName: p.IfName, Bridge: p.network.bridgeName(),
		Addresses: append([]netip.Addr{}, held...), Reserved: append([]netip.Addr{}, p.Addrs...),
		Queues: p.Queues, VnetHdr: p.VnetHdr, Isolated: p.Isolated,
		Lifetime: api.Lifetime(p.Lifetime), Owner: p.Owner, OwnerUUID: p.OwnerUUID, ID: p.ID, Created: p.Created,
	}
	if l, err := m.cfg.Links.LookupIndex(p.Index); err == nil {
		info.MTU = l.MTU
	}
	return info
}
