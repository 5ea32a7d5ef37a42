package network

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/host"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/store"
)

// Network is one network, defined, active or both. Its methods may be called
// concurrently; operations wait for each other.
type Network struct {
	m    *Manager
	name string // for good: a network can't be renamed

	op     sync.Mutex   // one operation at a time; held for as long as it takes
	record *host.Record // guarded by op

	departed []store.Port // ended while no vnetd was running; for adopt alone

	rules ruleset

	unserved unserved // leases

	state

	finishing atomic.Bool // somebody tries again to take down what is left
	repairing atomic.Bool // somebody tries again to repair
}

// turn is a network whose op is held: it is the caller's turn.
type turn struct{ *Network }

// newNetwork is the inactive network that doc names, with no definition yet.
func newNetwork(m *Manager, doc *netdef.Network) *Network {
	return &Network{m: m, name: doc.Name, record: host.NewRecord(doc.Name, m.cfg.Store, m.cfg.Links, m.cfg.Uplinks, m.log), rules: ruleset{firewall: m.cfg.Rules}, state: state{is: api.Inactive, last: doc}}
}

// Info tells what the network is now.
func (n *Network) Info() api.Network { return n.info(n.name) }

// uuid is the network's.
func (n *Network) uuid() string { return n.Info().UUID }

// XML is the network's document: what it is now, or, with inactive, what it
// will be at its next start. A transient network has no other than the first,
// an inactive one no other than the second.
func (n *Network) XML(inactive bool) []byte {
	connections := n.m.ports.reg.Count(n.name, port.Own, port.External)
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.now != nil && (!inactive || n.def == nil):
		return n.now.doc.LiveXML(connections)
	case n.def != nil:
		return n.def.XML()
	}
	if is := n.present(); is != nil {
		return is.XML()
	}
	return nil
}

// begin waits for the network's turn: n.op is held when it returns nil. It
// refuses a network that came to its end meanwhile.
func (n *Network) begin() error {
	n.op.Lock()
	if n.ended() {
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
		if err := errors.Join(turn{n}.clearLeftover(context.Background()), n.m.ports.releaseAll(n)); err != nil {
			return err
		}
	} else {
		// The run-state first: a crash in between must not lose the network.
		if err := n.record.Save(store.Run{Phase: store.Active, Network: live}); err != nil {
			return err
		}
	}
	if err := n.m.cfg.Store.DeleteDefinition(n.name); err != nil {
		return err
	}
	n.setAutostart(false)
	turn{n}.keepStopped(info.UUID, false)
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

// setDefinition makes def the definition, nil for none.
func (n *Network) setDefinition(def *netdef.Network) {
	if n.setDef(def) {
		n.m.unusable.Replaced(n.name)
	}
}

// setState moves the network to a state for a reason, nil for none, and tells.
func (n *Network) setState(to api.State, reason error) {
	if from, known := n.step(to, reason); !known {
		n.m.log.Error("a network takes a step that it should not", keyNetwork, n.name, "from", string(from), "to", string(to))
	}
	n.changed()
}

// fault records that a part of an active network fails, or works again with a nil
// err, and tells.
func (n *Network) fault(part string, err error) {
	if n.setFault(part, err) {
		n.changed()
	}
}

// Access is whom the network itself lets have ports, nil for nobody, and the name
// of its bridge where vnetd makes that, empty otherwise.
func (n *Network) Access() (access *netdef.Access, bridge string) {
	is := n.exists()
	if is == nil {
		return nil, ""
	}
	if is.OwnsBridge() {
		bridge = is.Bridge.Name
	}
	return is.Access, bridge
}

// changed tells subscribers that the network's Info may differ.
func (n *Network) changed() {
	n.m.events.publish(Event{Kind: NetworkChanged, Network: n.Info()})
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
