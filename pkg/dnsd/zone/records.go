package zone

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Limits of the records of a configuration.
const (
	maxText    = 255 // octets of one string of a TXT record, RFC 1035 section 3.3
	defaultSRV = 1   // port
)

// node is what one name has.
type node struct {
	sets []rrset

	// complete says that the name is a host's: a type that it has not got does
	// not exist. Of another name only the types that it has are ours.
	complete bool
}

// rrset are the records of one type.
type rrset struct {
	rtype   uint16
	records []record
}

// record is the data of a record.
type record struct {
	ttl   uint32
	until int64  // Unix time after which it must not be kept; 0: none
	data  []byte // RDATA, names in it not compressed
}

// equal reports whether two records have the same data.
func (r record) equal(other record) bool { return bytes.Equal(r.data, other.data) }

// seconds returns the TTL that is packed: never more than what is left of the lease.
func (r *record) seconds(now time.Time) uint32 {
	if r.until == 0 {
		return r.ttl
	}
	return uint32(min(int64(r.ttl), max(r.until-now.Unix(), 0)))
}

// add gives n a record. The sets stay in the order of their types.
func (n *node) add(rtype uint16, r record) {
	at, there := slices.BinarySearchFunc(n.sets, rtype, func(s rrset, rtype uint16) int { return cmp.Compare(s.rtype, rtype) })
	if there {
		n.sets[at].records = append(n.sets[at].records, r)
		return
	}
	n.sets = slices.Insert(n.sets, at, rrset{rtype: rtype, records: []record{r}})
}

// addHost gives n another address, and makes it a host's.
func (n *node) addHost(h Host) {
	n.add(h.addrType(), h.record(appendAddr(nil, h)))
	n.complete = true
}

// record returns a record of h.
func (h Host) record(data []byte) record {
	r := record{ttl: wireTTL(h.TTL), data: data}
	if !h.Expiry.IsZero() {
		r.until = max(h.Expiry.Unix(), 1)
	}
	return r
}

// wireTTL returns a TTL as it is packed.
func wireTTL(d time.Duration) uint32 {
	const limit = 1<<31 - 1 // RFC 2181 section 8
	return uint32(min(max(d/time.Second, 0), limit))
}

// records returns n's records of a type, nil if there are none or n is nil.
func (n *node) records(rtype uint16) []record {
	if n == nil {
		return nil
	}
	for i := range n.sets {
		if n.sets[i].rtype == rtype {
			return n.sets[i].records
		}
	}
	return nil
}

// rdata packs the data of rr, which must be valid.
func rdata(rr dns.RR) []byte {
	const before = 11 // the root's name, type, class, TTL, RDLENGTH
	rr.Header().Name = "."
	b := make([]byte, dns.Len(rr))
	end, err := dns.PackRR(rr, b, 0, nil, false)
	if err != nil {
		return nil
	}
	return b[before:end]
}

// data packs the value of t as strings. dnsmasq's rule holds: a comma starts
// another string, but not between double quotes, which are left out. What is
// longer than a string can be goes on in the next.
func (t TXT) data() []byte {
	var texts []string
	for _, s := range splitText(t.Value) {
		for len(s) > maxText {
			texts = append(texts, escape(s[:maxText]))
			s = s[maxText:]
		}
		texts = append(texts, escape(s))
	}
	return rdata(&dns.TXT{Txt: texts})
}

// escape keeps package dns from taking a backslash for an escape.
func escape(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }

// splitText splits at commas that are not between double quotes.
func splitText(value string) []string {
	var all []string
	var text strings.Builder
	quoted := false
	for i := range len(value) {
		switch c := value[i]; {
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			all = append(all, text.String())
			text.Reset()
		default:
			text.WriteByte(c)
		}
	}
	return append(all, text.String())
}

// name returns the owner of s: RFC 2782, "_Service._Proto.Name".
func (s SRV) name(domain string) string {
	name := "_" + s.Service + "._" + s.Protocol
	if s.Domain != "" {
		domain = s.Domain
	}
	if domain = strings.TrimSuffix(domain, "."); domain != "" {
		name += "." + domain
	}
	return name
}

// data packs the data of s.
func (s SRV) data() []byte {
	return rdata(&dns.SRV{
		Priority: s.Priority, Weight: s.Weight,
		Port: cmp.Or(s.Port, defaultSRV), Target: dns.Fqdn(escape(s.Target)),
	})
}
