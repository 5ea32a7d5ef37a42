// Package v6 answers DHCPv6 (RFC 8415) on one link.
package v6

import (
	"errors"
	"fmt"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// Server answers DHCPv6 (RFC 8415) on one link. Its methods may be called
// concurrently, except where they say otherwise.
type Server struct {
	dhcpd.Server
	h *handler
}

// handler acts on the messages of one link.
type handler struct {
	*dhcpd.Engine
	plan    *plan   // guarded by the engine's lock, as what follows
	request request // that is being handled
	opts    options // memory for those of its reply
}

// Open checks cfg, loads the leases and binds the socket, in the network
// namespace of the calling thread. The interface needs neither carrier nor a
// link-local address yet: until it has, there is nobody to answer. The caller
// must call Run or Close. An error that wraps syscall.EADDRINUSE means that
// another DHCPv6 server serves the interface.
func Open(cfg Config) (*Server, error) {
	return open(cfg, func() (dhcpd.Transport, error) { return listen(cfg.Interface, cfg.Left) })
}

// open makes a Server on the transport that dial returns.
func open(cfg Config, dial func() (dhcpd.Transport, error)) (*Server, error) {
	h, err := newHandler(&cfg)
	if err != nil {
		return nil, err
	}
	link, err := dial()
	if err != nil {
		return nil, fmt.Errorf("serving DHCPv6 on %q: %w", cfg.Interface, err)
	}
	h.Connect(link)
	return &Server{dhcpd.NewServer(h.Engine), h}, nil
}

// newHandler makes a handler without a transport, with its leases.
func newHandler(cfg *Config) (*handler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("checking DHCPv6 settings of network %q: %w", cfg.Network, err)
	}
	log := iface.NewLog(cfg.Logger, cfg.Network, cfg.Interface)
	h := &handler{plan: newPlan(cfg, log.Logger)}
	var err error
	h.Engine, err = dhcpd.NewEngine(h, &cfg.Settings, &h.plan.Scope, log)
	return h, err
}

// Import does what Server.Import does, for a network that no server serves.
func Import(cfg Config, leases []dhcpd.Lease) (taken int, refused []error, err error) {
	h, err := newHandler(&cfg)
	if err != nil {
		return 0, nil, err
	}
	return h.Import(leases)
}

// Relayed implements handler.
func (*handler) Relayed(b []byte) bool {
	return len(b) > 0 && dhcpv6.MessageType(b[0]) == dhcpv6.MessageTypeRelayForward
}

// Handle implements handler.
func (s *handler) Handle(d dhcpd.Datagram, now time.Time) (*dhcpd.Reply, error) {
	c := &s.request
	err := c.read(d, s.plan, now)
	switch {
	case errors.Is(err, errOtherServer):
		s.Count.Ignored.Add(1)
		return nil, nil
	case err != nil:
		return nil, err
	case !s.Allow(c.who(), now):
		return nil, nil
	case c.Reserved != nil && c.Reserved.Ignore && c.typ != dhcpv6.MessageTypeRelease:
		s.Count.Ignored.Add(1)
		return nil, nil
	case s.forged(c):
		out := s.again(c)
		if out == nil {
			s.Count.Ignored.Add(1)
			s.Log.Limited("a message in the name of another client", "mac", c.MAC, "from", c.Via.HW, "ifindex", c.Via.Port)
		}
		return out, nil
	default:
		return s.dispatch(c), nil
	}
}

// Reconfigure makes the server follow cfg from now on: ranges, reservations and
// options. Interface and Server must stay; MAC, Store, OnLease, OnStore,
// Logger and Left are ignored. Clients whose address cfg does not allow them get another one when
// they renew.
func (s *Server) Reconfigure(cfg Config) error {
	h := s.h
	h.Lock()
	defer h.Unlock()
	if err := cfg.Follow(&h.plan.cfg.Settings); err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("checking DHCPv6 settings of network %q: %w", cfg.Network, err)
	}
	h.plan = newPlan(&cfg, h.Log.Logger)
	h.Follow(&h.plan.Scope)
	return nil
}

// Relend gives new addresses of the blocks that the lender has now.
func (s *Server) Relend() {
	s.h.Lock()
	defer s.h.Unlock()
	dhcpd.Relend(s.h.Engine)
}

// Stats are counters since Open, as those of package v4.
type Stats struct {
	// Received, by message type.
	Solicit, Request, Confirm, Renew, Rebind, Release, Decline, InformationRequest uint64
	// Sent, by message type.
	Advertise, Reply uint64
	dhcpd.Common
}

// Stats returns the counters. It may be called at any time.
func (s *Server) Stats() Stats {
	c := &s.h.Count
	in := func(typ dhcpv6.MessageType) uint64 { return c.Received[typ].Load() }
	return Stats{
		Solicit: in(dhcpv6.MessageTypeSolicit), Request: in(dhcpv6.MessageTypeRequest),
		Confirm: in(dhcpv6.MessageTypeConfirm), Renew: in(dhcpv6.MessageTypeRenew),
		Rebind: in(dhcpv6.MessageTypeRebind), Release: in(dhcpv6.MessageTypeRelease),
		Decline: in(dhcpv6.MessageTypeDecline), InformationRequest: in(dhcpv6.MessageTypeInformationRequest),
		Advertise: c.Sent[dhcpv6.MessageTypeAdvertise].Load(), Reply: c.Sent[dhcpv6.MessageTypeReply].Load(),
		Common: s.h.Common(),
	}
}
