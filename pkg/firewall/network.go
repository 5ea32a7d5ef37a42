package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vnetd/vnetd/internal/ether"
)

// Family is the address family of a rule: of iptables or of ip6tables.
type Family uint8

// The two families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// String is "IPv4" or "IPv6".
func (f Family) String() string {
	return fmt.Sprintf("IPv%d", uint8(f))
}

// Mode is what a network lets through, under the names that libvirt's <forward
// mode> has. ModeIsolated is a network without <forward>.
type Mode string

// The modes. ModeOpen and ModeBridge have no rules: traffic of such networks is
// the administrator's concern, or never passes this host's IP stack.
const (
	ModeNAT      Mode = "nat"
	ModeRoute    Mode = "route"
	ModeIsolated Mode = "none"
	ModeOpen     Mode = "open"
	ModeBridge   Mode = "bridge"
)

// PortRange is an inclusive range of TCP and UDP ports. The zero value stands
// for the default, 1024-65535.
type PortRange struct {
	Start, End uint16
}

// AddrRange is an inclusive range of IPv4 addresses. An invalid End means the
// single address Start; the zero value means no range.
type AddrRange struct {
	Start, End netip.Addr
}

// Network is the intent of one network, as far as it concerns the firewall.
type Network struct {
	// Bridge is the bridge's device name.
	Bridge string
	Mode   Mode
	// Dev is the <forward dev>: traffic leaves and enters by this device only.
	// Empty: by any.
	Dev string
	// Subnets are those of the <ip> elements in the order of the XML, of both
	// families. Host bits may be set; they are not looked at. A subnet that
	// stands twice counts once.
	Subnets []netip.Prefix
	// NATPorts are the source ports that translated TCP and UDP packets get.
	NATPorts PortRange
	// NATAddrs are the source addresses that translated IPv4 packets get; zero:
	// the address of the device by which they leave (MASQUERADE).
	NATAddrs AddrRange
	// NATIPv6 has IPv6 translated as well in ModeNAT. Without it IPv6 is routed.
	NATIPv6 bool
	// NoInboundIPv6 has nobody outside begin connections to guests by IPv6 that is
	// routed.
	NoInboundIPv6 bool
	// IPv6 is <network ipv6='yes'>: guests may speak IPv6 among each other
	// though the network has no IPv6 subnet.
	IPv6 bool
	// DHCP says that an IPv4 <ip> has a dynamic range or a fixed host.
	DHCP bool
	// DHCPv6 says so of an IPv6 <ip>, and NoDNS that guests are served no names. Both
	// matter to Conditions alone.
	DHCPv6, NoDNS bool
	// Isolated says that guests are not to reach each other.
	Isolated bool
	// Zone is <bridge zone=>, the zone of firewalld that the bridge belongs to.
	// Empty: libvirt's zone, where firewalld has it.
	Zone string
	// TFTP says that guests may fetch boot files from this host.
	TFTP bool
	// DNS is where this host's name server listens on the bridge, if that is
	// not port 53: what guests ask there on port 53 is redirected. Zones are not
	// looked at.
	DNS []netip.AddrPort
}

// Filtered reports whether networks of this mode have rules at all.
func (m Mode) Filtered() bool {
	return m == ModeNAT || m == ModeRoute || m == ModeIsolated
}

// check finds what iptables would misread or refuse. All faults are joined.
func (n Network) check() error {
	var faults []error
	if n.Mode != ModeOpen && n.Mode != ModeBridge && !n.Mode.Filtered() {
		faults = append(faults, fmt.Errorf("unknown forward mode %q", n.Mode))
	}
	faults = append(faults, checkDevice(n.Bridge))
	if n.Dev != "" {
		faults = append(faults, checkDevice(n.Dev))
	}
	for _, s := range n.Subnets {
		if !s.IsValid() || s.Bits() == 0 || s.Addr().Is4In6() {
			faults = append(faults, fmt.Errorf("subnet %s can't stand in a rule", s))
		}
	}
	return errors.Join(append(faults, n.checkNAT())...)
}

// checkNAT checks the ranges of <nat>.
func (n Network) checkNAT() error {
	var faults []error
	if n.NATPorts.End < n.NATPorts.Start {
		faults = append(faults, fmt.Errorf("port range %d-%d ends before it starts", n.NATPorts.Start, n.NATPorts.End))
	}
	a := n.NATAddrs
	switch {
	case a == AddrRange{}:
	case !a.Start.Is4() || a.End.IsValid() && !a.End.Is4():
		faults = append(faults, fmt.Errorf("address range %s-%s is not of IPv4", a.Start, a.End))
	case a.End.IsValid() && a.End.Less(a.Start):
		faults = append(faults, fmt.Errorf("address range %s-%s ends before it starts", a.Start, a.End))
	}
	return errors.Join(faults...)
}

// checkDevice refuses names that no link has, and those that iptables would take for
// something else: a trailing + matches every device with that prefix, a leading - or !
// is syntax.
func checkDevice(name string) error {
	switch {
	case !ether.ValidName(name):
		return fmt.Errorf("device name %q is none that a link can have", name)
	case strings.ContainsAny(name, `"'\`) || strings.ContainsAny(name[:1], "-!") || strings.HasSuffix(name, "+"):
		return fmt.Errorf("device name %q can't stand in a rule", name)
	}
	return nil
}
