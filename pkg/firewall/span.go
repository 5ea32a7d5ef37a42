package firewall

import (
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
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
	for _, a := range append(append([]netip.Addr{}, s.Gateways...), s.Peers...) {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			faults = append(faults, fmt.Errorf("address %q of a network that spans hosts can't stand in a rule", a))
		}
	}
	return errors.Join(faults...)
}
