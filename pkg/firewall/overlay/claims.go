package overlay

import (
	"encoding/binary"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// element is a key in one of the sets.
type element struct{ set, key string }

// claims are what networks ask to be in the sets. Some of it several ask for: those of a
// cluster have the same peers.
type claims struct {
	spans  map[string]*firewall.Span // by bridge; nil for a network of this host alone
	counts map[element]int           // how many networks ask for each
	hosts  int                       // networks that span hosts
}

// newClaims are those of no network.
func newClaims() claims {
	return claims{spans: make(map[string]*firewall.Span), counts: make(map[element]int)}
}

// step is how claims change.
type step struct {
	spans  map[string]*firewall.Span // of networks that are new, or others than they were
	gone   []string                  // bridges
	counts map[element]int           // what is added to those of claims
	hosts  int                       // the same of networks that span hosts
}

// to is the step to some networks, each with a bridge of its own. What it takes beside a look at each network
// depends on what changes.
func (c *claims) to(networks iter.Seq[*firewall.Network]) step {
	s := step{spans: make(map[string]*firewall.Span), counts: make(map[element]int)}
	stay := 0
	for n := range networks {
		was, known := c.spans[n.Bridge]
		if known {
			stay++
		}
		if known && was == n.Span {
			continue
		}
		if known {
			s.add(n.Bridge, was, -1)
		}
		s.add(n.Bridge, n.Span, 1)
		s.spans[n.Bridge] = n.Span
	}
	if stay == len(c.spans) {
		return s
	}
	left := maps.Clone(c.spans)
	for n := range networks {
		delete(left, n.Bridge)
	}
	for bridge, span := range left {
		s.add(bridge, span, -1)
		s.gone = append(s.gone, bridge)
	}
	return s
}

// add adds a network to the counts so many times.
func (s *step) add(bridge string, span *firewall.Span, times int) {
	s.counts[element{setBridges, string(name(bridge))}] += times
	if span == nil {
		return
	}
	s.hosts += times
	for _, e := range elements(span) {
		s.counts[e] += times
	}
}

// elements are what is in the sets for one tunnel.
func elements(s *firewall.Span) []element {
	device, port := name(s.Device), binary.BigEndian.AppendUint16(nil, s.Port)
	all := []element{
		{setLinks, string(device)},
		{setMACs, string(pad(append(slices.Clone(device), s.MAC...)))},
		{setPorts, string(port)},
	}
	for _, a := range s.Gateways {
		all = append(all, element{byFamily(a, setAddrs4, setAddrs6), string(append(slices.Clone(device), a.AsSlice()...))})
	}
	for _, a := range s.Peers {
		all = append(all, element{byFamily(a, setMembers4, setMembers6), string(pad(append(a.AsSlice(), port...)))})
	}
	return append(all, own(&s.Host)...)
}

// own are what is in the sets for this host's own link; nothing where there is none.
func own(h *firewall.SpanHost) []element {
	if h.Link == "" {
		return nil
	}
	device := name(h.Link)
	all := []element{{setHosts, string(device)}, {setBridges, string(device)}}
	add := func(set string, a netip.Addr) {
		if e := (element{set, string(append(slices.Clone(device), a.AsSlice()...))}); !slices.Contains(all, e) {
			all = append(all, e)
		}
	}
	for _, a := range h.Addrs {
		add(byFamily(a, setCards4, setCards6), a)
		if a.Is6() {
			const bits = 64
			p, _ := a.Prefix(bits)
			add(setNear6, p.Addr())
			add(setNear6, netip.IPv6Unspecified()) // who looks for duplicates has no address yet
		}
	}
	return all
}

// take makes the step.
func (c *claims) take(s step) {
	maps.Copy(c.spans, s.spans)
	for _, bridge := range s.gone {
		delete(c.spans, bridge)
	}
	for e, n := range s.counts {
		if c.counts[e] += n; c.counts[e] == 0 {
			delete(c.counts, e)
		}
	}
	c.hosts += s.hosts
}

// content is what is in the sets after a step; nothing where no network spans hosts.
func (c *claims) content(s step) content {
	all := make(content)
	if c.hosts+s.hosts == 0 {
		return all
	}
	for e, n := range c.counts {
		if n+s.counts[e] > 0 {
			all.add(e.set, []byte(e.key))
		}
	}
	for e, n := range s.counts {
		if n > 0 {
			all.add(e.set, []byte(e.key))
		}
	}
	return all
}

// differences are what a step takes from the sets and brings to them.
func (c *claims) differences(s step) (old, fresh content) {
	if was, will := c.hosts > 0, c.hosts+s.hosts > 0; !was || !will {
		return c.content(step{}), c.content(s) // one of which at least is nothing
	}
	old, fresh = make(content), make(content)
	for e, n := range s.counts {
		switch was := c.counts[e]; {
		case was > 0 && was+n == 0:
			old.add(e.set, []byte(e.key))
		case was == 0 && n > 0:
			fresh.add(e.set, []byte(e.key))
		}
	}
	return old, fresh
}
