package zone

import (
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/dnsname"
	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// Zone is what one network knows of names and addresses. Readers take the view
// and no lock; writers hold mu.
type Zone struct {
	view atomic.Pointer[View]

	mu     sync.Mutex
	ttl    time.Duration // of dynamic hosts without one
	claims map[netip.Addr]claim
	byName map[string][]netip.Addr // by claim.key; addresses in the order of their claims
	alias  map[string]string       // names of dynamic hosts by those that stand for them, as keys
}

// View is what readers see. Everything but the two tables of dynamic hosts is
// fixed; those change one entry at a time, each from one complete state to the
// next.
type View struct {
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

// New returns the zone that cfg, which must be valid, describes.
func New(cfg Config) *Zone {
	z := &Zone{
		claims: make(map[netip.Addr]claim),
		byName: make(map[string][]netip.Addr),
		alias:  make(map[string]string),
	}
	z.Configure(cfg)
	return z
}

// View returns what the zone is now. It must not be kept: dynamic hosts that come after the
// next Configure are not in it.
func (z *Zone) View() *View { return z.view.Load() }

// Forwards reports whether some names have an upstream.
func (v *View) Forwards() bool { return v.forwards }

// Configure replaces what cfg says and keeps the dynamic hosts. cfg must be
// valid.
func (z *Zone) Configure(cfg Config) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.ttl = cfg.HostTTL
	v := newView(cfg)
	for key := range z.byName {
		z.publish(v, key)
	}
	for key := range z.alias {
		z.publish(v, key)
	}
	z.view.Store(v)
}

// key returns the key under which a host's name is kept, see bare.
func (v *View) key(name string) string { return v.bare(wire.KeyOf(name)) }

// bare returns a key without the domain where a single label stands before it: a name
// is found plain and with the domain.
func (v *View) bare(key string) string {
	if label, ok := wire.InDomain(key, v.domain); ok && label != "" && !strings.Contains(label, ".") {
		return key[:len(label)+1]
	}
	return key
}

// pointerTo returns the node of h's address: a PTR record with its name, with the
// domain if it is a plain one.
func (v *View) pointerTo(h Host) *node {
	n := &node{complete: true}
	n.add(dns.TypePTR, h.record(appendTarget(v, nil, h.Name, v.key(h.Name))))
	return n
}

// appendTarget appends what the address of a host leads to whose name has that key.
func appendTarget(v *View, b []byte, name, key string) []byte {
	if !isPlain(key) {
		return wire.AppendName(b, name)
	}
	label, _, _ := strings.Cut(name, ".")
	if b = wire.AppendName(b, label); hasRoom(v.domain, label) {
		b = wire.AppendName(b[:len(b)-1], v.domain)
	}
	return b
}

// hasRoom reports whether a domain has room for a label before it.
func hasRoom(domain, label string) bool {
	return len(label)+len(".")+len(domain) <= wire.MaxName
}

// whole returns the name of a plain one's first label with the domain, where that has room.
func (v *View) whole(name string) string {
	if label, _, _ := strings.Cut(name, "."); hasRoom(v.domain, label) {
		return label + "." + v.domain
	}
	return name
}

// newView returns the view of cfg without any dynamic host.
func newView(cfg Config) *View {
	v := &View{
		noPlainNames: cfg.NoPlainNames,
		own:          cfg.Own,
		forwards:     cfg.Forwards,
		staticNames:  make(map[string]*node, len(cfg.Static)),
		staticAddrs:  make(map[netip.Addr]*node, len(cfg.Static)),
		between:      make(map[string]bool),
		rules:        make(map[string]*rule),
		localhost:    new(node),
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
func (v *View) addRecords(cfg Config) {
	addHosts(v, cfg.Static)
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
}

// named returns the node of a static name, or of the names below a domain.
func (v *View) named(name string) *node {
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
func (v *View) addRecord(r Record) {
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
func (v *View) above(key string) {
	for domain := range wire.Domains(key) {
		if domain != key && domain != "." {
			v.between[domain] = true
		}
	}
}

// static returns the node of a static name.
func (v *View) static(name string) *node {
	key := staticKey(v, name)
	if v.staticNames[key] == nil {
		v.staticNames[key] = new(node)
	}
	return v.staticNames[key]
}

// staticKey returns the key under which the node of a static name is kept.
func staticKey(v *View, name string) string {
	full := wire.KeyOf(name)
	v.above(full)
	return v.bare(full)
}

// addRules gives v what holds for whole domains.
func (v *View) addRules(cfg Config) {
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
	for _, d := range cfg.Forwarded {
		v.rule(d).forward = true
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
func (v *View) zone(key string) {
	v.between[key] = true
	v.above(key)
}

// rule returns the rule of a domain.
func (v *View) rule(domain string) *rule {
	key := wire.KeyOf(domain)
	if v.rules[key] == nil {
		v.rules[key] = &rule{domain: key}
		v.above(key)
	}
	return v.rules[key]
}
