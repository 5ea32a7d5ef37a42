package dnsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/sysbus"
)

// systemd-resolved on the bus, see org.freedesktop.resolve1(5).
const (
	resolvedName    = "org.freedesktop.resolve1"
	resolvedPath    = "/org/freedesktop/resolve1"
	resolvedManager = resolvedName + ".Manager"

	nameOwnerChanged = "NameOwnerChanged" // of the bus itself
)

// Waits for the host's resolver.
const (
	resolvedTimeout = 5 * time.Second  // for all the calls of a registration
	resolvedRetry   = 10 * time.Second // before the bus is looked for again, or resolved told again
)

// RegisterConfig is what the host's resolver is told of one network.
type RegisterConfig struct {
	// Ifindex is the bridge's.
	Ifindex int

	// Addrs are the gateway's addresses, at which the network's names are
	// asked.
	Addrs []netip.Addr

	// Port is where they are asked. 0: 53.
	Port uint16

	// Domain is the network's domain. Empty: none.
	Domain string

	// Prefixes are the network's subnets, whose reverse zones are registered.
	Prefixes []netip.Prefix

	// Logger gets messages. Nil: none are written.
	Logger *slog.Logger
}

// Resolved is systemd-resolved, for all the networks that are registered with it.
// They share one connection to the bus, which is there while there are any: a bus
// has few for one user. The zero value is ready; its method is safe for concurrent
// use.
type Resolved struct {
	mu   sync.Mutex
	conn *resolvedConn // nil: nobody is registered
}

// resolvedConn is a connection to the bus of which resolved's signals come.
type resolvedConn struct {
	*sysbus.Conn
	users int           // guarded by Resolved.mu
	turns chan struct{} // has a place for each network that may call at once
}

// resolvedCalls is how many calls wait for their answers at once: a part of the 128
// of one connection that the system bus allows unless it is told otherwise.
const resolvedCalls = 32

// Register tells systemd-resolved to ask the network's server for the network's
// domain and reverse zones, and for nothing else, so that the host finds the
// guests. It runs until ctx ends, tells resolved again whenever that starts, or
// when it took too long to answer, and takes it back in the end. It is no error,
// and only waited for, that there is no system bus or no resolved; what resolved
// refuses is logged. Errors are faults of cfg, found before anything is done.
//
// Who makes the bridge anew calls Register anew.
func (r *Resolved) Register(ctx context.Context, cfg RegisterConfig) error {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := cfg.validate(); err != nil {
		return fmt.Errorf("registering with the host's resolver: %w", err)
	}
	for ctx.Err() == nil {
		if err := r.attend(ctx, cfg); err != nil {
			cfg.Logger.Debug("the host's resolver is out of reach", keyError, err)
			pause(ctx, resolvedRetry)
		}
	}
	return nil
}

// attend keeps a registration up over one connection to the bus, until that is
// lost, which is an error, or ctx ends.
func (r *Resolved) attend(ctx context.Context, cfg RegisterConfig) error {
	conn, err := r.acquire(ctx)
	if err != nil {
		return err
	}
	defer r.release(conn)
	return cfg.attend(ctx, conn)
}

// acquire is the connection, to be given back by release.
func (r *Resolved) acquire(ctx context.Context) (*resolvedConn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil || !r.conn.Connected() {
		conn, err := connectResolved(ctx)
		if err != nil {
			return nil, err
		}
		r.conn = conn
	}
	r.conn.users++
	return r.conn, nil
}

// release closes conn when nobody uses it any more.
func (r *Resolved) release(conn *resolvedConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if conn.users--; conn.users > 0 {
		return
	}
	_ = conn.Close()
	if r.conn == conn {
		r.conn = nil
	}
}

