package dnsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/udpwait"
	"github.com/vnetd/vnetd/pkg/dnsd/wire"
	"github.com/vnetd/vnetd/pkg/dnsd/zone"
)

// tcpLimit is the number of TCP connections that one network's server keeps.
const tcpLimit = 128

// Server answers the DNS queries of one network. Its methods are safe for
// concurrent use.
type Server struct {
	log        *slog.Logger
	now        func() time.Time
	zone       *zone.Zone
	forwarder  *forwarder
	counters   *counters
	tcpClients *slots
	gating     gating
	udp        []*udpwait.Conn
	tcp        []*net.TCPListener
	port       uint16
	readers    sync.WaitGroup // of udp
	acceptors  sync.WaitGroup // of tcp, with their connections
	resumed    []*net.TCPConn // of a former process; Run serves them
	leaving    context.Context
	leave      context.CancelFunc // ends leaving
	parted     parted

	surroundings atomic.Pointer[surroundings]

	mu  sync.Mutex // guards cfg
	cfg Config

	closed    chan struct{}
	closeOnce sync.Once
	closeErr  error
}

// Open checks cfg, joining all its faults, and binds the sockets. When an
// address is taken the error says by whom, if that can be found out, and
// errors.Is(err, unix.EADDRINUSE) holds; with OtherPort that is a warning in the
// log. Nothing is served before Run. The caller closes the server, run or not.
func Open(cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("checking the dns configuration of network %q: %w", cfg.Network, err)
	}
	log := cfg.Logger.With(keyNetwork, cfg.Network)
	s := &Server{
		log:        log,
		now:        time.Now,
		zone:       zone.New(cfg.zone()),
		counters:   newCounters(),
		tcpClients: newSlots(tcpLimit),
		gating:     gating{places: make(chan struct{}, gateLimit)},
		cfg:        cfg,
		closed:     make(chan struct{}),
	}
	s.surroundings.Store(&surroundings{cfg.Peers, cfg.Gate})
	s.leaving, s.leave = context.WithCancel(context.Background())
	s.forwarder = newForwarder(cfg, s.zone, s.counters, log)
	if err := s.bind(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening dns of network %q: %w", cfg.Network, err), s.Close())
	}
	return s, nil
}

// bind opens the sockets, on the other port if the first is taken and there is
// another.
func (s *Server) bind() error {
	s.port = uint16(s.cfg.Port)
	err := s.listenAll()
	if s.cfg.OtherPort == 0 || !errors.Is(err, unix.EADDRINUSE) {
		return err
	}
	if err := s.closeSockets(); err != nil {
		return err
	}
	s.udp, s.tcp, s.resumed, s.port = nil, nil, nil, uint16(s.cfg.OtherPort)
	if otherErr := s.listenAll(); otherErr != nil {
		return errors.Join(err, otherErr)
	}
	s.log.Warn("dns serves another port", keyPort, s.port, keyError, err)
	return nil
}

// listenAll binds the two sockets of each address.
func (s *Server) listenAll() error {
	for _, a := range s.cfg.Addrs {
		at := netip.AddrPortFrom(a, s.port)
		u, err := listenUDP(at, s.cfg.Interface, s.cfg.Left)
		if err != nil {
			return err
		}
		s.udp = append(s.udp, u)
		t, err := listenTCP(at, s.cfg.Interface, s.cfg.Left)
		if err != nil {
			return err
		}
		s.tcp = append(s.tcp, t)
		resumed, err := takeConnections(at, s.cfg.Interface, s.cfg.Left)
		s.resumed = append(s.resumed, resumed...)
		if err != nil {
			return err
		}
	}
	return nil
}

// Port returns the port that is served: Config.Port, or Config.OtherPort where
// another program has that.
func (s *Server) Port() uint16 { return s.port }

// Run serves until ctx ends or Close is called, and returns nil then, or until
// a socket fails, and returns that error: the caller opens another server. All
// the goroutines that it started have ended and the sockets are closed when it
// returns. Run is called once.
//
// The kernel does not tell a socket that the device it is bound to was deleted.
// Who makes the bridge anew opens the server anew.
func (s *Server) Run(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	ended := func(err error) {
		if !errors.Is(err, os.ErrDeadlineExceeded) { // of Leave
			cancel(err)
		}
	}
	for _, c := range s.udp {
		s.readers.Go(func() { ended(s.serveUDP(ctx, c)) })
	}
	for _, l := range s.tcp {
		s.acceptors.Go(func() { ended(s.serveTCP(ctx, l)) })
	}
	for _, c := range s.resumed {
		s.acceptors.Go(func() { s.admit(ctx, c)() })
	}
	select {
	case <-ctx.Done():
	case <-s.closed:
		cancel(nil)
	}
	err := s.Close()
	s.readers.Wait()
	s.acceptors.Wait()
	s.forwarder.close()
	s.gating.opening.Wait()
	cause := context.Cause(ctx)
	if parent.Err() != nil || errors.Is(cause, context.Canceled) || errors.Is(cause, net.ErrClosed) {
		return err // asked to end
	}
	return errors.Join(fmt.Errorf("serving dns: %w", cause), err)
}

