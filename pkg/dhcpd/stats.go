package dhcpd

import "sync/atomic"

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
	// Panics counts messages whose handling ended in a panic.
	Panics uint64
	// SendErrors counts replies that the kernel did not take.
	SendErrors uint64
}

// counters is Stats while it counts.
type counters struct {
	discover, request, decline, release, inform, bootp atomic.Uint64
	offer, ack, nak                                    atomic.Uint64
	commits, committed, commitFailures                 atomic.Uint64
	malformed, ignored, exhausted, overload            atomic.Uint64
	panics, sendErrors                                 atomic.Uint64
}

// Stats returns the counters. It may be called at any time.
func (s *Server) Stats() Stats {
	c := &s.count
	return Stats{
		Discover: c.discover.Load(), Request: c.request.Load(), Decline: c.decline.Load(),
		Release: c.release.Load(), Inform: c.inform.Load(), BOOTP: c.bootp.Load(),
		Offer: c.offer.Load(), Ack: c.ack.Load(), Nak: c.nak.Load(),
		Commits: c.commits.Load(), Committed: c.committed.Load(), CommitFailures: c.commitFailures.Load(),
		Malformed: c.malformed.Load(), Ignored: c.ignored.Load(),
		Exhausted: c.exhausted.Load(), Overload: c.overload.Load(),
		Panics: c.panics.Load(), SendErrors: c.sendErrors.Load(),
	}
}
