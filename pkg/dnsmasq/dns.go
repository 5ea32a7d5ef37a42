package dnsmasq

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/dnsname"
)

// DNS is what lines say of names: address, server, local, cname, host-record,
// txt-record, srv-host, dhcp-ttl, stop-dns-rebind, rebind-localhost-ok and
// rebind-domain-ok.
type DNS struct {
	Hosts        []HostRecord
	TXT          []TXT
	SRV          []SRV
	CNAMEs       []CNAME
	Addresses    []Address
	LocalDomains []string // whose unknown names don't exist
	Servers      []Server

	HostTTL time.Duration // of guests' names; 0: not said

	StopRebind, RebindLocalhost bool
	RebindDomains               []string
}

// HostRecord is one name of one address of a host-record.
type HostRecord struct {
	Name string
	Addr netip.Addr
	TTL  time.Duration // 0: not said
}

// TXT is a txt-record. A comma starts another string of the record, but not between
// double quotes.
type TXT struct{ Name, Value string }

// SRV is an srv-host (RFC 2782).
type SRV struct {
	Service, Protocol string // without underscores
	Domain, Target    string // empty: not said
	Port              uint16 // 0: not said
	Priority, Weight  uint16
}

// CNAME makes a name, or with "*." before it those below it, an alias.
type CNAME struct {
	Name, Target string
	TTL          time.Duration // 0: not said
}

// Address gives an address to all names of a domain.
type Address struct {
	Domain string // empty: every name
	Addr   netip.Addr
}

// Server is who is asked for the names of a domain.
type Server struct {
	Domain string     // empty: every name
	Addr   netip.Addr // zero: those who are asked for the rest
	Port   uint16     // 0: not said
}

// parse adds one option to o. When it returns false o is of no use.
func (d *DNS) parse(key, value string) bool {
	switch key {
	case "address":
		return d.perDomain(value, d.address)
	case "server", "local":
		return d.perDomain(value, d.server)
	case "cname":
		return d.cname(split(value))
	case "host-record":
		return d.hostRecord(split(value))
	case "txt-record":
		name, text, _ := strings.Cut(value, ",")
		t := TXT{Name: name, Value: text}
		d.TXT = append(d.TXT, t)
		return isRecord(name) && dnsname.Text(text) == nil
	case "srv-host":
		return d.srvHost(split(value))
	}
	return d.scalar(key, value)
}

// scalar reads the options that have one value, or none.
func (d *DNS) scalar(key, value string) bool {
	switch {
	case key == "stop-dns-rebind" && value == "":
		d.StopRebind = true
	case key == "rebind-localhost-ok" && value == "":
		d.RebindLocalhost = true
	case key == "rebind-domain-ok" && strings.Contains(value, "/"):
		return d.perDomain(value, func(domain, target string) bool {
			d.RebindDomains = append(d.RebindDomains, domain)
			return domain != "" && domain != "#" && target == ""
		})
	case key == "dhcp-ttl":
		n, err := strconv.ParseUint(value, 10, 31)
		d.HostTTL = time.Duration(n) * time.Second
		return err == nil
	case key == "rebind-domain-ok":
		d.RebindDomains = append(d.RebindDomains, value)
		return isDomain(value)
	default:
		return false
	}
	return true
}

// split splits value at its commas.
func split(value string) []string {
	fields := strings.Split(value, ",")
	for i := range fields {
		fields[i] = strings.TrimSpace(fields[i])
	}
	return fields
}

// perDomain reads "/domain/domain/target" or "target" and calls add for each
// domain; that is "" for the latter.
func (d *DNS) perDomain(value string, add func(domain, target string) bool) bool {
	parts := strings.Split(value, "/")
	target := parts[len(parts)-1]
	if len(parts) == 1 {
		return target != "" && add("", target)
	}
	domains := parts[1 : len(parts)-1]
	if parts[0] != "" || len(domains) == 0 {
		return false
	}
	for _, name := range domains {
		if name = strings.TrimPrefix(name, "."); name != "#" && !isDomain(name) || !add(name, target) {
			return false
		}
	}
	return true
}

