package zone

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/dnsname"
)

// Config is what a network's names are but for its guests'. The zero value of a field is
// its documented default; addresses are unmapped.
type Config struct {
	// Domain is the network's domain, without a trailing dot. Empty: none.
	Domain string

	// LocalOnly makes Domain ours alone: an unknown name in it does not exist.
	LocalOnly bool

	// NoPlainNames keeps address queries for unknown names of a single label from
	// the upstream: they don't exist.
	NoPlainNames bool

	// Own is the address that is served on, the zero Addr for none.
	Own netip.Addr

	// Prefixes are the network's subnets, whose reverse names are ours.
	Prefixes []netip.Prefix

	// Static are the names that hold for as long as the configuration does.
	Static []Host

	// HostTTL is the TTL of dynamic hosts that have none of their own.
	HostTTL time.Duration

	// TXT, SRV, CNAMEs and Records are other records of static names.
	TXT     []TXT
	SRV     []SRV
	CNAMEs  []CNAME
	Records []Record

	// Addresses are what the names of whole domains have.
	Addresses []Address

	// LocalDomains are domains whose unknown names don't exist.
	LocalDomains []string

	// Forwarded are domains whose unknown names have upstream servers of their own.
	Forwarded []string

	// Forwards says that some names have an upstream.
	Forwards bool
}

// Validate returns every fault of c, joined, or nil.
func (c Config) Validate() error {
	var errs []error
	for i, p := range c.Prefixes {
		if !p.IsValid() {
			errs = append(errs, fmt.Errorf("prefixes[%d]: no prefix", i))
		}
	}
	for i, h := range c.Static {
		if h.validate("") != nil { // of thousands, the path of each would cost more than the check
			errs = append(errs, h.validate(fmt.Sprintf("static[%d]", i)))
		}
	}
	errs = append(errs, c.validateRecords())
	if c.Domain != "" {
		errs = append(errs, CheckNames("domain", c.Domain))
	}
	return errors.Join(errs...)
}

// Host is one name of one address.
type Host struct {
	// Name is a host name, case kept but not significant. A dynamic name is
	// one label: a trailing Config.Domain is cut off, and of any other domain
	// only the first label counts, so that a guest can't take somebody else's
	// name. A static name may have several labels.
	Name string

	// Addr is the host's address; an IPv4-mapped one counts as IPv4.
	Addr netip.Addr

	// TTL is how long others may keep the answer, in whole seconds. 0: not at
	// all, as libvirt has it, since a lease may change hands at any time; for a
	// dynamic host, Config.HostTTL.
	TTL time.Duration

	// Expiry is when the lease ends: nobody may keep the answer for longer,
	// whatever TTL says. Zero: it does not end. The name does not go by
	// itself, see DeleteAddr.
	Expiry time.Time
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

// Address gives an address to all the names of a domain that nothing else is
// known of, its own among them. They have no address of the other family.
type Address struct {
	Domain string // empty: every name
	Addr   netip.Addr
}

// validateRecords returns the faults of the records of c.
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
		errs = append(errs, CheckNames(fmt.Sprintf("localDomains[%d]", i), d))
	}
	for i, a := range c.Addresses {
		errs = append(errs, a.validate(fmt.Sprintf("addresses[%d]", i)))
	}
	return errors.Join(errs...)
}

// validate returns the faults of h, a static host that stands at path.
func (h Host) validate(path string) error {
	err := checkRecords(path, h.Name)
	if !h.Addr.IsValid() {
		err = errors.Join(err, fmt.Errorf("%s: name %q: no address", path, h.Name))
	}
	return err
}

// validate returns the faults of r, which stands at path.
func (r Record) validate(path string) error {
	err := checkRecords(path, strings.TrimPrefix(r.Name, wildcard))
	if _, _, dataErr := dnsname.Data(r.Type, r.Value); dataErr != nil {
		err = errors.Join(err, fmt.Errorf("%s: %s record of %q: %w", path, r.Type, r.Name, dataErr))
	}
	return err
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

func (a Address) validate(path string) error {
	var err error
	if !a.Addr.IsValid() {
		err = fmt.Errorf("%s: domain %q: no address", path, a.Domain)
	}
	if a.Domain != "" {
		err = errors.Join(err, CheckNames(path, a.Domain))
	}
	return err
}

// wildcard begins a name that stands for all those below a domain.
const wildcard = "*."

// CheckNames returns the faults of domains that stand at path.
func CheckNames(path string, names ...string) error { return check(path, dnsname.Host, names) }

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
