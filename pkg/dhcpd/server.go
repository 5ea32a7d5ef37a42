package dhcpd

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// Server answers DHCPv4 on one link. Its methods may be called concurrently,
// except where they say otherwise.
type Server struct {
	engine
	plan   *plan                        // guarded by mu
	probes probes                       // guarded by mu
	others map[netip.Addr]ForeignServer // guarded by mu; nil until there is one
}

// Open checks cfg, loads the leases and binds the sockets, in the network
// namespace of the calling thread. The caller must call Run or Close. An error
// that wraps syscall.EADDRINUSE means that another DHCP server serves the
// interface.
func Open(cfg Config) (*Server, error) {
	return open(cfg, func() (transport, error) { return listen(&cfg) })
}

// open makes a Server on the transport that dial returns.
func open(cfg Config, dial func() (transport, error)) (*Server, error) {
	s, err := newServer(&cfg)
	if err != nil {
		return nil, err
	}
	if err := s.connect(dial); err != nil {
		return nil, fmt.Errorf("serving DHCP on %q: %w", cfg.Interface, err)
	}
	if cfg.Probe {
		s.probes = newProbes(s.link.(arpLink))
		s.loops = append(s.loops, s.probeLoop, s.hearLoop)
	}
	return s, nil
}

// newServer makes a Server without a transport, with its leases.
func newServer(cfg *Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("checking DHCP settings of network %q: %w", cfg.Network, err)
	}
	log := networkLog(cfg.Logger, cfg.Network, cfg.Interface)
	s := &Server{
		engine: engine{log: log, leases: cfg.Store, onLease: cfg.OnLease, onStore: cfg.OnStore},
		plan:   newPlan(cfg, log),
	}
	s.handle = s.handleDatagram
	return s, s.load(&s.plan.space)
}

// networkLog is log, nil for the default, with what tells the network.
func networkLog(log *slog.Logger, network, bridge string) *slog.Logger {
	if log == nil {
		log = slog.Default()
	}
	return log.With("network", network, "bridge", bridge)
}

// handleDatagram implements engine.handle.
func (s *Server) handleDatagram(d datagram, now time.Time) (*outgoing, error) {
	c, err := parse4(d, s.plan, now)
	if err != nil {
		return nil, err
	}
	if !s.fair(string(c.mac[:]), now) {
		return nil, nil
	}
	return s.handle4(c), nil
}

// Reconfigure makes the server follow cfg from now on: ranges, reservations and
// options. Interface, Server and Probe must stay; MAC, Store, OnLease, OnStore,
// Logger and Left are ignored. Running leases stay until their clients ask again, which are then
// refused what cfg does not allow them.
func (s *Server) Reconfigure(cfg Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := &s.plan.cfg
	cfg.MAC, cfg.Store = old.MAC, old.Store
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("checking DHCP settings of network %q: %w", cfg.Network, err)
	}
	if cfg.Interface != old.Interface {
		return fmt.Errorf("changing the interface of a running DHCP server from %q to %q", old.Interface, cfg.Interface)
	}
	if cfg.Server != old.Server {
		return fmt.Errorf("changing the address of a running DHCP server from %v to %v", old.Server, cfg.Server)
	}
	if cfg.Probe != old.Probe {
		return errors.New("a running DHCP server can't begin or end to probe addresses")
	}
	s.plan = newPlan(&cfg, s.log)
	s.move(&s.plan.space)
	return nil
}
