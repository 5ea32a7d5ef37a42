package zone

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// maxAliases is how many CNAME records an answer follows.
const maxAliases = 8

// Answer is what the zone says to a query.
type Answer struct {
	Rcode   int
	aliases []record // CNAME records: the first of the question's name, each other of the one before
	Outside bool     // the last of aliases leads to a name that is not for this zone to answer
	Parents bool     // it is for the domain above to give, where that can be asked
	rtype   uint16   // of records
	records []record
	soa     string // owner of the SOA record of a negative answer; "" none
}

// Pack packs a as the answer to q, into buf if that is long enough. recursion says
// whether we forward.
func (a Answer) Pack(q *wire.Query, recursion bool, buf []byte) []byte {
	w := q.Build(buf, recursion)
	w.Authoritative()
	owner := wire.PointerTo(wire.QuestionName)
	for _, alias := range a.aliases {
		if !w.Add(wire.Answer, owner[:], dns.TypeCNAME, alias.seconds(q.Received), alias.data) {
			return w.Finish(a.Rcode)
		}
		owner = wire.PointerTo(w.Len() - len(alias.data))
	}
	at := 0 // of several addresses each in its turn
	if len(a.records) > 1 {
		at = rand.IntN(len(a.records))
	}
	for range a.records {
		r := &a.records[at]
		if at++; at == len(a.records) {
			at = 0
		}
		if !w.Add(wire.Answer, owner[:], a.rtype, r.seconds(q.Received), r.data) {
			break
		}
	}
	if a.soa != "" {
		section := wire.Authority
		if a.soa == q.Key && q.Type == dns.TypeSOA {
			section = wire.Answer
		}
		w.AddSOA(section, a.soa)
	}
	return w.Finish(a.Rcode)
}

// Found reports whether a has what was asked for, or leads to it.
func (a Answer) Found() bool { return len(a.records) > 0 || len(a.aliases) > 0 }

// Target returns the name, as it is on the wire, that the last of a's aliases leads to.
func (a Answer) Target() []byte { return a.aliases[len(a.aliases)-1].data }

// atCut returns what becomes of a, ok, which lookup says to q, for the types of records of
// which the zone above has some. A zone is what an SOA record of ours stands for.
func (v *View) atCut(q *wire.Query, a Answer, ok bool) (Answer, bool) {
	switch {
	case a.Parents || a.soa != q.Key || a.Rcode != dns.RcodeSuccess:
	case q.Type == dns.TypeNS:
		return Answer{rtype: dns.TypeNS, records: v.nameServer(q.Key)}, true
	default:
		// RFC 4035 section 3.1.4.1: DS stands in the zone above, whose proof that there is
		// none says that ours is not signed.
		a.Parents = !isPlain(q.Key)
	}
	return a, ok
}

// nameServer returns the NS record of a zone: the name of the address that is served on,
// or else the zone's own.
func (v *View) nameServer(zone string) []record {
	if n := v.staticAddrs[v.own]; n != nil {
		return []record{{data: n.records(dns.TypePTR)[0].data}}
	}
	return []record{{data: wire.AppendKeyed(nil, zone)}}
}

// Lookup answers q; ok is false when it is not for this zone to answer.
func (v *View) Lookup(q *wire.Query) (a Answer, ok bool) {
	a, ok = v.lookup(q)
	if q.Type == dns.TypeNS || q.Type == dns.TypeDS {
		return v.atCut(q, a, ok)
	}
	return a, ok
}

// lookup is Lookup without regard to where zones end.
func (v *View) lookup(q *wire.Query) (a Answer, ok bool) {
	if strings.HasSuffix(q.Key, ".arpa.") {
		if a, ok := v.lookupReverse(q); ok {
			return a, true
		}
	}
	n := v.node(q.Key)
	if alias := n.records(dns.TypeCNAME); alias != nil && q.Type != dns.TypeCNAME && q.Type != dns.TypeANY {
		return v.follow(n, q.Type), true
	}
	return v.ask(n, q.Type, q.Key)
}

// ask answers a question for the name key, whose node n is, nil if it has none.
func (v *View) ask(n *node, qtype uint16, key string) (a Answer, ok bool) {
	if n != nil {
		if a, ok := n.answer(qtype, v.zoneOf(key)); ok {
			a.Parents = isOfZone(qtype) && isPlain(key) && a.soa == key
			return a, true
		}
	}
	if a, forward, ok := v.lookupRule(key, qtype, n != nil); forward || ok {
		return a, ok
	}
	if _, ok := wire.InDomain(key, localhost); ok {
		return v.localhost.answer(qtype, localhost)
	}
	if isPlain(key) && v.noPlainNames && (qtype == dns.TypeA || qtype == dns.TypeAAAA) {
		return negative(n == nil && !v.between[key], ""), true
	}
	return Answer{}, false
}

