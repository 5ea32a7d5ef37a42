// Package live has networks as live things: one Network, defined, active or both, with
// the order in which its links, rules and services come and go, and what is done when
// one of them fails. It asks the others for what concerns them all, see Others.
//
// Layers, from the bottom: state (what a network is: one *active, nil while inactive,
// and one table of transitions); Network; turn (what is done while its turn lasts):
// services, links and rules, what is left of them; life cycle; edit.
package live

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge/vxlan"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/admission"
	"github.com/vnetd/vnetd/pkg/network/attach"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/host"
	"github.com/vnetd/vnetd/pkg/store"
)

// Others is what a network asks of all networks together.
type Others interface {
	// Claim sets the subnets of doc aside for n, until it is released: by then n is what
	// doc says, or nothing came of it. The error is a conflict with the active network
	// that has one of them; those that n has already, as what has says, nil for none, are
	// n's.
	Claim(n *Network, doc, has *netdef.Network) (release func(), err error)
	// SubnetsTaken finds subnets of doc that active networks other than n have; those that
	// has, nil for none, has as well are left out.
	SubnetsTaken(n *Network, doc, has *netdef.Network) error
	// Undefine calls f, which undefines a network, while no other is defined or
	// undefined, and forgets leases of networks that are gone then.
	Undefine(f func() error) error
	// Drop forgets a network that is neither defined nor active any more. The caller
	// has its turn, or nobody else can have found it yet.
	Drop(n *Network)
	// Replace has another network be found in the place of n, with its ports: n under
	// another name. The caller has the turn of n, and nobody else can have found by yet.
	Replace(n, by *Network)
	// Peers are the networks whose guests may open something to those of n, which is live.
	Peers(live *netdef.Network) []firewall.Peer
	// PeersChanged has all networks look at their peers again: one is another than it was, or
	// nothing any more. It returns at once.
	PeersChanged()
	// PortEnded has what ends with the port of that UUID, which n had, end. It returns at once.
	PortEnded(n attach.Network, uuid string)
	// Conditions lists what is amiss.
	Conditions() []api.Condition
}

// Network is one network, defined, active or both. Its methods may be called
// concurrently; operations wait for each other.
type Network struct {
	env    *env.Environment
	others Others
	ports  *attach.Ports
	name   string // for good: another takes its place to be renamed

	op     sync.Mutex   // one operation at a time; held for as long as it takes
	record *host.Record // guarded by op

	copied   documents    // of which it was last seen to whether a copy is kept; guarded by op
	departed []store.Port // ended while no vnetd was running; for adopt alone
	renamed  int          // ifindex of the bridge that has another name, see Found; for adopt and clear alone

	rules ruleset

	unserved unserved // leases

	state
	heard heard

	tunnel    atomic.Int64                 // ifindex of the one to other hosts, 0 for none
	followed  atomic.Pointer[vxlan.Config] // what of it is of the cluster's making, nil for nothing yet
	card      card                         // by which this host is in the network
	clustered clustered
	following atomic.Bool // somebody is about to see what rules are by now
	named     atomic.Pointer[[]dnsd.Peer]
	expiring  atomic.Bool // somebody waits for addresses of names to end
	finishing atomic.Bool // somebody tries again to take down what is left
	repairing atomic.Bool // somebody tries again to repair
}

// card is that of this host in a network that spans hosts.
type card struct {
	index atomic.Int64               // ifindex of the link, 0 for none
	given atomic.Pointer[netip.Addr] // its address of IPv4, nil while that is not known
}

// turn is a network whose op is held: it is the caller's turn.
type turn struct{ *Network }

// New makes the inactive network that doc names, with no definition yet.
func New(e *env.Environment, ports *attach.Ports, others Others, doc *netdef.Network) *Network {
	return &Network{
		env: e, ports: ports, others: others, name: doc.Name,
		record: host.NewRecord(doc.Name, e.Store, e.Links, e.UplinkKeeper, e.Logger),
		rules:  ruleset{firewall: e.Rules, names: new(admission.Names), clusters: e.Clusters}, state: state{is: api.Inactive, last: doc, activity: &e.Activity},
	}
}

