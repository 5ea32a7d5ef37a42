package dhcpd

import (
	"errors"
	"fmt"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// Server6 answers DHCPv6 (RFC 8415) on one link. Its methods may be called
// concurrently, except where they say otherwise.
type Server6 struct {
	engine
	plan *plan6 // guarded by mu
}

// Open6 checks cfg, loads the leases and binds the socket, in the network
// namespace of the calling thread. The interface needs neither carrier nor a
// link-local address yet: until it has, there is nobody to answer. The caller
// must call Run or Close. An error that wraps syscall.EADDRINUSE means that
// another DHCPv6 server serves the interface.
func Open6(cfg Config6) (*Server6, error) {
	return open6(cfg, func() (transport, error) { return listen6(cfg.Interface, cfg.Left) })
}

// open6 makes a Server6 on the transport that dial returns.
func open6(cfg Config6, dial func() (transport, error)) (*Server6, error) {
	s, err := newServer6(&cfg)
	if err != nil {
		return nil, err
	}
	if err := s.connect(dial); err != nil {
		return nil, fmt.Errorf("serving DHCPv6 on %q: %w", cfg.Interface, err)
	}
	return s, nil
}

// newServer6 makes a Server6 without a transport, with its leases.
func newServer6(cfg *Config6) (*Server6, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("checking DHCPv6 settings of network %q: %w", cfg.Network, err)
	}
	log := networkLog(cfg.Logger, cfg.Network, cfg.Interface)
	s := &Server6{
		engine: engine{log: log, leases: cfg.Store, onLease: cfg.OnLease, onStore: cfg.OnStore},
		plan:   newPlan6(cfg, log),
	}
	s.handle = s.handleDatagram
	return s, s.load(&s.plan.space)
}

// handleDatagram implements engine.handle.
func (s *Server6) handleDatagram(d datagram, now time.Time) (*outgoing, error) {
	c, err := parse6(d, s.plan, now)
	switch {
	case errors.Is(err, errOtherServer):
		s.count.ignored.Add(1)
		return nil, nil
	case err != nil:
		return nil, err
	case !s.fair(c.who(), now):
		return nil, nil
	default:
		return s.handle6(c), nil
	}
}

// Reconfigure makes the server follow cfg from now on: ranges, reservations and
// options. Interface and Server must stay; MAC, Store, OnLease, OnStore,
// Logger and Left are ignored. Clients whose address cfg does not allow them get another one when
// they renew.
func (s *Server6) Reconfigure(cfg Config6) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := &s.plan.cfg
	cfg.MAC, cfg.Store = old.MAC, old.Store
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("checking DHCPv6 settings of network %q: %w", cfg.Network, err)
	}
	if cfg.Interface != old.Interface {
		return fmt.Errorf("changing the interface of a running DHCPv6 server from %q to %q", old.Interface, cfg.Interface)
	}
	if cfg.Server != old.Server {
		return fmt.Errorf("changing the address of a running DHCPv6 server from %v to %v", old.Server, cfg.Server)
	}
	s.plan = newPlan6(&cfg, s.log)
	s.move(&s.plan.space)
	return nil
}

// Stats6 are counters since Open6, as Stats are for DHCPv4.
type Stats6 struct {
	// Received, by message type.
	Solicit, Request, Confirm, Renew, Rebind, Release, Decline, InformationRequest uint64
	// Sent, by message type.
	Advertise, Reply uint64
	Common
}

// Stats returns the counters. It may be called at any time.
func (s *Server6) Stats() Stats6 {
	c := &s.count
	in := func(typ dhcpv6.MessageType) uint64 { return c.received[typ].Load() }
	return Stats6{
		Solicit: in(dhcpv6.MessageTypeSolicit), Request: in(dhcpv6.MessageTypeRequest),
		Confirm: in(dhcpv6.MessageTypeConfirm), Renew: in(dhcpv6.MessageTypeRenew),
		Rebind: in(dhcpv6.MessageTypeRebind), Release: in(dhcpv6.MessageTypeRelease),
		Decline: in(dhcpv6.MessageTypeDecline), InformationRequest: in(dhcpv6.MessageTypeInformationRequest),
		Advertise: c.sent[dhcpv6.MessageTypeAdvertise].Load(), Reply: c.sent[dhcpv6.MessageTypeReply].Load(),
		Common: s.common(),
	}
}