// address adds what the names in a domain have: nothing ("") or an address, the
// unspecified ones for "#". The domain "#" has all names.
func (d *DNS) address(domain, target string) bool {
	if target == "" {
		return d.server(domain, target)
	}
	if domain == "#" {
		domain = ""
	}
	if target == "#" {
		d.Addresses = append(d.Addresses,
			Address{Domain: domain, Addr: netip.IPv4Unspecified()}, Address{Domain: domain, Addr: netip.IPv6Unspecified()})
		return true
	}
	a, err := netip.ParseAddr(target)
	d.Addresses = append(d.Addresses, Address{Domain: domain, Addr: a})
	return err == nil && a.Zone() == ""
}

// server adds who is asked for a domain: nobody (""), those who are asked for
// the rest ("#"), or "address#port".
func (d *DNS) server(domain, target string) bool {
	switch {
	case domain == "#":
		return false
	case target == "" && domain != "":
		d.LocalDomains = append(d.LocalDomains, domain)
		return true
	case target == "#" && domain != "":
		d.Servers = append(d.Servers, Server{Domain: domain})
		return true
	}
	host, port, hasPort := strings.Cut(target, "#")
	s := Server{Domain: domain}
	var err error
	if s.Addr, err = netip.ParseAddr(host); err != nil {
		return false
	}
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if s.Port = uint16(n); err != nil || n == 0 {
			return false
		}
	}
	d.Servers = append(d.Servers, s)
	return true
}

// ttl takes a number of seconds off the end of fields, if there is one.
func ttl(fields []string) ([]string, time.Duration) {
	last := len(fields) - 1
	n, err := strconv.ParseUint(fields[last], 10, 31)
	if err != nil || last == 0 {
		return fields, 0
	}
	return fields[:last], time.Duration(n) * time.Second
}

// cname adds "alias,alias,target,TTL".
func (d *DNS) cname(fields []string) bool {
	fields, kept := ttl(fields)
	last := len(fields) - 1
	for _, name := range fields[:last] {
		d.CNAMEs = append(d.CNAMEs, CNAME{Name: name, Target: fields[last], TTL: kept})
		if !isDomain(strings.TrimPrefix(name, "*.")) {
			return false
		}
	}
	return last > 0 && isDomain(fields[last])
}

// hostRecord adds "name,name,address,address,TTL".
func (d *DNS) hostRecord(fields []string) bool {
	fields, kept := ttl(fields)
	first := slices.IndexFunc(fields, func(f string) bool { return isAddress(f) })
	if first < 1 || slices.ContainsFunc(fields[:first], func(name string) bool { return !isDomain(name) }) {
		return false
	}
	for _, name := range fields[:first] {
		for _, f := range fields[first:] {
			a, err := netip.ParseAddr(f)
			if err != nil || a.Zone() != "" {
				return false
			}
			d.Hosts = append(d.Hosts, HostRecord{Name: name, Addr: a, TTL: kept})
		}
	}
	return true
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// srvHost adds "_service._protocol.domain,target,port,priority,weight".
func (d *DNS) srvHost(fields []string) bool {
	service, rest, _ := strings.Cut(fields[0], ".")
	protocol, domain, _ := strings.Cut(rest, ".")
	if len(service) < 2 || len(protocol) < 2 || service[0] != '_' || protocol[0] != '_' || len(fields) > 5 {
		return false
	}
	s := SRV{Service: service[1:], Protocol: protocol[1:], Domain: domain}
	if len(fields) > 1 {
		s.Target = fields[1]
	}
	for i, number := range []*uint16{&s.Port, &s.Priority, &s.Weight} {
		if len(fields) <= i+2 {
			break
		}
		n, err := strconv.ParseUint(fields[i+2], 10, 16)
		if err != nil {
			return false
		}
		*number = uint16(n)
	}
	d.SRV = append(d.SRV, s)
	return isRecord(s.name()) && (s.Target == "" || s.Target == "." || isRecord(s.Target))
}

// name returns the name of the record, which may lack the network's domain.
func (s *SRV) name() string {
	name := "_" + s.Service + "._" + s.Protocol
	if s.Domain != "" {
		name += "." + s.Domain
	}
	return name
}

// isDomain reports whether name is a domain's or a host's, as it is on the wire.
func isDomain(name string) bool { return isWire(name, dnsname.Host) }

// isRecord reports whether name is a record's, as it is on the wire.
func isRecord(name string) bool { return isWire(name, dnsname.Record) }

func isWire(name string, rule func(string) (string, error)) bool {
	ascii, err := rule(name)
	return err == nil && ascii == strings.TrimSuffix(name, ".")
}
