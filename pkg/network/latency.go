package network

import (
	"time"

	"github.com/vnetd/vnetd/internal/histogram"
)

// requestBounds returns the bounds of the histogram of port requests.
func requestBounds() []time.Duration {
	const ms = time.Millisecond
	return []time.Duration{ms, 2 * ms, 5 * ms, 10 * ms, 20 * ms, 50 * ms, 100 * ms, 200 * ms, 500 * ms, 1000 * ms, 5000 * ms, 30000 * ms}
}

// PortRequests returns how long the requests that got a port took, the start of a
// network on demand included.
func (m *Manager) PortRequests() histogram.Counts { return m.portRequests.Load() }
