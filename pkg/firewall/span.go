package firewall

import (
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
)

// SpanTable is the name of the tables of nftables, of the families bridge and inet, that keep
// apart what of a network that spans hosts is each host's own, and its tunnels closed to
// others.
const SpanTable = "vnetd_span"

// Span is how a network is one with those of other hosts. Its gateway is on each host, with
// the same addresses: what is said to it and by it stays there, and so do DHCP, router
// advertisements and what bridges tell each other.
type Span struct {
	Device   string           // the tunnel's end, a port of the bridge
	MAC      net.HardwareAddr // of the gateway
	Gateways []netip.Addr     // its addresses
	// Peers are the hosts, from which alone the tunnel takes anything, and Port where it does,
	// of UDP. Guests reach neither that port of this host nor that of a peer.
	Peers []netip.Addr
	Port  uint16
	Host  SpanHost
}

// SpanHost is a link by which this host itself is in a network, beside its bridge: nothing is forwarded that
// comes by it. The zero value is none.
type SpanHost struct {
	Link string
	// Addrs are those of this host there, link-local ones among them: nothing reaches others of its by the link.
	// Senders of IPv6 are in the subnets of 64 bits of these.
	Addrs []netip.Addr
}

// Spans is what a Firewall asks of whom keeps networks that span hosts apart; package overlay
// is the real one. Its methods may be called concurrently.
type Spans interface {
	// Set says which networks there are, which are not to be altered. When it returns nil, rules of those with a Span
	// stand; else those that stood before.
	Set(networks iter.Seq[*Network]) error
	// Settle says that all networks that a former process left are known by now: what it left
	// of others goes.
	Settle() error
	// Purge removes all traces, also those of a former process.
	Purge() error
	Close() error
}

// checkSpan finds what of a span can't stand in a rule.
func checkSpan(n *Network) error {
	s := n.Span
	if s == nil {
		return nil
	}
	faults := []error{checkDevice(s.Device)}
	if len(s.MAC) != 6 {
		faults = append(faults, fmt.Errorf("MAC address %q of the gateway: want 6 bytes", s.MAC))
	}
	if s.Port == 0 {
		faults = append(faults, errors.New("port 0 of a tunnel: want 1 to 65535"))
	}
	if s.Host.Link != "" {
		faults = append(faults, checkDevice(s.Host.Link))
	}
	for _, a := range slices.Concat(s.Gateways, s.Peers, s.Host.Addrs) {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			faults = append(faults, fmt.Errorf("address %q of a network that spans hosts can't stand in a rule", a))
		}
	}
	return errors.Join(faults...)
}

// linksOf are those by which guests reach this host: the bridge, and this host's own where it has one.
func linksOf(n *Network) []string {
	if n.Span == nil || n.Span.Host.Link == "" {
		return []string{n.Bridge}
	}
	return []string{n.Bridge, n.Span.Host.Link}
}
