package dnsname

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// maxString is the number of octets of one string of a TXT record, RFC 1035 section 3.3.
const maxString = 255

// Types lists the types of records that Data knows.
func Types() []string {
	return []string{"A", "AAAA", "CAA", "CNAME", "HTTPS", "MX", "SRV", "SVCB", "TXT"}
}

// Code returns the number of a type that Data knows.
func Code(rtype string) (code uint16, ok bool) {
	return dns.StringToType[rtype], slices.Contains(Types(), rtype)
}

// Data returns the type and the data of a record, as they are on the wire, of their
// presentation form: an address, a name, the text of a TXT record as it is, or the
// fields of the type's RFC. Names in it are taken as whole. The error says what would be
// right.
func Data(rtype, value string) (code uint16, data []byte, err error) {
	code, ok := Code(rtype)
	if !ok {
		return 0, nil, fmt.Errorf("want one of %s", strings.Join(Types(), ", "))
	}
	rr, err := record(rtype, value)
	if err != nil {
		return 0, nil, err
	}
	const before = 11 // the root's name, type, class, TTL, RDLENGTH
	b := make([]byte, before+0xffff)
	end, err := dns.PackRR(rr, b, 0, nil, false)
	if err != nil {
		return 0, nil, fmt.Errorf("want the data of an %s record: %w", rtype, err)
	}
	return code, slices.Clone(b[before:end]), nil
}

// record reads a record of the root's name.
func record(rtype, value string) (dns.RR, error) {
	header := dns.RR_Header{Name: ".", Rrtype: dns.StringToType[rtype], Class: dns.ClassINET}
	switch rtype {
	case "A", "AAAA":
		a, err := netip.ParseAddr(value)
		if err != nil || a.Is4() != (rtype == "A") || a.Zone() != "" {
			return nil, fmt.Errorf("want an %s address", map[string]string{"A": "IPv4", "AAAA": "IPv6"}[rtype])
		}
		if rtype == "A" {
			return &dns.A{Hdr: header, A: a.AsSlice()}, nil
		}
		return &dns.AAAA{Hdr: header, AAAA: a.AsSlice()}, nil
	case "CNAME":
		target, err := Record(value)
		return &dns.CNAME{Hdr: header, Target: dns.Fqdn(escape(target))}, err
	case "TXT":
		return &dns.TXT{Hdr: header, Txt: texts(value)}, Text(value)
	}
	return fields(rtype, value)
}

// fields reads the data of a record as it stands in a zone file (RFC 1035 section 5.1),
// without what belongs to the file: comments and parentheses.
func fields(rtype, value string) (dns.RR, error) {
	quoted := false
	for _, r := range value {
		switch {
		case r < ' ' || r >= 0x7f:
			return nil, fmt.Errorf("want ASCII without control characters, not %q", r)
		case r == '"':
			quoted = !quoted
		case !quoted && strings.ContainsRune(";()", r):
			return nil, fmt.Errorf("want %q between double quotes only", r)
		}
	}
	rr, err := dns.NewRR(". 0 IN " + rtype + " " + value)
	if parse := (*dns.ParseError)(nil); errors.As(err, &parse) || rr == nil || strings.TrimSpace(value) == "" {
		return nil, fmt.Errorf("want the data of an %s record, like %s", rtype, examples()[rtype])
	}
	return rr, nil
}

// examples returns an example of the data of each type that has several fields.
func examples() map[string]string {
	return map[string]string{
		"CAA": `0 issue "ca.example"`, "HTTPS": "1 . alpn=h2,h3", "SVCB": "1 host.example port=8443",
		"MX": "10 mail.example", "SRV": "0 5 443 host.example",
	}
}

// texts splits a text into the strings of a record.
func texts(value string) []string {
	var all []string
	for len(value) > maxString {
		all = append(all, escape(value[:maxString]))
		value = value[maxString:]
	}
	return append(all, escape(value))
}

// escape keeps package dns from taking a backslash for an escape.
func escape(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }
