package dnsd

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// zone is what one network knows of names and addresses. Readers take the view
// and no lock; writers hold mu.
type zone struct {
	view atomic.Pointer[view]

	mu     sync.Mutex
	claims map[netip.Addr]claim
	byName map[string][]netip.Addr // by claim.key; addresses in the order of their claims
}

// claim is a dynamic host's wish for a name. It is kept while something else
// stands before it (a static host, a later claim), to take effect when that
// goes.
type claim struct {
	host Host   // its name is a single label
	key  string // of the name, as in view.names
}

// view is what readers see. Everything but the two maps of dynamic hosts is
// fixed; those change one entry at a time, each from one complete state to the
// next.
type view struct {
	domain       string // lower-case and fully qualified; "" none
	localOnly    bool
	noPlainNames bool
	noForward    bool
	prefixes     []netip.Prefix

	staticNames map[string]*node
	staticAddrs map[netip.Addr]*pointer
	names       sync.Map // string -> *node
	addrs       sync.Map // netip.Addr -> *pointer
}

// node holds the addresses of a name.
type node struct {
	a, aaaa []record
}

// record is one address of a name.
type record struct {
	ip  net.IP // 4 or 16 octets
	ttl uint32
}

// pointer is the name of an address.
type pointer struct {
	target string // fully qualified, spelled as it was given
	ttl    uint32
}

// newZone returns the zone that cfg, which must be valid, describes.
func newZone(cfg Config) *zone {
	z := &zone{
		claims: make(map[netip.Addr]claim),
		byName: make(map[string][]netip.Addr),
	}
	z.configure(cfg)
	return z
}

// configure replaces what cfg says and keeps the dynamic hosts. cfg must be
// valid.
func (z *zone) configure(cfg Config) {
	z.mu.Lock()
	defer z.mu.Unlock()
	v := newView(cfg)
	for key := range z.byName {
		z.publish(v, key)
	}
	z.view.Store(v)
}

// newView is the view of cfg without any dynamic host.
func newView(cfg Config) *view {
	v := &view{
		localOnly:    cfg.LocalOnly,
		noPlainNames: cfg.NoPlainNames,
		noForward:    cfg.NoForward,
		staticNames:  make(map[string]*node),
		staticAddrs:  make(map[netip.Addr]*pointer),
	}
	if cfg.Domain != "" {
		v.domain = strings.ToLower(cfg.Domain) + "."
	}
	for _, p := range cfg.Prefixes {
		v.prefixes = append(v.prefixes, p.Masked())
	}
	for _, h := range cfg.Static {
		key := v.key(h.Name)
		if v.staticNames[key] == nil {
			v.staticNames[key] = new(node)
		}
		v.staticNames[key].add(h)
		if v.staticAddrs[h.Addr] == nil {
			v.staticAddrs[h.Addr] = v.pointerTo(h)
		}
	}
	return v
}

// set records the claim of a dynamic host. A host that repeats its claim, as
// with every renewal of a lease, does not become the last to claim the name:
// otherwise two guests of one name would take it from each other for ever.
func (z *zone) set(h Host) {
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

// remove forgets the claim of an address.
func (z *zone) remove(a netip.Addr) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.forget(z.view.Load(), a)
}

// forget takes back what the claim of a made visible. z.mu must be held.
func (z *zone) forget(v *view, a netip.Addr) {
	old, had := z.claims[a]
	if !had {
		return
	}
	z.unclaim(a)
	v.addrs.Delete(a)
	z.publish(v, old.key)
}

// unclaim removes the claim of a from the books, not from the view. z.mu must
// be held.
func (z *zone) unclaim(a netip.Addr) {
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

// publish makes v show who has the name key: per address family the last to
// claim it, and nobody else. z.mu must be held.
func (z *zone) publish(v *view, key string) {
	n := new(node)
	winner4, winner6 := z.winner(v, key, true), z.winner(v, key, false)
	for _, a := range z.byName[key] {
		if a != winner4 && a != winner6 {
			v.addrs.Delete(a)
			continue
		}
		h := z.claims[a].host
		n.add(h)
		v.addrs.Store(a, v.pointerTo(h))
	}
	if len(n.a)+len(n.aaaa) == 0 {
		v.names.Delete(key)
		return
	}
	v.names.Store(key, n)
}

// winner is the last address of a family to claim key among those that may have
// it, the zero Addr if there is none. z.mu must be held.
func (z *zone) winner(v *view, key string, is4 bool) netip.Addr {
	if v.staticNames[key] != nil {
		return netip.Addr{}
	}
	for _, a := range slices.Backward(z.byName[key]) {
		if a.Is4() == is4 && v.staticAddrs[a] == nil {
			return a
		}
	}
	return netip.Addr{}
}

// add gives n another address.
func (n *node) add(h Host) {
	r := record{ip: h.Addr.AsSlice(), ttl: h.seconds()}
	if h.Addr.Is4() {
		n.a = append(n.a, r)
		return
	}
	n.aaaa = append(n.aaaa, r)
}

// key is the spelling under which a host's name is kept, see bare.
func (v *view) key(name string) string {
	return v.bare(strings.ToLower(strings.TrimSuffix(name, ".")) + ".")
}

// bare is name, lower-case and fully qualified, without the domain where a
// single label stands before it: a name is found plain and with the domain.
func (v *view) bare(name string) string {
	if label, ok := inDomain(name, v.domain); ok && label != "" && !strings.Contains(label, ".") {
		return name[:len(label)+1]
	}
	return name
}

// pointerTo is the PTR record of h: its name, with the domain if it is a plain
// one.
func (v *view) pointerTo(h Host) *pointer {
	target := strings.TrimSuffix(h.Name, ".") + "."
	if key := v.key(h.Name); isPlain(key) {
		target = target[:len(key)] + v.domain
	}
	return &pointer{target: target, ttl: h.seconds()}
}
