package network

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"sync"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/service"
	"github.com/vnetd/vnetd/pkg/store"
)

// Network is one network, defined, active or both. Its methods may be called
// concurrently; operations wait for each other.
type Network struct {
	m    *Manager
	name string // for good: a network can't be renamed

	op       sync.Mutex // one operation at a time; held for as long as it takes
	run      store.Run  // the run-state as last written; guarded by op
	host     hostState  // what must be put back on the host; guarded by op
	hostLost bool       // the run-state could not be read, so that host may lack something; guarded by op

	departed []store.Port // ended while no vnetd was running; for adopt alone

	rules      sync.Mutex // guards what follows, and orders what the firewall is told
	redirected bool       // DNS serves the other port

	unserved unserved // leases

	mu        sync.Mutex // guards what follows; held for moments
	def       *netdef.Network
	unread    bool            // there is a definition, which can't be used
	gone      bool            // neither defined nor active any more: nobody finds it
	live      *netdef.Network // nil while inactive
	last      *netdef.Network // what def or live was last: tells what a network was that is gone
	autostart bool
	state     api.State
	lastErr   error
	faults    map[string]error // of a degraded network, by the part that fails
	leftover  *netdef.Network  // of a stop, or an undone start, that could not be completed
	bridge    int              // ifindex of the bridge while active
	failures  uint64           // of parts, while active
	repairs   uint64           // times that repair found the bridge gone
	services  *service.Set     // nil while inactive and where nothing is served
	finishing bool             // somebody tries again to take down leftover
	repairing bool             // somebody tries again to repair
	foreign   []int            // ifindices of what others have, or had, plugged in
	pending   pending          // what the next start changes, as last asked for
}

// newNetwork is the inactive network that doc names, with no definition yet.
func newNetwork(m *Manager, doc *netdef.Network) *Network {
	return &Network{m: m, name: doc.Name, last: doc, state: api.Inactive}
}

// Info tells what the network is now.
func (n *Network) Info() api.Network {
	n.mu.Lock()
	defer n.mu.Unlock()
	info := api.Network{
		Name: n.name, State: n.state, Autostart: n.autostart,
		Active: n.live != nil, Persistent: n.def != nil || n.unread, Addresses: []netip.Prefix{},
	}
	// A transient network that could not be taken down can be stopped again, by
	// clients for which one is active or not there at all.
	info.Active = info.Active || n.leftover != nil && !info.Persistent
	if err := n.currentError(); err != nil {
		info.LastError = err.Error()
	}
	is := cmp.Or(n.live, n.def, n.last)
	if is == nil {
		return info
	}
	info.UUID, info.Mode, info.Bridge = is.UUID, string(is.Mode()), is.Bridge.Name
	info.MAC, info.MTU = is.MAC.String(), is.MTU
	for i := range is.IPs {
		info.Addresses = append(info.Addresses, is.IPs[i].Prefix())
	}
	return info
}

