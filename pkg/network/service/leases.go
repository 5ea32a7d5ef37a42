package service

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// Leases lists the leases held, in order of address; served reports whether all
// services are open, so that those that give addresses know.
func (s *Set) Leases() (held []dhcpd.Lease, served bool) {
	if s == nil {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.wanted(s.spec) {
		if p.current() == nil {
			return nil, false
		}
	}
	return s.directory().held(), true
}

// onLease follows one change of a lease: in DNS at once, for the owner after that.
func (s *Set) onLease(e dhcpd.Event) {
	var former []netip.Addr
	if e.Kind == dhcpd.Bound || e.Kind == dhcpd.Renewed {
		former = s.cfg.Owner.Seen(e.Lease.MAC)
	}
	s.mu.Lock()
	d := s.directory()
	d.unname(former)
	d.follow(e)
	if name, there := s.elsewhere[e.Lease.Addr]; there && d.dns != nil && e.Kind != dhcpd.Bound && e.Kind != dhcpd.Renewed {
		d.dns.SetHost(dnsd.Host{Name: name, Addr: e.Lease.Addr}) // it has moved to another host
	}
	s.mu.Unlock()
	s.leaseLog.write(e)
	s.cfg.Owner.LeaseChanged(e)
}

// unstored shows the network degraded while the leases of a service can't be stored.
func unstored(o Owner, service string) func(error) {
	return func(err error) {
		if err != nil {
			err = fmt.Errorf("%s gives no leases: %w", service, err)
		}
		o.Fault(service, err)
	}
}

// A network's guests, which may be hostile, cause at most this many lines about
// leases: so many at once, and then so many a second.
const (
	lineBurst = 1000
	lineRate  = 100
)

// leaseLog writes the lines of changes of leases, within a limit.
type leaseLog struct {
	log *slog.Logger

	mu         sync.Mutex
	bucket     *rate.Limiter
	suppressed int // lines since the last that was written
}

func newLeaseLog(log *slog.Logger) *leaseLog {
	return &leaseLog{log: log, bucket: rate.NewLimiter(lineRate, lineBurst)}
}

// write writes the line of one change of a lease. Renewals, of which a quiet
// network has many, are for debugging.
func (l *leaseLog) write(e dhcpd.Event) {
	level, ctx := slog.LevelInfo, context.Background()
	if e.Kind == dhcpd.Renewed {
		level = slog.LevelDebug
	}
	if !l.log.Enabled(ctx, level) {
		return
	}
	left, ok := l.allow(time.Now())
	if !ok {
		return
	}
	attrs := []any{"ip", e.Lease.Addr, "mac", e.Lease.MAC.String(), "hostname", e.Lease.Hostname}
	if !e.Lease.Expiry.IsZero() {
		attrs = append(attrs, "expiry", e.Lease.Expiry.UTC().Truncate(time.Second))
	}
	if left > 0 {
		attrs = append(attrs, "suppressed", left)
	}
	l.log.Log(ctx, level, "lease "+e.Kind.String(), attrs...)
}

// allow reports whether a line may be written; with it comes the number of those
// suppressed since the last.
func (l *leaseLog) allow(now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.bucket.AllowN(now, 1) {
		l.suppressed++
		return 0, false
	}
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed, true
}