// connectResolved joins the bus, to be told when resolved starts.
func connectResolved(ctx context.Context) (*resolvedConn, error) {
	// The connection outlives ctx: registrations are taken back over it.
	conn, err := sysbus.Connect(context.WithoutCancel(ctx))
	if err != nil {
		return nil, err
	}
	if err := conn.AddMatchSignalContext(ctx,
		dbus.WithMatchSender("org.freedesktop.DBus"),
		dbus.WithMatchInterface("org.freedesktop.DBus"),
		dbus.WithMatchMember(nameOwnerChanged),
		dbus.WithMatchArg(0, resolvedName),
	); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &resolvedConn{Conn: conn, turns: make(chan struct{}, resolvedCalls)}, nil
}

// turn waits until its caller may call, and end is to be called after that; it is
// nil when ctx ended first.
func (c *resolvedConn) turn(ctx context.Context) (end func()) {
	select {
	case c.turns <- struct{}{}:
		return func() { <-c.turns }
	case <-ctx.Done():
		return nil
	}
}

// call has resolved do something to a link. It does not start it: a host that has
// it but does not use it is left alone. The caller has its turn.
func (c *resolvedConn) call(ctx context.Context, method string, args ...any) error {
	resolved := c.Object(resolvedName, resolvedPath)
	return resolved.CallWithContext(ctx, resolvedManager+"."+method, dbus.FlagNoAutoStart, args...).Err
}

// validate returns every fault of cfg, joined.
func (cfg RegisterConfig) validate() error {
	var errs []error
	if cfg.Ifindex <= 0 {
		errs = append(errs, fmt.Errorf("ifindex %d: no interface", cfg.Ifindex))
	}
	errs = append(errs, Config{Addrs: cfg.Addrs, Prefixes: cfg.Prefixes}.validateLists())
	if cfg.Domain != "" {
		errs = append(errs, checkNames("domain", cfg.Domain))
	}
	return errors.Join(errs...)
}

// attend is Resolved.attend over conn.
func (cfg RegisterConfig) attend(ctx context.Context, conn *resolvedConn) error {
	owners := make(chan *dbus.Signal, 16)
	conn.Signal(owners)
	defer conn.RemoveSignal(owners)
	again := time.NewTicker(resolvedRetry)
	defer again.Stop()
	told := cfg.register(ctx, conn)
	for {
		select {
		case <-ctx.Done():
			cfg.revert(context.WithoutCancel(ctx), conn)
			return nil
		case <-conn.Context().Done():
			return errConnectionLost
		case s, ok := <-owners:
			if !ok {
				return errConnectionLost
			}
			if hasOwner(s) {
				told = cfg.register(ctx, conn)
			}
		case <-again.C:
			if !told {
				told = cfg.register(ctx, conn)
			}
		}
	}
}

// errConnectionLost says that the bus has gone away.
var errConnectionLost = errors.New("the connection to the bus was lost")

// hasOwner tells whether s says that resolved has started: NameOwnerChanged(name,
// old owner, new owner).
func hasOwner(s *dbus.Signal) bool {
	if len(s.Body) != 3 || s.Body[0] != resolvedName {
		return false
	}
	owner, _ := s.Body[2].(string)
	return owner != ""
}

// linkDNS is a server: address family and octets, D-Bus type (iay).
type linkDNS struct {
	Family  int32
	Address []byte
}

// linkDomain is a domain, D-Bus type (sb).
type linkDomain struct {
	Name      string
	RouteOnly bool // it says who is asked, and is not appended to names
}

// linkDNSEx is a server with its port and its name, none, D-Bus type (iayqs).
type linkDNSEx struct {
	Family  int32
	Address []byte
	Port    uint16
	Name    string
}

// setting is a call of resolved's that concerns a link.
type setting struct {
	method string
	arg    any
}

