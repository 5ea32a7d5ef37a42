package dnsmasq

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// absent stands in a lease file for what a lease does not have.
const absent = "*"

// Sizes of what identifies a client: of an Ethernet address, of a client identifier
// (RFC 2132 section 2) and of a DUID (RFC 8415 section 11.1).
const (
	macLen      = 6
	maxClientID = 255
	minDUID     = 3
	maxDUID     = 130
)

// Lease is a lease of a lease file.
type Lease struct {
	Addr     netip.Addr
	MAC      net.HardwareAddr // nil for those of DHCPv6
	ClientID []byte           // nil: the client has none
	DUID     []byte           // of DHCPv6 only
	IAID     uint32           // of DHCPv6 only
	Hostname string           // empty: none
	Expiry   time.Time        // zero: it never ends
}

// FormatLeases returns leases as the lease file that dnsmasq writes: a line for each lease of
// DHCPv4, and then, where there are any, the server's DUID and a line for each lease of DHCPv6. The times are those of
// Unix, 0 for a lease that never ends.
//
//	1800000000 52:54:00:12:34:56 192.0.2.10 web 01:52:54:00:12:34:56
//	duid 00:03:00:01:52:54:00:00:00:01
//	1800000000 1193046 2001:db8::10 web 00:01:00:01:2a:00:00:00:52:54:00:12:34:56
func FormatLeases(leases []Lease, server []byte) string {
	var v4, v6 strings.Builder
	for i := range leases {
		l := &leases[i]
		if l.Addr.Is4() {
			fileLine(&v4, l, l.MAC.String(), l.ClientID)
		} else {
			fileLine(&v6, l, strconv.FormatUint(uint64(l.IAID), 10), l.DUID)
		}
	}
	if v6.Len() == 0 {
		return v4.String()
	}
	return v4.String() + "duid " + colons(server) + "\n" + v6.String()
}

// fileLine writes a lease. who is the second field, id the last.
func fileLine(b *strings.Builder, l *Lease, who string, id []byte) {
	expiry, name := int64(0), absent
	if !l.Expiry.IsZero() {
		expiry = l.Expiry.Unix()
	}
	if l.Hostname != "" {
		name = l.Hostname
	}
	fmt.Fprintf(b, "%d %s %v %s %s\n", expiry, who, l.Addr, name, colons(id))
}

// colons returns b as hex bytes with colons between them, absent when there are none.
func colons(b []byte) string {
	if len(b) == 0 {
		return absent
	}
	return net.HardwareAddr(b).String()
}

// ParseLeases reads a lease file of dnsmasq, or the file BRIDGE.status that libvirt's
// helper of dnsmasq keeps, which is JSON. Leases whose names are no host names come
// without a name; those of temporary addresses and of other hardware than Ethernet
// are left out. The error joins every fault, each with its line, and then there are
// no leases.
func ParseLeases(text string) ([]Lease, error) {
	if strings.HasPrefix(strings.TrimSpace(text), "[") {
		return parseStatus(text)
	}
	var leases []Lease
	var faults []error
	number := 0
	for line := range strings.Lines(text) {
		number++
		l, err := parseFileLine(strings.Fields(line))
		switch {
		case err != nil:
			faults = append(faults, fmt.Errorf("line %d: %w", number, err))
		case l != nil:
			leases = append(leases, *l)
		}
	}
	if faults != nil {
		return nil, errors.Join(faults...)
	}
	return leases, nil
}

// parseFileLine reads a line of a lease file; nil when it has no lease for us.
func parseFileLine(f []string) (*Lease, error) {
	if len(f) == 0 || f[0] == "duid" {
		return nil, nil
	}
	if len(f) != 5 {
		return nil, fmt.Errorf("%d fields, want 5: expiry, MAC address or IAID, address, name, client id", len(f))
	}
	expiry, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil || expiry < 0 {
		return nil, fmt.Errorf("expiry: %q, want seconds since 1970", f[0])
	}
	addr, err := netip.ParseAddr(f[2])
	if err != nil || addr.Zone() != "" {
		return nil, fmt.Errorf("address: %q is none", f[2])
	}
	l := &Lease{Addr: addr, Hostname: hostname(f[3]), Expiry: unixTime(expiry)}
	if addr.Is6() {
		return l.identify6(f[1], f[4])
	}
	return l.identify4(f[1], f[4])
}

