package firewall

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
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

// OffloadChoice is whether established connections of a network's guests go past the rules.
type OffloadChoice uint8

// The choices.
const (
	OffloadUnset OffloadChoice = iota // as the configuration says
	OffloadOn
	OffloadOff
)

// Network is the intent of one network, as far as it concerns the firewall.
type Network struct {
	// Bridge is the bridge's device name.
	Bridge string
	// Name is the network's, for comments alone.
	Name string
	Mode Mode
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
	// Forwards are ports of this host that lead to guests, in ModeNAT and ModeRoute. No two
	// are for the same packets. A new one is cheapest ahead of those that there are.
	Forwards []Forward
	// Peers are other networks whose guests may open connections to those of this one.
	Peers []Peer
	// Policy is what becomes of connections beside what Mode says.
	Policy Policy
	// Offload has established connections go past the rules, in ModeNAT, ModeRoute and
	// ModeOpen.
	Offload OffloadChoice
	// Span is how the network is one with those of other hosts; nil: it is this host's alone.
	Span *Span
	// NoLoopback6 says that the kernel does not bring back what guests answer to ::1:
	// forwards are not for that address.
	NoLoopback6 bool
}

// Label is the network's name for people: its bridge's where it has none.
func (n Network) Label() string { return cmp.Or(n.Name, n.Bridge) }

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
	return errors.Join(append(faults, n.checkNAT(), n.checkForwards(), checkPeers(&n), checkPolicy(&n), checkSpan(&n))...)
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

// Forward leads what is sent to ports of this host to a guest: from outside, from other
// networks and from guests of the same as far as they may send anything, and from this
// host itself. The guest sees who sent it, but for what its own subnet and this host's
// loopback addresses send, which gets the bridge's address: it would not answer that by
// this host.
type Forward struct {
	Protocol string // "tcp", "udp" or "sctp"
	// Address is that of this host at which the ports are; invalid: any of To's family.
	Address netip.Addr
	Ports   PortRange // of this host
	// From are the senders that may use it; none: all. Where all are of the other family,
	// nobody may.
	From []netip.Prefix
	To   netip.Addr // of the guest
	// ToPort is the guest's port for the first of Ports, others follow.
	ToPort uint16
}

// Family is that of the guest's address.
func (f *Forward) Family() Family {
	if f.To.Is4() {
		return IPv4
	}
	return IPv6
}

// ToPorts are the guest's ports.
func (f *Forward) ToPorts() PortRange {
	return PortRange{Start: f.ToPort, End: f.ToPort + f.Ports.End - f.Ports.Start}
}

// Equal reports whether both lead the same senders from the same ports to the same guest.
func (f *Forward) Equal(o *Forward) bool {
	return f.Protocol == o.Protocol && f.Address == o.Address && f.Ports == o.Ports && f.To == o.To && f.ToPort == o.ToPort && slices.Equal(f.From, o.From)
}

// Loops reports whether the forward is for a loopback address of this host as well.
func (f *Forward) Loops() bool { return !f.Address.IsValid() || f.Address.IsLoopback() }

// LoopsIPv4 reports whether the network has forwards for a loopback address of IPv4.
func (n Network) LoopsIPv4() bool {
	return slices.ContainsFunc(n.forwardsOf(IPv4), func(f Forward) bool { return f.Loops() })
}

// forwardsOf are the forwards of a family, nil where no forwards can be.
func (n Network) forwardsOf(f Family) (all []Forward) {
	if n.Mode != ModeNAT && n.Mode != ModeRoute {
		return nil
	}
	for _, forward := range n.Forwards {
		if forward.Family() == f {
			all = append(all, forward)
		}
	}
	return all
}

// checkForwards finds forwards that can't stand in a rule.
func (n Network) checkForwards() error {
	var faults []error
	for _, f := range n.Forwards {
		last := int(f.ToPort) + int(f.Ports.End) - int(f.Ports.Start)
		switch {
		case !slices.Contains([]string{"tcp", "udp", "sctp"}, f.Protocol):
			faults = append(faults, fmt.Errorf("forward of protocol %q: want tcp, udp or sctp", f.Protocol))
		case f.Ports.Start == 0 || f.Ports.End < f.Ports.Start || f.ToPort == 0 || last > 65535:
			faults = append(faults, fmt.Errorf("forward of ports %d-%d to port %d is none", f.Ports.Start, f.Ports.End, f.ToPort))
		case !f.To.IsValid() || f.To.Is4In6() || f.To.Zone() != "" || f.Address.IsValid() && f.Address.Is4() != f.To.Is4():
			faults = append(faults, fmt.Errorf("forward from %s to %s: want two addresses of one family", f.Address, f.To))
		}
	}
	return errors.Join(faults...)
}

