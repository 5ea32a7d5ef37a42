package dnsmasq

import (
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/dnsname"
)

// Infinite is the lease time of a lease that never ends, as it is on the wire (RFC
// 2132 section 9.2, RFC 8415 section 7.7).
const Infinite = (1<<32 - 1) * time.Second

// DHCP is what lines say of DHCP.
type DHCP struct {
	Options []Option // of DHCPv4, one of a code
	Hosts   []Host
	Boot    Boot // of the last dhcp-boot
}

// Option is a dhcp-option or dhcp-option-force of DHCPv4.
type Option struct {
	Code  uint8
	Value []byte // empty: the option is not sent
	Addrs bool   // Value is a list of addresses, in which 0.0.0.0 means our own
	Force bool   // it is sent to clients, too, that don't ask for it
}

// Host is an address that a dhcp-host sets aside, of either family.
type Host struct {
	MAC       net.HardwareAddr // nil: not said
	DUID      []byte           // nil: not said
	Name      string           // what the client is known by if there is neither MAC nor DUID
	Addr      netip.Addr
	LeaseTime time.Duration // 0: not said
}

// Boot is a dhcp-boot. Its zero value says nothing.
type Boot struct {
	File   string     // at most 255 bytes
	Server netip.Addr // zero: not said
}

// At returns the value of the option on the link where server is our address.
func (o *Option) At(server netip.Addr) []byte {
	if !o.Addrs || !server.Is4() {
		return o.Value
	}
	value := slices.Clone(o.Value)
	for a := range slices.Chunk(value, net.IPv4len) {
		if [net.IPv4len]byte(a) == ([net.IPv4len]byte{}) {
			copy(a, server.AsSlice())
		}
	}
	return value
}

// parse takes over one line.
func (d *DHCP) parse(name, value string) error {
	fields, err := splitFields(value)
	if err != nil {
		return err
	}
	switch name {
	case "dhcp-host":
		return d.parseHosts(fields)
	case "dhcp-boot":
		return d.parseBoot(fields)
	default:
		return d.parseOption(fields, name == "dhcp-option-force")
	}
}

// splitFields splits at commas, but not inside double quotes.
func splitFields(s string) ([]string, error) {
	var fields []string
	quoted := false
	field := new(strings.Builder)
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			fields = append(fields, strings.TrimSpace(field.String()))
			field.Reset()
		default:
			field.WriteByte(c)
		}
	}
	if quoted {
		return nil, errUnknown
	}
	return append(fields, strings.TrimSpace(field.String())), nil
}

// parseOption understands CODE,VALUE... and option:NAME,VALUE... A later line on an
// option takes the place of an earlier one.
func (d *DHCP) parseOption(fields []string, force bool) error {
	code, err := optionCode(fields[0])
	if err != nil {
		return err
	}
	opt := Option{Code: code, Force: force}
	if opt.Value, opt.Addrs, err = optionValue(code, fields[1:]); err != nil {
		return err
	}
	d.Options = append(slices.DeleteFunc(d.Options, func(have Option) bool { return have.Code == code }), opt)
	return nil
}

