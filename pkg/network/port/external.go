package port

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/store"
)

// Register adds the port that doc describes in full, and which owner registered, to
// the network of that name and UUID. The error is Exists where the port's UUID is
// taken, LimitExceeded where the owner has as many as limits allow.
func (r *Registry) Register(network, uuid string, doc *netdef.Port, owner uint32, limits Limits) (*Port, error) {
	p := newExternal(r, network, doc, store.Port{Network: uuid, Owner: owner, Created: time.Now().Truncate(time.Second)})
	return p, r.load(p, limits)
}

// newExternal is a port that doc describes; s has what doc does not say.
func newExternal(r *Registry, network string, doc *netdef.Port, s store.Port) *Port {
	s.UUID = doc.UUID
	p := newPort(r, External, network, s)
	p.Spec, p.document = specOfDocument(doc, s.Owner), doc
	p.status.Settings, p.status.ClassID = p.Spec.Settings, doc.ClassID
	return p
}

// loadExternal adds a port that another program had registered with a former vnetd.
func (r *Registry) loadExternal(network string, s store.Port) (*Port, error) {
	doc, err := netdef.ParsePort([]byte(s.Document))
	if err != nil {
		return nil, fmt.Errorf("reading port %s: %w", s.UUID, err)
	}
	if doc.Plug == nil {
		return nil, fmt.Errorf("reading port %s: it is plugged into nothing", s.UUID)
	}
	p := newExternal(r, network, doc, s)
	return p, r.load(p, Limits{})
}

// Document is what describes a port of another program; nil for one of vnetd's own.
// It is not to be changed.
func (p *Port) Document() *netdef.Port {
	p.reg.mu.Lock()
	defer p.reg.mu.Unlock()
	return p.document
}

// Describe describes a port of vnetd's own, on the bridge of that name. libvirt's form wants an owner: where
// there is none, the port stands for itself.
func (p *Port) Describe(bridgeName string) *netdef.Port {
	doc := &netdef.Port{
		UUID: p.UUID, MAC: p.CardAddr(),
		Owner: netdef.Owner{Name: cmp.Or(p.Name, p.IfName), UUID: cmp.Or(strings.ToLower(p.OwnerUUID), p.UUID)},
		Plug:  &netdef.Plug{Type: netdef.PlugNetwork, Bridge: bridgeName},
	}
	if p.OnMacvtap() {
		doc.Plug = &netdef.Plug{Type: netdef.PlugDirect, Dev: p.Macvtap.Parent, Mode: p.Macvtap.Mode}
	}
	p.addTo(doc)
	s := p.Status()
	doc.Group, doc.Bandwidth, doc.VLAN = s.PortGroup, s.Bandwidth, s.OwnVLAN()
	if doc.Bandwidth != nil {
		doc.ClassID = s.ClassID
	}
	return doc
}

// Set makes the Settings and the traffic class of p, of kind Own or External, what the
// function makes of them. That is to be made true by the caller.
func (p *Port) Set(change func(s *Settings, class *uint32)) {
	p.reg.mu.Lock()
	defer p.reg.mu.Unlock()
	change(&p.status.Settings, &p.status.ClassID)
	if x := &p.reg.index; x.byUUID[strings.ToLower(p.UUID)] == p {
		x.setRuled(p)
	}
	if p.document != nil {
		doc := *p.document
		doc.Bandwidth, doc.ClassID = p.status.Bandwidth, p.status.ClassID
		doc.Group, doc.VLAN = p.status.PortGroup, p.status.OwnVLAN()
		p.document = &doc
	}
}

// SetDevice makes l the device of a port of another program.
func (p *Port) SetDevice(l bridge.Link) {
	p.reg.mu.Lock()
	defer p.reg.mu.Unlock()
	p.reg.index.setDevice(p, l.Name, l.Index)
}

// PluggedByOthers reports whether a link is what a launcher plugged into a bridge by
// itself: QEMU's bridge helper and libvirt give their devices such addresses.
func PluggedByOthers(l bridge.Link) bool {
	return l.Kind == "tun" && len(l.MAC) == 6 && l.MAC[0] == 0xfe
}

// AddForeign has the device with that ifindex be a foreign port of the network.
func (r *Registry) AddForeign(network string, index int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.index.foreign(network, index) == nil {
		put(r.index.byNetwork, networkKey{network, Foreign}, &Port{Kind: Foreign, Network: network, reg: r, status: Status{Index: index}})
	}
}

// Foreign finds the foreign port of the network that is the device with that ifindex.
func (r *Registry) Foreign(network string, index int) *Port {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.index.foreign(network, index)
}

// DropForeign takes that back, for index 0 that of all devices.
func (r *Registry) DropForeign(network string, index int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := networkKey{network, Foreign}
	if index == 0 {
		delete(r.index.byNetwork, key)
	} else if p := r.index.foreign(network, index); p != nil {
		drop(r.index.byNetwork, key, p)
	}
}

// MoveForeign has the foreign ports of a network be those of the one that takes its place.
func MoveForeign(r *Registry, network, to string) {
	for _, p := range r.On(network, Foreign) {
		r.AddForeign(to, p.Status().Index)
	}
	r.DropForeign(network, 0)
}
