package dbusapi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/internal/quota"
	"github.com/vnetd/vnetd/internal/sysbus"
)

// Server answers for a Manager on the system bus.
type Server struct {
	tree   tree
	conn   *sysbus.Conn
	cancel func() // ends the subscription to the manager's events

	running sync.WaitGroup
}

// ErrNameTaken is returned by Serve when another process owns the name.
var ErrNameTaken = errors.New("another process owns " + busName + " on the bus")

// How long a connection that was lost waits before it is made again: doubled
// from the first to the last.
const (
	reconnectFirst = 100 * time.Millisecond
	reconnectLast  = 10 * time.Second
)

// Connect joins the system bus, at DBUS_SYSTEM_BUS_ADDRESS where that is set,
// without a name yet. Serve must follow.
func Connect(cfg Config) (*Server, error) {
	who := &rights{
		log: cfg.Logger, bridgeACL: cfg.BridgeACL,
		clients: clients{users: quota.New(), known: make(map[string]*clientState)},
	}
	d := &dispatcher{ready: make(chan struct{}), clients: &who.clients}
	conn, err := sysbus.Serve(context.Background(), d.arrive, dbus.WithHandler(d), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		return nil, fmt.Errorf("connecting to the system bus: %w", err)
	}
	who.conn = conn
	d.conn, d.tree = conn, tree{
		&objects{
			cfg: cfg, rights: who, pace: newPacer(cfg.PortsPerSecond),
			holders: &holders{conn: conn, manager: cfg.Manager, clients: &who.clients},
		},
		&announcer{conn: conn, log: cfg.Logger, known: make(map[dbus.ObjectPath]map[string]dbus.Variant)},
	}
	close(d.ready)
	return &Server{tree: d.tree, conn: conn}, nil
}

// Serve claims the name and answers until ctx ends; when the bus goes away for
// a while, it comes back by itself. ready is called once, as soon as the name
// is owned. The error says why it could not be in the first place.
func (s *Server) Serve(ctx context.Context, ready func()) error {
	if err := s.claim(); err != nil {
		return errors.Join(err, s.conn.Close())
	}
	ready()
	for s.untilLost(ctx); ctx.Err() == nil; s.untilLost(ctx) {
		s.tree.cfg.Logger.Warn("connection to the bus lost: connecting again")
		if s = reconnect(ctx, s.tree.cfg); s == nil {
			break
		}
	}
	return nil
}

// reconnect tries until it succeeds; nil when ctx ends before.
func reconnect(ctx context.Context, cfg Config) *Server {
	for wait := reconnectFirst; ; wait = min(2*wait, reconnectLast) {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		s, err := Connect(cfg)
		if err != nil {
			continue
		}
		if err = s.claim(); err == nil {
			return s
		}
		cfg.Logger.Warn("coming back to the bus", "error", errors.Join(err, s.conn.Close()))
	}
}

// claim subscribes to what happens from now on and takes the name on the bus.
func (s *Server) claim() error {
	if err := s.tree.holders.follow(s.conn.Context(), &s.running); err != nil {
		return err
	}
	s.cancel = s.tree.learn()
	reply, err := s.conn.RequestName(busName, dbus.NameFlagDoNotQueue)
	if err == nil && reply != dbus.RequestNameReplyPrimaryOwner {
		err = ErrNameTaken
	}
	if err != nil {
		s.cancel()
		return fmt.Errorf("claiming %s: %w", busName, err)
	}
	return nil
}

// untilLost waits for the end of ctx or of the connection, and closes up.
func (s *Server) untilLost(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-s.conn.Context().Done():
	}
	s.cancel()
	if err := s.conn.Close(); err != nil {
		s.tree.cfg.Logger.Debug("closing the bus connection", "error", err)
	}
	s.running.Wait()
}