// isOfZone reports whether records of that type say of a zone where it is, or how it is signed
// (RFC 1035 section 3.3, RFC 4034, RFC 5155, RFC 7344). A host's plain name may be that of a
// zone of the root, com for one, in which others know names, and whose signatures guests check.
func isOfZone(qtype uint16) bool {
	switch qtype {
	case dns.TypeNS, dns.TypeSOA, dns.TypeDS, dns.TypeDNSKEY, dns.TypeRRSIG, dns.TypeNSEC,
		dns.TypeNSEC3, dns.TypeNSEC3PARAM, dns.TypeCDS, dns.TypeCDNSKEY:
		return true
	}
	return false
}

// Exists reports whether the zone has a record of the name key, of whatever type, or of
// one below it: no other server can know then that it does not exist (RFC 8020).
func (v *View) Exists(key string) bool { return v.between[key] || v.node(key) != nil }

// Unserved answers a question for a name in the zone that no server is there to
// answer: it has nothing of that type. ok is false for another name.
func (v *View) Unserved(key string) (a Answer, ok bool) {
	return negative(false, v.zoneOf(key)), v.Exists(key)
}

// localhost is a domain that every host has for itself. RFC 6761 section 6.3: name
// servers "SHOULD, for all such address queries, generate an immediate positive
// response giving the IP loopback address, and for all other query types,
// generate an immediate negative response".
const localhost = "localhost."

// lookupRule answers a question by what is said of whole domains, the longest
// that the name is in first. forward says that the domain is an upstream's.
// exists says that the name is known, with records of other types.
func (v *View) lookupRule(key string, qtype uint16, exists bool) (a Answer, forward, ok bool) {
	if len(v.rules) == 0 {
		return Answer{}, false, false
	}
	for domain := range wire.Domains(key) {
		if r := v.rules[domain]; r != nil {
			if a, forward, ok = r.apply(qtype, exists || domain == key || v.between[key]); forward || ok {
				break
			}
		}
	}
	return a, forward, ok
}

// apply answers a question for a name in r's domain. Where that has addresses, its
// names have nothing else, unless an upstream has the rest.
func (r *rule) apply(qtype uint16, exists bool) (a Answer, forward, ok bool) {
	switch {
	case r.node != nil && (!r.forward || qtype == dns.TypeA || qtype == dns.TypeAAAA || qtype == dns.TypeANY):
		a, _ := r.node.answer(qtype, r.domain)
		return a, false, true
	case r.forward:
		return Answer{}, true, false
	case r.local:
		return negative(!exists, r.domain), false, true
	}
	return Answer{}, false, false
}

// node returns the node of a name, or that of all the names below a domain; nil if
// there is none.
func (v *View) node(key string) *node {
	if n := v.host(key); n != nil {
		return n
	}
	return v.wildcard(key)
}

// host returns the node of a name, nil if there is none.
func (v *View) host(key string) *node {
	key = v.bare(key)
	static := v.staticNames[key]
	if static != nil && static.complete {
		return static
	}
	if n, ok := v.names.load(key); ok {
		return n
	}
	return static
}

// wildcard returns the node of a name that is known only as one of those below a
// domain, nil if there is none. The longest domain counts, whatever it says.
func (v *View) wildcard(key string) *node {
	if len(v.rules) == 0 || v.rules[key] != nil || v.between[key] {
		return nil
	}
	for domain := range wire.Domains(key) {
		if r := v.rules[domain]; r != nil {
			return r.below
		}
	}
	return nil
}

// follow answers a question for an alias, whose node n is, with what we know of the
// other name (RFC 1034 section 4.3.2, step 3a). The answer's rcode is that of the last
// name (RFC 6604 section 3).
func (v *View) follow(n *node, qtype uint16) (a Answer) {
	var aliases []record
	var key string
	for alias := n.records(dns.TypeCNAME); alias != nil; alias = n.records(dns.TypeCNAME) {
		if len(aliases) == maxAliases || slices.ContainsFunc(aliases, alias[0].equal) {
			return Answer{aliases: aliases} // in a ring
		}
		aliases = append(aliases, alias[0])
		key = string(wire.AppendKey(nil, alias[0].data))
		n = v.node(key)
	}
	a, ok := v.ask(n, qtype, key)
	a.aliases, a.Outside = aliases, !ok || a.Parents
	return a
}

// AskHost answers q for another network's clients: what addresses the name of a host in the domain
// has, and what name an address; ok is false where neither is known. Of other types a host has
// none that they are told.
func AskHost(v *View, q *wire.Query) (a Answer, ok bool) {
	a, ok = v.lookup(q)
	if !ok || a.Outside || a.Rcode != dns.RcodeSuccess {
		return Answer{}, false
	}
	switch q.Type {
	case dns.TypeA, dns.TypeAAAA, dns.TypePTR:
		return a, a.Found() || isHost(v.host(q.Key))
	}
	return Answer{soa: v.domain}, isHost(v.host(q.Key))
}

// isHost reports whether the name of a node, nil for none, has an address.
func isHost(n *node) bool {
	return n != nil && (n.records(dns.TypeA) != nil || n.records(dns.TypeAAAA) != nil)
}