// Name is the network's, for good.
func (n *Network) Name() string { return n.name }

// Info tells what the network is now.
func (n *Network) Info() api.Network { return n.info(n.name) }

// XML is the network's document: what it is now, or, with inactive, what it
// will be at its next start. A transient network has no other than the first,
// an inactive one no other than the second.
func (n *Network) XML(inactive bool) []byte {
	live := n.Live()
	n.mu.Lock()
	def, is := n.def, n.present()
	n.mu.Unlock()
	switch {
	case live != nil && (!inactive || def == nil):
		return live.LiveXML(attach.Pools{Ports: n.ports}.Connections(live))
	case def != nil:
		return def.XML()
	}
	if is != nil {
		return is.XML()
	}
	return nil
}

// Begin waits for the network's turn: n.op is held when it returns nil, until
// End. It refuses a network that came to its end meanwhile, with NotFound.
func (n *Network) Begin() error {
	n.op.Lock()
	if n.ended() {
		n.op.Unlock()
		return api.Errorf(api.NotFound, "network %q does not exist any more", n.name)
	}
	return nil
}

// End ends the turn that Begin gave.
func (n *Network) End() { n.op.Unlock() }

// SetAutostart says whether the network starts with vnetd.
// A network of a cluster does on all hosts.
func (n *Network) SetAutostart(on bool) error {
	return MarkAutostart(context.Background(), n, on)
}

// MarkAutostart is SetAutostart, with a context that may be of member.Received.
func MarkAutostart(ctx context.Context, n *Network, on bool) error {
	if err := n.Begin(); err != nil {
		return err
	}
	defer n.op.Unlock()
	if info := n.Info(); !info.Persistent {
		return api.Errorf(api.InvalidState, "network %q has no definition: a transient network can't be started automatically", n.name)
	}
	if def := n.Definition(); def != nil {
		if err := n.env.Clusters.Mark(ctx, def, on); err != nil {
			return err
		}
	}
	if err := n.env.Store.SetAutostart(n.name, on); err != nil {
		return err
	}
	n.setAutostart(on)
	n.Changed()
	return nil
}

// setDefinition makes def the definition, nil for none.
func setDefinition(n *Network, def *netdef.Network) {
	if n.setDef(def) {
		n.env.Unusable.Replaced(n.name)
	}
}

// Load takes over the definition, nil for none, and the mark for autostart as they stand
// on disk.
func (n *Network) Load(def *netdef.Network, autostart bool) {
	setDefinition(n, def)
	n.setAutostart(autostart)
}

// setState moves the network to a state for a reason, nil for none, and tells.
func (n turn) setState(to api.State, reason error) {
	if from, known := n.step(to, reason); !known {
		n.env.Logger.Error("a network takes a step that it should not", env.KeyNetwork, n.name, "from", string(from), "to", string(to))
	}
	n.Changed()
}

// fault records that a part of an active network fails, or works again with a nil
// err, and tells.
func (n *Network) fault(part string, err error) {
	if n.setFault(part, err) {
		n.Changed()
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

// Changed tells subscribers that the network's Info may differ.
func (n *Network) Changed() {
	n.env.Events.Publish(env.Event{Kind: env.NetworkChanged, Network: n.Info()})
}

// Conditions lists those that concern the network.
func (n *Network) Conditions() []api.Condition {
	return slices.DeleteFunc(n.others.Conditions(), func(c api.Condition) bool { return !slices.Contains(c.Networks, n.name) })
}

// noDefinition is the reason why a network that has none can't start.
func (n turn) noDefinition() error {
	if n.Persistent() {
		return api.Errorf(api.InvalidState, "network %q: its definition can't be used: mend %s, then reload, or define it anew", n.name, n.env.Store.DefinitionPath(n.name))
	}
	return api.Errorf(api.InvalidState, "network %q is transient: it can't be started again", n.name)
}
