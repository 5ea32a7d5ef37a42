package dnsmasq

import (
	"net/netip"
	"strings"
	"time"
)

// Infinite is the lease time of a lease that never ends, as it is on the wire (RFC
// 2132 section 9.2, RFC 8415 section 7.7).
const Infinite = (1<<32 - 1) * time.Second

// DHCP is what lines say of DHCP, in the order of the lines. Of options of one code
// the last one counts whose tags a client has, and one with tags before one without;
// of boot files it is the same.
type DHCP struct {
	Options, Options6 []Option // of DHCPv4 and of DHCPv6
	Hosts             []Host
	Boots             []Boot
	Rules, Rules6     []Rule // of DHCPv4 and of DHCPv6

	// Refused are the lines about DHCP that are not understood.
	Refused []Refused
}

// Boot is a dhcp-boot.
type Boot struct {
	Tags   []string   // as those of Option
	File   string     // at most 255 bytes
	Name   string     // of the server; empty: not said
	Server netip.Addr // zero: not said
}

// Refused is a line about DHCP that is not understood.
type Refused struct {
	Line int    // its place in Lines of Options
	Want string // what would be right
}

// wanted is what is right in the lines about DHCP, by their names. Those without a
// parser are served by nobody.
func wanted() map[string]string {
	const option = "want [tag:TAG,...][encap:NUMBER,|vi-encap:ENTERPRISE,|vendor:CLASS,]NUMBER|option:NAME|option6:NUMBER|option6:NAME[,VALUE], of an option that is for configuration"
	const boot = "not served: want <vnetd:boot arch='...'/>, or dhcp-match with dhcp-boot"
	return map[string]string{
		"dhcp-option":       option,
		"dhcp-option-force": option,
		"dhcp-host":         "want hardware addresses, id:IDENTIFIER or a name, and addresses (IPv6 in brackets), a lease time, set:TAG, tag:TAG or ignore",
		"dhcp-boot":         "want [tag:TAG,...]FILE[,SERVER'S NAME[,SERVER'S IPv4 ADDRESS]]",
		"dhcp-mac":          "want set:TAG,HARDWARE ADDRESS",
		"dhcp-match":        "want set:TAG,NUMBER|option:NAME|option6:NUMBER|option6:NAME|vi-encap:ENTERPRISE[,VALUE]",
		"dhcp-vendorclass":  "want set:TAG,[enterprise:NUMBER,]TEXT",
		"dhcp-userclass":    "want set:TAG,TEXT",
		"pxe-service":       boot,
		"pxe-prompt":        boot,
	}
}

// parsers are those of the lines about DHCP.
func parsers() map[string]func(*DHCP, string) bool {
	return map[string]func(*DHCP, string) bool{
		"dhcp-option":       func(d *DHCP, s string) bool { return d.option(s, false) },
		"dhcp-option-force": func(d *DHCP, s string) bool { return d.option(s, true) },
		"dhcp-host":         (*DHCP).host,
		"dhcp-boot":         (*DHCP).boot,
		"dhcp-mac":          (*DHCP).mac,
		"dhcp-match":        (*DHCP).match,
		"dhcp-vendorclass":  (*DHCP).vendorClass,
		"dhcp-userclass":    (*DHCP).userClass,
	}
}

// tagOf returns the tag behind one of prefixes, "" for none.
func tagOf(field string, prefixes ...string) string {
	for _, p := range prefixes {
		if tag, ok := strings.CutPrefix(field, p); ok {
			return shown(tag)
		}
	}
	return ""
}

// boot reads [tag:TAG,]FILE[,[SERVER NAME][,SERVER ADDRESS]].
func (d *DHCP) boot(s string) bool {
	var b Boot
	fields := fieldsOf(s)
	for len(fields) > 0 && tagOf(fields[0], "tag:", "net:") != "" {
		b.Tags = append(b.Tags, tagOf(fields[0], "tag:", "net:"))
		fields = fields[1:]
	}
	if len(fields) == 0 || len(fields) > 3 {
		return false
	}
	fields = append(fields, "", "")
	b.File, b.Name = shown(fields[0]), shown(fields[1])
	if fields[2] != "" {
		a, err := netip.ParseAddr(fields[2])
		if b.Server = a; err != nil || !a.Is4() {
			return false
		}
	}
	d.Boots = append(d.Boots, b)
	return b.File != "" && len(b.File) <= 255 && len(b.Name) < 64
}
