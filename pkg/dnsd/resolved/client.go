// Package resolved tells systemd-resolved, the host's own resolver, what to ask a
// network's name server for.
package resolved

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/internal/sysbus"
)

// systemd-resolved on the bus, see org.freedesktop.resolve1(5).
const (
	busName = "org.freedesktop.resolve1"
	path    = "/org/freedesktop/resolve1"
	manager = busName + ".Manager"

	nameOwnerChanged = "NameOwnerChanged" // of the bus itself

	properties        = "org.freedesktop.DBus.Properties"
	propertiesChanged = properties + ".PropertiesChanged"
)

// Waits for the host's resolver.
const (
	timeout = 5 * time.Second  // for all the calls of a registration
	retry   = 10 * time.Second // before the bus is looked for again, or resolved told again
)

// Client registers networks with systemd-resolved. They share one connection to
// the bus, which is there while there are any: a bus has few for one user. The
// zero value is ready; its method is safe for concurrent use.
type Client struct {
	mu   sync.Mutex
	conn *connection // nil: no network is registered
}

// connection is a connection to the bus of which resolved's signals come.
type connection struct {
	*sysbus.Conn
	users int           // guarded by Client.mu
	turns chan struct{} // has room for each network that may call at once
}

// maxCalls is how many calls wait for their answers at once: a part of the 128
// of one connection that the system bus allows unless it is told otherwise.
const maxCalls = 32

// Register tells systemd-resolved to ask the network's server for the network's
// domain and reverse zones, and for nothing else, so that the host finds the
// guests. It runs until ctx ends, tells resolved again whenever that starts, or
// when it took too long to answer, and takes it back in the end. It is no error,
// and only waited for, that there is no system bus or no resolved; what resolved
// refuses is logged. Errors are faults of cfg, found before anything is done.
//
// A caller who makes the bridge anew calls Register anew.
func (c *Client) Register(ctx context.Context, cfg Config) error {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := cfg.validate(); err != nil {
		return fmt.Errorf("registering with the host's resolver: %w", err)
	}
	for ctx.Err() == nil {
		if err := c.session(ctx, cfg); err != nil {
			cfg.Logger.Debug("the host's resolver is out of reach", "error", err)
			select {
			case <-time.After(retry):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// session keeps a registration up over one connection to the bus, until that is
// lost, which is an error, or ctx ends.
func (c *Client) session(ctx context.Context, cfg Config) error {
	conn, err := c.acquire(ctx)
	if err != nil {
		return err
	}
	defer c.release(conn)
	return cfg.session(ctx, conn)
}

// acquire returns the connection, to be given back by release.
func (c *Client) acquire(ctx context.Context) (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil || !c.conn.Connected() {
		conn, err := connect(ctx)
		if err != nil {
			return nil, err
		}
		c.conn = conn
	}
	c.conn.users++
	return c.conn, nil
}

// release closes conn when no network uses it any more.
func (c *Client) release(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn.users--; conn.users > 0 {
		return
	}
	_ = conn.Close()
	if c.conn == conn {
		c.conn = nil
	}
}

// connect joins the bus, to be told when resolved starts.
func connect(ctx context.Context) (*connection, error) {
	// The connection outlives ctx: registrations are taken back over it.
	conn, err := sysbus.Connect(context.WithoutCancel(ctx))
	if err != nil {
		return nil, err
	}
	if err := conn.AddMatchSignalContext(ctx,
		dbus.WithMatchSender("org.freedesktop.DBus"),
		dbus.WithMatchInterface("org.freedesktop.DBus"),
		dbus.WithMatchMember(nameOwnerChanged),
		dbus.WithMatchArg(0, busName),
	); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	// Of the manager: resolved tells there of changes to any link.
	if err := conn.AddMatchSignalContext(ctx,
		dbus.WithMatchSender(busName), dbus.WithMatchObjectPath(path), dbus.WithMatchInterface(properties),
	); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &connection{Conn: conn, turns: make(chan struct{}, maxCalls)}, nil
}

// turn waits until its caller may call. It returns a function to be called after
// that, or nil when ctx ended first.
func (c *connection) turn(ctx context.Context) (end func()) {
	select {
	case c.turns <- struct{}{}:
		return func() { <-c.turns }
	case <-ctx.Done():
		return nil
	}
}

// call has resolved do something to a link. It does not start it: a host that has
// it but does not use it is left alone. The caller has its turn.
func (c *connection) call(ctx context.Context, method string, args ...any) error {
	resolved := c.Object(busName, path)
	return resolved.CallWithContext(ctx, manager+"."+method, dbus.FlagNoAutoStart, args...).Err
}

// property reads a property of a link of resolved's. The caller has its turn.
func (c *connection) property(ctx context.Context, link dbus.ObjectPath, name string, value any) error {
	var v dbus.Variant
	err := c.Object(busName, link).CallWithContext(ctx, properties+".Get", dbus.FlagNoAutoStart, busName+".Link", name).Store(&v)
	if err != nil {
		return err
	}
	return dbus.Store([]any{v.Value()}, value)
}

// linkPath is the object of the link with that ifindex: an object's name that begins with
// a digit has that escaped (sd_bus_path_encode(3)).
func linkPath(ifindex int) dbus.ObjectPath {
	number := strconv.Itoa(ifindex)
	return dbus.ObjectPath(fmt.Sprintf("%s/link/_%02x%s", path, number[0], number[1:]))
}