// optionCode reads a number or one of dnsmasq's names.
func optionCode(s string) (uint8, error) {
	if name, ok := strings.CutPrefix(s, "option:"); ok {
		for _, known := range knownOptions() {
			if known.name == name {
				return known.code, nil
			}
		}
		return 0, errUnknown
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil || !settable(uint8(n)) {
		return 0, errUnknown
	}
	return uint8(n), nil
}

// settable reports whether an option may be configured: those that the protocol
// itself needs may not.
func settable(code uint8) bool {
	switch code {
	case 0, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 61, 80, 81, 82, 255:
		return false
	default:
		return true
	}
}

// kind is how the value of an option is written.
type kind uint8

const (
	kindGuess kind = iota // as it looks
	kindText
	kindNames // domain names in wire format
	kindRoutes
	kindByte
	kindShort
	kindLong
)

// knownOption is an option that has a name, or whose value is not as it looks.
type knownOption struct {
	name string
	code uint8
	kind kind
}

// knownOptions returns dnsmasq's names of options (dnsmasq --help dhcp) and how their
// values are written (RFC 2132 and others).
func knownOptions() []knownOption {
	return []knownOption{
		{"netmask", 1, kindGuess},
		{"time-offset", 2, kindLong},
		{"router", 3, kindGuess},
		{"dns-server", 6, kindGuess},
		{"log-server", 7, kindGuess},
		{"lpr-server", 9, kindGuess},
		{"hostname", 12, kindText},
		{"boot-file-size", 13, kindShort},
		{"domain-name", 15, kindText},
		{"swap-server", 16, kindGuess},
		{"root-path", 17, kindText},
		{"extension-path", 18, kindText},
		{"ip-forward-enable", 19, kindByte},
		{"default-ttl", 23, kindByte},
		{"mtu", 26, kindShort},
		{"all-subnets-local", 27, kindByte},
		{"broadcast", 28, kindGuess},
		{"router-discovery", 31, kindByte},
		{"router-solicitation", 32, kindGuess},
		{"static-route", 33, kindGuess},
		{"arp-timeout", 35, kindLong},
		{"nis-domain", 40, kindText},
		{"nis-server", 41, kindGuess},
		{"ntp-server", 42, kindGuess},
		{"netbios-ns", 44, kindGuess},
		{"netbios-dd", 45, kindGuess},
		{"netbios-nodetype", 46, kindByte},
		{"netbios-scope", 47, kindText},
		{"x-windows-fs", 48, kindGuess},
		{"x-windows-dm", 49, kindGuess},
		{"nis+-domain", 64, kindText},
		{"nis+-server", 65, kindGuess},
		{"tftp-server", 66, kindText},
		{"bootfile-name", 67, kindText},
		{"smtp-server", 69, kindGuess},
		{"pop3-server", 70, kindGuess},
		{"nntp-server", 71, kindGuess},
		{"irc-server", 74, kindGuess},
		{"posix-timezone", 100, kindText},
		{"tzdb-timezone", 101, kindText},
		{"domain-search", 119, kindNames},
		{"classless-static-route", 121, kindRoutes},
		{"", 249, kindRoutes},
		{"server-ip-address", 150, kindGuess},
	}
}

// optionValue reads a value. addrs says that it is a list of addresses.
func optionValue(code uint8, fields []string) (value []byte, addrs bool, err error) {
	k := kindGuess
	if i := slices.IndexFunc(knownOptions(), func(o knownOption) bool { return o.code == code }); i >= 0 {
		k = knownOptions()[i].kind
	}
	switch {
	case len(fields) == 0 || fields[0] == "" && len(fields) == 1:
		return nil, false, nil
	case k == kindText:
		return []byte(strings.Join(fields, ",")), false, nil
	case k == kindNames:
		for _, name := range fields {
			labels, err := toLabels(strings.Trim(name, "."))
			if err != nil {
				return nil, false, err
			}
			value = append(value, labels...)
		}
		return value, false, nil
	case k == kindRoutes:
		value, err = routesValue(fields)
		return value, false, err
	case k != kindGuess:
		value, err = numbersValue(k, fields)
		return value, false, err
	default:
		return guessValue(fields)
	}
}

// toLabels returns a name in DNS wire format (RFC 1035 section 3.1).
func toLabels(name string) ([]byte, error) {
	ascii, err := dnsname.Host(name)
	if err != nil || ascii != name {
		return nil, errUnknown
	}
	var wire []byte
	for label := range strings.SplitSeq(name, ".") {
		wire = append(append(wire, byte(len(label))), label...)
	}
	return append(wire, 0), nil
}

// routesValue reads DESTINATION/BITS,GATEWAY pairs into the form of option 121 (RFC
// 3442).
func routesValue(fields []string) ([]byte, error) {
	if len(fields)%2 != 0 {
		return nil, errUnknown
	}
	var value []byte
	for pair := range slices.Chunk(fields, 2) {
		dst, err := netip.ParsePrefix(pair[0])
		gateway, err2 := netip.ParseAddr(pair[1])
		if err != nil || err2 != nil || !dst.Addr().Is4() || !gateway.Is4() {
			return nil, errUnknown
		}
		value = append(value, byte(dst.Bits()))
		value = append(value, dst.Masked().Addr().AsSlice()[:(dst.Bits()+7)/8]...)
		value = append(value, gateway.AsSlice()...)
	}
	return value, nil
}

// numbersValue reads numbers of one size.
func numbersValue(k kind, fields []string) ([]byte, error) {
	size := map[kind]int{kindByte: 1, kindShort: 2, kindLong: 4}[k]
	var value []byte
	for _, f := range fields {
		n, err := strconv.ParseUint(f, 10, 8*size)
		if err != nil {
			return nil, errUnknown
		}
		value = append(value, bigEndian(uint32(n), size)...)
	}
	return value, nil
}

// bigEndian returns n in size bytes.
func bigEndian(n uint32, size int) []byte {
	return []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}[4-size:]
}

