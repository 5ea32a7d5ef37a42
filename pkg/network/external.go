package network

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/store"
	"github.com/vnetd/vnetd/pkg/tap"
)

// externalGrace is how long after its device a port stays: whoever took the
// device away says next that the port ends, unless that program is gone as well.
const externalGrace = 10 * time.Second

// external is a port of LifetimeExternal.
type external struct {
	network *Network
	created time.Time
	owner   uint32     // the uid of who registered it
	ending  sync.Mutex // held by who ends it

	// guarded by externalSet.mu
	doc    *netdef.Port  // never changed: replaced
	ifname string        // of the device, empty until it is seen
	link   int           // its ifindex, 0 until it is seen
	held   []netip.Addr  // leased to its guest, in order
	news   chan struct{} // closed and made anew when held changes, and at its end
}

// externalSet is every port of LifetimeExternal, by UUID.
type externalSet struct {
	usage *portSet // which counts what each owner has

	mu     sync.Mutex
	byUUID map[string]*external
}

func (s *externalSet) uuid(uuid string) *external {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byUUID[uuid]
}

// list is those of one network, or of all for nil, in order of their creation.
func (s *externalSet) list(n *Network) []*external {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*external
	for _, x := range s.byUUID {
		if n == nil || x.network == n {
			list = append(list, x)
		}
	}
	slices.SortFunc(list, func(a, b *external) int {
		return cmp.Or(a.created.Compare(b.created), strings.Compare(a.doc.UUID, b.doc.UUID))
	})
	return list
}

// record is x as it is stored.
func (s *externalSet) record(x *external) store.Port {
	s.mu.Lock()
	defer s.mu.Unlock()
	return store.Port{
		UUID: x.doc.UUID, Network: x.network.uuid(), Name: x.doc.Owner.Name, MAC: x.doc.MAC,
		IfName: x.ifname, Index: x.link, Isolated: x.doc.Isolated == netdef.Yes, Lifetime: api.LifetimeExternal,
		Owner: x.owner, OwnerUUID: x.doc.Owner.UUID, Created: x.created, Document: string(x.doc.XML()),
	}
}

// uuid is the network's.
func (n *Network) uuid() string { return n.Info().UUID }

// RegisterPort records a port whose device another program makes, which runs as
// owner, and returns its document with all that the network adds to it, the plug
// above all. With reclaim the device is there already and the document says what it
// is plugged into. Errors are InvalidState for an inactive network, Exists for a UUID
// that is taken, LimitExceeded where the owner may have no more, and Invalid or
// Unsupported for what the port can't have.
func (n *Network) RegisterPort(ctx context.Context, doc *netdef.Port, reclaim bool, owner uint32) (*netdef.Port, error) {
	begin := time.Now()
	if err := n.begin(); err != nil {
		return nil, err
	}
	defer n.op.Unlock()
	live := n.liveNetwork()
	if live == nil {
		return nil, api.Errorf(api.InvalidState, "network '%s' is not active", n.name)
	}
	full, err := portOn(live, doc, reclaim)
	if err != nil {
		return nil, err
	}
	x := newExternal(n, full, begin, owner)
	if err := n.m.external.add(x, n.m.cfg.Limits); err != nil {
		return nil, err
	}
	err = n.m.runHook(ctx, hookPortCreated, live, full)
	if err == nil {
		err = n.m.cfg.Store.SavePort(n.m.external.record(x))
	}
	if err != nil {
		n.m.external.remove(x)
		return nil, err
	}
	n.m.findDevices(n)
	n.m.log.Info("port registered", keyNetwork, n.name, keyPort, full.UUID, keyMAC, full.MAC.String(), "owner", full.Owner.Name)
	leases, _ := n.runningServices().Leases()
	for _, l := range leases {
		n.m.external.lease(n, l.MAC, l.Addr, true)
	}
	n.m.portRequests.Add(time.Since(begin), 1)
	n.m.publishPort(PortAdded, x)
	return full, nil
}

// newExternal is a port on n that owner registered then; its document is whole.
func newExternal(n *Network, doc *netdef.Port, then time.Time, owner uint32) *external {
	return &external{network: n, doc: doc, created: then.Truncate(time.Second), owner: owner, news: make(chan struct{})}
}

