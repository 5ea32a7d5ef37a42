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
	return s.held(), true
}

// held lists the leases of all servers, in order of address. The caller holds
// s.mu.
func (s *Set) held() []dhcpd.Lease {
	var held []dhcpd.Lease
	for _, f := range s.reservers() {
		held = append(held, f.Leases()...)
	}
	return held
}

// host is what DNS is told of a lease: the name of the port that the guest is
// on, or, where that has none, the name that the guest goes by.
func (s *Set) host(l dhcpd.Lease) dnsd.Host {
	name := l.Hostname
	if g, ok := s.cfg.Owner.Guest(l.MAC); ok && g.Name != "" {
		name = g.Name
	}
	return dnsd.Host{Name: name, Addr: l.Addr, Expiry: l.Expiry}
}

// onLease follows one change of a lease: in DNS at once, for the owner after that.
func (s *Set) onLease(e dhcpd.Event) {
	has := e.Kind == dhcpd.Bound || e.Kind == dhcpd.Renewed
	var former []netip.Addr
	if has {
		former = s.cfg.Owner.Seen(e.Lease.MAC)
	}
	s.mu.Lock()
	s.unname(former)
	if dns := s.dns.srv; dns != nil {
		switch {
		case has:
			dns.SetHost(s.host(e.Lease))
		case !s.reserved(e.Lease):
			dns.DeleteAddr(e.Lease.Addr)
		}
	}
	s.mu.Unlock()
	s.logLease(e)
	s.cfg.Owner.LeaseChanged(e)
}

// onStore shows the network degraded while the leases of a service can't be
// stored.
func (s *Set) onStore(service string) func(error) {
	return func(err error) {
		if err != nil {
			err = fmt.Errorf("%s gives no leases: %w", service, err)
		}
		s.cfg.Owner.Fault(service, err)
	}
}

// A network's guests, which may be hostile, cause at most this many lines about
// leases: so many at once, and then so many a second.
const (
	lineBurst = 1000
	lineRate  = 100
)

// logLease writes the line of one change of a lease. Renewals, of which a quiet
// network has many, are for debugging.
func (s *Set) logLease(e dhcpd.Event) {
	level, ctx := slog.LevelInfo, context.Background()
	if e.Kind == dhcpd.Renewed {
		level = slog.LevelDebug
	}
	if !s.log.Enabled(ctx, level) {
		return
	}
	left, ok := s.lines.allow(time.Now())
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
	s.log.Log(ctx, level, "lease "+e.Kind.String(), attrs...)
}

// lineLimit counts the lines that were suppressed since the last that was not.
type lineLimit struct {
	mu         sync.Mutex
	bucket     *rate.Limiter
	suppressed int
}

func newLineLimit() *lineLimit {
	return &lineLimit{bucket: rate.NewLimiter(lineRate, lineBurst)}
}

// allow reports whether a line may be written; with it comes the number of those
// suppressed since the last.
func (l *lineLimit) allow(now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.bucket.AllowN(now, 1) {
		l.suppressed++
		return 0, false
	}
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed, true
}
