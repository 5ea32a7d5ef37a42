package network

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/store"
	"github.com/vnetd/vnetd/pkg/tap"
)

// LifetimeFD is the lifetime of a port that goes when the last copy of its file
// descriptors is closed.
const LifetimeFD = "fd"

// maxQueues is what the kernel gives one TAP device (MAX_TAP_QUEUES).
const maxQueues = 256

// PortOptions say what port is wanted.
type PortOptions struct {
	Name     string           // the guest's name, empty for none
	MAC      net.HardwareAddr // the guest's card; nil: one is made up
	IfName   string           // of the TAP device; empty: vnet0, vnet1, …
	Queues   int              // file descriptors, one a queue; 0 for one
	VnetHdr  bool             // frames carry a virtio_net header (IFF_VNET_HDR)
	Isolated bool             // no frames between this port and others that are isolated
	Lifetime string           // empty for LifetimeFD, the only one yet
	Owner    uint32           // uid of the caller
}

// PortInfo is what a port is at one moment.
type PortInfo struct {
	UUID     string    `json:"uuid"`
	Network  string    `json:"network"` // name
	Name     string    `json:"name"`
	MAC      string    `json:"mac"` // of the guest's card
	IfName   string    `json:"ifname"`
	Bridge   string    `json:"bridge"`
	MTU      int       `json:"mtu"`
	Lifetime string    `json:"lifetime"`
	Owner    uint32    `json:"owner"`
	Created  time.Time `json:"created"`
}

// port is one port. What it is doesn't change while it lives.
type port struct {
	store.Port
	network *Network
	gone    sync.Once // it ends once, by whoever comes first
}

// RequestPort makes a TAP device on the network's bridge, up and forwarding,
// and returns its open file descriptors: the caller hands them over and closes
// its own. An inactive network is started, if that is configured; otherwise the
// error is InvalidState.
func (n *Network) RequestPort(ctx context.Context, opts PortOptions) (PortInfo, []*os.File, error) {
	if err := opts.check(); err != nil {
		return PortInfo{}, nil, err
	}
	if err := n.begin(); err != nil {
		return PortInfo{}, nil, err
	}
	defer n.op.Unlock()
	live := n.liveNetwork()
	if live == nil {
		var err error
		if live, err = n.startOnDemand(ctx); err != nil {
			return PortInfo{}, nil, err
		}
	}
	if live == nil {
		return PortInfo{}, nil, Errorf(InvalidState, "network %q is not active: start it first", n.name)
	}
	if err := n.checkMAC(live, opts.MAC); err != nil {
		return PortInfo{}, nil, err
	}
	target, err := n.m.cfg.Links.Lookup(live.Bridge.Name)
	if err != nil {
		return PortInfo{}, nil, fmt.Errorf("looking for bridge %q: %w", live.Bridge.Name, err)
	}
	p, dev, err := n.plugIn(ctx, live, target, opts)
	if err != nil {
		return PortInfo{}, nil, err
	}
	info := n.m.portInfo(p)
	n.m.log.Info("port added", keyNetwork, n.name, keyPort, p.UUID, keyIfName, p.IfName, keyMAC, info.MAC, "owner", p.Owner)
	n.m.events.publish(Event{Kind: PortAdded, Network: n.Info(), Port: &info})
	return info, dev.Files, nil
}

// check refuses options that no port can have.
func (o PortOptions) check() error {
	switch {
	case o.Lifetime != "" && o.Lifetime != LifetimeFD:
		return Errorf(Unsupported, "option lifetime: %q is not available, only %q is", o.Lifetime, LifetimeFD)
	case o.Queues < 0 || o.Queues > maxQueues:
		return Errorf(Invalid, "option queues: %d is not a number of queues, want 1 to %d", o.Queues, maxQueues)
	case o.MAC != nil && (len(o.MAC) != 6 || o.MAC[0]&1 != 0 || bytes.Equal(o.MAC, make([]byte, 6))):
		return Errorf(Invalid, "option mac: %q is not the address of a card, want six bytes, not multicast, not all zero", o.MAC)
	case o.Name != "" && !hostLabel.MatchString(o.Name):
		return Errorf(Invalid, "option name: %.80q is not a host name, want 1 to 63 letters, digits and hyphens", o.Name)
	case o.IfName != "" && !validIfName(o.IfName):
		return Errorf(Invalid, "option ifname: %q is not an interface name, want 1 to 15 characters without blank, slash or colon", o.IfName)
	}
	return nil
}

// hostLabel is one label of a host name (RFC 1123 §2.1).
var hostLabel = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// checkMAC refuses an address that somebody on the network has already; two
// cards with one address cut each other off.
func (n *Network) checkMAC(live *netdef.Network, mac net.HardwareAddr) error {
	if mac == nil {
		return nil
	}
	if bytes.Equal(mac, live.MAC) {
		return Errorf(Conflict, "option mac: %q is the address of the bridge %q", mac, live.Bridge.Name)
	}
	for _, p := range n.m.portsOf(n) {
		if bytes.Equal(mac, p.MAC) {
			return Errorf(Conflict, "option mac: %q is the address of port %s (%s)", mac, p.UUID, p.IfName)
		}
	}
	return nil
}

