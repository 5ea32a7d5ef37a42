// Package ra sends router advertisements (RFC 4861, RFC 4191, RFC 8106) on one link.
package ra

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// When advertisements are sent. RFC 4861, sections 6.2.1 and 10.
const (
	maxAdvertInterval = 600 * time.Second
	minAdvertInterval = 450 * time.Second
	// The first advertisements follow each other faster, "at most
	// MAX_INITIAL_RTR_ADVERT_INTERVAL seconds" apart.
	initialAdverts     = 3
	maxInitialInterval = 16 * time.Second
	minInitialInterval = 5 * time.Second
	// "consecutive Router Advertisements sent to the all-nodes multicast address
	// MUST be rate limited to no more than one advertisement every
	// MIN_DELAY_BETWEEN_RAS seconds."
	minAdvertDelay = 3 * time.Second
	// advertRetry is how long to wait when the link can't send: it has no carrier
	// yet, or its link-local address is tentative.
	advertRetry = time.Second

	ndpHopLimit = 255
)

// How many solicitations are answered: for each guest and for all of them.
const (
	solicitBurst      = 4
	solicitEvery      = time.Second
	solicitBurstAll   = 256
	solicitEveryAll   = 5 * time.Millisecond
	solicitRemembered = 1024
)

// solicit is an ICMPv6 message as it arrived.
type solicit struct {
	payload  []byte
	src      netip.Addr // with a zone if link-local
	hopLimit int
}

// raLink carries ICMPv6 between the Server and one link. send and source may be
// called at any time, the others as with dhcpd.Transport.
type raLink interface {
	// receive waits for a Router Solicitation, whose bytes it puts into buf.
	receive(buf []byte) (solicit, error)
	// source is our link-local address, which may be tentative still. An error
	// that wraps iface.ErrGone is final, as with send.
	source() (netip.Addr, error)
	// send sends an advertisement from src. It fails while src is tentative.
	send(payload []byte, src, dst netip.Addr) error
	interrupt()
	// copy is another descriptor of what receive reads.
	copy() (*os.File, error)
	close() error
}

// Server sends Router Advertisements (RFC 4861, RFC 4191, RFC 8106) on one
// link. Its methods may be called concurrently, except where they say otherwise.
type Server struct {
	log   *iface.Log
	link  raLink
	count counters
	wake  chan struct{} // capacity 1: advertise to all soon
	close func() error
	each  *iface.RateLimits[netip.Addr] // of the reader alone
	all   *rate.Limiter

	mu      sync.Mutex // guards all below
	cfg     Config
	was     past
	initial int // advertisements of the first kind that are left
	retired bool
}

// Stats are counters since Open.
type Stats struct {
	// Solicited counts valid solicitations received, Malformed those dropped
	// because they are not valid, Limited those beyond the rate limits, which an
	// advertisement to all answers.
	Solicited, Malformed, Limited uint64
	// Unicast and Multicast count advertisements sent.
	Unicast, Multicast uint64
}

type counters struct{ solicited, malformed, limited, unicast, multicast atomic.Uint64 }

// Open checks cfg and opens the socket, in the network namespace of the calling
// thread. The interface must exist; it needs neither carrier nor address yet. The
// caller must call Run or Close.
func Open(cfg Config) (*Server, error) {
	return open(cfg, func() (raLink, error) { return listen(cfg.Interface, cfg.Left) })
}

// open makes a Server on the link that dial returns.
func open(cfg Config, dial func() (raLink, error)) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("checking router advertisements of network %q: %w", cfg.Network, err)
	}
	link, err := dial()
	if err != nil {
		return nil, fmt.Errorf("advertising on %q: %w", cfg.Interface, err)
	}
	return &Server{
		log:     iface.NewLog(cfg.Logger, cfg.Network, cfg.Interface),
		link:    link,
		wake:    make(chan struct{}, 1),
		close:   iface.Once(link.close),
		each:    iface.NewRateLimits[netip.Addr](solicitEvery, solicitBurst, solicitRemembered),
		all:     rate.NewLimiter(rate.Every(solicitEveryAll), solicitBurstAll),
		cfg:     cfg,
		initial: initialAdverts,
	}, nil
}

// Sockets returns a copy of the socket, for Open in the next process: solicitations that
// come after Run has ended wait there. The caller closes it.
func (s *Server) Sockets() ([]*os.File, error) {
	f, err := s.link.copy()
	if err != nil {
		return nil, fmt.Errorf("copying the ICMPv6 socket: %w", err)
	}
	return []*os.File{f}, nil
}

// Close gives up a server that does not run. After Run, or a second time, it does
// nothing.
func (s *Server) Close() error { return s.close() }

// Run advertises until ctx ends, which is no error, or the interface is gone. It
// waits by itself for a link that can't send yet. It returns when all that it
// started has ended and the socket is closed. The guests are told nothing at the
// end: see Retire. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	loops, ctx := errgroup.WithContext(ctx)
	loops.Go(func() error { return s.readLoop(ctx) })
	loops.Go(func() error { return s.advertLoop(ctx) })
	<-ctx.Done()
	s.link.interrupt()
	err, closeErr := loops.Wait(), s.close()
	if err != nil {
		return fmt.Errorf("advertising: %w", errors.Join(err, closeErr))
	}
	return closeErr
}

