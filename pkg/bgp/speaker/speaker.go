// Package speaker speaks BGP as package bgp has it asked for, by GoBGP, which is asked for its
// table of routes and its sessions alone: it neither reads nor writes the kernel's routes. It is
// what vnet-bgp is made of.
package speaker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	api "github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/vnetd/vnetd/pkg/bgp"
)

// port is that of BGP (RFC 4271 section 8.2.1).
const port = 179

// Run carries out the orders of in until it ends, and reports to out how things stand; what
// is worth a line beside that goes to log. A failure is reported, too. Where in ends without
// bgp.Order.End, sessions are left as they are, for the process's end to cut them off: routers
// keep the routes then.
func Run(in io.Reader, out, log io.Writer) error {
	s := &speaker{out: json.NewEncoder(out), has: make(map[netip.Prefix]bool)}
	s.log = slog.New(&handler{next: slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelError}), heard: s.heard})
	err := s.run(json.NewDecoder(in))
	if err != nil {
		_ = s.out.Encode(bgp.Report{Error: err.Error()}) // nobody may be left to hear it
	}
	return err
}

// speaker is a server of GoBGP with its neighbours.
type speaker struct {
	cfg    bgp.Config
	router netip.Addr
	log    *slog.Logger
	server *server.BgpServer
	has    map[netip.Prefix]bool // what is announced

	mu     sync.Mutex // guards what follows, and out
	out    *json.Encoder
	number uint64
	peers  []*peer // in the order of the configuration
	closed bool    // sessions are ended for good
}

// peer is a neighbour.
type peer struct {
	*bgp.Neighbour
	is    bgp.Peer
	tried string // why it could not be connected last
}

// run carries out orders until there are no more.
func (s *speaker) run(in *json.Decoder) error {
	var order bgp.Order
	if err := in.Decode(&order); err != nil {
		return fmt.Errorf("reading the first order: %w", err)
	}
	if order.Config == nil {
		return errors.New("the first order has no configuration")
	}
	s.cfg = *order.Config
	if err := errors.Join(s.cfg.Check()...); err != nil {
		return err
	}
	if err := s.start(); err != nil {
		return err
	}
	// Routers forget what they have of a former speaker and do not hear of soon after the
	// session is up: all is there before the first one is.
	if err := s.announce(&order); err != nil {
		return err
	}
	for i := range s.cfg.Neighbours {
		n := &s.cfg.Neighbours[i]
		s.peers = append(s.peers, &peer{Neighbour: n, is: bgp.Peer{Address: n.Address, Since: time.Now(), Reason: "no connection yet"}})
	}
	for _, p := range s.peers {
		s.add(p)
	}
	s.report(order.Number)
	for {
		order = bgp.Order{}
		err := in.Decode(&order)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading an order: %w", err)
		case order.End:
			s.mu.Lock()
			s.closed = true
			s.mu.Unlock()
			return s.server.StopBgp(context.Background(), &api.StopBgpRequest{})
		}
		if err := s.announce(&order); err != nil {
			return err
		}
		s.report(order.Number)
	}
}

// start starts the server without a neighbour.
func (s *speaker) start() error {
	var err error
	if s.router, err = s.routerID(); err != nil {
		return err
	}
	global := &api.Global{Asn: s.cfg.AS, RouterId: s.router.String(), ListenPort: -1}
	for _, a := range s.cfg.Listen {
		global.ListenPort = port
		global.ListenAddresses = append(global.ListenAddresses, a.String())
	}
	level := new(slog.LevelVar)
	level.Set(slog.LevelDebug)
	s.server = server.NewBgpServer(server.LoggerOption(s.log, level))
	go s.server.Serve()
	ctx := context.Background()
	if err := s.server.StartBgp(ctx, &api.StartBgpRequest{Global: global}); err != nil {
		return fmt.Errorf("starting BGP: %w", err)
	}
	if err := s.refuse(ctx); err != nil {
		return fmt.Errorf("refusing routes of others: %w", err)
	}
	return s.server.WatchEvent(ctx, server.WatchEventMessageCallbacks{OnPeerUpdate: s.follow}, server.WatchPeer())
}

