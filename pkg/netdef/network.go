// Package netdef is libvirt's network schema: it parses a <network>, fills in
// what libvirt fills in, checks it, finds conflicts with other networks, changes
// sections of it and prints it as virsh net-dumpxml does. It does the same for
// the <networkport> of a guest, which has no conflicts and sections.
//
// The package is pure: it touches no file, no kernel and no clock. The way of a
// definition is Parse, Validate, Conflicts, Complete. Parse reports every value
// that can't be read, Validate every value that can't work; both as Faults, so
// that a user can mend a file in one go.
//
// What libvirt accepts is accepted and what it prints is printed, with the
// exceptions that docs/networks.md lists. The schema is described at
// https://libvirt.org/formatnetwork.html.
package netdef

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vnetd/vnetd/pkg/dnsmasq"
	"github.com/vnetd/vnetd/pkg/netdef/announce"
	"github.com/vnetd/vnetd/pkg/netdef/policy"
	"github.com/vnetd/vnetd/pkg/netdef/span"
)

// Mode is what a network does with traffic that leaves it: libvirt's forward
// mode.
type Mode string

// The forward modes. In the first four vnetd owns the bridge; the others use
// devices of the host as they are, but see Network.Uplink.
const (
	ModeIsolated    Mode = "none" // no <forward> element
	ModeNAT         Mode = "nat"
	ModeRoute       Mode = "route"
	ModeOpen        Mode = "open"
	ModeBridge      Mode = "bridge"
	ModePrivate     Mode = "private"
	ModeVEPA        Mode = "vepa"
	ModePassthrough Mode = "passthrough"
	ModeHostdev     Mode = "hostdev"
)

// modes returns every mode that may be written, in the order of the schema.
func modes() []string {
	return []string{
		string(ModeIsolated), string(ModeNAT), string(ModeRoute), string(ModeOpen), string(ModeBridge),
		string(ModePrivate), string(ModeVEPA), string(ModePassthrough), string(ModeHostdev),
	}
}

// OwnsBridge reports whether a network of this mode makes its bridge, and with
// it has addresses and services of its own.
func (m Mode) OwnsBridge() bool {
	switch m {
	case ModeIsolated, ModeNAT, ModeRoute, ModeOpen:
		return true
	default:
		return false
	}
}

// PlugType is what a port is plugged into.
type PlugType string

// The types.
const (
	PlugNetwork    PlugType = "network"     // a bridge that the network makes
	PlugBridge     PlugType = "bridge"      // a bridge of the host
	PlugDirect     PlugType = "direct"      // an interface of the host, by macvtap
	PlugHostdevPCI PlugType = "hostdev-pci" // a virtual function, passed through
)

// Tristate is a yes or no that may be left out.
type Tristate string

// The values of a Tristate.
const (
	Unset Tristate = ""
	Yes   Tristate = "yes"
	No    Tristate = "no"
)

// Or returns t as a bool, and def if t is Unset.
func (t Tristate) Or(def bool) bool {
	if t == Unset {
		return def
	}
	return t == Yes
}

