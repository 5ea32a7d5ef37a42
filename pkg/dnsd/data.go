package dnsd

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/dnsd/upstream"
	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

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
		errs = append(errs, checkNames(fmt.Sprintf("cnames[%d]", i), strings.TrimPrefix(n.Name, wildcard), n.Target))
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

// checkNames returns the faults of names that stand at path.
func checkNames(path string, names ...string) error {
	var errs []error
	for _, n := range names {
		if !wire.IsHostName(strings.TrimSuffix(n, ".")) {
			errs = append(errs, fmt.Errorf("%s: name %q: not a domain name", path, n))
		}
	}
	return errors.Join(errs...)
}

func (t TXT) validate(path string) error {
	err := checkNames(path, t.Name)
	if len(t.Value) > maxText*maxStrings {
		err = errors.Join(err, fmt.Errorf("%s: name %q: %d octets of text", path, t.Name, len(t.Value)))
	}
	return err
}

func (s SRV) validate(path, domain string) error {
	err := checkNames(path, s.name(domain))
	if s.Target != "" && s.Target != "." {
		err = errors.Join(err, checkNames(path, s.Target))
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
