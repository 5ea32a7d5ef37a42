package dhcpd

import (
	"sync/atomic"
	"time"

	"github.com/vnetd/vnetd/internal/histogram"
)

// Common is what both families count.
type Common struct {
	// Pool is how the addresses are used at this moment.
	Pool PoolStats
	// Commits counts successful calls of the store, Committed the records in them.
	Commits, Committed uint64
	// CommitFailures counts calls of the store that failed. Their replies were
	// not sent.
	CommitFailures uint64
	// CommitLatency is how long the calls of the store took, those that failed
	// included. A client waits for one or two of them.
	CommitLatency histogram.Counts
	// Malformed counts datagrams dropped because they are no message of a client
	// on this link.
	Malformed uint64
	// Ignored counts messages that the protocol leaves without an answer.
	Ignored uint64
	// Exhausted counts requests that got no address because none was free.
	Exhausted uint64
	// Conflicts counts addresses that were found in use by somebody else: by a
	// client, which declined, or by the server's own probe.
	Conflicts uint64
	// Overload counts messages dropped because too many commits were waiting.
	Overload uint64
	// Limited counts messages dropped because their client sent too many.
	Limited uint64
	// Panics counts messages whose handling ended in a panic.
	Panics uint64
	// SendErrors counts replies that the kernel did not take.
	SendErrors uint64
}

// PoolStats is how many addresses are there, and how many of them have a client.
type PoolStats struct {
	// Dynamic is how many addresses any client may get: those in the ranges without
	// the reserved ones. It counts 2^40 for an IPv6 range that is larger.
	Dynamic uint64
	// Reserved is how many addresses are set aside for one client each.
	Reserved uint64
	// Bound is how many have a lease, Offered how many are held for a client that
	// has not chosen yet, Declined how many rest because they were found in use, and
	// Former how many had a lease that is over and are given to others last.
	Bound, Offered, Declined, Former uint64
}

// latencyBounds returns the classes of CommitLatency.
func latencyBounds() []time.Duration {
	return []time.Duration{
		500 * time.Microsecond, time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond,
		20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
		time.Second, 2 * time.Second,
	}
}

// Counters are what the servers of both families count.
type Counters struct {
	Received, Sent                          [maxMessageType + 1]atomic.Uint64 // by message type
	commits, committed, commitFailures      atomic.Uint64
	latency                                 *histogram.Histogram
	Malformed, Ignored, Exhausted, Overload atomic.Uint64
	Conflicts, limited, panics, SendErrors  atomic.Uint64
}

// maxMessageType is the largest number of a message type that is counted.
const maxMessageType = 15
