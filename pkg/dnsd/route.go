package dnsd

import (
	"net/netip"
	"slices"
)

// routes say whose matter a name is. They don't change.
type routes struct {
	domains map[string]route // by key
	rest    route            // of names in no domain
}

// route is who is asked.
type route struct {
	servers []*upstream
	host    bool // those of the host's resolv.conf are
}

// newRoutes are the routes that cfg, which must be valid and have its defaults,
// describes. What old, which may be nil, knows of a server is kept.
func newRoutes(cfg Config, old *routes) *routes {
	r := &routes{
		domains: make(map[string]route),
		rest:    route{host: !cfg.NoForward},
	}
	for _, f := range cfg.Forwarders {
		if f.Domain == "" {
			r.rest.host = false
			r.rest.servers = append(r.rest.servers, old.upstreams(cfg, f)...)
		}
	}
	for _, f := range cfg.Forwarders {
		if f.Domain == "" {
			continue
		}
		there := r.domains[keyOf(f.Domain)]
		if f.Addr.IsValid() {
			there.servers = append(there.servers, old.upstreams(cfg, f)...)
		} else {
			there.host = r.rest.host
			there.servers = append(there.servers, r.rest.servers...)
		}
		r.domains[keyOf(f.Domain)] = there
	}
	return r
}

// upstreams is the server of f, as r knows it if it does; none if that is
// ourselves: a query must not come back to us. r may be nil.
func (r *routes) upstreams(cfg Config, f Forwarder) []*upstream {
	if f.Port == uint16(cfg.Port) && slices.Contains(cfg.Addrs, f.Addr) {
		return nil
	}
	at := netip.AddrPortFrom(f.Addr, f.Port)
	if r != nil {
		for _, u := range r.all() {
			if u.addr == at {
				return []*upstream{u}
			}
		}
	}
	return []*upstream{{addr: at}}
}

// all are the servers of all routes.
func (r *routes) all() []*upstream {
	all := slices.Clone(r.rest.servers)
	for _, there := range r.domains {
		all = append(all, there.servers...)
	}
	return all
}

// of is the route of a name: that of the longest domain that it is in.
func (r *routes) of(key string) route {
	if len(r.domains) == 0 {
		return r.rest
	}
	found, ok := r.domains[key]
	if ok {
		return found
	}
	found = r.rest
	parents(key, func(domain string) bool {
		if there, ok := r.domains[domain]; ok {
			found = there
			return false
		}
		return true
	})
	return found
}
