package dhcpd

import (
	"sync/atomic"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Stats are counters since Open. Messages are counted when they are understood,
// replies when the kernel took them.
type Stats struct {
	// Received, by message type. BOOTP counts requests without a message type.
	Discover, Request, Decline, Release, Inform, BOOTP uint64
	// Sent, by message type. A reply to BOOTP counts as Ack.
	Offer, Ack, Nak uint64
	// Commits counts successful calls of the store, Committed the records in them.
	Commits, Committed uint64
	// CommitFailures counts calls of the store that failed. Their replies were
	// not sent.
	CommitFailures uint64
	// Malformed counts datagrams dropped because they are no message of a client
	// on this link.
	Malformed uint64
	// Ignored counts messages that the protocol leaves without an answer.
	Ignored uint64
	// Exhausted counts requests that got no address because none was free.
	Exhausted uint64
	// Overload counts messages dropped because too many commits were waiting.
	Overload uint64
	// Limited counts messages dropped because their client sent too many.
	Limited uint64
	// Panics counts messages whose handling ended in a panic.
	Panics uint64
	// SendErrors counts replies that the kernel did not take.
	SendErrors uint64
}

// counters are what the servers of both families count.
type counters struct {
	received, sent                          [maxMessageType + 1]atomic.Uint64 // by message type
	commits, committed, commitFailures      atomic.Uint64
	malformed, ignored, exhausted, overload atomic.Uint64
	limited, panics, sendErrors             atomic.Uint64
}

// maxMessageType is the largest number of a message type that is counted.
const maxMessageType = 15

// Stats returns the counters. It may be called at any time.
func (s *Server) Stats() Stats {
	c := &s.count
	in := func(typ dhcpv4.MessageType) uint64 { return c.received[typ].Load() }
	out := func(typ dhcpv4.MessageType) uint64 { return c.sent[typ].Load() }
	return Stats{
		Discover: in(dhcpv4.MessageTypeDiscover), Request: in(dhcpv4.MessageTypeRequest),
		Decline: in(dhcpv4.MessageTypeDecline), Release: in(dhcpv4.MessageTypeRelease),
		Inform: in(dhcpv4.MessageTypeInform), BOOTP: in(dhcpv4.MessageTypeNone),
		Offer: out(dhcpv4.MessageTypeOffer), Nak: out(dhcpv4.MessageTypeNak),
		Ack:     out(dhcpv4.MessageTypeAck) + out(dhcpv4.MessageTypeNone),
		Commits: c.commits.Load(), Committed: c.committed.Load(), CommitFailures: c.commitFailures.Load(),
		Malformed: c.malformed.Load(), Ignored: c.ignored.Load(),
		Exhausted: c.exhausted.Load(), Overload: c.overload.Load(),
		Limited: c.limited.Load(), Panics: c.panics.Load(), SendErrors: c.sendErrors.Load(),
	}
}
