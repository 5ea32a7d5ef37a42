package live

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vnetd/vnetd/pkg/bridge/hostlink"
	"github.com/vnetd/vnetd/pkg/bridge/vxlan"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/admission"
	"github.com/vnetd/vnetd/pkg/network/attach"
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
	host      firewall.SpanHost
}

// equal reports whether the rules of one are those of the other.
func (s *surroundings) equal(o *surroundings) bool {
	return s.rewrites6 == o.rewrites6 && s.host.Link == o.host.Link && slices.Equal(s.host.Addrs, o.host.Addrs) && admission.SamePeers(s.peers, o.peers) &&
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
	if fw.Span != nil {
		fw.Span.Host = r.host
	}
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

// hostLink is the link by which this host is in n itself as live asks for it, and the name by which others know this host; ok is false where that asks
// for none, or it can't be told yet who this host is.
func hostLink(n *Network, live *netdef.Network) (cfg hostlink.Config, name string, ok bool) {
	if !translate.HasHostLink(live) || n.env.HostLinks == nil {
		return cfg, "", false
	}
	if c := n.env.Clusters.Of(live); c != nil {
		name = c.Host
	} else if self, err := ownUnderlay(n, live); err == nil && live.Span.Cluster == "" && self.Addr.IsValid() {
		name = self.Addr.String()
	}
	var mac net.HardwareAddr
	switch p := (attach.HostPorts{Ports: n.ports}).Of(n); {
	case name != "":
		mac = live.Span.HostMAC(name)
	case p != nil:
		mac = p.MAC // as long as nobody says otherwise
	default:
		return cfg, "", false
	}
	var given netip.Addr
	if a := n.card.given.Load(); a != nil {
		given = *a
	}
	return translate.HostLink(live, mac, given), name, true
}

// hostRules are what the rules of live are to know of the link.
func hostRules(n *Network, live *netdef.Network) (h firewall.SpanHost) {
	if cfg, _, ok := hostLink(n, live); ok {
		h = translate.HostRules(&cfg)
	}
	return h
}

// ownUnderlay is the address of this host for the tunnel of live; invalid where it has none. One that
// the document names need not be there: the tunnel works once it is.
func ownUnderlay(n *Network, live *netdef.Network) (vxlan.Underlay, error) {
	at, err := n.env.Tunnels.Underlay(translate.Underlays(live), live.Span.Peers)
	if errors.Is(err, vxlan.ErrNoUnderlay) {
		at.Addr, err = live.Span.Underlay, nil
	}
	return at, err
}
