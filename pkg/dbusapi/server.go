package dbusapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/time/rate"

	"github.com/vnetd/vnetd/internal/sysbus"
	"github.com/vnetd/vnetd/pkg/network"
)

// Config is what a Server works with. Manager, Version, Reload, ImportPending,
// ImportDone and Logger must be set.
type Config struct {
	Manager *network.Manager
	Version string
	Reload  func(ctx context.Context) error // what the Reload method does
	Logger  *slog.Logger
	// LogLevel is the logger's, which a client may change.
	LogLevel *slog.LevelVar

	// ImportPending reports whether libvirt's networks are to be imported on the first
	// occasion, and ImportDone says that they are.
	ImportPending func() bool
	ImportDone    func() error

	// BridgeACL is QEMU's list of who may use which bridge. Empty: none.
	BridgeACL string
	// PortsPerSecond is how often one user may request a port. 0: no limit.
	PortsPerSecond int
}

// Server answers for a Manager on the system bus.
type Server struct {
	cfg    Config
	conn   *sysbus.Conn
	cancel func() // ends the subscription to the manager's events

	busID   string // of the bus; tells its clients from those of another
	clients clients
	pace    *pacer
	running sync.WaitGroup

	mu sync.Mutex
	// known is what the bus has been told of each object, by path; guarded by mu.
	known  map[dbus.ObjectPath]map[string]dbus.Variant
	leases sysbus.Signals // to be sent; guarded by mu
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
	s := &Server{
		cfg: cfg, known: make(map[dbus.ObjectPath]map[string]dbus.Variant), pace: &pacer{perSecond: cfg.PortsPerSecond, users: make(map[uint32]*rate.Limiter)},
	}
	conn, err := sysbus.Connect(context.Background(), dbus.WithHandler(s), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		return nil, fmt.Errorf("connecting to the system bus: %w", err)
	}
	s.conn = conn
	return s, nil
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
		s.cfg.Logger.Warn("connection to the bus lost: connecting again")
		if s = reconnect(ctx, s.cfg); s == nil {
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
	if err := s.followClients(s.conn.Context()); err != nil {
		return err
	}
	s.learn()
	s.cancel = s.cfg.Manager.Subscribe(s.onEvent)
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
		s.cfg.Logger.Debug("closing the bus connection", "error", err)
	}
	s.running.Wait()
}