// guessValue reads what the value looks like: addresses, hex bytes with colons, one
// number in as few bytes as it needs, or text.
func guessValue(fields []string) (value []byte, addrs bool, err error) {
	for _, f := range fields {
		a, err := netip.ParseAddr(f)
		if err != nil || !a.Is4() {
			return plainValue(fields), false, nil
		}
		value = append(value, a.AsSlice()...)
	}
	return value, true, nil
}

// plainValue reads what are no addresses for guessValue.
func plainValue(fields []string) []byte {
	text := strings.Join(fields, ",")
	if b, err := hex.DecodeString(strings.ReplaceAll(text, ":", "")); err == nil && isHexBytes(text) {
		return b
	}
	n, err := strconv.ParseUint(text, 10, 32)
	switch {
	case err != nil:
		return []byte(text)
	case n > 0xffff:
		return bigEndian(uint32(n), 4)
	case n > 0xff:
		return bigEndian(uint32(n), 2)
	default:
		return bigEndian(uint32(n), 1)
	}
}

// isHexBytes reports whether s is pairs of digits with colons between them, two
// pairs at least.
func isHexBytes(s string) bool {
	parts := strings.Split(s, ":")
	return len(parts) > 1 && !slices.ContainsFunc(parts, func(p string) bool { return len(p) != 2 })
}

// parseBoot understands FILE[,[SERVER NAME][,SERVER ADDRESS]].
func (d *DHCP) parseBoot(fields []string) error {
	if fields[0] == "" || strings.Contains(fields[0], ":") && !strings.Contains(fields[0], "/") || len(fields) > 3 {
		return errUnknown // a tag
	}
	var server netip.Addr
	if len(fields) == 3 && fields[2] != "" {
		var err error
		if server, err = netip.ParseAddr(fields[2]); err != nil || !server.Is4() {
			return errUnknown
		}
	}
	if len(fields[0]) > 255 {
		return errUnknown
	}
	d.Boot = Boot{File: fields[0], Server: server}
	return nil
}

// parseHosts understands a host with its hardware addresses or DUID, addresses of
// both families, a name and a lease time, in any order.
func (d *DHCP) parseHosts(fields []string) error {
	var h Host
	var addrs []netip.Addr
	for _, f := range fields {
		a, err := hostAddr(f)
		if err == nil {
			addrs = append(addrs, a)
			continue
		}
		if err := h.parse(f); err != nil {
			return err
		}
	}
	if len(addrs) == 0 || h.MAC == nil && h.DUID == nil && h.Name == "" {
		return errUnknown
	}
	for _, a := range addrs {
		h := h
		if h.Addr = a; a.Is4() {
			h.DUID = nil // DHCPv4 does not know it
		}
		if h.MAC == nil && h.DUID == nil && h.Name == "" {
			return errUnknown
		}
		d.Hosts = append(d.Hosts, h)
	}
	return nil
}

// hostAddr reads an IPv4 address, or an IPv6 address in brackets.
func hostAddr(f string) (netip.Addr, error) {
	inner, ok := strings.CutPrefix(f, "[")
	if ok {
		inner, ok = strings.CutSuffix(inner, "]")
	}
	a, err := netip.ParseAddr(inner)
	if err == nil && (ok != a.Is6() || a.Zone() != "") {
		return netip.Addr{}, errUnknown
	}
	return a, err
}

// parse takes over a field that is no address.
func (h *Host) parse(f string) error {
	if id, ok := strings.CutPrefix(f, "id:"); ok {
		duid, ok := ParseDUID(id)
		if !ok || h.DUID != nil {
			return errUnknown
		}
		h.DUID = duid
		return nil
	}
	if mac, err := net.ParseMAC(f); err == nil && len(mac) == macLen && h.MAC == nil {
		h.MAC = mac
		return nil
	}
	if d, ok := dnsmasqTime(f); ok && h.LeaseTime == 0 {
		h.LeaseTime = d
		return nil
	}
	if h.Name != "" || f == "ignore" || !isHostName(f) {
		return errUnknown
	}
	h.Name = f
	return nil
}

// dnsmasqTime reads a lease time: seconds, or a number of minutes, hours, days or
// weeks; "infinite" is for ever.
func dnsmasqTime(s string) (time.Duration, bool) {
	if s == "infinite" {
		return Infinite, true
	}
	unit := time.Second
	if s != "" {
		units := map[byte]time.Duration{'s': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 604800}
		if u, ok := units[s[len(s)-1]]; ok {
			s, unit = s[:len(s)-1], u*time.Second
		}
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 {
		return 0, false
	}
	return min(time.Duration(n)*unit, Infinite), true
}
