package upstream

import (
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// Forwarder is an upstream server, for all names or for those in one domain.
type Forwarder struct {
	// Domain is the domain whose names, its own among them, this server is
	// asked for and no other; of several the longest counts. Empty: all names
	// that no other forwarder's domain has; the host's resolv.conf is not used
	// then.
	Domain string

	// Addr is the server. Zero, with a Domain: the servers that are asked for
	// names without a forwarder of their own.
	Addr netip.Addr

	Port uint16 // 0: 53
}

// routes say which servers a name is asked of. They don't change.
type routes struct {
	domains map[string]route // by key
	rest    route            // of names in no domain
}

// route has the servers that are asked.
type route struct {
	servers []*Server
	host    bool // those of the host's resolv.conf are
}

// newRoutes returns the routes of cfg. What old, which may be nil, knows of a
// server is kept.
func newRoutes(cfg Config, old *routes) *routes {
	r := &routes{
		domains: make(map[string]route),
		rest:    route{host: cfg.Host},
	}
	for _, f := range cfg.Forwarders {
		if f.Domain == "" {
			r.rest.host = false
			r.rest.servers = append(r.rest.servers, old.servers(cfg, f)...)
		}
	}
	for _, f := range cfg.Forwarders {
		if f.Domain == "" {
			continue
		}
		key := wire.KeyOf(f.Domain)
		there := r.domains[key]
		if f.Addr.IsValid() {
			there.servers = append(there.servers, old.servers(cfg, f)...)
		} else {
			there.host = r.rest.host
			there.servers = append(there.servers, r.rest.servers...)
		}
		r.domains[key] = there
	}
	return r
}

// servers returns the server of f, as r knows it if it does; none if that is
// ourselves: a query must not come back to us. r may be nil.
func (r *routes) servers(cfg Config, f Forwarder) []*Server {
	if f.Port == cfg.OwnPort && slices.Contains(cfg.Own, f.Addr) {
		return nil
	}
	at := netip.AddrPortFrom(f.Addr, f.Port)
	if r != nil {
		for _, s := range r.all() {
			if s.addr == at {
				return []*Server{s}
			}
		}
	}
	return []*Server{{addr: at}}
}

// all returns the servers of all routes.
func (r *routes) all() []*Server {
	all := slices.Clone(r.rest.servers)
	for _, there := range r.domains {
		all = append(all, there.servers...)
	}
	return all
}

// of returns the route of a name: that of the longest domain that it is in.
func (r *routes) of(key string) route {
	if len(r.domains) == 0 {
		return r.rest
	}
	found, ok := r.domains[key]
	if ok {
		return found
	}
	found = r.rest
	wire.Parents(key, func(domain string) bool {
		if there, ok := r.domains[domain]; ok {
			found = there
			return false
		}
		return true
	})
	return found
}
