package port

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/store"
)

// Kind says whose a port is.
type Kind int

// The kinds of ports, in the order in which lists have them.
const (
	Own      Kind = iota // vnetd made its device
	External             // another program registered it, and makes its device
	Foreign              // a device that another program has on a network's bridge, registered or not
	Orphan               // one of vnetd's own, of a network that is not known
)

// Links is what ports ask of pkg/bridge.
type Links interface {
	LookupIndex(index int) (bridge.Link, error)
	Attach(ctx context.Context, bridge, port int, cfg bridge.PortConfig) error
	SetAlias(index int, text string) error
	DeleteLink(index int) error
}

// Port is one port. What it is doesn't change while it lives, but for its Status and
// Document. Its methods may be called concurrently.
type Port struct {
	Kind    Kind
	UUID    string // empty for Foreign
	Network string // its name; empty for Orphan
	Spec
	Macvtap Macvtap
	Created time.Time

	reg         *Registry
	networkUUID string
	ending      sync.Mutex    // held by who ends it
	restores    *rate.Limiter // see CheckDevice

	carrier bool // somebody had the device open; see Opened

	// guarded by Registry.mu
	coming   bool // see Turn
	gone     bool
	status   Status
	document *netdef.Port  // of External
	news     chan struct{} // closed and made anew when Held changes, and at the end
}

// Macvtap is what a macvtap device is on, in place of a bridge; empty for TAP devices.
type Macvtap struct {
	Parent string // the interface of the host
	Mode   string // bridge, private, vepa or passthrough
}

// OnMacvtap reports whether p, of vnetd's own, is a macvtap device.
func (p *Port) OnMacvtap() bool { return p.Macvtap.Mode != "" }

// Fits reports whether p, of vnetd's own, can be plugged in where ports are plugged into that: its
// network may have been another one when it was made.
func Fits(p *Port, plug netdef.PlugType) bool {
	return plug != netdef.PlugHostdevPCI && p.OnMacvtap() == (plug == netdef.PlugDirect)
}

// IsMacvtap reports whether the device of p, whoever made it, is a macvtap device.
func (p *Port) IsMacvtap() bool {
	doc := p.Document()
	return p.OnMacvtap() || doc != nil && doc.Plug.Type == netdef.PlugDirect
}

// Status is what a port is now.
type Status struct {
	IfName string // of the device; empty until it is seen
	Index  int    // its ifindex; 0 until it is seen
	Holder string // of a port with LifetimeBus
	// Card is the address of the guest's card where that is not Spec.MAC, see Learn;
	// nil where none is known.
	Card   net.HardwareAddr
	Left   bool         // the guest has closed the device
	Held   []netip.Addr // leased since the port is there, in order
	Node   string       // of a macvtap device, by which it was opened
	Lock   string       // of who has that open, see tap.Held
	Failed error        // why the port could not be ended, nil for nothing

	Settings
	ClassID uint32 // the traffic class of its floor, 0 for none
}

// CardAddr is the address of the guest's card as far as it is known.
func (p *Port) CardAddr() net.HardwareAddr {
	if card := p.Status().Card; card != nil {
		return card
	}
	return p.MAC
}

// Guarded is the device of p with what its guest may use, as far as p itself says.
func Guarded(p *Port) firewall.GuardedPort {
	s := p.Status()
	g := firewall.GuardedPort{IfName: s.IfName, Index: s.Index, Addrs: slices.Concat(s.Held, p.Addrs)}
	for _, mac := range []net.HardwareAddr{p.MAC, s.Card} {
		if len(mac) == 6 {
			g.MACs = append(g.MACs, firewall.MAC(mac))
		}
	}
	for _, text := range p.Allow {
		_ = g.Allow(text) // it was checked
	}
	return g
}

// Turn takes in how p stands to its guest: that is about to move to this host, or has gone to
// another one. It reports whether that is news. A port begins as one by which its guest sends.
func Turn(p *Port, coming, gone bool) (news bool) {
	p.reg.mu.Lock()
	defer p.reg.mu.Unlock()
	news = p.coming != coming || p.gone != gone
	p.coming, p.gone = coming, gone
	return news
}

// newPort is a port of r, which is not in r yet.
func newPort(r *Registry, kind Kind, network string, s store.Port) *Port {
	return &Port{
		Kind: kind, UUID: s.UUID, Network: network, Created: s.Created, Spec: specOf(s), Macvtap: Macvtap{s.Parent, s.Mode},
		reg: r, networkUUID: s.Network, restores: newRestores(), news: make(chan struct{}),
		status: Status{IfName: s.IfName, Index: s.Index, Holder: s.Holder, Card: s.Guest, Node: s.Node, Lock: s.Lock, Settings: settingsOf(s), ClassID: s.ClassID},
	}
}

