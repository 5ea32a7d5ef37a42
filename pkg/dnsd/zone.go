package dnsd

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/dnsname"
	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// zone is what one network knows of names and addresses. Readers take the view
// and no lock; writers hold mu.
type zone struct {
	view atomic.Pointer[view]

	mu     sync.Mutex
	ttl    time.Duration // of dynamic hosts without one
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

// view is what readers see. Everything but the two tables of dynamic hosts is
// fixed; those change one entry at a time, each from one complete state to the
// next.
type view struct {
	domain       string     // key; "" none
	own          netip.Addr // that is served on
	noPlainNames bool
	forwards     bool // some queries have an upstream
	subnets      []subnet

	staticNames map[string]*node // by bare key
	staticAddrs map[netip.Addr]*node
	between     map[string]bool  // names that have none but names below them
	rules       map[string]*rule // by key
	localhost   *node
	names       table[string, *node]
	addrs       table[netip.Addr, *node]
}

// rule is what holds for all the names of a domain that nothing else is known of.
type rule struct {
	domain  string // key
	node    *node  // addresses; nil: none
	below   *node  // of the names below it; nil: none
	forward bool   // the rest has an upstream of its own
	local   bool   // the rest does not exist
}

// table is a map that is read and changed at the same time.
type table[K comparable, V any] struct {
	mu sync.RWMutex
	m  map[K]V
}

func (t *table[K, V]) load(k K) (V, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v, ok := t.m[k]
	return v, ok
}

func (t *table[K, V]) store(k K, v V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = make(map[K]V)
	}
	t.m[k] = v
}

func (t *table[K, V]) remove(k K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, k)
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
	z.ttl = cfg.HostTTL
	v := newView(cfg)
	for key := range z.byName {
		z.publish(v, key)
	}
	z.view.Store(v)
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