// zoneOf returns the zone that a known name belongs to: the domain, or the name's own.
func (v *View) zoneOf(key string) string {
	if _, ok := wire.InDomain(key, v.domain); ok {
		return v.domain
	}
	return key
}

// isPlain reports whether a key has one label.
func isPlain(key string) bool {
	return len(key) > 1 && strings.IndexByte(key, '.') == len(key)-1
}

// negative returns the answer without records: the name does not exist, or has none
// of that type.
func negative(nxdomain bool, soa string) Answer {
	if nxdomain {
		return Answer{Rcode: dns.RcodeNameError, soa: soa}
	}
	return Answer{soa: soa}
}

// answer returns what n says to a question for its name. A type that a host has not
// got is an empty answer with the SOA record of zone (RFC 2308 section 2.2); ok
// is false for one that another name has not got.
func (n *node) answer(qtype uint16, zone string) (a Answer, ok bool) {
	if qtype == dns.TypeANY {
		// RFC 8482 section 4.1: one RRset of those at the name is an answer.
		return Answer{rtype: n.sets[0].rtype, records: n.sets[0].records}, true
	}
	if records := n.records(qtype); records != nil {
		return Answer{rtype: qtype, records: records}, true
	}
	return Answer{soa: zone}, n.complete
}

// subnet is a subnet of the network. Its reverse names are in zones of whole labels: all
// that make it up, or the one that has it, where it is a part of the last label's.
type subnet struct {
	netip.Prefix
	zone   int // bits of a zone's prefix
	labels int // of a zone's name
}

// newSubnet returns the subnet p.
func newSubnet(p netip.Prefix) subnet {
	step := 4 // bits of a label
	if p.Addr().Is4() {
		step = 8
	}
	zone := min((p.Bits()+step-1)/step*step, p.Addr().BitLen()-step)
	return subnet{Prefix: p.Masked(), zone: zone, labels: zone/step + 2}
}

// zones returns the names of the subnet's zones.
func (s subnet) zones() []string {
	var all []string
	for zone := netip.PrefixFrom(s.Addr(), s.zone).Masked(); ; {
		all = append(all, wire.ReverseZone(zone))
		next := after(zone)
		if !s.Contains(next) {
			return all
		}
		zone = netip.PrefixFrom(next, s.zone)
	}
}

// after returns the first address behind a prefix, the zero Addr if there is none.
func after(p netip.Prefix) netip.Addr {
	a := p.Addr().AsSlice()
	for bit := p.Bits() - 1; bit >= 0; bit-- {
		mask := byte(0x80) >> (bit % 8)
		a[bit/8] ^= mask
		if a[bit/8]&mask != 0 {
			next, _ := netip.AddrFromSlice(a)
			return next
		}
	}
	return netip.Addr{}
}

// lookupReverse answers q if it is a reverse name of a host that we know or of
// one of the subnets.
func (v *View) lookupReverse(q *wire.Query) (Answer, bool) {
	r, ok := wire.ParseReverse(q.Key)
	if !ok {
		return Answer{}, false
	}
	zone := v.reverseZone(r.Prefix, q.Key)
	if r.Prefix.IsSingleIP() && !r.Below {
		if n := v.pointer(r.Prefix.Addr()); n != nil {
			if zone == "" {
				zone = q.Key
			}
			return n.answer(q.Type, zone)
		}
	}
	if zone == "" {
		return Answer{soa: q.Key}, v.isPartly(r, q.Type)
	}
	return negative(r.Below || r.Prefix.IsSingleIP(), zone), true
}

// isPartly reports whether a question is for the SOA or the NS record of a zone that a
// subnet is a part of, whose SOA record is in negative answers.
func (v *View) isPartly(r wire.Reverse, qtype uint16) bool {
	return !r.Below && (qtype == dns.TypeSOA || qtype == dns.TypeNS) && slices.ContainsFunc(v.subnets, func(s subnet) bool {
		return r.Prefix.Bits() == s.zone && r.Prefix.Contains(s.Addr())
	})
}

// IsReverse reports whether key is in the zone that has the reverse names of one of v's subnets:
// the host's resolver asks us for no other.
func IsReverse(v *View, key string) bool {
	return slices.ContainsFunc(v.subnets, func(s subnet) bool {
		_, ok := wire.InDomain(key, wire.ReverseZone(s.Prefix))
		return ok
	})
}

// reverseZone returns the zone of key, the reverse name of p, in the subnet that has all of p;
// "" if none has.
func (v *View) reverseZone(p netip.Prefix, key string) string {
	for _, s := range v.subnets {
		if s.Bits() <= p.Bits() && s.Contains(p.Addr()) {
			return wire.Above(key, s.labels)
		}
	}
	return ""
}

// pointer returns the node of an address, nil if it has no name.
func (v *View) pointer(a netip.Addr) *node {
	if n := v.staticAddrs[a]; n != nil {
		return n
	}
	n, _ := v.addrs.load(a)
	return n
}