// Without are those of the forwards that are not among others.
func Without(forwards, others []Forward) (rest []Forward) {
	known := make(map[lead][]*Forward, len(others))
	for i := range others {
		f := &others[i]
		known[f.lead()] = append(known[f.lead()], f)
	}
	for i := range forwards {
		f := &forwards[i]
		if !slices.ContainsFunc(known[f.lead()], f.Equal) {
			rest = append(rest, *f)
		}
	}
	return rest
}

// lead is a forward without its senders, which can be compared.
type lead struct {
	protocol    string
	address, to netip.Addr
	ports       PortRange
	toPort      uint16
}

func (f *Forward) lead() lead { return lead{f.Protocol, f.Address, f.To, f.Ports, f.ToPort} }

// Service is what connections are opened to: a protocol, and ports of who receives them.
type Service struct {
	Protocol string    // "tcp", "udp", "sctp", "icmp" (that of either family); "": every protocol
	Ports    PortRange // zero: all
}

// Peer is another network of this host whose guests may open connections to those of this
// one, whatever the modes of both, without translation: both see each other's addresses.
// Answers pass; what a peer of the peer sends does not, nor what comes by the peer's bridge
// from an address that is none of Subnets. Without Subnets nothing does.
type Peer struct {
	Bridge  string // of the other network
	Name    string // of the other network, for comments alone
	Subnets []netip.Prefix
	// Services are what they may open; none: everything.
	Services []Service
}

// Direction is which way a connection is opened, as a guest sees it.
type Direction string

// The directions.
const (
	Egress  Direction = "egress"  // from a guest to what is not on its network
	Ingress Direction = "ingress" // to a guest, from what is not on its network
)

// Action is what becomes of a connection that is opened.
type Action string

// The actions. "" as a default leaves it to the network's mode.
const (
	ActionAllow  Action = "allow"
	ActionReject Action = "reject" // the sender is told by TCP's RST or by ICMP
	ActionDrop   Action = "drop"   // the sender is told nothing
)

// Policy is what becomes of connections that guests open or that are opened to them.
type Policy struct {
	// Rules are those of ports and then those of the network: the first that fits decides.
	Rules []PolicyRule
	// Egress and Ingress are what becomes of connections that no rule fits.
	Egress, Ingress Action
}

// PolicyRule says what becomes of some connections as they begin. What belongs to a
// connection that was let through passes, ICMP errors included.
//
// What a rule allows its network lets out, or in, as the modes that let everything do: an
// isolated network then has its guests translated to the address of the device by which
// they leave, in both families. Between two networks of this host both must let it, the one
// out and the other in, by its mode, a rule, a Forward or a Peer, which stands for both. Of
// connections that a Peer, a Forward or the mode lets through, rules and defaults may still
// refuse some. With Network.Dev what is allowed still leaves, and comes, by that device.
//
// What guests open to this host rules and defaults of egress refuse, but not what they need
// of it (DHCP, DNS, TFTP, neighbour discovery); what they allow the host's own rules may
// refuse all the same. What this host opens to guests passes.
type PolicyRule struct {
	Direction Direction
	Action    Action
	// Guest is the one guest that it is for; nil: all of the network.
	Guest *Guest
	// Services are what is opened; none: everything.
	Services []Service
	// Remote is where to, or where from; none: anywhere. Both families may stand in it.
	Remote []netip.Prefix
	// Log has the kernel log each connection that the rule decides, at a bounded rate.
	Log bool
	// Label is what the rule is called in comments and in the log, such as "rule 3".
	Label string
}

// Guest is who is behind a port: the MAC addresses to which the port's guard holds it, and the
// addresses that it is known to have. What it sends is known by the former, what is sent to it by
// the latter.
type Guest struct {
	MACs  []MAC
	Addrs []netip.Addr
}

