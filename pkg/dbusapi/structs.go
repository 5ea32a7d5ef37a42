package dbusapi

import (
	"encoding/hex"
	"net/netip"
	"strconv"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// leaseSignature is a lease on the bus, in the order that libvirt's D-Bus
// binding has, too: interface, expiry (Unix seconds, 0 for never), type (0 for
// IPv4, 1 for IPv6), MAC, IAID, address, prefix length, host name, client id.
const leaseSignature = "(sxisssuss)"

// lease has leaseSignature.
type lease struct {
	Interface string
	Expiry    int64
	Type      int32
	MAC       string
	IAID      string
	Address   string
	Prefix    uint32
	Hostname  string
	ClientID  string
}

// busLease is a lease as it goes over the bus.
func busLease(l network.Lease) lease {
	kind, iaid, id := appendIdentity(nil, &l)
	return lease{
		Interface: l.Interface, Expiry: busExpiry(&l), Type: int32(kind), MAC: l.MAC.String(), IAID: string(iaid),
		Address: l.Addr.String(), Prefix: uint32(l.PrefixLen), Hostname: l.Hostname, ClientID: string(appendColons(nil, id)),
	}
}

// appendIdentity returns what a lease is of, its IAID appended, and the client's identifier or DUID.
func appendIdentity(to []byte, l *network.Lease) (kind uint32, iaid, id []byte) {
	if l.Addr.Is6() {
		return 1, strconv.AppendUint(to, uint64(l.IAID), 10), l.DUID
	}
	return 0, to, l.ClientID
}

// busExpiry is when a lease ends, as it goes over the bus.
func busExpiry(l *network.Lease) int64 {
	if l.Expiry.IsZero() {
		return 0
	}
	return l.Expiry.Unix()
}

// appendColons appends bytes as 01:52:54:00.
func appendColons(to, b []byte) []byte {
	for i := range b {
		if i > 0 {
			to = append(to, ':')
		}
		to = hex.AppendEncode(to, b[i:i+1])
	}
	return to
}

// busConditions are conditions as they go over the bus: a dictionary each, so
// that keys can be added.
func busConditions(all []api.Condition) []map[string]dbus.Variant {
	out := make([]map[string]dbus.Variant, 0, len(all))
	for _, c := range all {
		out = append(out, map[string]dbus.Variant{
			"kind":     dbus.MakeVariant(c.Kind),
			"severity": dbus.MakeVariant(string(c.Severity)),
			"networks": dbus.MakeVariant(c.Networks),
			"message":  dbus.MakeVariant(c.Message),
			"evidence": dbus.MakeVariant(c.Evidence),
			"remedy":   dbus.MakeVariant(c.Remedy),
			"since":    dbus.MakeVariant(c.Since.Unix()),
		})
	}
	return out
}

// texts writes addresses.
func texts(all []netip.Addr) []string {
	out := make([]string, len(all))
	for i, a := range all {
		out[i] = a.String()
	}
	return out
}

// prefixTexts writes subnets.
func prefixTexts(all []netip.Prefix) []string {
	out := make([]string, len(all))
	for i, p := range all {
		out[i] = p.String()
	}
	return out
}