// register tells resolved everything. It returns false when that took too long.
func (cfg RegisterConfig) register(ctx context.Context, conn *resolvedConn) bool {
	end := conn.turn(ctx)
	if end == nil {
		return false
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, resolvedTimeout)
	defer cancel()
	for _, c := range []setting{
		{"SetLinkDefaultRoute", false},
		{"SetLinkDNSSEC", "no"},
		{"SetLinkDNSOverTLS", "no"},
		{"SetLinkDomains", cfg.domains()},
		cfg.setServers(),
	} {
		err := conn.call(ctx, c.method, int32(cfg.Ifindex), c.arg)
		switch {
		case isAbsent(err):
			return true // it says when it starts
		case ctx.Err() != nil:
			return false
		case err != nil:
			cfg.Logger.Warn("the host's resolver refused a setting", "method", c.method, keyError, err)
		}
	}
	cfg.Logger.Info("registered with the host's resolver", "domain", cfg.Domain)
	return true
}

// revert takes everything back.
func (cfg RegisterConfig) revert(ctx context.Context, conn *resolvedConn) {
	ctx, cancel := context.WithTimeout(ctx, resolvedTimeout)
	defer cancel()
	end := conn.turn(ctx)
	if end == nil {
		return
	}
	defer end()
	err := conn.call(ctx, "RevertLink", int32(cfg.Ifindex))
	if err != nil && !isAbsent(err) { // a bridge that is gone is no link of resolved's any more
		cfg.Logger.Debug("taking back the registration with the host's resolver", keyError, err)
	}
}

// isAbsent tells whether a call failed since nobody has the name.
func isAbsent(err error) bool {
	var e dbus.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Name {
	case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner":
		return true
	}
	return false
}

// setServers tells of cfg.Addrs. Every systemd-resolved understands it for the
// usual port; for another systemd 246 is needed.
func (cfg RegisterConfig) setServers() setting {
	var usual []linkDNS
	var other []linkDNSEx
	for _, a := range cfg.Addrs {
		family := int32(unix.AF_INET6)
		if a = a.Unmap(); a.Is4() {
			family = unix.AF_INET
		}
		usual = append(usual, linkDNS{Family: family, Address: a.AsSlice()})
		other = append(other, linkDNSEx{Family: family, Address: a.AsSlice(), Port: cfg.Port})
	}
	if cfg.Port == 0 || cfg.Port == defaultPort {
		return setting{"SetLinkDNS", usual}
	}
	return setting{"SetLinkDNSEx", other}
}

// domains are the domain and the reverse zones.
func (cfg RegisterConfig) domains() []linkDomain {
	domains := make([]linkDomain, 0, 1+len(cfg.Prefixes))
	if cfg.Domain != "" {
		domains = append(domains, linkDomain{Name: strings.TrimSuffix(cfg.Domain, "."), RouteOnly: true})
	}
	for _, p := range cfg.Prefixes {
		for _, zone := range reverseZones(p.Masked()) {
			domains = append(domains, linkDomain{Name: strings.TrimSuffix(zone, "."), RouteOnly: true})
		}
	}
	return domains
}

// maxReverseZones is how many zones stand for one subnet at most.
const maxReverseZones = 16

// reverseZones are the zones that have the reverse names of p and no others. If
// those are too many it is the one that has them all.
func reverseZones(p netip.Prefix) []string {
	step := 4 // bits of a label
	if p.Addr().Is4() {
		step = 8
	}
	bits := (p.Bits() + step - 1) / step * step
	if count := 1 << (bits - p.Bits()); count > 1 && count <= maxReverseZones {
		zones := make([]string, 0, count)
		a := p.Addr()
		for range count {
			zones = append(zones, reverseZone(netip.PrefixFrom(a, bits)))
			a = after(a, bits)
		}
		return zones
	}
	return []string{reverseZone(p)}
}

// after is the first address behind the prefix of a that is bits long.
func after(a netip.Addr, bits int) netip.Addr {
	raw := a.AsSlice()
	carry := 1 << (7 - (bits-1)%8)
	for i := (bits - 1) / 8; i >= 0 && carry > 0; i-- {
		sum := int(raw[i]) + carry
		raw[i], carry = byte(sum), sum>>8
	}
	next, _ := netip.AddrFromSlice(raw)
	return next
}