// add adds x, and counts it as its owner's. The error is Exists where its UUID is
// taken, LimitExceeded where the owner has as many as limits allow.
func (s *externalSet) add(x *external, limits Limits) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byUUID[x.doc.UUID] != nil || s.usage.uuid(x.doc.UUID) != nil {
		return api.Errorf(api.Exists, "network port %s exists already", x.doc.UUID)
	}
	if err := s.usage.admit(&PortOptions{Owner: x.owner}, limits); err != nil {
		return err
	}
	s.byUUID[x.doc.UUID] = x
	return nil
}

// remove tells whether x was there.
func (s *externalSet) remove(x *external) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.byUUID[x.doc.UUID] == x
	if was {
		delete(s.byUUID, x.doc.UUID)
		s.usage.dismiss(&PortOptions{Owner: x.owner})
		x.tell()
	}
	return was
}

// portOn is doc as a port of a network that is live: networkAllocatePort and
// networkNotifyPort of libvirt.
func portOn(live *netdef.Network, doc *netdef.Port, reclaim bool) (*netdef.Port, error) {
	full := *doc
	switch {
	case reclaim && full.Plug == nil:
		return nil, api.Errorf(api.Invalid, "port '%s' has no plug type and can't be reclaimed", full.UUID)
	case !reclaim && full.Plug != nil:
		return nil, api.Errorf(api.Invalid, "port '%s' has a plug, which the network is to say", full.UUID)
	}
	group := portGroup(live, full.Group)
	full.Bandwidth = cmp.Or(full.Bandwidth, group.Bandwidth)
	full.VirtualPort = cmp.Or(full.VirtualPort, group.VirtualPort)
	full.VLAN = cmp.Or(full.VLAN, group.VLAN, live.VLAN)
	full.Isolated = cmp.Or(full.Isolated, live.Isolated)
	full.TrustGuestRxFilters = cmp.Or(full.TrustGuestRxFilters, group.TrustGuestRxFilters, live.TrustGuestRxFilters)
	plug := &netdef.Plug{Type: netdef.PlugBridge, Bridge: live.Bridge.Name, MACTableManager: live.Bridge.MACTableManager}
	if live.Mode().OwnsBridge() {
		plug.Type = netdef.PlugNetwork
	}
	if reclaim && (full.Plug.Type != plug.Type || full.Plug.Bridge != plug.Bridge) {
		return nil, api.Errorf(api.Invalid, "port '%s' is not plugged into bridge '%s' of network '%s'", full.UUID, plug.Bridge, live.Name)
	}
	full.Plug = plug
	if full.VLAN != nil {
		return nil, api.Errorf(api.Unsupported, "an interface connecting to network '%s' is requesting a vlan tag, but that is not supported for this type of network", live.Name)
	}
	if err := checkVirtualPort(live, &full); err != nil && !reclaim {
		return nil, err
	}
	return &full, checkFloor(live, &full)
}

// checkVirtualPort refuses a port profile that the network's ports can't have.
func checkVirtualPort(live *netdef.Network, p *netdef.Port) error {
	v := p.VirtualPort
	switch {
	case v == nil:
		return nil
	case live.Mode().OwnsBridge():
		return api.Errorf(api.Unsupported, "<virtualport type='%s'> not supported for network '%s' which uses IP forwarding", v.Type, live.Name)
	case v.Type != "openvswitch":
		return api.Errorf(api.Unsupported, "<virtualport type='%s'> not supported for network '%s' which uses a bridge device", v.Type, live.Name)
	}
	return nil
}

// portGroup is the group of that name; for none, and for one that the network has
// not, the one that is marked as default, and else an empty one.
func portGroup(live *netdef.Network, name string) netdef.PortGroup {
	for _, g := range live.PortGroups {
		if g.Name == name && name != "" || g.Default && name == "" {
			return g
		}
	}
	return netdef.PortGroup{}
}

// ErrFloor is in the error of a port with a guarantee that nothing on its network
// can keep.
var ErrFloor = errors.New("invalid use of 'floor'")

// checkFloor refuses a guarantee that nothing on the network can keep.
func checkFloor(live *netdef.Network, p *netdef.Port) error {
	b := p.Bandwidth
	switch {
	case b == nil || b.Inbound == nil || b.Inbound.Floor == 0:
		return nil
	case !live.Mode().OwnsBridge():
		return api.Errorf(api.Unsupported, "%w on interface with MAC address %s - 'floor' is only supported for interface type 'network' with forward type 'nat', 'route', 'open' or none", ErrFloor, p.MAC)
	case live.Bandwidth == nil || live.Bandwidth.Inbound == nil:
		return api.Errorf(api.Unsupported, "%w on interface with MAC address %s - network '%s' has no inbound QoS set", ErrFloor, p.MAC, live.Name)
	}
	return nil
}