// validIfName tells what the kernel takes for an interface's name
// (dev_valid_name in net/core/dev.c), but for %, which would make it a template.
func validIfName(name string) bool {
	return len(name) < 16 && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n\v\f\r%")
}

// plugIn makes the TAP device of a port, puts it on the bridge, and records it
// as the last step but before anyone else has its file descriptors. What it
// made is gone when it fails.
func (n *Network) plugIn(ctx context.Context, live *netdef.Network, target bridge.Link, opts PortOptions) (_ *port, _ *tap.Device, err error) {
	mac := opts.MAC
	if mac == nil {
		mac = n.m.freshMAC()
	}
	dev, err := tap.Create(tap.Config{
		Name: opts.IfName, MAC: tap.HostMAC(mac), MTU: target.MTU,
		Queues: opts.Queues, VnetHdr: opts.VnetHdr,
	})
	if errors.Is(err, tap.ErrExists) {
		return nil, nil, Errorf(Exists, "option ifname: an interface %q already exists", opts.IfName)
	}
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dev.Close())
		}
	}()
	p := &port{network: n, Port: store.Port{
		UUID: newUUID(), Network: live.UUID, Name: opts.Name, MAC: store.HexMAC(mac),
		IfName: dev.Name, Index: dev.Index, Isolated: opts.Isolated,
		Lifetime: LifetimeFD, Owner: opts.Owner, Created: time.Now().Truncate(time.Second),
	}}
	if err := n.m.attach(ctx, live, target.Index, p); err != nil {
		return nil, nil, err
	}
	if err := n.m.hookPort(ctx, hookPortCreated, live, p); err != nil {
		return nil, nil, err
	}
	if err := n.m.cfg.Store.SavePort(p.Port); err != nil {
		return nil, nil, err
	}
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	n.m.ports[p.UUID] = p
	return p, dev, nil
}

// attach puts a port's TAP device on the bridge with that ifindex, as a network
// that is live has its ports; where it is there already, it is brought to that.
func (m *Manager) attach(ctx context.Context, live *netdef.Network, bridgeIndex int, p *port) error {
	if err := m.cfg.Links.Attach(ctx, bridgeIndex, p.Index, portConfig(live, p.Isolated)); err != nil {
		return err
	}
	if managesMACs(live) {
		return m.cfg.Links.AddFDB(p.Index, net.HardwareAddr(p.MAC))
	}
	return nil
}

// freshMAC makes up an address in the range of KVM guests that no port has.
func (m *Manager) freshMAC() net.HardwareAddr {
	for {
		mac := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0}
		_, _ = rand.Read(mac[3:])
		taken := m.findPort(func(p *port) bool { return net.HardwareAddr(p.MAC).String() == mac.String() })
		if taken == nil {
			return mac
		}
	}
}

// newUUID makes a random UUID (RFC 9562 §5.4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Ports lists the ports of every network, in order of their creation.
func (m *Manager) Ports() []PortInfo {
	return m.portInfos(func(*port) bool { return true })
}

// Ports lists the network's ports, in order of their creation.
func (n *Network) Ports() []PortInfo {
	return n.m.portInfos(func(p *port) bool { return p.network == n })
}

// portInfos tells what the ports that match are now, in order of their creation.
func (m *Manager) portInfos(match func(*port) bool) []PortInfo {
	ports := m.selectPorts(match)
	slices.SortFunc(ports, func(a, b *port) int { return a.Index - b.Index })
	infos := make([]PortInfo, len(ports))
	for i, p := range ports {
		infos[i] = m.portInfo(p)
	}
	return infos
}

// Port finds a port by its UUID, in any case, or by its interface's name.
func (m *Manager) Port(key string) (PortInfo, error) {
	p := m.findPort(func(p *port) bool { return strings.EqualFold(p.UUID, key) || p.IfName == key })
	if p == nil {
		return PortInfo{}, Errorf(NotFound, "no port %q is known here", key)
	}
	return m.portInfo(p), nil
}

// ReleasePort ends the port with that UUID: its TAP device is deleted, whoever
// still has it open.
func (m *Manager) ReleasePort(_ context.Context, uuid string) error {
	p := m.findPort(func(p *port) bool { return strings.EqualFold(p.UUID, uuid) })
	if p == nil {
		return Errorf(NotFound, "no port %q is known here", uuid)
	}
	return m.end(p)
}