// Load adds a port of that kind which a former vnetd has recorded to the network of
// that name. The error tells why its document can't be used, and is Exists where the
// UUID is taken.
func (r *Registry) Load(kind Kind, network string, s store.Port) (*Port, error) {
	if kind == External {
		return r.loadExternal(network, s)
	}
	s.Queues = max(s.Queues, 1) // not told by what older versions recorded
	p := newPort(r, kind, network, s)
	return p, r.load(p, Limits{})
}

// Adopt makes an orphan a port of the network of that name, which is its own again.
func (r *Registry) Adopt(orphan *Port, network string) (*Port, error) {
	r.Remove(orphan)
	return r.Load(Own, network, orphan.Record())
}

// Status is what p is now.
func (p *Port) Status() Status {
	p.reg.mu.Lock()
	defer p.reg.mu.Unlock()
	s := p.status
	s.Held = slices.Clone(s.Held)
	return s
}

// Record is p as it is stored.
func (p *Port) Record() store.Port {
	p.reg.mu.Lock()
	defer p.reg.mu.Unlock()
	s := store.Port{
		UUID: p.UUID, Network: p.networkUUID, IfName: p.status.IfName, Index: p.status.Index, Created: p.Created,
		Holder: p.status.Holder, Guest: p.status.Card, Node: p.status.Node, Lock: p.status.Lock,
		Parent: p.Macvtap.Parent, Mode: p.Macvtap.Mode,
	}
	p.Spec.record(&s)
	p.status.record(&s)
	s.ClassID = p.status.ClassID
	if p.document != nil {
		s.Document = string(p.document.XML())
	}
	return s
}

// Info is p as the outside sees it, but for the bridge of a port of vnetd's own, and
// the device's MTU.
func (p *Port) Info() api.Port {
	mac := p.CardAddr()
	p.reg.mu.Lock()
	defer p.reg.mu.Unlock()
	info := api.Port{
		UUID: p.UUID, Network: p.Network, MAC: mac.String(), IfName: p.status.IfName, Created: p.Created,
		Addresses: append([]netip.Addr{}, p.status.Held...),
	}
	p.describe(&info)
	info.Parent, info.Mode = p.Macvtap.Parent, p.Macvtap.Mode
	if p.document != nil {
		plug := p.document.Plug
		info.Bridge, info.Parent, info.Mode = plug.Bridge, plug.Dev, plug.Mode
		if plug.Type == netdef.PlugHostdevPCI {
			info.Parent, info.Mode = plug.Address.String(), string(netdef.ModeHostdev)
		}
	}
	return info
}

// End has clear take away what is left of p, takes p out of the registry, and calls
// ended. Where clear fails, p stays: that is its Status, and the error. An end that is
// over, or that of a port which is not in the registry, is none. Ends of one port
// wait for each other.
func (p *Port) End(clear func() error, ended func()) error {
	p.ending.Lock()
	defer p.ending.Unlock()
	if !p.reg.has(p) {
		return nil
	}
	err := clear()
	p.reg.mu.Lock()
	p.status.Failed = err
	p.reg.mu.Unlock()
	if err != nil {
		return err
	}
	p.reg.Remove(p)
	ended()
	return nil
}

// Keep calls save with p's record, unless somebody ends p, or has.
func (p *Port) Keep(save func(store.Port) error) error {
	if !p.ending.TryLock() {
		return nil
	}
	defer p.ending.Unlock()
	if !p.reg.has(p) {
		return nil
	}
	return save(p.Record())
}

// While calls f, which works with p's device, unless somebody ends p, or has.
func (p *Port) While(f func() error) error {
	return p.Keep(func(store.Port) error { return f() })
}

// Hold makes holder the one who holds p.
func (p *Port) Hold(holder string) {
	r := p.reg
	r.mu.Lock()
	defer r.mu.Unlock()
	drop(r.index.byHolder, p.status.Holder, p)
	p.status.Holder = holder
	put(r.index.byHolder, holder, p)
}

// Opened tells p whether somebody has its device open, and reports whether that is
// new. A guest that closed the device has left: who opens it next may be another.
// Only one goroutine may call it.
func (p *Port) Opened(carrier bool) (opened bool) {
	opened = carrier && !p.carrier
	if p.carrier && !carrier {
		p.reg.mu.Lock()
		p.status.Left = true
		p.reg.mu.Unlock()
	}
	p.carrier = carrier
	return opened
}

// compare orders ports by kind. Those of vnetd's own, and others that are devices, are
// in order of their creation by ifindex, which only grows.
func compare(a, b *Port) int {
	if a.Kind == External && b.Kind == External {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.UUID, b.UUID))
	}
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.status.Index, b.status.Index))
}
