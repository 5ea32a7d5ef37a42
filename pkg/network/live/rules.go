package live

import (
	"context"
	"slices"
	"sync"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/admission"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/member"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// ruleset is the rules of one network. Its methods may be called concurrently.
type ruleset struct {
	firewall env.Rules
	names    *admission.Names // of which rules tell
	clusters *member.Clusters

	mu         sync.Mutex // guards what follows, and orders what the firewall is told
	redirected bool       // DNS serves the other port
	live       *netdef.Network
	shown      uint64 // of the news of names, those that the rules have
	surroundings
}

// surroundings are what rules are made of beside the document.
type surroundings struct {
	forwards  []firewall.Forward
	rewrites6 bool // as bridge.Rewrites6
	peers     []firewall.Peer
	ports     []admission.Port // with rules of their own
}

// equal reports whether the rules of one are those of the other.
func (s *surroundings) equal(o *surroundings) bool {
	return s.rewrites6 == o.rewrites6 && admission.SamePeers(s.peers, o.peers) &&
		slices.EqualFunc(s.forwards, o.forwards, func(a, b firewall.Forward) bool { return a.Equal(&b) }) &&
		slices.EqualFunc(s.ports, o.ports, func(a, b admission.Port) bool { return a.Equal(&b) })
}

// now are those that the rules have.
func (r *ruleset) now() surroundings {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.surroundings
}

// leads are the forwards that the rules have.
func (r *ruleset) leads() []firewall.Forward {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.forwards)
}

// stale reports whether the kernel deals otherwise with what guests answer to ::1 than when
// the rules of live were made, as far as that matters to them.
func (r *ruleset) stale(live *netdef.Network, rewrites6 bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(live.PortForwards) > 0 && r.rewrites6 != rewrites6
}

// keep makes the rules of live what they should be by what surrounds it.
func (r *ruleset) keep(ctx context.Context, live *netdef.Network, by surroundings) error {
	r.names.Watch(admission.RuleNames(live, by.ports))
	r.mu.Lock()
	defer r.mu.Unlock()
	former := r.surroundings
	r.surroundings = by
	err := r.set(ctx, live)
	if err != nil {
		r.surroundings = former
	}
	return err
}

// open has the rules be those of what was learnt of names since, if anything was.
func (r *ruleset) open(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live == nil || r.shown == r.names.News() {
		return nil
	}
	return r.set(ctx, r.live)
}

// set makes the rules of live what they should be. The caller holds r.mu.
func (r *ruleset) set(ctx context.Context, live *netdef.Network) error {
	news := r.names.News()
	fw := r.wanted(live)
	if r.redirected {
		fw.DNS = translate.OtherDNS(live)
	}
	if err := r.firewall.Set(ctx, fw); err != nil {
		return err
	}
	r.live, r.shown = live, news
	return nil
}

// wanted is what live asks of the firewall, without DNS at another port. The caller holds
// r.mu.
func (r *ruleset) wanted(live *netdef.Network) firewall.Network {
	fw := translate.Firewall(r.clusters.Resolve(live))
	fw.Forwards, fw.NoLoopback6 = r.forwards, r.rewrites6
	fw.Peers, fw.Policy = r.peers, admission.Policy(live, r.ports, r.names.Addrs)
	return fw
}

// Firewall is what the rules of n are made of now, of which the document is live.
func Firewall(n *Network, live *netdef.Network) firewall.Network {
	n.rules.mu.Lock()
	defer n.rules.mu.Unlock()
	return n.rules.wanted(live)
}

// found tells of what a former vnetd made rules of, for adopt.
func (r *ruleset) found(by surroundings, names []admission.Learned) {
	r.names.Restore(names)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.surroundings = by
}

// adopt tells the firewall of the rules that may stand for live.
func (r *ruleset) adopt(live *netdef.Network) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.adoptLocked(live)
}

// adoptLocked is adopt for who holds r.mu.
func (r *ruleset) adoptLocked(live *netdef.Network) {
	fw := r.wanted(live)
	r.firewall.Adopt(fw)
	if translate.Redirectable(live) && translate.ServesDNS(live) {
		fw.DNS = translate.OtherDNS(live)
		r.firewall.Adopt(fw)
	}
}

// remove removes the rules of live.
func (r *ruleset) remove(ctx context.Context, live *netdef.Network) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.redirected = false
	r.adoptLocked(live)
	err := r.firewall.Delete(ctx, r.wanted(live))
	if err == nil {
		r.surroundings, r.live = surroundings{}, nil
		r.names.Watch(nil)
	}
	return err
}

// redirect leads guests' queries to the other port of live's server, or no
// longer.
func (r *ruleset) redirect(ctx context.Context, live *netdef.Network, redirected bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.redirected
	if was == redirected {
		return nil
	}
	r.redirected = redirected
	err := r.set(ctx, live)
	if err != nil {
		r.redirected = was
	}
	return err
}
