package dnsd

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options is what options of dnsmasq say about names, to be added to a Config.
type Options struct {
	Static       []Host
	TXT          []TXT
	SRV          []SRV
	CNAMEs       []CNAME
	Addresses    []Address
	LocalDomains []string
	Forwarders   []Forwarder

	HostTTL time.Duration

	StopRebind, RebindLocalhost bool
	RebindDomains               []string
}

// AddTo returns cfg and what o says. It shares nothing with cfg that anyone may change.
func (o Options) AddTo(cfg Config) Config {
	cfg.Static = slices.Concat(cfg.Static, o.Static)
	cfg.TXT = slices.Concat(cfg.TXT, o.TXT)
	cfg.SRV = slices.Concat(cfg.SRV, o.SRV)
	cfg.CNAMEs = slices.Concat(cfg.CNAMEs, o.CNAMEs)
	cfg.Addresses = slices.Concat(cfg.Addresses, o.Addresses)
	cfg.LocalDomains = slices.Concat(cfg.LocalDomains, o.LocalDomains)
	cfg.Forwarders = slices.Concat(cfg.Forwarders, o.Forwarders)
	cfg.HostTTL = cmp.Or(o.HostTTL, cfg.HostTTL)
	cfg.StopRebind = cfg.StopRebind || o.StopRebind
	cfg.RebindLocalhost = cfg.RebindLocalhost || o.RebindLocalhost
	cfg.RebindDomains = slices.Concat(cfg.RebindDomains, o.RebindDomains)
	return cfg
}

// ParseDnsmasqOptions reads options as they stand in dnsmasq's configuration
// file ("address=/example.com/192.0.2.1"), which libvirt's <dnsmasq:option>
// elements hold: address, server, local, cname, host-record, txt-record, srv-host,
// dhcp-ttl, stop-dns-rebind, rebind-localhost-ok and rebind-domain-ok, as
// dnsmasq(8) describes them. unknown are those that it does not understand, for
// whatever reason, as they were given. What it returns has no faults as a part of
// a Config.
func ParseDnsmasqOptions(options []string) (o Options, unknown []string) {
	for _, option := range options {
		next := o
		key, value, _ := strings.Cut(option, "=")
		if !next.parse(strings.TrimSpace(key), strings.TrimSpace(value)) {
			unknown = append(unknown, option)
			continue
		}
		o = next
	}
	return o, unknown
}

// parse adds one option to o. When it returns false o is of no use.
func (o *Options) parse(key, value string) bool {
	switch key {
	case "address":
		return o.perDomain(value, o.address)
	case "server", "local":
		return o.perDomain(value, o.server)
	case "cname":
		return o.cname(split(value))
	case "host-record":
		return o.hostRecord(split(value))
	case "txt-record":
		name, text, _ := strings.Cut(value, ",")
		t := TXT{Name: name, Value: text}
		o.TXT = append(o.TXT, t)
		return t.validate("") == nil
	case "srv-host":
		return o.srvHost(split(value))
	}
	return o.scalar(key, value)
}

// scalar reads the options that have one value, or none.
func (o *Options) scalar(key, value string) bool {
	switch {
	case key == "stop-dns-rebind" && value == "":
		o.StopRebind = true
	case key == "rebind-localhost-ok" && value == "":
		o.RebindLocalhost = true
	case key == "rebind-domain-ok" && strings.Contains(value, "/"):
		return o.perDomain(value, func(domain, target string) bool {
			o.RebindDomains = append(o.RebindDomains, domain)
			return domain != "" && domain != "#" && target == ""
		})
	case key == "dhcp-ttl":
		n, err := strconv.ParseUint(value, 10, 31)
		o.HostTTL = time.Duration(n) * time.Second
		return err == nil
	case key == "rebind-domain-ok":
		o.RebindDomains = append(o.RebindDomains, value)
		return checkNames("", value) == nil
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
func (o *Options) perDomain(value string, add func(domain, target string) bool) bool {
	parts := strings.Split(value, "/")
	target := parts[len(parts)-1]
	if len(parts) == 1 {
		return target != "" && add("", target)
	}
	domains := parts[1 : len(parts)-1]
	if parts[0] != "" || len(domains) == 0 {
		return false
	}
	for _, d := range domains {
		if d = strings.TrimPrefix(d, "."); d != "#" && checkNames("", d) != nil || !add(d, target) {
			return false
		}
	}
	return true
}

// address adds what the names in a domain have: nothing ("") or an address, the
// unspecified ones for "#". The domain "#" has all names.
func (o *Options) address(domain, target string) bool {
	if target == "" {
		return o.server(domain, target)
	}
	if domain == "#" {
		domain = ""
	}
	if target == "#" {
		o.Addresses = append(o.Addresses,
			Address{Domain: domain, Addr: netip.IPv4Unspecified()}, Address{Domain: domain, Addr: netip.IPv6Unspecified()})
		return true
	}
	a, err := netip.ParseAddr(target)
	o.Addresses = append(o.Addresses, Address{Domain: domain, Addr: a})
	return err == nil && a.Zone() == ""
}

// server adds who is asked for a domain: nobody (""), those who are asked for
// the rest ("#"), or "address#port".
func (o *Options) server(domain, target string) bool {
	switch {
	case domain == "#":
		return false
	case target == "" && domain != "":
		o.LocalDomains = append(o.LocalDomains, domain)
		return true
	case target == "#" && domain != "":
		o.Forwarders = append(o.Forwarders, Forwarder{Domain: domain})
		return true
	}
	host, port, hasPort := strings.Cut(target, "#")
	f := Forwarder{Domain: domain}
	var err error
	if f.Addr, err = netip.ParseAddr(host); err != nil {
		return false
	}
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if f.Port = uint16(n); err != nil || n == 0 {
			return false
		}
	}
	o.Forwarders = append(o.Forwarders, f)
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
func (o *Options) cname(fields []string) bool {
	fields, kept := ttl(fields)
	last := len(fields) - 1
	for _, name := range fields[:last] {
		o.CNAMEs = append(o.CNAMEs, CNAME{Name: name, Target: fields[last], TTL: kept})
		if checkNames("", strings.TrimPrefix(name, wildcard)) != nil {
			return false
		}
	}
	return last > 0 && checkNames("", fields[last]) == nil
}

// hostRecord adds "name,name,address,address,TTL".
func (o *Options) hostRecord(fields []string) bool {
	fields, kept := ttl(fields)
	first := slices.IndexFunc(fields, func(f string) bool { return isAddress(f) })
	if first < 1 || checkNames("", fields[:first]...) != nil {
		return false
	}
	for _, name := range fields[:first] {
		for _, f := range fields[first:] {
			a, err := netip.ParseAddr(f)
			if err != nil || a.Zone() != "" {
				return false
			}
			o.Static = append(o.Static, Host{Name: name, Addr: a, TTL: kept})
		}
	}
	return true
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// srvHost adds "_service._protocol.domain,target,port,priority,weight".
func (o *Options) srvHost(fields []string) bool {
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
	o.SRV = append(o.SRV, s)
	return s.validate("", "") == nil
}
