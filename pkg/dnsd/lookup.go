package dnsd

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// answer is what the zone says to a query.
type answer struct {
	rcode   int
	records []dns.RR
	soa     string // owner of the SOA record of a negative answer; "" none
}

// lookup answers q; ok is false when it is not for this zone to answer.
func (v *view) lookup(q *query) (a answer, ok bool) {
	if strings.HasSuffix(q.key, ".arpa.") {
		if a, ok := v.lookupReverse(q); ok {
			return a, true
		}
	}
	if n := v.host(q.key); n != nil {
		return n.answer(q, v.zoneOf(q.key)), true
	}
	if rest, ok := inDomain(q.key, v.domain); ok && v.localOnly {
		return negative(rest != "", v.domain), true
	}
	if v.noPlainNames && isPlain(q.key) && (q.qtype == dns.TypeA || q.qtype == dns.TypeAAAA) {
		return negative(true, ""), true
	}
	return answer{}, false
}

// host is the node of a name, lower-case and fully qualified, nil if there is none.
func (v *view) host(name string) *node {
	key := v.bare(name)
	if n := v.staticNames[key]; n != nil {
		return n
	}
	n, _ := v.names.Load(key)
	found, _ := n.(*node)
	return found
}

// zoneOf is the zone that a known name belongs to: the domain, or the name's own.
func (v *view) zoneOf(name string) string {
	if _, ok := inDomain(name, v.domain); ok {
		return v.domain
	}
	return name
}

// isPlain tells whether a fully qualified name has one label.
func isPlain(name string) bool {
	return len(name) > 1 && strings.IndexByte(name, '.') == len(name)-1
}

// negative is the answer without records: the name does not exist, or has none
// of that type.
func negative(nxdomain bool, soa string) answer {
	if nxdomain {
		return answer{rcode: dns.RcodeNameError, soa: soa}
	}
	return answer{soa: soa}
}

// answer is what n says to q; a type that the name has not got is an empty
// answer with the SOA record of zone (RFC 2308 section 2.2).
func (n *node) answer(q *query, zone string) answer {
	var a answer
	switch q.qtype {
	case dns.TypeA:
		a.records = addressRecords(q, dns.TypeA, n.a)
	case dns.TypeAAAA:
		a.records = addressRecords(q, dns.TypeAAAA, n.aaaa)
	case dns.TypeANY:
		// RFC 8482 section 4.1: one RRset of those at the name is an answer.
		if a.records = addressRecords(q, dns.TypeA, n.a); len(a.records) == 0 {
			a.records = addressRecords(q, dns.TypeAAAA, n.aaaa)
		}
	}
	if len(a.records) == 0 {
		a.soa = zone
	}
	return a
}

// addressRecords are the A or AAAA records of records.
func addressRecords(q *query, rtype uint16, records []record) []dns.RR {
	if len(records) == 0 {
		return nil
	}
	rrs := make([]dns.RR, 0, len(records))
	for _, r := range records {
		if rtype == dns.TypeA {
			rrs = append(rrs, &dns.A{Hdr: q.header(rtype, r.ttl), A: r.ip})
		} else {
			rrs = append(rrs, &dns.AAAA{Hdr: q.header(rtype, r.ttl), AAAA: r.ip})
		}
	}
	return rrs
}

// lookupReverse answers q if it is a reverse name of a host that we know or of
// one of the subnets.
func (v *view) lookupReverse(q *query) (answer, bool) {
	r, ok := parseReverse(q.key)
	if !ok {
		return answer{}, false
	}
	if r.prefix.IsSingleIP() && !r.below {
		if p := v.pointer(r.prefix.Addr()); p != nil {
			return p.answer(q), true
		}
	}
	for _, p := range v.prefixes {
		if p.Bits() <= r.prefix.Bits() && p.Contains(r.prefix.Addr()) {
			return negative(r.below || r.prefix.IsSingleIP(), reverseZone(p)), true
		}
	}
	return answer{}, false
}

// pointer is the name of a, nil if it has none.
func (v *view) pointer(a netip.Addr) *pointer {
	if p := v.staticAddrs[a]; p != nil {
		return p
	}
	p, _ := v.addrs.Load(a)
	found, _ := p.(*pointer)
	return found
}

// answer is what p says to q.
func (p *pointer) answer(q *query) answer {
	if q.qtype != dns.TypePTR && q.qtype != dns.TypeANY {
		return answer{soa: q.key}
	}
	return answer{records: []dns.RR{&dns.PTR{Hdr: q.header(dns.TypePTR, p.ttl), Ptr: p.target}}}
}
