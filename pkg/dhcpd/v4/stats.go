package v4

import (
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// Stats are counters since Open and the state of the pool. Messages are counted
// when they are understood, replies when the kernel took them.
type Stats struct {
	// Received, by message type. BOOTP counts requests without a message type.
	Discover, Request, Decline, Release, Inform, BOOTP uint64
	// Sent, by message type. A reply to BOOTP counts as Ack.
	Offer, Ack, Nak uint64
	dhcpd.Common
}

// Stats returns the counters. It may be called at any time.
func (s *Server) Stats() Stats {
	c := &s.h.Count
	in := func(typ dhcpv4.MessageType) uint64 { return c.Received[typ].Load() }
	out := func(typ dhcpv4.MessageType) uint64 { return c.Sent[typ].Load() }
	return Stats{
		Discover: in(dhcpv4.MessageTypeDiscover), Request: in(dhcpv4.MessageTypeRequest),
		Decline: in(dhcpv4.MessageTypeDecline), Release: in(dhcpv4.MessageTypeRelease),
		Inform: in(dhcpv4.MessageTypeInform), BOOTP: in(dhcpv4.MessageTypeNone),
		Offer: out(dhcpv4.MessageTypeOffer), Nak: out(dhcpv4.MessageTypeNak),
		Ack:    out(dhcpv4.MessageTypeAck) + out(dhcpv4.MessageTypeNone),
		Common: s.h.Common(),
	}
}