// Close closes the sockets and so ends Run. It may be called more than once.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		close(s.closed)
		s.leave()
		s.closeErr = s.closeSockets()
	})
	return s.closeErr
}

// closeSockets closes the sockets that are open.
func (s *Server) closeSockets() error {
	var errs []error
	for _, c := range s.udp {
		errs = append(errs, c.Close())
	}
	for _, l := range s.tcp {
		errs = append(errs, l.Close())
	}
	for _, c := range s.resumed {
		_ = c.Close() // its serving has, if there was one
	}
	return errors.Join(errs...)
}

// Zone is what s knows of names, for the servers of other networks; nil for a nil s.
func (s *Server) Zone() *Zone {
	if s == nil {
		return nil
	}
	return s.zone
}

// SetHost makes h a dynamic host: its name has its address, and its address its
// name. What the address was called before is forgotten. Of several addresses
// of one family that claim a name the last has it, and the others have none
// until it is gone; claiming again what one claims already changes nothing but
// the TTL. The name of a static host, the name of a static host's address and
// names that no guest may have (localhost, wpad, isatap, local, invalid host names) are
// not given out. An empty name only forgets what the address had.
func (s *Server) SetHost(h Host) {
	if h.Addr = h.Addr.Unmap(); h.Addr.IsValid() {
		s.zone.Set(h)
	}
}

// DeleteAddr forgets the dynamic name of an address. A static one stays.
func (s *Server) DeleteAddr(a netip.Addr) { s.zone.Remove(a.Unmap()) }

// SetAlias makes alias another name of the dynamic host that is called name, whatever
// addresses that has, now or later; an empty name takes it back. Both are single labels.
// Whoever else claims alias, by SetHost, does not have it. A static name stands before it.
func (s *Server) SetAlias(alias, name string) {
	s.zone.SetAlias(alias, name)
}

// Reconfigure puts another configuration in force for the queries that come
// from now on; the dynamic hosts are kept. It fails, and changes nothing, when
// cfg has faults or wants other sockets: another Interface, Port, OtherPort or
// Addrs.
func (s *Server) Reconfigure(cfg Config) error {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("checking the dns configuration of network %q: %w", cfg.Network, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if cfg.Interface != s.cfg.Interface || cfg.Port != s.cfg.Port || cfg.OtherPort != s.cfg.OtherPort || !slices.Equal(cfg.Addrs, s.cfg.Addrs) {
		return fmt.Errorf("reconfiguring dns of network %q: other sockets are wanted: open it anew", s.cfg.Network)
	}
	s.zone.Configure(cfg.zone())
	s.surroundings.Store(&surroundings{cfg.Peers, cfg.Gate})
	s.forwarder.configure(cfg)
	s.cfg = cfg
	return nil
}

// respond answers one message. It returns the whole answer, packed into buf if
// that is long enough; or, for a query that an upstream server is to be asked, what is to
// be asked; or neither for a message that is not answered. size is the number of octets of
// the transport's largest answer. q is overwritten.
func (s *Server) respond(q *wire.Query, raw, buf []byte, size int, now time.Time) (reply []byte, forward *inquiry) {
	defer s.counters.catch(s.log)
	s.counters.queries.Add(1)
	switch rcode, ok := q.Parse(raw, size, now); {
	case !ok:
		s.counters.dropped.Add(1)
		return nil, nil
	case rcode != dns.RcodeSuccess:
		s.counters.malformed.Add(1)
		s.counters.local.add(rcode)
		return wire.HeaderReply(raw, buf, rcode), nil
	}
	v := s.zone.View()
	if rcode, refused := q.Refusal(); refused {
		return s.refuse(q, rcode, v.Forwards(), buf), nil
	}
	a, ok := v.Lookup(q)
	if !a.Found() {
		if theirs, found := s.askPeers(q); found {
			a, ok = theirs, true
		}
	}
	switch {
	case a.Outside:
		return s.follow(q, a, buf)
	case ok && !(a.Parents && s.forwarder.selector.Serves(q.Key)):
		s.counters.local.add(a.Rcode)
		return a.Pack(q, v.Forwards(), buf), nil
	}
	if !s.forwarder.selector.Serves(q.Key) {
		if a, ok := v.Unserved(q.Key); ok {
			s.counters.local.add(a.Rcode)
			return a.Pack(q, v.Forwards(), buf), nil
		}
		return s.refuse(q, dns.RcodeRefused, false, buf), nil
	}
	if reply := s.forwarder.cached(q, buf); reply != nil {
		return s.pass(q, reply)
	}
	return nil, newInquiry(q)
}

// refuse packs an answer that has nothing but an rcode.
func (s *Server) refuse(q *wire.Query, rcode int, recursion bool, buf []byte) []byte {
	s.counters.refused.Add(1)
	s.counters.local.add(rcode)
	return q.Reply(rcode, recursion, buf)
}