// refuse has routes of others be none: they are neither kept nor told to anybody.
func (s *speaker) refuse(ctx context.Context) error {
	own := &api.Policy{Name: "own", Statements: []*api.Statement{{
		Name:       "own",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}}}
	if err := s.server.AddPolicy(ctx, &api.AddPolicyRequest{Policy: own}); err != nil {
		return err
	}
	return s.server.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
		Name: "global", Direction: api.PolicyDirection_POLICY_DIRECTION_IMPORT, Policies: []*api.Policy{own}, DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT,
	}})
}

// routerID is that of the configuration, or the address by which this host reaches the first
// neighbour of IPv4.
func (s *speaker) routerID() (netip.Addr, error) {
	if s.cfg.RouterID.IsValid() {
		return s.cfg.RouterID, nil
	}
	at := slices.IndexFunc(s.cfg.Neighbours, func(n bgp.Neighbour) bool { return n.Address.Is4() })
	to := netip.AddrPortFrom(s.cfg.Neighbours[at].Address, port)
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to)) // which sends nothing
	if err != nil {
		return netip.Addr{}, fmt.Errorf("router_id: this host has no address yet by which it reaches the neighbour %v: %w", to.Addr(), err)
	}
	defer func() { _ = conn.Close() }()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// announce announces what an order has and no order before it had, and withdraws the rest.
func (s *speaker) announce(order *bgp.Order) error {
	wanted := make(map[netip.Prefix]bool)
	var add, remove []*apiutil.Path
	for _, p := range order.Prefixes {
		wanted[p] = true
		if !s.has[p] {
			path, err := s.path(p)
			if err != nil {
				return err
			}
			add = append(add, path)
		}
	}
	for p := range s.has {
		if !wanted[p] {
			path, err := s.path(p)
			if err != nil {
				return err
			}
			remove = append(remove, path)
		}
	}
	if len(add) > 0 {
		if _, err := s.server.AddPath(apiutil.AddPathRequest{Paths: add}); err != nil {
			return fmt.Errorf("announcing: %w", err)
		}
	}
	if len(remove) > 0 {
		if err := s.server.DeletePath(apiutil.DeletePathRequest{Paths: remove}); err != nil {
			return fmt.Errorf("withdrawing: %w", err)
		}
	}
	s.has = wanted
	return nil
}

// path is the route to a prefix. A next hop without a value is this host's end of a session.
func (s *speaker) path(p netip.Prefix) (*apiutil.Path, error) {
	nlri, err := packet.NewIPAddrPrefix(p)
	if err != nil {
		return nil, fmt.Errorf("prefix %v: %w", p, err)
	}
	const igp = 0 // its origin: inside of this AS (RFC 4271 section 5.1.1)
	path := &apiutil.Path{Nlri: nlri, Age: time.Now().Unix(), Attrs: []packet.PathAttributeInterface{packet.NewPathAttributeOrigin(igp)}}
	next := s.cfg.NextHop(p.Addr().Is4())
	var hop packet.PathAttributeInterface
	if p.Addr().Is4() {
		if !next.IsValid() {
			next = netip.IPv4Unspecified()
		}
		path.Family = packet.RF_IPv4_UC
		hop, err = packet.NewPathAttributeNextHop(next)
	} else {
		if !next.IsValid() {
			next = netip.IPv6Unspecified()
		}
		path.Family = packet.RF_IPv6_UC
		hop, err = packet.NewPathAttributeMpReachNLRI(path.Family, []packet.PathNLRI{{NLRI: nlri}}, next)
	}
	if err != nil {
		return nil, fmt.Errorf("next hop %v of %v: %w", next, p, err)
	}
	path.Attrs = append(path.Attrs, hop)
	return path, nil
}

// report says how things stand, once the order of that number is carried out.
func (s *speaker) report(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number = number
	s.reportLocked()
}

// reportLocked is report of what changed since. The caller holds s.mu.
func (s *speaker) reportLocked() {
	r := bgp.Report{Number: s.number, RouterID: s.router, Neighbours: []bgp.Peer{}}
	for _, p := range s.peers {
		r.Neighbours = append(r.Neighbours, p.is)
	}
	_ = s.out.Encode(r) // nobody may be left to hear it
}
