package network

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// Keys of log attributes about leases.
const (
	keyIP       = "ip"
	keyHostname = "hostname"
	keyExpiry   = "expiry"
)

// A network's guests, which may be hostile, cause at most this many lines about
// leases: so many at once, and then so many a second.
const (
	lineBurst = 1000
	lineRate  = 100
)

// logLease writes the line of one change of a lease. Renewals, of which a quiet
// network has many, are for debugging.
func (s *services) logLease(e dhcpd.Event) {
	level := slog.LevelInfo
	if e.Kind == dhcpd.Renewed {
		level = slog.LevelDebug
	}
	log, ctx := s.n.m.log, context.Background()
	if !log.Enabled(ctx, level) {
		return
	}
	left, ok := s.lines.allow(time.Now())
	if !ok {
		return
	}
	attrs := []any{keyNetwork, s.n.name, keyIP, e.Lease.Addr, keyMAC, e.Lease.MAC.String(), keyHostname, e.Lease.Hostname}
	if !e.Lease.Expiry.IsZero() {
		attrs = append(attrs, keyExpiry, e.Lease.Expiry.UTC().Truncate(time.Second))
	}
	if left > 0 {
		attrs = append(attrs, "suppressed", left)
	}
	log.Log(ctx, level, "lease "+e.Kind.String(), attrs...)
}

// pace is a token bucket of lineBurst, refilled by lineRate a second. The zero
// pace is full.
type pace struct {
	mu         sync.Mutex
	used       float64
	last       time.Time
	suppressed int
}

// allow takes a token; with it comes the number of those refused since the last.
func (p *pace) allow(now time.Time) (suppressed int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used = max(0, p.used-lineRate*now.Sub(p.last).Seconds())
	p.last = now
	if p.used+1 > lineBurst {
		p.suppressed++
		return 0, false
	}
	p.used++
	suppressed, p.suppressed = p.suppressed, 0
	return suppressed, true
}