// PortDocuments describes the network's ports as libvirt does: those that other
// programs registered, and those that vnetd made.
func (n *Network) PortDocuments() []*netdef.Port {
	var docs []*netdef.Port
	for _, x := range n.m.external.list(n) {
		docs = append(docs, n.m.external.document(x))
	}
	for _, p := range n.m.ports.of(n) {
		docs = append(docs, p.document(n.bridgeName()))
	}
	return docs
}

func (s *externalSet) document(x *external) *netdef.Port {
	s.mu.Lock()
	defer s.mu.Unlock()
	return x.doc
}

// portName is what tells x from other ports.
func (s *externalSet) portName(x *external) PortName {
	s.mu.Lock()
	defer s.mu.Unlock()
	return PortName{x.doc.UUID, x.doc.Owner.Name, x.doc.MAC.String(), x.ifname}
}

// document describes a port that vnetd made. libvirt's form wants an owner: where
// there is none, the port stands for itself.
func (p *port) document(bridgeName string) *netdef.Port {
	doc := &netdef.Port{
		UUID: p.UUID, MAC: p.network.m.ports.card(p),
		Owner: netdef.Owner{Name: cmp.Or(p.Name, p.IfName), UUID: cmp.Or(strings.ToLower(p.OwnerUUID), p.UUID)},
		Plug:  &netdef.Plug{Type: netdef.PlugNetwork, Bridge: bridgeName},
	}
	if p.Isolated {
		doc.Isolated = netdef.Yes
	}
	return doc
}

// SetPortBandwidth makes b the limits of a port that another program registered,
// and whose device that program limits. Nil is no limit. The error is NotFound for
// a port that is not there, Unsupported for one of vnetd's own.
func (n *Network) SetPortBandwidth(_ context.Context, uuid string, b *netdef.Bandwidth) error {
	if err := n.begin(); err != nil {
		return err
	}
	defer n.op.Unlock()
	x := n.m.external.uuid(uuid)
	if x == nil || x.network != n {
		if p := n.m.ports.uuid(uuid); p != nil && p.network == n {
			return api.Errorf(api.Unsupported, "port %s is vnetd's own: it has no limits", uuid)
		}
		return api.Errorf(api.NotFound, "no port %q is known here", uuid)
	}
	former := n.m.external.document(x)
	next := *former
	next.Bandwidth = b
	if live := n.liveNetwork(); live != nil {
		if err := checkFloor(live, &next); err != nil {
			return err
		}
	}
	n.m.external.replace(x, &next)
	if err := n.m.cfg.Store.SavePort(n.m.external.record(x)); err != nil {
		n.m.external.replace(x, former)
		return err
	}
	return nil
}

func (s *externalSet) replace(x *external, doc *netdef.Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.doc = doc
}

// endExternal forgets a port; its device is not ours to delete. One whose record can't
// be deleted stays.
func (m *Manager) endExternal(x *external) error {
	x.ending.Lock()
	defer x.ending.Unlock()
	info := m.externalInfo(x)
	if m.external.uuid(info.UUID) != x {
		return nil
	}
	if err := m.cfg.Store.DeletePort(info.UUID); err != nil {
		return err
	}
	m.external.remove(x)
	if live := x.network.liveNetwork(); live != nil {
		if err := m.runHook(context.Background(), hookPortDeleted, live, m.external.document(x)); err != nil {
			m.log.Warn("the port is gone all the same", keyPort, info.UUID, keyError, err)
		}
	}
	m.log.Info("port ended", keyNetwork, x.network.name, keyPort, info.UUID, keyIfName, info.IfName)
	m.events.publish(Event{Kind: PortRemoved, Network: x.network.Info(), Port: &info})
	return nil
}

// externalInfo tells what x is now.
func (m *Manager) externalInfo(x *external) api.Port {
	m.external.mu.Lock()
	doc, ifname, index, held := x.doc, x.ifname, x.link, slices.Clone(x.held)
	m.external.mu.Unlock()
	info := api.Port{
		UUID: doc.UUID, Network: x.network.name, Name: doc.Owner.Name, MAC: doc.MAC.String(), IfName: ifname,
		Bridge: doc.Plug.Bridge, Addresses: append([]netip.Addr{}, held...), Reserved: []netip.Addr{},
		Isolated: doc.Isolated == netdef.Yes, Lifetime: api.LifetimeExternal, Owner: x.owner, OwnerUUID: doc.Owner.UUID, Created: x.created,
	}
	if l, err := m.cfg.Links.LookupIndex(index); err == nil {
		info.MTU = l.MTU
	}
	return info
}