// isClaimable reports whether a guest may have the label as its name. Not those
// that others look up for a service rather than for a host: localhost (RFC 6761
// section 6.3), wpad (whoever has it is everyone's web proxy) and isatap (RFC
// 5214: everyone's IPv6 router).
func isClaimable(label string) bool {
	if !wire.IsLabel(label) {
		return false
	}
	switch strings.ToLower(label) {
	case "localhost", "wpad", "isatap":
		return false
	}
	return true
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
	v.addrs.remove(a)
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
			v.addrs.remove(a)
			continue
		}
		h := z.claims[a].host
		h.TTL = cmp.Or(h.TTL, z.ttl)
		n.addHost(h)
		v.addrs.store(a, v.pointerTo(h))
	}
	if !n.complete {
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
func (z *zone) winner(v *view, key string, is4 bool) netip.Addr {
	if n := v.staticNames[key]; n != nil && n.complete {
		return netip.Addr{}
	}
	for _, a := range slices.Backward(z.byName[key]) {
		if a.Is4() == is4 && v.staticAddrs[a] == nil {
			return a
		}
	}
	return netip.Addr{}
}

// key returns the key under which a host's name is kept, see bare.
func (v *view) key(name string) string { return v.bare(wire.KeyOf(name)) }

// bare returns a key without the domain where a single label stands before it: a name
// is found plain and with the domain.
func (v *view) bare(key string) string {
	if label, ok := wire.InDomain(key, v.domain); ok && label != "" && !strings.Contains(label, ".") {
		return key[:len(label)+1]
	}
	return key
}

// pointerTo returns the node of h's address: a PTR record with its name, with the
// domain if it is a plain one.
func (v *view) pointerTo(h Host) *node {
	target := strings.TrimSuffix(h.Name, ".") + "."
	if label, _, _ := strings.Cut(target, "."); isPlain(v.key(h.Name)) && len(label)+len(".")+len(v.domain) <= wire.MaxName {
		target = label + "." + v.domain
	}
	n := &node{complete: true}
	n.add(dns.TypePTR, h.record(wire.AppendName(nil, target)))
	return n
}

// newView returns the view of cfg without any dynamic host.
func newView(cfg Config) *view {
	v := &view{
		noPlainNames: cfg.NoPlainNames,
		forwards:     cfg.forwards(),
		staticNames:  make(map[string]*node),
		staticAddrs:  make(map[netip.Addr]*node),
		between:      make(map[string]bool),
		rules:        make(map[string]*rule),
		localhost:    new(node),
	}
	if len(cfg.Addrs) > 0 {
		v.own = cfg.Addrs[0]
	}
	v.localhost.addHost(Host{Addr: netip.AddrFrom4([4]byte{127, 0, 0, 1})})
	v.localhost.addHost(Host{Addr: netip.IPv6Loopback()})
	if cfg.Domain != "" {
		v.domain = wire.KeyOf(cfg.Domain)
	}
	for _, p := range cfg.Prefixes {
		v.subnets = append(v.subnets, newSubnet(p))
	}
	v.addRecords(cfg)
	v.addRules(cfg)
	return v
}

// addRecords gives v the static names.
func (v *view) addRecords(cfg Config) {
	for _, h := range cfg.Static {
		v.static(h.Name).addHost(h)
		if v.staticAddrs[h.Addr] == nil {
			v.staticAddrs[h.Addr] = v.pointerTo(h)
		}
	}
	for _, c := range cfg.CNAMEs {
		// RFC 1034 section 3.6.2: a name that has a CNAME record has no other.
		if n := v.named(c.Name); len(n.sets) == 0 {
			n.add(dns.TypeCNAME, record{ttl: wireTTL(c.TTL), data: wire.AppendName(nil, c.Target)})
		}
	}
	for _, t := range cfg.TXT {
		if n := v.static(t.Name); n.records(dns.TypeCNAME) == nil {
			n.add(dns.TypeTXT, record{data: t.data()})
		}
	}
	for _, s := range cfg.SRV {
		if n := v.static(s.name(cfg.Domain)); n.records(dns.TypeCNAME) == nil {
			n.add(dns.TypeSRV, record{data: s.data()})
		}
	}
	for _, r := range cfg.Records {
		v.addRecord(r)
	}
	for _, n := range v.staticNames {
		slices.SortStableFunc(n.sets, func(a, b rrset) int { return cmp.Compare(a.rtype, b.rtype) })
	}
}

// named returns the node of a static name, or of the names below a domain.
func (v *view) named(name string) *node {
	domain, found := strings.CutPrefix(name, wildcard)
	if !found {
		return v.static(name)
	}
	r := v.rule(domain)
	v.between[r.domain] = true
	if r.below == nil {
		r.below = new(node)
	}
	return r.below
}

// addRecord gives v a record of any type.
func (v *view) addRecord(r Record) {
	n := v.named(r.Name)
	code, data, err := dnsname.Data(r.Type, r.Value)
	if err != nil || n.records(dns.TypeCNAME) != nil || code == dns.TypeCNAME && len(n.sets) > 0 {
		return
	}
	n.add(code, record{ttl: wireTTL(r.TTL), data: data})
	n.complete = n.complete || code == dns.TypeA || code == dns.TypeAAAA
}

// above makes the names that a key stands below names without records: RFC 8020, they
// exist.
func (v *view) above(key string) {
	for domain := range wire.Domains(key) {
		if domain != key && domain != "." {
			v.between[domain] = true
		}
	}
}

// static returns the node of a static name.
func (v *view) static(name string) *node {
	full := wire.KeyOf(name)
	v.above(full)
	key := v.bare(full)
	if v.staticNames[key] == nil {
		v.staticNames[key] = new(node)
	}
	return v.staticNames[key]
}

// addRules gives v what holds for whole domains.
func (v *view) addRules(cfg Config) {
	if cfg.LocalOnly && v.domain != "" {
		v.rule(cfg.Domain).local = true
	}
	for _, s := range v.subnets {
		for _, zone := range s.zones() {
			v.zone(zone)
		}
	}
	if v.domain != "" {
		v.zone(v.domain)
	}
	for _, d := range cfg.LocalDomains {
		r := v.rule(d)
		r.local, v.between[r.domain] = true, true
	}
	for _, f := range cfg.Forwarders {
		if f.Domain != "" {
			v.rule(f.Domain).forward = true
		}
	}
	for _, a := range cfg.Addresses {
		r := v.rule(a.Domain)
		if r.node == nil {
			r.node = new(node)
		}
		r.node.addHost(Host{Addr: a.Addr})
	}
}

// zone makes a zone's name, and those that it stands below, names that exist.
func (v *view) zone(key string) {
	v.between[key] = true
	v.above(key)
}

// rule returns the rule of a domain.
func (v *view) rule(domain string) *rule {
	key := wire.KeyOf(domain)
	if v.rules[key] == nil {
		v.rules[key] = &rule{domain: key}
		v.above(key)
	}
	return v.rules[key]
}