// Reconfigure makes the server advertise cfg from now on, and tells the guests
// soon. Interface must stay; Logger is ignored.
func (s *Server) Reconfigure(cfg Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("checking router advertisements of network %q: %w", cfg.Network, err)
	}
	if cfg.Interface != s.cfg.Interface {
		return fmt.Errorf("changing the interface of running router advertisements from %q to %q", s.cfg.Interface, cfg.Interface)
	}
	s.was = s.was.after(&s.cfg, &cfg)
	s.cfg, s.initial = cfg, initialAdverts
	s.kick()
	return nil
}

// Retire tells the guests that this router and its resolver are no more, and
// stops to advertise. It is for a network that is stopped, while Run still runs;
// a daemon that restarts leaves the guests their router. An error says that the
// guests could not be told, as on a link without carrier.
func (s *Server) Retire() error {
	s.mu.Lock()
	s.retired = true
	s.mu.Unlock()
	if err := s.advertise(allNodes(), true); err != nil {
		return fmt.Errorf("sending the last router advertisement: %w", err)
	}
	return nil
}

// Stats returns the counters. It may be called at any time.
func (s *Server) Stats() Stats {
	c := &s.count
	return Stats{
		Solicited: c.solicited.Load(), Malformed: c.malformed.Load(), Limited: c.limited.Load(),
		Unicast: c.unicast.Load(), Multicast: c.multicast.Load(),
	}
}

// kick has the next advertisement to all sent as soon as allowed.
func (s *Server) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// readLoop answers solicitations until ctx ends or the link fails.
func (s *Server) readLoop(ctx context.Context) error {
	buf := make([]byte, iface.MaxMessage)
	for {
		m, err := s.link.receive(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		if err := checkSolicit(m); err != nil {
			s.count.malformed.Add(1)
			s.log.Debug("dropping a router solicitation", "src", m.src, "error", err)
			continue
		}
		s.count.solicited.Add(1)
		s.answer(m.src, time.Now())
	}
}

// answer answers a solicitation from src.
//
// RFC 4861, section 6.2.6: "A router MAY choose to unicast the response directly
// to the soliciting host's address (if the solicitation's source address is not
// the unspecified address); otherwise, the router MUST multicast the response".
func (s *Server) answer(src netip.Addr, now time.Time) {
	switch {
	case src.IsUnspecified():
		s.kick()
	case !s.each.Allow(src, now) || !s.all.AllowN(now, 1):
		s.count.limited.Add(1)
		s.kick()
	default:
		err := s.advertise(src, false)
		switch {
		case errors.Is(err, errNoLinkLocal), errors.Is(err, errSourceGone):
			s.kick() // all are told once there is an address
		case err != nil:
			s.log.Limited("router solicitation not answered", "ip", src, "error", err)
		}
	}
}

// advertLoop advertises to all guests, at first as soon as the link can.
func (s *Server) advertLoop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last time.Time // of the last advertisement to all
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
			timer.Reset(time.Until(last.Add(minAdvertDelay)))
			continue
		case <-timer.C:
		}
		err := s.advertise(allNodes(), false)
		switch {
		case errors.Is(err, iface.ErrGone):
			return err
		case err != nil:
			s.log.Debug("not advertising yet", "error", err)
			timer.Reset(advertRetry)
		default:
			last = time.Now()
			timer.Reset(s.interval())
		}
	}
}

// interval returns how long to wait after an advertisement to all.
func (s *Server) interval() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.initial > 0 {
		s.initial--
	}
	if s.initial > 0 {
		return minInitialInterval + rand.N(maxInitialInterval-minInitialInterval)
	}
	return minAdvertInterval + rand.N(maxAdvertInterval-minAdvertInterval)
}

// advertise sends one advertisement. A server that retired sends the last one
// alone.
func (s *Server) advertise(dst netip.Addr, last bool) error {
	s.mu.Lock()
	cfg, was, retired := s.cfg, s.was, s.retired
	s.mu.Unlock()
	if retired && !last {
		return nil
	}
	err := s.send(&cfg, was, dst, last)
	if errors.Is(err, errSourceGone) {
		err = s.send(&cfg, was, dst, last) // from what it has by now
	}
	if err != nil {
		return err
	}
	if dst.IsMulticast() {
		s.count.multicast.Add(1)
	} else {
		s.count.unicast.Add(1)
	}
	return nil
}

// send sends one advertisement from the address that the link has.
func (s *Server) send(cfg *Config, was past, dst netip.Addr, last bool) error {
	src, err := s.link.source()
	if err != nil {
		return err
	}
	payload, err := cfg.advert(src, was, last)
	if err != nil {
		return err
	}
	return s.link.send(payload, src, dst)
}

// allNodes returns the multicast group of all guests (RFC 4291, section 2.7.1).
func allNodes() netip.Addr { return netip.IPv6LinkLocalAllNodes() }
