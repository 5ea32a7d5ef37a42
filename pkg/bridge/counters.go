package bridge

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Counters are what the kernel counts of a link, from the host's point of view:
// what the host received over a TAP device is what its guest sent.
type Counters struct {
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Counters reads the counters of all links, by name, in one go. A link that comes
// or goes meanwhile may be missing.
func (b *Bridges) Counters() (map[string]Counters, error) {
	text, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		return nil, fmt.Errorf("reading the counters of links: %w", err)
	}
	return parseCounters(string(text)), nil
}

// parseCounters reads /proc/net/dev: two lines of header, then for each link its
// name, a colon, eight counters of what was received and eight of what was sent.
// (proc_pid_net(5))
func parseCounters(text string) map[string]Counters {
	all := make(map[string]Counters)
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		var n [16]uint64
		fields := strings.Fields(rest)
		if !ok || len(fields) < len(n) {
			continue
		}
		for i := range n {
			n[i], _ = strconv.ParseUint(fields[i], 10, 64)
		}
		all[strings.TrimSpace(name)] = Counters{
			RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3],
			TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11],
		}
	}
	return all
}