// currentError is the reason of a failed or degraded state. The caller holds
// n.mu.
func (n *Network) currentError() error {
	errs := []error{n.lastErr}
	for _, err := range n.faults {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// XML is the network's document: what it is now, or, with inactive, what it
// will be at its next start. A transient network has no other than the first,
// an inactive one no other than the second.
func (n *Network) XML(inactive bool) []byte {
	connections := n.m.ports.count(n) + len(n.m.external.list(n))
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.live != nil && (!inactive || n.def == nil) {
		return n.live.LiveXML(connections)
	}
	switch {
	case n.def != nil:
		return n.def.XML()
	case n.unread || n.leftover != nil:
		return n.last.XML()
	}
	return nil
}

// begin waits for the network's turn: n.op is held when it returns nil. It
// refuses a network that came to its end meanwhile.
func (n *Network) begin() error {
	n.op.Lock()
	n.mu.Lock()
	gone := n.gone
	n.mu.Unlock()
	if gone {
		n.op.Unlock()
		return api.Errorf(api.NotFound, "network %q does not exist any more", n.name)
	}
	return nil
}

// SetAutostart says whether the network starts with vnetd.
func (n *Network) SetAutostart(on bool) error {
	if err := n.begin(); err != nil {
		return err
	}
	defer n.op.Unlock()
	if info := n.Info(); !info.Persistent {
		return api.Errorf(api.InvalidState, "network %q has no definition: a transient network can't be started automatically", n.name)
	}
	if err := n.m.cfg.Store.SetAutostart(n.name, on); err != nil {
		return err
	}
	n.setAutostart(on)
	n.changed()
	return nil
}

// Undefine deletes the definition. An active network goes on as a transient
// one; an inactive one is gone, with its ports. Its leases are kept under its UUID
// until they end: it may be defined again.
func (n *Network) Undefine(_ context.Context) error {
	n.m.defining.Lock()
	defer n.m.defining.Unlock()
	if err := n.begin(); err != nil {
		return err
	}
	defer n.op.Unlock()
	info := n.Info()
	if !info.Persistent {
		return api.Errorf(api.InvalidState, "network %q is transient: it has no definition to delete, stop it", n.name)
	}
	live := n.liveNetwork()
	if live == nil {
		if err := errors.Join(n.clearLeftover(context.Background()), n.m.releaseAll(n)); err != nil {
			return err
		}
	} else {
		// The run-state first: a crash in between must not lose the network.
		if err := n.record(store.Run{Phase: store.Active, Network: live}); err != nil {
			return err
		}
	}
	if err := n.m.cfg.Store.DeleteDefinition(n.name); err != nil {
		return err
	}
	n.setAutostart(false)
	n.keepStopped(info.UUID, false)
	n.m.log.Info("network undefined", keyNetwork, n.name)
	if info.Active {
		n.setDefinition(nil)
		n.changed()
		return nil
	}
	n.m.drop(n)
	n.setDefinition(nil)
	n.m.sweepLeases()
	return nil
}

// inherit gives def what it lacks and the network already has, so that a
// document without them can be defined again and again: the UUID, and the bridge's
// name and MAC address where both documents make a bridge.
func (n *Network) inherit(def *netdef.Network) {
	n.mu.Lock()
	defer n.mu.Unlock()
	had := cmp.Or(n.def, n.live)
	if had == nil {
		return
	}
	def.UUID = cmp.Or(def.UUID, had.UUID)
	if !had.Mode().OwnsBridge() || !def.Mode().OwnsBridge() {
		return
	}
	def.Bridge.Name = cmp.Or(def.Bridge.Name, had.Bridge.Name)
	if def.MAC == nil {
		def.MAC = had.MAC
	}
}

// definitions lists what the network is and what it will be.
func (n *Network) definitions() []*netdef.Network {
	n.mu.Lock()
	defer n.mu.Unlock()
	var defs []*netdef.Network
	for _, d := range []*netdef.Network{n.live, n.def, n.lastRead()} {
		if d != nil {
			defs = append(defs, d)
		}
	}
	return defs
}

func (n *Network) setDefinition(def *netdef.Network) {
	n.mu.Lock()
	replaced := n.unread || n.def != def
	n.def, n.last = def, cmp.Or(def, n.last)
	if replaced {
		n.unread = false
	}
	n.mu.Unlock()
	if replaced {
		n.m.unusable.Replaced(n.name)
	}
}

func (n *Network) setAutostart(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.autostart = on
}

// definition is what the next start will make; nil for a transient network.
func (n *Network) definition() *netdef.Network {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.def
}

// liveNetwork is what the network is now, nil while inactive.
func (n *Network) liveNetwork() *netdef.Network {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.live
}

// setState moves the network to a state for a reason, nil for none, and tells.
func (n *Network) setState(s api.State, reason error) {
	n.mu.Lock()
	n.state, n.lastErr = s, reason
	n.mu.Unlock()
	n.changed()
}

// fault records that a part of an active network fails, or works again with a
// nil err, and tells.
func (n *Network) fault(part string, err error) {
	n.mu.Lock()
	if n.faults == nil {
		n.faults = make(map[string]error)
	}
	if err != nil {
		n.faults[part] = err
		n.failures++
	} else {
		delete(n.faults, part)
	}
	switch {
	case n.state == api.Active && len(n.faults) > 0:
		n.state = api.Degraded
	case n.state == api.Degraded && len(n.faults) == 0:
		n.state = api.Active
	}
	n.mu.Unlock()
	n.changed()
}

// recovered records that a part works, and tells if it had failed.
func (n *Network) recovered(part string) {
	n.mu.Lock()
	failing := n.faults[part] != nil
	n.mu.Unlock()
	if failing {
		n.fault(part, nil)
	}
}

// Access is whom the network itself lets have ports, nil for nobody, and the name
// of its bridge where vnetd makes that, empty otherwise.
func (n *Network) Access() (access *netdef.Access, bridge string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	is := cmp.Or(n.live, n.def, n.lastRead())
	if is == nil {
		return nil, ""
	}
	if is.OwnsBridge() {
		bridge = is.Bridge.Name
	}
	return is.Access, bridge
}

// bridgeName is the name of the network's bridge.
func (n *Network) bridgeName() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if is := cmp.Or(n.live, n.def, n.last); is != nil {
		return is.Bridge.Name
	}
	return ""
}

// changed tells subscribers that the network's Info may differ.
func (n *Network) changed() {
	n.m.events.publish(Event{Kind: NetworkChanged, Network: n.Info()})
}

// notFound says that no network has that name, and why it has none where a definition
// is there.
func (m *Manager) notFound(name string) error {
	if f := m.unusable.Definition(name); f != nil {
		return api.Errorf(api.NotFound, "network %q is not known: its definition can't be used: mend %s, then reload: %w", name, f.Path, f.Err)
	}
	return api.Errorf(api.NotFound, "network %q does not exist", name)
}

// setUnread says that the network has a definition, which can't be used.
func (n *Network) setUnread() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unread = n.def == nil
}

// persistent tells whether the network has a definition, usable or not.
func (n *Network) persistent() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.def != nil || n.unread
}

// lastRead is what an inactive network was last whose definition can't be used, or which
// could not be taken down; nil for another. The caller holds n.mu.
func (n *Network) lastRead() *netdef.Network {
	if n.live == nil && n.def == nil && (n.unread || n.leftover != nil) {
		return n.last
	}
	return nil
}

// noDefinition is the reason why a network that has none can't start.
func (n *Network) noDefinition() error {
	if n.persistent() {
		return api.Errorf(api.InvalidState, "network %q: its definition can't be used: mend %s, then reload, or define it anew", n.name, n.m.cfg.Store.DefinitionPath(n.name))
	}
	return api.Errorf(api.InvalidState, "network %q is transient: it can't be started again", n.name)
}

// readable refuses to change a definition whose file an admin has changed to something
// that can't be read: it would be lost.
func (n *Network) readable() error {
	if f := n.m.unusable.Definition(n.name); f != nil {
		return api.Errorf(api.InvalidState, "network %q: its definition can't be used: mend %s, then reload, or define it anew: %w", n.name, f.Path, f.Err)
	}
	if n.definition() == nil && n.persistent() {
		return n.noDefinition()
	}
	return nil
}