func (m *Manager) publishPort(kind EventKind, x *external) {
	info := m.externalInfo(x)
	m.events.publish(Event{Kind: kind, Network: x.network.Info(), Port: &info})
}

// loadExternal takes over a port that another program had registered with a
// former vnetd.
func (m *Manager) loadExternal(n *Network, p store.Port) error {
	doc, err := netdef.ParsePort([]byte(p.Document))
	if err != nil {
		return fmt.Errorf("reading port %s: %w", p.UUID, err)
	}
	if doc.Plug == nil {
		return fmt.Errorf("reading port %s: it is plugged into nothing", p.UUID)
	}
	x := newExternal(n, doc, p.Created, p.Owner)
	x.ifname, x.link = p.IfName, p.Index
	return m.external.add(x, Limits{})
}

// findDevices looks on n's bridge for the devices of ports that other programs
// registered, and for what others plugged in without a word.
func (m *Manager) findDevices(n *Network) {
	index := n.bridgeIndex()
	if index == 0 {
		return
	}
	links, err := m.cfg.Links.Members(index)
	if err != nil {
		m.log.Error("looking for what is plugged in", keyNetwork, n.name, keyError, err)
	}
	for _, l := range links {
		if m.ports.index(l.Index) == nil && foreignTAP(l) {
			m.noteForeign(bridge.LinkEvent{Link: l})
			m.onExternalLink(bridge.LinkEvent{Link: l})
		}
	}
}

// resyncExternal looks for every device anew, after events were missed.
func (m *Manager) resyncExternal() {
	for _, n := range m.all() {
		m.findDevices(n)
	}
	for _, x := range m.external.list(nil) {
		m.external.mu.Lock()
		index := x.link
		m.external.mu.Unlock()
		if _, err := m.cfg.Links.LookupIndex(index); index != 0 && errors.Is(err, bridge.ErrNotFound) {
			m.endLater(x, index)
		}
	}
}

// onExternalLink follows the devices of ports that other programs registered: one
// is on the network's bridge and has the guest's address, as libvirt makes it.
func (m *Manager) onExternalLink(e bridge.LinkEvent) {
	for _, x := range m.external.list(nil) {
		on := x.network.bridgeIndex()
		m.external.mu.Lock()
		ours := x.link == e.Index
		found := !e.Deleted && !ours && on != 0 && e.Master == on && bytes.Equal(e.MAC, tap.HostMAC(x.doc.MAC))
		if found {
			x.link, x.ifname = e.Index, e.Name
		}
		m.external.mu.Unlock()
		switch {
		case ours && e.Deleted:
			m.endLater(x, e.Index)
		case found:
			m.seen(x)
		}
	}
}

// seen records which device a port has, and tells.
func (m *Manager) seen(x *external) {
	record := m.external.record(x)
	if err := m.cfg.Store.SavePort(record); err != nil {
		m.log.Error("recording the device of a port", keyPort, record.UUID, keyError, err)
	}
	m.log.Info("the device of a port is there", keyNetwork, x.network.name, keyPort, record.UUID, keyIfName, record.IfName)
	m.publishPort(PortChanged, x)
}

// endLater ends a port whose device is gone, unless somebody says so before, or it
// gets another.
func (m *Manager) endLater(x *external, index int) {
	m.running.Go(func() {
		select {
		case <-m.services.Done():
			return
		case <-time.After(externalGrace):
		}
		m.external.mu.Lock()
		same := x.link == index
		m.external.mu.Unlock()
		if !same {
			return
		}
		if err := m.endExternal(x); err != nil {
			m.log.Error("ending a port: trying again", keyPort, x.doc.UUID, keyError, err)
			m.repeat(func() bool { return m.endExternal(x) == nil })
		}
	})
}

// isolated tells whether the device with that ifindex is that of a port which is
// kept apart.
func (s *externalSet) isolated(index int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.byUUID {
		if x.link == index && x.doc.Isolated == netdef.Yes {
			return true
		}
	}
	return false
}
