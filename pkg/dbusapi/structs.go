package dbusapi

import (
	"fmt"
	"net"
	"net/netip"

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
	b := lease{
		Interface: l.Interface, MAC: l.MAC.String(), Address: l.Addr.String(), Prefix: uint32(l.PrefixLen),
		Hostname: l.Hostname, ClientID: hexColons(l.ClientID), Expiry: busExpiry(&l),
	}
	if l.Addr.Is6() {
		b.Type, b.IAID, b.ClientID = 1, fmt.Sprint(l.IAID), hexColons(l.DUID)
	}
	return b
}

// busExpiry is when a lease ends, as it goes over the bus.
func busExpiry(l *network.Lease) int64 {
	if l.Expiry.IsZero() {
		return 0
	}
	return l.Expiry.Unix()
}

// hexColons writes bytes as 01:52:54:00.
func hexColons(b []byte) string { return net.HardwareAddr(b).String() }

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