// Network is a <network> definition. Its zero value is an isolated network
// without a name. Fields that hold what libvirt defaults stay empty until
// Complete.
type Network struct {
	Name                string
	UUID                string // canonical lower case; "" until Complete
	Title, Description  string
	IPv6                bool     // IPv6 between guests without an IPv6 <ip>
	TrustGuestRxFilters Tristate // default for ports

	Metadata    []Fragment // one per namespace
	Forward     *Forward   // nil: isolated
	Bridge      Bridge
	MTU         int              // bytes; 0: the kernel's default
	MAC         net.HardwareAddr // of the bridge; nil until Complete
	Domain      *Domain          // nil: none
	DNS         *DNS             // nil: nothing written, DNS is on
	VLAN        *VLAN
	Bandwidth   *Bandwidth
	Isolated    Tristate // <port isolated=>: ports don't reach each other
	IPs         []IP
	Routes      []Route
	VirtualPort *VirtualPort
	PortGroups  []PortGroup
	// Dnsmasq is what the lines of <dnsmasq:options> say. There is no dnsmasq: what
	// is understood is served as the rest of the document is.
	Dnsmasq dnsmasq.Options

	// Uplink is the interface of the host that the network puts into the bridge
	// it makes, in mode bridge; "": the bridge is the host's, as it is.
	Uplink string
	// HostAccess is the interface by which the host itself is on the LAN beside guests
	// with macvtap, whom it can't reach by the parent; nil: it has none.
	HostAccess *HostAccess
	// UplinkVLAN is the VLAN of Uplink that is put there in its place; 0: none.
	UplinkVLAN int
	// BridgePolicy is what the bridge that the network makes does beside what libvirt
	// knows of.
	BridgePolicy BridgePolicy
	// Access is who may use the network; nil: as the daemon's configuration
	// says. An empty one is nobody else.
	Access *Access
	// DHCPPolicy is how clients of DHCP are dealt with.
	DHCPPolicy DHCPPolicy
	// Guard is what ports are kept from sending.
	Guard Guard
	// Inbound6 is whether connections of IPv6 may begin outside, where it is routed: Yes
	// if it is Unset.
	Inbound6 Tristate
	// Span has the network be one with those of other hosts; nil: it is this host's alone.
	Span *span.Span
	// Announce has routers be told of the network by BGP; nil: they are not.
	Announce *announce.Announce
	// Offload has established connections of guests go past the rules; Unset: as the
	// daemon's configuration says.
	Offload Tristate
	// Records are records of DNS beside those of <dns>.
	Records []Record
	// PortForwards are ports of this host that lead to guests.
	PortForwards []PortForward
	// Peers are networks whose guests those of this one may open connections to, or from.
	Peers []policy.Peer
	// Rules say what guests may open, and what may be opened to them.
	Rules  policy.Rules
	Chosen Families // whose subnets Complete chooses, where there is no <ip> of them
	// ChosenBits is the length of the prefix that it chooses, of one family; 0: the usual one.
	ChosenBits int

	// Ignored has the paths of elements and attributes that the schema does
	// not know. They are dropped, as libvirt drops them; XML doesn't print them.
	Ignored []string
}

// Mode returns n's forward mode. A Forward without one means NAT.
func (n *Network) Mode() Mode {
	switch {
	case n.Forward == nil:
		return ModeIsolated
	case n.Forward.Mode == "":
		return ModeNAT
	}
	return n.Forward.Mode
}

// PortPlug is what ports of n are plugged into. A network in mode bridge that names no
// bridge has its ports on interfaces of the host, as those of the macvtap modes are.
func (n *Network) PortPlug() PlugType {
	switch mode := n.Mode(); {
	case mode.OwnsBridge():
		return PlugNetwork
	case mode == ModeHostdev:
		return PlugHostdevPCI
	case mode == ModeBridge && n.Bridge.Name != "":
		return PlugBridge
	default:
		return PlugDirect
	}
}

// Fragment is an element in a foreign namespace, kept as text.
type Fragment struct {
	Namespace string // URI
	XML       string // the element in libvirt's form, with every namespace it uses declared in it
}

// Forward is the <forward> element.
type Forward struct {
	Mode Mode // "" until Complete: NAT
	// Dev is the host's interface that traffic is limited to; "" for any.
	Dev string
	// Interfaces has Dev first. More than one makes a pool for macvtap modes.
	Interfaces []string
	PF         string       // the physical function whose virtual functions make the pool
	Addresses  []PCIAddress // hostdev pool
	Managed    bool         // hostdev: detach from the host's driver by itself
	Driver     *HostdevDriver
	NAT        *NAT // nil: no <nat>
}

// HostdevDriver is the driver of a hostdev pool.
type HostdevDriver struct{ Name, Model string }

// PCIAddress is a device of a hostdev pool.
type PCIAddress struct{ Domain, Bus, Slot, Function int }

// String is the address as lspci -D has it.
func (a PCIAddress) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%x", a.Domain, a.Bus, a.Slot, a.Function)
}

// NAT narrows what a NAT network's traffic is translated to.
type NAT struct {
	IPv6    Tristate      // translate IPv6 too; default no: IPv6 is routed
	Address *AddressRange // nil: the address of the outgoing interface
	Port    *PortRange    // nil: 1024-65535
}

// AddressRange is an inclusive range of addresses of one family.
type AddressRange struct{ Start, End netip.Addr }

// PortRange is an inclusive range of ports.
type PortRange struct{ Start, End uint16 }