// checkPeers finds peers that can't stand in a rule.
func checkPeers(n *Network) error {
	var faults []error
	for _, p := range n.Peers {
		if err := checkDevice(p.Bridge); err != nil {
			faults = append(faults, fmt.Errorf("peer %q: %w", p.Name, err))
		}
		if p.Bridge == n.Bridge {
			faults = append(faults, fmt.Errorf("peer %q: bridge %q is the network's own", p.Name, p.Bridge))
		}
		for _, err := range append(checkPrefixes(p.Subnets, 1), checkServices(p.Services)...) {
			faults = append(faults, fmt.Errorf("peer %q: %w", p.Name, err))
		}
	}
	if len(n.Peers) > 0 && !n.Mode.Filtered() {
		faults = append(faults, fmt.Errorf("peers of a network of mode %q: want nat, route or none", n.Mode))
	}
	return errors.Join(faults...)
}

// checkPolicy finds rules that can't stand in a firewall.
func checkPolicy(n *Network) error {
	var faults []error
	for i, r := range n.Policy.Rules {
		for _, err := range r.check() {
			faults = append(faults, fmt.Errorf("rule %d, %q: %w", i+1, r.Label, err))
		}
	}
	for _, a := range []Action{n.Policy.Egress, n.Policy.Ingress} {
		if a != "" && !slices.Contains(actions, a) {
			faults = append(faults, fmt.Errorf("default %q: want allow, reject or drop", a))
		}
	}
	if (len(n.Policy.Rules) > 0 || n.Policy.Egress != "" || n.Policy.Ingress != "") && !n.Mode.Filtered() {
		faults = append(faults, fmt.Errorf("rules of a network of mode %q: want nat, route or none", n.Mode))
	}
	return errors.Join(faults...)
}

// Protocols of rules; that of ICMP is of either family.
const (
	protocolICMP = "icmp"
	protocolTCP  = "tcp"
)

var actions = []Action{ActionAllow, ActionReject, ActionDrop}

// check finds what of a rule can't stand in a firewall.
func (r PolicyRule) check() (faults []error) {
	if r.Direction != Egress && r.Direction != Ingress {
		faults = append(faults, fmt.Errorf("direction %q: want egress or ingress", r.Direction))
	}
	if !slices.Contains(actions, r.Action) {
		faults = append(faults, fmt.Errorf("action %q: want allow, reject or drop", r.Action))
	}
	if r.Guest != nil {
		if len(r.Guest.MACs) == 0 {
			faults = append(faults, errors.New("a guest without a MAC address: want one at least"))
		}
		for _, a := range r.Guest.Addrs {
			if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
				faults = append(faults, fmt.Errorf("address %q of a guest can't stand in a rule", a))
			}
		}
	}
	return slices.Concat(faults, checkPrefixes(r.Remote, 0), checkServices(r.Services))
}

// checkPrefixes finds prefixes that can't stand in a rule, among them those of fewer bits
// than least.
func checkPrefixes(all []netip.Prefix, least int) (faults []error) {
	for _, p := range all {
		if !p.IsValid() || p.Bits() < least || p.Addr().Is4In6() {
			faults = append(faults, fmt.Errorf("subnet %s can't stand in a rule", p))
		}
	}
	return faults
}

// checkServices finds services that can't stand in a rule.
func checkServices(all []Service) (faults []error) {
	for _, s := range all {
		ported := slices.Contains([]string{"tcp", "udp", "sctp"}, s.Protocol)
		switch {
		case !ported && s.Protocol != "" && s.Protocol != protocolICMP:
			faults = append(faults, fmt.Errorf("protocol %q: want tcp, udp, sctp or icmp", s.Protocol))
		case s.Ports == PortRange{}:
		case !ported:
			faults = append(faults, fmt.Errorf("ports %d-%d of protocol %q: want tcp, udp or sctp", s.Ports.Start, s.Ports.End, s.Protocol))
		case s.Ports.Start == 0 || s.Ports.End != 0 && s.Ports.End < s.Ports.Start:
			faults = append(faults, fmt.Errorf("ports %d-%d are no range", s.Ports.Start, s.Ports.End))
		}
	}
	return faults
}
