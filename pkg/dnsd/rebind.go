package dnsd

import (
	"encoding/binary"
	"net/netip"

	"github.com/miekg/dns"
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

// newRebind is what cfg, which must be valid, says of rebinding.
func newRebind(cfg Config) *rebind {
	r := &rebind{stop: cfg.StopRebind, localhost: cfg.RebindLocalhost, domains: make(map[string]bool)}
	for _, d := range cfg.RebindDomains {
		r.domains[keyOf(d)] = true
	}
	return r
}

// stops tells whether msg, which is whole and answers a question for the name
// key, is not for guests: a record of the answer has a private address.
func (r *rebind) stops(key string, msg []byte) bool {
	if !r.stop || r.mayHaveAny(key) {
		return false
	}
	off := questionEnd(msg)
	for range binary.BigEndian.Uint16(msg[countAnswer:]) {
		rtype, end, ok := scanRecord(msg, off)
		if !ok {
			return false
		}
		fixed, _ := skipName(msg, off)
		if a, ok := address(rtype, msg[fixed+10:end]); ok && r.isPrivate(a) {
			return true
		}
		off = end
	}
	return false
}

// emptied is a header that says of msg's name that it is there, and no more.
func emptied(msg []byte) []byte {
	header := make([]byte, headerSize)
	copy(header[:4], msg)
	header[3] &^= 0xf
	return header
}

// mayHaveAny tells whether a name is in one of the domains.
func (r *rebind) mayHaveAny(key string) bool {
	found := r.domains[key]
	parents(key, func(domain string) bool {
		found = found || r.domains[domain]
		return !found
	})
	return found
}

// address is the address in a record's data.
func address(rtype uint16, rdata []byte) (a netip.Addr, ok bool) {
	if rtype != dns.TypeA && rtype != dns.TypeAAAA {
		return a, false
	}
	a, ok = netip.AddrFromSlice(rdata)
	return a.Unmap(), ok
}

// isPrivate tells whether an address is one that only this host or its
// neighbours have: RFC 1918, RFC 3927, RFC 4193, RFC 6598, loopback, link-local
// and unspecified.
func (r *rebind) isPrivate(a netip.Addr) bool {
	if a.IsLoopback() || a.IsUnspecified() || a.Is4() && a.As4()[0] == 0 {
		return !r.localhost
	}
	shared := a.Is4() && a.As4()[0] == 100 && a.As4()[1]&0xc0 == 64
	return a.IsPrivate() || a.IsLinkLocalUnicast() || shared
}
