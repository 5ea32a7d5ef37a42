package live

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/netdef/policy"
	"github.com/vnetd/vnetd/pkg/network/admission"
	"github.com/vnetd/vnetd/pkg/network/change"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/forward"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Where forwards lead follows the guests: what leases and ports tell pokes PortsChanged,
// which has the rules be set anew where that makes a difference.

// setRules makes the rules of live what they should be, its forwards among them. Where
// those lead is on disk before the rules say so: the next vnetd replaces what it does not
// find any more.
func (n turn) setRules(ctx context.Context, live *netdef.Network) error {
	by, former := surround(n, live), n.rules.leads()
	if err := n.record.Lead(append(slices.Clone(by.forwards), firewall.Without(former, by.forwards)...)); err != nil {
		return err
	}
	if err := n.record.Learn(n.rules.names.All()); err != nil {
		return err
	}
	if err := n.rules.keep(ctx, live, by); err != nil {
		return err
	}
	return n.record.Lead(by.forwards)
}

// Leads is where the forwards of n lead.
func Leads(n *Network) []firewall.Forward { return n.rules.leads() }

// resolve is where the forwards of live lead, by what is known now.
func resolve(n turn, live *netdef.Network) []firewall.Forward {
	if len(live.PortForwards) == 0 {
		return nil
	}
	return forward.Resolve(live, guests(n, live), n.rules.leads())
}

// withHeld is what the network becomes, which starts as def: with the forwards of ports that it had
// when it was stopped, of ports that are there, but for those that something is in the way of by now.
func withHeld(n turn, def *netdef.Network) *netdef.Network {
	live := def.Clone()
	was, err := n.env.Store.Stops().Was(def.UUID)
	if err != nil {
		n.env.Logger.Warn("forwards of ports are lost", env.KeyNetwork, n.name, env.KeyError, err)
	}
	if was == nil {
		return live
	}
	add := func(held ...netdef.PortForward) error {
		next := change.WithHeld(live, &netdef.Network{PortForwards: held})
		if err := errors.Join(next.Runnable(), forward.Clash(next, live), n.others.SubnetsTaken(n.Network, next, live)); err != nil {
			return err
		}
		live = next
		return nil
	}
	held := slices.DeleteFunc(was.PortForwards, func(f netdef.PortForward) bool {
		uuid, held := forward.HeldByPort(&f)
		return !held || n.ports.Registry().UUID(uuid) == nil
	})
	if add(held...) == nil {
		return live
	}
	for _, f := range held {
		if err := add(f); err != nil {
			n.env.Logger.Warn("a forward of a port ends", env.KeyNetwork, n.name, "forward", f.Key(), env.KeyError, err)
		}
	}
	return live
}

// endHeld ends the forwards of ports that ended while the network, which is live now, was started.
func endHeld(n turn, live *netdef.Network) {
	for i := range live.PortForwards {
		if uuid, held := forward.HeldByPort(&live.PortForwards[i]); held && n.ports.Registry().UUID(uuid) == nil {
			n.others.PortEnded(n.Network, uuid)
		}
	}
}

// guests are what is known of the guests of the network, which is live.
func guests(n turn, live *netdef.Network) (g forward.Guests) {
	g.Made = func(a netip.Addr) bool { return forward.Made(live, a) }
	learned, asked := n.heard.learned()
	g.Deaf = !asked
	for _, e := range learned {
		g.Learned = append(g.Learned, forward.Guest{MACs: []string{net.HardwareAddr(e.MAC[:]).String()}, Leased: []netip.Addr{e.Addr}})
	}
	for _, p := range n.ports.Registry().On(n.name, port.Own, port.External) {
		s := p.Status()
		guest := forward.Guest{Name: p.Name, Leased: s.Held, Reserved: p.Addrs}
		for _, mac := range []net.HardwareAddr{p.MAC, s.Card} {
			if mac != nil {
				guest.MACs = append(guest.MACs, mac.String())
			}
		}
		g.Ports = append(g.Ports, guest)
	}
	held, served := n.Services().Leases()
	g.Unknown = !served
	for _, l := range held {
		guest := forward.Guest{Name: l.Hostname, Leased: []netip.Addr{l.Addr}}
		if l.MAC != nil {
			guest.MACs = []string{l.MAC.String()}
		}
		g.Leases = append(g.Leases, guest)
	}
	return g
}

// surround is what the rules of live are made of now, beside the document.
func surround(n turn, live *netdef.Network) surroundings {
	return surroundings{
		forwards: resolve(n, live), rewrites6: bridge.Rewrites6(),
		peers: n.others.Peers(live), ports: portRules(n.Network, live), host: hostRules(n.Network, live),
	}
}

// maxHeard is how many addresses of a guest that nobody gave it the rules of its port hold for: each
// is a rule for each of those.
const maxHeard = 64

// portRules are the ports with rules of their own, in order of their creation; none in a mode
// without rules, which live may have got after its ports. Their guests have
// the addresses that they were given, and of those that they make for themselves (RFC 4862) the one
// that is made of the card's and up to maxHeard that this host has heard of.
func portRules(n *Network, live *netdef.Network) (all []admission.Port) {
	ruled := port.Ruled(n.ports.Registry(), n.name)
	if len(ruled) == 0 || !netdef.PolicyContext(live).Routed { // the former is asked with each lease
		return nil
	}
	learned, _ := n.heard.learned()
	for _, p := range ruled {
		s := p.Status()
		if len(s.Rules) == 0 {
			continue // by now
		}
		g := port.Guarded(p)
		one := admission.Port{Label: s.IfName, Guest: firewall.Guest{MACs: g.MACs, Addrs: append(g.Addrs, translate.Autoconf(live, g.MACs)...)}}
		heard := 0
		for _, e := range learned {
			if heard < maxHeard && slices.Contains(g.MACs, firewall.MAC(e.MAC)) {
				heard++
				one.Guest.Addrs = append(one.Guest.Addrs, e.Addr)
			}
		}
		slices.SortFunc(one.Guest.Addrs, netip.Addr.Compare)
		one.Guest.Addrs = slices.Compact(one.Guest.Addrs)
		for _, text := range s.Rules {
			if r, err := policy.ParseRule(text); err == nil { // it was checked
				one.Rules = append(one.Rules, r)
			}
		}
		all = append(all, one)
	}
	return all
}

// Admit has the rules of ports be in the kernel. The caller has the network's turn.
func (n *Network) Admit(ctx context.Context) error {
	live := n.Live()
	if live == nil {
		return nil
	}
	by, was := surround(turn{n}, live), n.rules.now()
	if by.equal(&was) {
		return nil
	}
	return turn{n}.setRules(ctx, live)
}

// Admits is what the rules of n are made of beside its document: its peers, and the addresses
// of names.
func Admits(n *Network) (peers []firewall.Peer, names []admission.Learned) {
	return n.rules.now().peers, n.rules.names.All()
}

// Names reports whether guests of n find hosts of others by name.
func Names(n *Network) bool {
	named := n.named.Load()
	return named != nil && len(*named) > 0
}

// SetNamed says which networks' hosts guests of n find by name.
func SetNamed(n *Network, peers []dnsd.Peer) { n.named.Store(&peers) }
