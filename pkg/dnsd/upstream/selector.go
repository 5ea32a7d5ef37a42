package upstream

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

const dnsPort = 53

// Config says which servers a Selector has.
type Config struct {
	Own        []netip.Addr // our addresses, which are not asked at OwnPort
	OwnPort    uint16
	Forwarders []Forwarder // with their ports
	Host       bool        // without a Forwarder for all names those of ResolvConf are asked
	ResolvConf string      // path of the host's resolv.conf
}

// Selector has the servers that names are asked of. Its methods are safe for
// concurrent use, Configure but for itself.
type Selector struct {
	log    *slog.Logger
	flush  func()
	routes atomic.Pointer[routes]
	resolv resolvConf
	cfg    Config

	mu   sync.Mutex
	host []netip.Addr // servers of the host, when it last had some
}

// NewSelector returns a Selector, to be configured. It calls flush when the host
// has other servers, which know other names (a VPN's for instance), so that
// answers of the former are to be forgotten; but not while the host has none.
func NewSelector(log *slog.Logger, flush func()) *Selector {
	return &Selector{log: log, flush: flush}
}

// Configure puts cfg, which must be valid, in force. What is known of a server is
// kept. An address of ours is a server of resolv.conf that must not be asked only
// if we serve the port that it would be asked at.
func (s *Selector) Configure(cfg Config) {
	var own []netip.Addr
	if cfg.OwnPort == dnsPort {
		own = cfg.Own
	}
	if s.cfg.ResolvConf != cfg.ResolvConf || !slices.Equal(s.cfg.Own, cfg.Own) {
		s.resolv.configure(cfg.ResolvConf, own)
	}
	s.routes.Store(newRoutes(cfg, s.routes.Load()))
	s.cfg = cfg
}

// Serves reports whether there is a server for the name with that key.
func (s *Selector) Serves(key string) bool {
	r := s.routes.Load().of(key)
	return r.host || len(r.servers) > 0
}

// Servers returns the servers that the name with that key is asked of.
func (s *Selector) Servers(key string, now time.Time) []*Server {
	r := s.routes.Load().of(key)
	if !r.host {
		return r.servers
	}
	servers, changed := s.resolv.current(now)
	if changed {
		s.hostChanged(servers)
	}
	return servers
}

// IsLocal reports whether a server that the name with that key is asked of is on this host.
func (s *Selector) IsLocal(key string, now time.Time) bool {
	return slices.ContainsFunc(s.Servers(key, now), (*Server).isLocal)
}

// hostChanged notes that the host has other servers.
func (s *Selector) hostChanged(servers []*Server) {
	addrs := make([]netip.Addr, len(servers))
	for i, one := range servers {
		addrs[i] = one.addr.Addr()
	}
	s.log.Info("upstream name servers", "upstream", addrs)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(addrs) == 0 || slices.Equal(addrs, s.host) {
		return
	}
	s.host = addrs
	s.flush()
}

// Status is a server and whether it answers.
type Status struct {
	Addr netip.AddrPort
	// Domain is the domain whose names it is asked for; empty: of all others.
	Domain string
	// Failing says that it did not answer when it was asked last.
	Failing bool
	// Case, EDNS and TCP say what was learnt about it of late: of the case of letters
	// that it keeps, Kept or Lost, of the others what works.
	Case, EDNS, TCP Verdict
	// RTT is from question to answer, smoothed; 0: it has not answered of late.
	RTT time.Duration
}

// Asked counts what one server was asked, for whatever domain, since it is
// configured.
type Asked struct {
	Addr     netip.AddrPort
	Queries  uint64        // sent to it
	Failures uint64        // questions that it left unanswered, or had no better answer to than SERVFAIL and its like
	RTT      time.Duration // from question to answer, smoothed; 0: it has not answered yet
}

// Status lists the servers that are asked at present: first those for all names,
// in their order, then by domain.
func (s *Selector) Status(now time.Time) []Status {
	all := statusOf("", s.Servers("", now), now)
	for domain := range s.routes.Load().domains {
		all = append(all, statusOf(strings.TrimSuffix(domain, "."), s.Servers(domain, now), now)...)
	}
	slices.SortStableFunc(all, func(a, b Status) int { return strings.Compare(a.Domain, b.Domain) })
	return all
}

// statusOf describes the servers of a domain.
func statusOf(domain string, servers []*Server, now time.Time) []Status {
	var all []Status
	for _, s := range servers {
		failing, rtt := s.health(now)
		all = append(all, Status{
			Addr: s.addr, Domain: domain, Failing: failing,
			Case: s.letters.verdict(now), EDNS: s.edns.verdict(now), TCP: s.tcp.verdict(now), RTT: rtt,
		})
	}
	return all
}

// Asked counts what the servers that are asked at present were asked, in the order
// of their addresses.
func (s *Selector) Asked(now time.Time) []Asked {
	servers := s.routes.Load().all()
	servers = append(servers, s.Servers("", now)...)
	slices.SortFunc(servers, func(a, b *Server) int { return a.addr.Compare(b.addr) })
	var all []Asked
	for i, one := range servers {
		if i == 0 || one.addr != servers[i-1].addr {
			all = append(all, Asked{Addr: one.addr})
		}
		if !slices.Contains(servers[:i], one) {
			all[len(all)-1].add(one, now)
		}
	}
	return all
}

// add counts what s was asked too.
func (a *Asked) add(s *Server, now time.Time) {
	a.Queries += s.queries.Load()
	a.Failures += s.failures.Load()
	_, rtt := s.health(now)
	a.RTT = max(a.RTT, rtt)
}

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

	// Host has the host's servers be asked for the names in Domain where no others are and
	// Config.Host is not set.
	Host bool

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
			there.host = r.rest.host || f.Host && len(r.rest.servers) == 0
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
	for domain := range wire.Domains(key) {
		if there, ok := r.domains[domain]; ok {
			return there
		}
	}
	return r.rest
}
