package network

import (
	"sync"
	"time"
)

// Latency is a histogram of times.
type Latency struct {
	// Bounds are the upper ends of all classes but the last, which has none.
	Bounds []time.Duration
	// Counts are how many fell into each class.
	Counts []uint64
	Sum    time.Duration
}

// requestBounds are the classes of the times that port requests take.
func requestBounds() []time.Duration {
	const ms = time.Millisecond
	return []time.Duration{ms, 2 * ms, 5 * ms, 10 * ms, 20 * ms, 50 * ms, 100 * ms, 200 * ms, 500 * ms, 1000 * ms, 5000 * ms, 30000 * ms}
}

// latency is a Latency that is being taken. The zero latency is empty.
type latency struct {
	mu    sync.Mutex
	taken Latency
}

// add counts one.
func (l *latency) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.init()
	i := 0
	for i < len(l.taken.Bounds) && d > l.taken.Bounds[i] {
		i++
	}
	l.taken.Counts[i]++
	l.taken.Sum += d
}

// init makes the classes. l.mu must be locked.
func (l *latency) init() {
	if l.taken.Bounds == nil {
		l.taken.Bounds = requestBounds()
		l.taken.Counts = make([]uint64, len(l.taken.Bounds)+1)
	}
}

// load is what was taken so far.
func (l *latency) load() Latency {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.init()
	return Latency{l.taken.Bounds, append([]uint64{}, l.taken.Counts...), l.taken.Sum}
}

// PortRequests is how long the requests that got a port took, the start of a
// network on demand included.
func (m *Manager) PortRequests() Latency { return m.portRequests.load() }
