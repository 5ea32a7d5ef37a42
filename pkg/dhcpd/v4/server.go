package v4

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// Server answers DHCPv4 on one link. Its methods may be called concurrently,
// except where they say otherwise.
type Server struct {
	dhcpd.Server
	h *handler
}

// handler acts on the messages of one link. The engine's lock guards its fields.
type handler struct {
	*dhcpd.Engine
	plan   *plan
	probes probes
	others map[netip.Addr]ForeignServer // nil until there is one
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

// newHandler makes a handler without a transport, with its leases.
func newHandler(cfg *Config) (*handler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("checking DHCP settings of network %q: %w", cfg.Network, err)
	}
	log := iface.NewLog(cfg.Logger, cfg.Network, cfg.Interface)
	h := &handler{plan: newPlan(cfg, log.Logger)}
	var err error
	h.Engine, err = dhcpd.NewEngine(h, dhcpd.EngineConfig{Store: cfg.Store, OnLease: cfg.OnLease, OnStore: cfg.OnStore}, &h.plan.Scope, log)
	return h, err
}

// Import is Server.Import into the store of a network that no server serves.
func Import(cfg Config, leases []dhcpd.Lease) (taken int, refused []error, err error) {
	h, err := newHandler(&cfg)
	if err != nil {
		return 0, nil, err
	}
	return h.Import(leases)
}

// Handle implements handler.
func (s *handler) Handle(d dhcpd.Datagram, now time.Time) (*dhcpd.Reply, error) {
	c, err := parse(d, s.plan, now)
	if err != nil {
		return nil, err
	}
	if !s.Allow(string(c.MAC[:]), now) {
		return nil, nil
	}
	return s.dispatch(c), nil
}

// Reconfigure makes the server follow cfg from now on: ranges, reservations and
// options. Interface, Server and Probe must stay; MAC, Store, OnLease, OnStore,
// Logger and Left are ignored. Running leases stay until their clients ask again, which are then
// refused what cfg does not allow them.
func (s *Server) Reconfigure(cfg Config) error {
	h := s.h
	h.Lock()
	defer h.Unlock()
	old := &h.plan.cfg
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
	h.plan = newPlan(&cfg, h.Log.Logger)
	h.Follow(&h.plan.Scope)
	return nil
}
