package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/netdef/policy"
	"github.com/vnetd/vnetd/pkg/network/admission"
	"github.com/vnetd/vnetd/pkg/network/health"
	"github.com/vnetd/vnetd/pkg/network/live"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Peerings are the peerings and rules of all networks. Its methods may be called concurrently.
type Peerings struct{ catalog *catalog }

// Peerings are the peerings and rules of all networks.
func (m *Manager) Peerings() Peerings { return Peerings{m.catalog} }

// documents are what the active networks are but for the one that has the name.
func (p Peerings) documents(except string) (all []*netdef.Network) {
	p.catalog.eachLive(func(n *Network, live *netdef.Network) {
		if n.Name() != except {
			all = append(all, live)
		}
	})
	return all
}

// peers are the networks whose guests may open something to those of live.
func (p Peerings) peers(live *netdef.Network) []firewall.Peer {
	return admission.Peers(live, p.documents(live.Name))
}

// foresee is what the rules of def would be, which may be of a known network: with the
// addresses that names have by now, and without the rules of ports.
func (p Peerings) foresee(def *netdef.Network, known *Network) firewall.Policy {
	names := make(map[string][]netip.Addr)
	if known != nil {
		_, learned := live.Admits(known)
		for _, l := range learned {
			names[l.Name] = append(names[l.Name], l.Addr)
		}
	}
	return admission.Policy(def, nil, func(name string) []netip.Addr { return names[name] })
}

// named are the networks whose hosts guests of live find by name: those to which they may open
// something.
func (p Peerings) named(live *netdef.Network) (all []dnsd.Peer) {
	for _, o := range p.documents(live.Name) {
		if !translate.HasDomain(o) || len(admission.Granted(live, o)) == 0 {
			continue
		}
		all = append(all, dnsd.Peer{Domain: translate.Domain(o), Prefixes: translate.Prefixes(o), Zone: func() *dnsd.Zone {
			if n := p.catalog.find(o.Name); n != nil {
				return n.Services().Servers().DNS.Zone()
			}
			return nil
		}})
	}
	return all
}

// changed has all networks look at their peers again, as one is another than it was: that one,
// too, which others may have joined before it was there for all to see. It returns at once.
func (p Peerings) changed() {
	if !slices.ContainsFunc(p.documents(""), func(doc *netdef.Network) bool { return len(doc.Peers) > 0 }) && !p.joined() {
		return
	}
	for _, o := range p.catalog.all() {
		doc := o.Live()
		if doc == nil {
			continue
		}
		live.SetNamed(o, p.named(doc))
		if peers, _ := live.Admits(o); !admission.SamePeers(peers, p.peers(doc)) {
			live.Follow(o)
		}
	}
}

// joined reports whether the rules of a network still let peers in, or its guests find some.
func (p Peerings) joined() (yes bool) {
	p.catalog.eachLive(func(n *Network, _ *netdef.Network) {
		peers, _ := live.Admits(n)
		yes = yes || len(peers) > 0 || live.Names(n)
	})
	return yes
}

// known is what is known of the network of that name.
func (p Peerings) known(name string) admission.Known {
	n := p.catalog.find(name)
	if n == nil {
		return admission.Known{}
	}
	return admission.Known{Doc: n.Document(), Active: n.Live() != nil}
}

// On lists the peerings of one network, in the order of its document.
func (p Peerings) On(n *Network) []api.Peer {
	doc, all := n.Document(), []api.Peer{}
	for i := range doc.Peers {
		peer := &doc.Peers[i]
		info := api.Peer{Network: peer.Network, Direction: peer.Direction, Services: texts(peer.Services), State: api.PeerActive}
		info.Reason = admission.Waiting(doc, peer, p.known(peer.Network))
		switch {
		case n.Live() == nil:
			info.State, info.Reason = api.PeerInactive, ""
		case info.Reason != "":
			info.State = api.PeerWaiting
		}
		all = append(all, info)
	}
	return all
}

// Rules are the rules of one network, with what names in them have.
func (p Peerings) Rules(n *Network) api.Rules {
	doc := n.Document()
	r := api.Rules{Egress: doc.Rules.Egress, Ingress: doc.Rules.Ingress, Rules: []string{}, Sets: []api.RuleSet{}, Names: []api.RuleName{}}
	for _, rule := range doc.Rules.Rules {
		r.Rules = append(r.Rules, rule.String())
	}
	for i := range doc.Rules.Sets {
		r.Sets = append(r.Sets, api.RuleSet{Name: doc.Rules.Sets[i].Name, Members: texts(doc.Rules.Sets[i].Members)})
	}
	if n.Live() != nil {
		_, names := live.Admits(n)
		for _, l := range names {
			r.Names = append(r.Names, api.RuleName(l))
		}
	}
	return r
}

// Count has the peerings and rules of one network, as On and Rules tell of them, say what they
// have met. It changes nothing of a network that is not active or has none, and reads the
// kernel's counters of this network and its peers otherwise.
func (p Peerings) Count(ctx context.Context, n *Network, peers []api.Peer, rules *api.Rules) error {
	doc := n.Live()
	if doc == nil || len(peers) == 0 && len(rules.Rules) == 0 {
		return nil
	}
	own := live.Firewall(n, doc)
	byRule, byPeer, err := p.catalog.env.Rules.Counts(ctx, own)
	if err != nil {
		return err
	}
	if own.Policy.Refuses() {
		rules.Met = make([]api.Met, len(rules.Rules))
		for i := range rules.Met { // one whose names have no addresses is no rule of the firewall's
			label := fmt.Sprintf("rule %d", i+1)
			if at := slices.IndexFunc(own.Policy.Rules, func(r firewall.PolicyRule) bool { return r.Label == label }); at >= 0 {
				rules.Met[i] = api.Met(byRule[at])
			}
		}
	}
	for i := range peers {
		peer := &peers[i]
		if peer.State != api.PeerActive {
			continue
		}
		met := api.Met{}
		if peer.Direction != policy.Out {
			met = metBy(peer.Network, own.Peers, byPeer)
		}
		if other := p.catalog.find(peer.Network); peer.Direction != policy.In && other != nil && other.Live() != nil {
			theirs := live.Firewall(other, other.Live())
			_, counts, err := p.catalog.env.Rules.Counts(ctx, theirs)
			if err != nil {
				return err
			}
			out := metBy(n.Name(), theirs.Peers, counts)
			met.Packets, met.Bytes = met.Packets+out.Packets, met.Bytes+out.Bytes
		}
		peer.Met = &met
	}
	return nil
}

// metBy is what the peer of that name has sent, of counts in the order of peers.
func metBy(name string, peers []firewall.Peer, counts []firewall.Count) api.Met {
	if i := slices.IndexFunc(peers, func(p firewall.Peer) bool { return p.Name == name }); i >= 0 {
		return api.Met(counts[i])
	}
	return api.Met{}
}

// texts renders each of all.
func texts[T interface{ String() string }](all []T) []string {
	out := []string{}
	for _, v := range all {
		out = append(out, v.String())
	}
	return out
}

// waiting are the peerings of active networks that do not hold.
func (p Peerings) waiting() (all []health.WaitingPeer) {
	p.catalog.eachLive(func(n *Network, doc *netdef.Network) {
		for i := range doc.Peers {
			peer := &doc.Peers[i]
			if reason := admission.Waiting(doc, peer, p.known(peer.Network)); reason != "" {
				all = append(all, health.WaitingPeer{Network: n.Name(), Peer: peer.Network, Reason: reason, Direction: peer.Direction})
			}
		}
	})
	return all
}