// end deletes a port and its TAP device, and tells, unless that has been done.
func (m *Manager) end(p *port) (err error) {
	p.gone.Do(func() {
		info := m.portInfo(p)
		m.mu.Lock()
		delete(m.ports, p.UUID)
		m.mu.Unlock()
		err = m.clearPort(p.Port)
		if live := p.network.liveNetwork(); live != nil {
			if err := m.hookPort(context.Background(), hookPortDeleted, live, p); err != nil {
				m.log.Warn("the port is gone all the same", keyPort, p.UUID, keyError, err)
			}
		}
		m.log.Info("port removed", keyNetwork, p.network.name, keyPort, p.UUID, keyIfName, p.IfName)
		m.events.publish(Event{Kind: PortRemoved, Network: p.network.Info(), Port: &info})
	})
	return err
}

// clearPort deletes a port's TAP device, if that still is its own, and then
// its record.
func (m *Manager) clearPort(p store.Port) error {
	l, err := m.cfg.Links.LookupIndex(p.Index)
	switch {
	case errors.Is(err, bridge.ErrNotFound):
	case err != nil:
		return err
	case l.Name == p.IfName:
		if err := m.cfg.Links.DeleteLink(p.Index); err != nil {
			return err
		}
	}
	return m.cfg.Store.DeletePort(p.UUID)
}

// loadPorts takes over the ports that a former vnetd made: those whose TAP
// device still is there and whose network is. The rest ended while no vnetd was
// running.
func (m *Manager) loadPorts(ports []store.Port, runs []store.Run) {
	docs := make(map[string]*netdef.Network) // by UUID
	for _, r := range runs {
		docs[r.Network.UUID] = r.Network
	}
	for _, d := range m.definitions(nil) {
		docs[d.UUID] = d
	}
	for _, p := range ports {
		l, err := m.cfg.Links.LookupIndex(p.Index)
		doc, known := docs[p.Network]
		if err != nil || l.Name != p.IfName || !known {
			if err := m.clearPort(p); err != nil {
				m.log.Error("clearing a port that has ended", keyPort, p.UUID, keyError, err)
			}
			continue
		}
		n := m.ensureNetwork(doc)
		m.mu.Lock()
		m.ports[p.UUID] = &port{Port: p, network: n}
		m.mu.Unlock()
	}
}

// replug puts every port of n on the bridge with that ifindex, as live has its
// ports, wherever they are now. The caller holds n.op.
func (m *Manager) replug(ctx context.Context, n *Network, live *netdef.Network, bridgeIndex int) error {
	var errs []error
	for _, p := range m.portsOf(n) {
		_, err := m.cfg.Links.LookupIndex(p.Index)
		switch {
		case errors.Is(err, bridge.ErrNotFound):
			err = m.end(p)
		case err == nil:
			err = m.attach(ctx, live, bridgeIndex, p)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// unplug takes every port of n off its bridge. The ports live on, without
// traffic, for as long as they are open.
func (m *Manager) unplug(n *Network) error {
	var errs []error
	for _, p := range m.portsOf(n) {
		err := m.cfg.Links.Detach(p.Index)
		if errors.Is(err, bridge.ErrNotFound) {
			err = m.end(p)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// releaseAll ends every port of n.
func (m *Manager) releaseAll(n *Network) error {
	var errs []error
	for _, p := range m.portsOf(n) {
		errs = append(errs, m.end(p))
	}
	return errors.Join(errs...)
}

// portsOf lists n's ports.
func (m *Manager) portsOf(n *Network) []*port {
	return m.selectPorts(func(p *port) bool { return p.network == n })
}

// selectPorts lists the ports that match, in no order.
func (m *Manager) selectPorts(match func(*port) bool) []*port {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ports []*port
	for _, p := range m.ports {
		if match(p) {
			ports = append(ports, p)
		}
	}
	return ports
}

// nameOf is the name of the port on n whose guest has that MAC address, empty
// for none.
func (m *Manager) nameOf(n *Network, mac net.HardwareAddr) string {
	p := m.findPort(func(p *port) bool { return p.network == n && bytes.Equal(p.MAC, mac) })
	if p == nil {
		return ""
	}
	return p.Name
}

// countPorts tells how many ports n has.
func (m *Manager) countPorts(n *Network) int { return len(m.portsOf(n)) }

// findPort returns a port that matches, nil when none does.
func (m *Manager) findPort(match func(*port) bool) *port {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.ports {
		if match(p) {
			return p
		}
	}
	return nil
}

// portInfo tells what p is now.
func (m *Manager) portInfo(p *port) PortInfo {
	is := p.network.Info()
	info := PortInfo{
		UUID: p.UUID, Network: p.network.name, Name: p.Name, MAC: net.HardwareAddr(p.MAC).String(),
		IfName: p.IfName, Bridge: is.Bridge, Lifetime: p.Lifetime, Owner: p.Owner, Created: p.Created,
	}
	if l, err := m.cfg.Links.LookupIndex(p.Index); err == nil {
		info.MTU = l.MTU
	}
	return info
}