// Bridge is the <bridge> element.
type Bridge struct {
	// Name is the device's; "" or a template like "virbr%d" until Complete.
	Name string
	Zone string // firewalld's; "" for the default of the mode
	// STP only counts where the network owns the bridge. Parse sets it unless
	// stp='off'; with an uplink only for stp='on', as other switches are there.
	STP   bool
	Delay int // forward delay, seconds
	// MACTableManager is "kernel", "libvirt" or "" (kernel).
	MACTableManager string
}

// Domain is the DNS domain of the network's guests.
type Domain struct {
	Name      string
	LocalOnly Tristate // don't forward unknown names of the domain; default no
	Register  Tristate // make it known to the host's resolver; default no
}

// DNS is the <dns> element.
type DNS struct {
	Enable            Tristate // default yes
	ForwardPlainNames Tristate // forward names without a dot; default yes
	Forwarders        []Forwarder
	TXT               []TXT
	SRV               []SRV
	Hosts             []DNSHost
}

// Forwarder is an upstream server, for all names or for one domain.
type Forwarder struct {
	Domain string     // "": all names
	Addr   netip.Addr // zero: the host's own servers
	Port   uint16     // 0: 53
}

// TXT is a TXT record.
type TXT struct{ Name, Value string }

// SRV is an SRV record (RFC 2782).
type SRV struct {
	Service, Protocol, Domain, Target string // without the underscores
	Port, Priority, Weight            int    // 0 prints as absent
}

// DNSHost is an address with its names.
type DNSHost struct {
	IP        netip.Addr
	Hostnames []string
}

// IP is an <ip> element: an address of the bridge and what is served there.
type IP struct {
	Family       string     // "", "ipv4" or "ipv6" as written
	Address      netip.Addr // zero if it could not be read
	Netmask      netip.Addr // zero if not written
	PrefixLength int        // prefix= as written; 0 if not: see Prefix
	LocalPtr     Tristate   // answer for the reverse zone; default no
	TFTPRoot     string     // directory served by TFTP; "": none
	DHCP         *DHCP      // nil: no DHCP on this address
	RA           RAPolicy   // what router advertisements say of the subnet
}

// DHCP is what is handed out on one <ip>. It has a range or a host.
type DHCP struct {
	Ranges []DHCPRange
	Hosts  []DHCPHost
	Bootp  *Bootp // nil: no network boot
	Boots  []Boot // by kind of client, in the place of Bootp
}

// DHCPRange is an inclusive range of addresses.
type DHCPRange struct {
	Start, End netip.Addr
	Lease      *LeaseTime // nil: the default of the family
}

// DHCPHost is a static assignment. A client is matched by MAC or Name in IPv4,
// by ID (its DUID) or Name in IPv6.
type DHCPHost struct {
	MAC   net.HardwareAddr // nil: match by name
	ID    string           // hexadecimal digits and colons
	Name  string
	IP    netip.Addr
	Lease *LeaseTime

	// WrittenMAC is MAC as the document has it, which clients look for in what
	// is printed; "" for the usual form.
	WrittenMAC string
}

// Bootp is the network boot of IPv4 clients.
type Bootp struct {
	File   string
	Server netip.Addr // zero: the network's own address
}

// LeaseTime is how long a lease lasts. The zero value is infinite.
type LeaseTime struct {
	Expiry uint64 // in Unit; 0: infinite
	Unit   string // "seconds", "minutes" (also "") or "hours"
}

// maxLease is the longest finite lease: 0xffffffff seconds mean infinity
// (RFC 2132 section 9.2, RFC 8415 section 7.7).
const maxLease = (1<<32 - 2) * time.Second

// Duration returns l as a duration, and whether it is infinite. A nil l is
// neither: it returns 0, false. Durations beyond maxLease are cut to it.
func (l *LeaseTime) Duration() (d time.Duration, infinite bool) {
	if l == nil {
		return 0, false
	}
	unit := l.unit()
	if l.Expiry > uint64(maxLease/unit) {
		return maxLease, false
	}
	return time.Duration(l.Expiry) * unit, l.Expiry == 0
}

// unit returns the length of l's unit.
func (l *LeaseTime) unit() time.Duration {
	switch l.Unit {
	case "seconds":
		return time.Second
	case "hours":
		return time.Hour
	default:
		return time.Minute
	}
}

