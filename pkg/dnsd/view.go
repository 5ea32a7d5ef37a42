package dnsd

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// newView is the view of cfg without any dynamic host.
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
	v.localhost.addHost(Host{Addr: netip.AddrFrom4([4]byte{127, 0, 0, 1})})
	v.localhost.addHost(Host{Addr: netip.IPv6Loopback()})
	if cfg.Domain != "" {
		v.domain = wire.KeyOf(cfg.Domain)
	}
	for _, p := range cfg.Prefixes {
		v.prefixes = append(v.prefixes, p.Masked())
		v.reverse = append(v.reverse, wire.ReverseZone(p.Masked()))
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
		if n := v.aliasNode(c.Name); len(n.sets) == 0 {
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
	for _, n := range v.staticNames {
		slices.SortStableFunc(n.sets, func(a, b rrset) int { return cmp.Compare(a.rtype, b.rtype) })
	}
}

// aliasNode is the node of a static name, or of the names below a domain.
func (v *view) aliasNode(name string) *node {
	domain, found := strings.CutPrefix(name, wildcard)
	if !found {
		return v.static(name)
	}
	r := v.rule(domain)
	if r.alias == nil {
		r.alias = new(node)
	}
	return r.alias
}

// static is the node of a static name, and makes those that it stands below
// names without records: RFC 8020, they exist.
func (v *view) static(name string) *node {
	wire.Parents(wire.KeyOf(name), func(key string) bool {
		v.between[key] = true
		return true
	})
	key := v.key(name)
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
	for _, d := range cfg.LocalDomains {
		v.rule(d).local = true
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

// rule is the rule of a domain.
func (v *view) rule(domain string) *rule {
	key := wire.KeyOf(domain)
	if v.rules[key] == nil {
		v.rules[key] = &rule{domain: key}
	}
	return v.rules[key]
}
