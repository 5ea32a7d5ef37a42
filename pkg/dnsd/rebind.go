package dnsd

import (
	"net/netip"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// Rebinding: a page from outside gives its own name an address inside, so that
// the browser that shows it lets it speak to a device there.

// rebind says which answers of upstreams guests don't get. The zero value lets
// all pass. It does not change.
type rebind struct {
	stop      bool
	localhost bool            // loopback addresses may pass
	domains   map[string]bool // keys of those whose names may have any address
}

// newRebind returns what cfg, which must be valid, says of rebinding.
func newRebind(cfg Config) *rebind {
	r := &rebind{stop: cfg.StopRebind, localhost: cfg.RebindLocalhost, domains: make(map[string]bool)}
	for _, d := range cfg.RebindDomains {
		r.domains[wire.KeyOf(d)] = true
	}
	return r
}

// stops reports whether msg, which answers a question for the name key, is not for
// guests: a record of the answer has a private address.
func (r *rebind) stops(key string, msg []byte) bool {
	if !r.stop || r.mayHaveAny(key) {
		return false
	}
	for a := range wire.Addresses(msg) {
		if r.isPrivate(a) {
			return true
		}
	}
	return false
}

// mayHaveAny reports whether a name is in one of the domains.
func (r *rebind) mayHaveAny(key string) bool {
	for domain := range wire.Domains(key) {
		if r.domains[domain] {
			return true
		}
	}
	return false
}

// isPrivate reports whether an address is one that only this host or its
// neighbours have: RFC 1918, RFC 3927, RFC 4193, RFC 6598, loopback, link-local
// and unspecified.
func (r *rebind) isPrivate(a netip.Addr) bool {
	if a.IsLoopback() || a.IsUnspecified() || a.Is4() && a.As4()[0] == 0 {
		return !r.localhost
	}
	shared := a.Is4() && a.As4()[0] == 100 && a.As4()[1]&0xc0 == 64
	return a.IsPrivate() || a.IsLinkLocalUnicast() || shared
}
