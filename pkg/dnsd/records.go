package dnsd

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/dnsname"
	"github.com/vnetd/vnetd/pkg/dnsd/upstream"
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

// add gives n a record.
func (n *node) add(rtype uint16, r record) {
	for i := range n.sets {
		if n.sets[i].rtype == rtype {
			n.sets[i].records = append(n.sets[i].records, r)
			return
		}
	}
	n.sets = append(n.sets, rrset{rtype: rtype, records: []record{r}})
}

// addHost gives n another address, and makes it a host's.
func (n *node) addHost(h Host) {
	rtype := dns.TypeAAAA
	if h.Addr.Is4() {
		rtype = dns.TypeA
	}
	n.add(rtype, h.record(h.Addr.AsSlice()))
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

// TXT is a TXT record of a name, served with a TTL of 0. It is found as Static
// names are: plain and with the domain.
type TXT struct {
	Name string

	// Value is the text. Each comma starts another string of the record, but
	// not between double quotes, which are left out: as dnsmasq reads what
	// libvirt gives it.
	Value string
}

// SRV is an SRV record (RFC 2782) of _Service._Protocol.Domain, served with a
// TTL of 0.
type SRV struct {
	Service, Protocol string // without underscores

	Domain           string // empty: Config.Domain
	Target           string // empty: ".", the service is decidedly not there
	Port             uint16 // 0: 1, which is dnsmasq's
	Priority, Weight uint16
}

// CNAME makes a name another one's alias. The records of that one follow where
// they are ours too; nothing is forwarded to find them. A name that has an
// address is no alias. "*.example.com" makes all names below example.com aliases
// of which nothing else is known, there or of a longer domain that they are in.
type CNAME struct {
	Name, Target string
	TTL          time.Duration // as Host.TTL
}

// Record is a record of a name, or with "*." before it of all those below one of which
// nothing else is known. A name that has an address is a host's, of which a guest can't
// have the name.
type Record struct {
	Name        string
	Type, Value string        // as dnsname.Data reads them
	TTL         time.Duration // as Host.TTL
}

// validate returns the faults of r, which stands at path.
func (r Record) validate(path string) error {
	err := checkRecords(path, strings.TrimPrefix(r.Name, wildcard))
	if _, _, dataErr := dnsname.Data(r.Type, r.Value); dataErr != nil {
		err = errors.Join(err, fmt.Errorf("%s: %s record of %q: %w", path, r.Type, r.Name, dataErr))
	}
	return err
}

// What package upstream says of the servers that are asked.
type (
	Forwarder = upstream.Forwarder
	Upstream  = upstream.Status
	Asked     = upstream.Asked
)

// Address gives an address to all the names of a domain that nothing else is
// known of, its own among them. They have no address of the other family.
type Address struct {
	Domain string // empty: every name
	Addr   netip.Addr
}

// forwards reports whether c has an upstream for any name.
func (c Config) forwards() bool {
	return !c.NoForward || slices.ContainsFunc(c.Forwarders, func(f Forwarder) bool { return f.Addr.IsValid() })
}

// validateRecords returns the faults of the records and the forwarders of c.
func (c Config) validateRecords() error {
	var errs []error
	for i, t := range c.TXT {
		errs = append(errs, t.validate(fmt.Sprintf("txt[%d]", i)))
	}
	for i, s := range c.SRV {
		errs = append(errs, s.validate(fmt.Sprintf("srv[%d]", i), c.Domain))
	}
	for i, n := range c.CNAMEs {
		errs = append(errs, checkRecords(fmt.Sprintf("cnames[%d]", i), strings.TrimPrefix(n.Name, wildcard), n.Target))
	}
	for i, r := range c.Records {
		errs = append(errs, r.validate(fmt.Sprintf("records[%d]", i)))
	}
	for i, d := range c.LocalDomains {
		errs = append(errs, checkNames(fmt.Sprintf("localDomains[%d]", i), d))
	}
	for i, d := range c.RebindDomains {
		errs = append(errs, checkNames(fmt.Sprintf("rebindDomains[%d]", i), d))
	}
	for i, f := range c.Forwarders {
		errs = append(errs, validateForwarder(f, fmt.Sprintf("forwarders[%d]", i)))
	}
	for i, a := range c.Addresses {
		errs = append(errs, a.validate(fmt.Sprintf("addresses[%d]", i)))
	}
	return errors.Join(errs...)
}

// wildcard begins a name that stands for all those below a domain.
const wildcard = "*."

// checkNames returns the faults of domains that stand at path.
func checkNames(path string, names ...string) error { return check(path, dnsname.Host, names) }

// checkRecords returns the faults of names of records, or in them.
func checkRecords(path string, names ...string) error { return check(path, dnsname.Record, names) }

// check returns what of names, which stand at path, is not as the rule has it, or
// not in the form that goes onto the wire.
func check(path string, rule func(string) (string, error), names []string) error {
	var errs []error
	for _, n := range names {
		ascii, err := rule(n)
		if err == nil && ascii != strings.TrimSuffix(n, ".") {
			err = fmt.Errorf("want %s", ascii)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: name %q: %w", path, n, err))
		}
	}
	return errors.Join(errs...)
}

func (t TXT) validate(path string) error {
	err := checkRecords(path, t.Name)
	if textErr := dnsname.Text(t.Value); textErr != nil {
		err = errors.Join(err, fmt.Errorf("%s: name %q: %w", path, t.Name, textErr))
	}
	return err
}

func (s SRV) validate(path, domain string) error {
	err := checkRecords(path, s.name(domain))
	if s.Target != "" && s.Target != "." {
		err = errors.Join(err, checkRecords(path, s.Target))
	}
	return err
}

// validateForwarder returns the faults of f, which stands at path.
func validateForwarder(f Forwarder, path string) error {
	switch {
	case f.Domain != "":
		return checkNames(path, f.Domain)
	case !f.Addr.IsValid():
		return fmt.Errorf("%s: neither a domain nor an address", path)
	}
	return nil
}

func (a Address) validate(path string) error {
	var err error
	if !a.Addr.IsValid() {
		err = fmt.Errorf("%s: domain %q: no address", path, a.Domain)
	}
	if a.Domain != "" {
		err = errors.Join(err, checkNames(path, a.Domain))
	}
	return err
}
