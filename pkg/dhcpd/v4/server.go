// Package v4 answers DHCPv4 (RFC 2131, RFC 2132) on one link. Messages are read in place;
// github.com/insomniacslk/dhcp has the names of their parts, and is the measure of it in tests.
package v4

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// Server answers DHCPv4 on one link. Its methods may be called concurrently,
// except where they say otherwise.
type Server struct {
	dhcpd.Server
	h *handler
}

// Open checks cfg, loads the leases and binds the sockets, in the network
// namespace of the calling thread. The caller must call Run or Close. An error
// that wraps syscall.EADDRINUSE means that another DHCP server serves the
// interface.
func Open(cfg Config) (*Server, error) {
	return open(cfg, func() (dhcpd.Transport, error) { return listen(&cfg) })
}

// open makes a Server on the transport that dial returns.
func open(cfg Config, dial func() (dhcpd.Transport, error)) (*Server, error) {
	h, err := newHandler(&cfg)
	if err != nil {
		return nil, err
	}
	link, err := dial()
	if err != nil {
		return nil, fmt.Errorf("serving DHCP on %q: %w", cfg.Interface, err)
	}
	var loops []func(context.Context)
	if cfg.Probe {
		h.probes = newProbes(link.(arpLink))
		loops = append(loops, h.probeLoop, h.hearLoop)
	}
	h.Connect(link, loops...)
	return &Server{dhcpd.NewServer(h.Engine), h}, nil
}

// Import does what Server.Import does, for a network that no server serves.
func Import(cfg Config, leases []dhcpd.Lease) (taken int, refused []error, err error) {
	h, err := newHandler(&cfg)
	if err != nil {
		return 0, nil, err
	}
	return h.Import(leases)
}

// Reconfigure makes the server follow cfg from now on: ranges, reservations and
// options. Interface, Server and Probe must stay; MAC, Store, OnLease, OnStore,
// Logger and Left are ignored. Running leases stay until their clients ask again, which are then
// refused what cfg does not allow them.
func (s *Server) Reconfigure(cfg Config) error {
	offers, err := s.h.reconfigure(cfg)
	s.h.Send(offers...)
	return err
}

// reconfigure does what Reconfigure does, but for sending the offers to clients for which there
// are addresses now.
func (s *handler) reconfigure(cfg Config) (offers []*dhcpd.Reply, err error) {
	s.Lock()
	defer s.Unlock()
	old := &s.plan.cfg
	if err := cfg.Follow(&old.Settings); err != nil {
		return nil, err
	}
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("checking DHCP settings of network %q: %w", cfg.Network, err)
	}
	if cfg.Probe != old.Probe {
		return nil, errors.New("a running DHCP server can't begin or end to probe addresses")
	}
	s.plan = newPlan(&cfg, s.Log.Logger)
	s.Follow(&s.plan.Scope)
	return s.answerWaiting(time.Now()), nil
}

// Relend gives new addresses of the blocks that the lender has now, also to clients that wait for
// some.
func (s *Server) Relend() {
	s.h.Lock()
	dhcpd.Relend(s.h.Engine)
	offers := s.h.answerWaiting(time.Now())
	s.h.Unlock()
	s.h.Send(offers...)
}

// Foreign lists the other servers of the link that clients have chosen, in order
// of address. It may be called at any time.
func (s *Server) Foreign() []ForeignServer {
	s.h.Lock()
	defer s.h.Unlock()
	return slices.SortedFunc(maps.Values(s.h.others), func(a, b ForeignServer) int {
		return a.Addr.Compare(b.Addr)
	})
}

// Stats are counters since Open and the state of the pool. Messages are counted
// when they are understood, replies when the kernel took them.
type Stats struct {
	// Received, by message type. BOOTP counts requests without a message type.
	Discover, Request, Decline, Release, Inform, BOOTP uint64
	// Sent, by message type. A reply to BOOTP counts as Ack.
	Offer, Ack, Nak uint64
	dhcpd.Common
}

// Stats returns the counters. It may be called at any time.
func (s *Server) Stats() Stats {
	c := &s.h.Count
	in := func(typ dhcpv4.MessageType) uint64 { return c.Received[typ].Load() }
	out := func(typ dhcpv4.MessageType) uint64 { return c.Sent[typ].Load() }
	return Stats{
		Discover: in(dhcpv4.MessageTypeDiscover), Request: in(dhcpv4.MessageTypeRequest),
		Decline: in(dhcpv4.MessageTypeDecline), Release: in(dhcpv4.MessageTypeRelease),
		Inform: in(dhcpv4.MessageTypeInform), BOOTP: in(dhcpv4.MessageTypeNone),
		Offer: out(dhcpv4.MessageTypeOffer), Nak: out(dhcpv4.MessageTypeNak),
		Ack:    out(dhcpv4.MessageTypeAck) + out(dhcpv4.MessageTypeNone),
		Common: s.h.Common(),
	}
}
