package zone

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/dnsname"
	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// claim is a dynamic host's wish for a name. It is kept while something else
// stands before it (a static host, a later claim), to take effect when that
// goes.
type claim struct {
	host Host   // its name is a single label
	key  string // of the name, as in view.names
}

// Set records the claim of a dynamic host. A host that repeats its claim, as
// with every renewal of a lease, does not become the last to claim the name:
// otherwise two guests of one name would take it from each other for ever.
func (z *Zone) Set(h Host) {
	z.mu.Lock()
	defer z.mu.Unlock()
	v := z.view.Load()
	h.Name, _, _ = strings.Cut(h.Name, ".")
	if !isClaimable(h.Name) {
		z.forget(v, h.Addr)
		return
	}
	key := strings.ToLower(h.Name) + "."
	old, had := z.claims[h.Addr]
	if !had || old.key != key {
		z.unclaim(h.Addr)
		z.byName[key] = append(z.byName[key], h.Addr)
	}
	z.claims[h.Addr] = claim{host: h, key: key}
	z.publish(v, key)
	if had && old.key != key {
		z.publish(v, old.key)
	}
}

// isClaimable reports whether a guest may have the label as its name.
func isClaimable(label string) bool { return wire.IsLabel(label) && !dnsname.IsReserved(label) }

// Remove forgets the claim of an address.
func (z *Zone) Remove(a netip.Addr) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.forget(z.view.Load(), a)
}

// forget takes back what the claim of a made visible. z.mu must be held.
func (z *Zone) forget(v *View, a netip.Addr) {
	old, had := z.claims[a]
	if !had {
		return
	}
	z.unclaim(a)
	v.addrs.remove(a)
	z.publish(v, old.key)
}

// unclaim removes the claim of a from the books, not from the view. z.mu must
// be held.
func (z *Zone) unclaim(a netip.Addr) {
	old, had := z.claims[a]
	if !had {
		return
	}
	delete(z.claims, a)
	rest := slices.DeleteFunc(z.byName[old.key], func(b netip.Addr) bool { return a == b })
	if len(rest) == 0 {
		delete(z.byName, old.key)
		return
	}
	z.byName[old.key] = rest
}

// publish makes v show what the name key is: an alias, or else, per address family, the
// last to claim it, and nobody else. z.mu must be held.
func (z *Zone) publish(v *View, key string) {
	n := z.aliasNode(v, key)
	winner4, winner6 := z.winner(v, key, true), z.winner(v, key, false)
	for _, a := range z.byName[key] {
		if a != winner4 && a != winner6 {
			v.addrs.remove(a)
			continue
		}
		h := z.claims[a].host
		h.TTL = cmp.Or(h.TTL, z.ttl)
		n.addHost(h)
		v.addrs.store(a, v.pointerTo(h))
	}
	if len(n.sets) == 0 {
		v.names.remove(key)
		return
	}
	if static := v.staticNames[key]; static != nil {
		n.sets = append(n.sets, static.sets...)
	}
	slices.SortStableFunc(n.sets, func(a, b rrset) int { return cmp.Compare(a.rtype, b.rtype) })
	v.names.store(key, n)
}

// winner returns the last address of a family to claim key among those that may have
// it, the zero Addr if there is none. z.mu must be held.
func (z *Zone) winner(v *View, key string, is4 bool) netip.Addr {
	n := v.staticNames[key]
	if n != nil && (n.complete || n.records(dns.TypeCNAME) != nil) || n == nil && z.alias[key] != "" {
		return netip.Addr{}
	}
	for _, a := range slices.Backward(z.byName[key]) {
		if a.Is4() == is4 && v.staticAddrs[a] == nil {
			return a
		}
	}
	return netip.Addr{}
}

// SetAlias makes alias, a label, stand for the dynamic host that is called name; an empty
// name takes it back.
func (z *Zone) SetAlias(alias, name string) {
	if !isClaimable(alias) {
		return
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	key := strings.ToLower(alias) + "."
	if name == "" {
		delete(z.alias, key)
	} else {
		z.alias[key] = strings.ToLower(name) + "."
	}
	z.publish(z.view.Load(), key)
}

// aliasNode returns what a name is that stands for another one, with the domain: its CNAME
// record. It has nothing where the name stands for none, or where a static one has it.
// z.mu must be held.
func (z *Zone) aliasNode(v *View, key string) *node {
	n := new(node)
	if target := z.alias[key]; target != "" && v.staticNames[key] == nil {
		n.add(dns.TypeCNAME, record{data: wire.AppendName(nil, v.whole(target))})
	}
	return n
}