// unixTime returns the time of a lease file.
func unixTime(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// identify4 completes a DHCPv4 lease by its client; nil when it has no Ethernet
// address, which stands there behind the number of its kind.
func (l *Lease) identify4(mac, id string) (*Lease, error) {
	if kind, _, other := strings.Cut(mac, "-"); other && len(kind) == 2 {
		return nil, nil
	}
	hw, err := net.ParseMAC(mac)
	if err != nil || len(hw) != macLen {
		return nil, fmt.Errorf("MAC address: %q, want six hex bytes with colons", mac)
	}
	l.MAC = hw
	if id == absent || id == "" {
		return l, nil
	}
	if l.ClientID, err = hex.DecodeString(strings.ReplaceAll(id, ":", "")); err != nil || len(l.ClientID) > maxClientID {
		return nil, fmt.Errorf("client id: %q, want up to %d hex bytes with colons", id, maxClientID)
	}
	return l, nil
}

// identify6 completes a DHCPv6 lease by its client; nil when it is of a temporary
// address, whose IAID has a T before it.
func (l *Lease) identify6(iaid, duid string) (*Lease, error) {
	if strings.HasPrefix(iaid, "T") {
		return nil, nil
	}
	n, err := strconv.ParseUint(iaid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("IAID: %q, want a number of 32 bits", iaid)
	}
	l.IAID = uint32(n)
	id, ok := ParseDUID(duid)
	if !ok {
		return nil, fmt.Errorf("DUID: %q, want %d to %d hex bytes with colons", duid, minDUID, maxDUID)
	}
	l.DUID = id
	return l, nil
}

// hostname returns the name of a lease, empty for none or for what is no host name.
func hostname(s string) string {
	if label, _, _ := strings.Cut(s, "."); isHostName(s) {
		return label
	}
	return ""
}

// statusLease is a lease in BRIDGE.status.
type statusLease struct {
	IAID     string `json:"iaid"` // DHCPv6 only
	Addr     string `json:"ip-address"`
	MAC      string `json:"mac-address"`
	Hostname string `json:"hostname"`
	ClientID string `json:"client-id"` // the DUID in DHCPv6
	Expiry   int64  `json:"expiry-time"`
}

// parseStatus reads BRIDGE.status.
func parseStatus(text string) ([]Lease, error) {
	var all []statusLease
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return nil, fmt.Errorf("reading leases in JSON: %w", err)
	}
	var leases []Lease
	var faults []error
	for i, s := range all {
		l, err := s.lease()
		switch {
		case err != nil:
			faults = append(faults, fmt.Errorf("lease %d: %w", i+1, err))
		case l != nil:
			leases = append(leases, *l)
		}
	}
	if faults != nil {
		return nil, errors.Join(faults...)
	}
	return leases, nil
}

// lease returns s as a Lease, nil when it is none for us.
func (s *statusLease) lease() (*Lease, error) {
	addr, err := netip.ParseAddr(s.Addr)
	if err != nil || addr.Zone() != "" || s.Expiry < 0 {
		return nil, fmt.Errorf("address %q until %d is none", s.Addr, s.Expiry)
	}
	l := &Lease{Addr: addr, Hostname: hostname(s.Hostname), Expiry: unixTime(s.Expiry)}
	if addr.Is4() {
		return l.identify4(s.MAC, s.ClientID)
	}
	if hw, err := net.ParseMAC(s.MAC); err == nil && len(hw) == macLen {
		l.MAC = hw
	}
	return l.identify6(s.IAID, s.ClientID)
}