// Route is a static route of the host into the network.
type Route struct {
	Family          string // "", "ipv4" or "ipv6" as written
	Address         netip.Addr
	Netmask         netip.Addr // zero if not written
	PrefixLength    int        // as written, if HasPrefixLength
	HasPrefixLength bool
	Gateway         netip.Addr
	Metric          int // 0: not written, the kernel gets 1
}

// PortForward is a <vnetd:forward>: ports of this host that lead to a guest.
type PortForward struct {
	Protocol string // "tcp", "udp" or "sctp"
	Ports    PortRange
	// Address is that of this host at which the ports are; zero: all of them, 0.0.0.0 or
	// ::, all of one family.
	Address netip.Addr
	// To is the guest: its name, its MAC address or its IP address.
	To string
	// ToPort is the guest's port for the first of Ports, others follow; 0: the same ports.
	ToPort uint16
	// From are the clients that may use it; none: all.
	From []netip.Prefix
	// Holder is whose end ends the forward: a connection to the bus, by its unique name, or
	// a port, by its UUID; "": nobody's. Only what a network is has such, never what it
	// will be.
	Holder string
}

// VLAN is a <vlan> element.
type VLAN struct {
	Trunk bool
	Tags  []VLANTag
}

// VLANTag is one VLAN.
type VLANTag struct {
	ID         int    // 0-4095
	NativeMode string // "", "tagged" or "untagged"
}

// Bandwidth limits traffic, as seen from the device it is set on. It has at
// least one direction.
type Bandwidth struct{ Inbound, Outbound *Rate }

// Rate is the limit of one direction. Average, Peak and Floor are in kilobytes per
// second, of 1000 bytes as tc(8) has them whom libvirt asks, Burst in kibibytes; 0 is
// absent.
type Rate struct{ Average, Peak, Floor, Burst uint64 }

// VirtualPort is a port profile of Open vSwitch, 802.1Qbg or 802.1Qbh.
type VirtualPort struct {
	Type                               string // "" in a portgroup: inherit
	ManagerID, TypeID, TypeIDVersion   *int
	InstanceID, InterfaceID, ProfileID string
}

// PortGroup is a named set of port settings.
type PortGroup struct {
	Name                string
	Default             bool
	TrustGuestRxFilters Tristate
	VLAN                *VLAN
	VirtualPort         *VirtualPort
	Bandwidth           *Bandwidth
}

// OwnsBridge reports whether the network makes its bridge: because of its mode,
// or for its uplink. A network with an uplink has no addresses and services.
func (n *Network) OwnsBridge() bool {
	return n.Mode().OwnsBridge() || n.Mode() == ModeBridge && n.Uplink != ""
}

// silent reports whether d says nothing: the same as no <dns>.
func (d *DNS) silent() bool {
	return d.Enable == Unset && d.ForwardPlainNames == Unset && d.records() == 0
}

// records counts the elements inside.
func (d *DNS) records() int {
	return len(d.Forwarders) + len(d.TXT) + len(d.SRV) + len(d.Hosts)
}

// knownMode reports whether m is a mode of the schema.
func knownMode(m Mode) bool {
	return slices.Contains(modes(), string(m))
}

// native counts the tags with a native mode.
func (v *VLAN) native() int {
	count := 0
	for _, t := range v.Tags {
		if t.NativeMode != "" {
			count++
		}
	}
	return count
}

// Record is a record of the network's DNS, of a name or of all the names below one.
type Record struct {
	Name  string // see RecordName
	Type  string // as in dnsname.Types
	Value string // as dnsname.Data reads it
	TTL   int    // seconds
}

// Boot is what IPv4 clients of one kind boot, in the place of Bootp.
type Boot struct {
	Arch   string     // of the client's firmware, or IPXE
	File   string     // by TFTP; "": nothing
	Server netip.Addr // of File; zero: the network's address
	HTTP   string     // URL, for HTTP boot or iPXE; "": nothing
}

// RAPolicy is what router advertisements say of the subnet of an IPv6 <ip>, as far as
// its prefix length and <dhcp> are not to say.
type RAPolicy struct {
	Autonomous Tristate // guests make addresses of it by themselves
	Managed    Tristate // guests are told to ask DHCPv6
}
