package resolved

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/contention"
	"github.com/vnetd/vnetd/internal/dnsname"
	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

const dnsPort = 53

// Config says what the host's resolver is told of one network.
type Config struct {
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

// validate returns every fault of cfg, joined.
func (cfg Config) validate() error {
	var errs []error
	if cfg.Ifindex <= 0 {
		errs = append(errs, fmt.Errorf("ifindex %d: no interface", cfg.Ifindex))
	}
	if len(cfg.Addrs) == 0 {
		errs = append(errs, errors.New("addrs: no address to serve on"))
	}
	for i, a := range cfg.Addrs {
		if !a.IsValid() {
			errs = append(errs, fmt.Errorf("addrs[%d]: no address", i))
		}
	}
	for i, p := range cfg.Prefixes {
		if !p.IsValid() {
			errs = append(errs, fmt.Errorf("prefixes[%d]: no prefix", i))
		}
	}
	if _, err := dnsname.Host(cfg.Domain); cfg.Domain != "" && err != nil {
		errs = append(errs, fmt.Errorf("domain: name %q: not a domain name", cfg.Domain))
	}
	return errors.Join(errs...)
}

// session is Client.session over conn.
func (cfg Config) session(ctx context.Context, conn *connection) error {
	owners := make(chan *dbus.Signal, 16)
	conn.Signal(owners)
	defer conn.RemoveSignal(owners)
	again := time.NewTicker(retry)
	defer again.Stop()
	soon := time.NewTimer(time.Hour) // to look whether the registration still is there
	defer soon.Stop()
	var limit contention.Limiter
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
			if s.Name == propertiesChanged {
				soon.Reset(settleTime)
			}
		case <-again.C:
			told = told && !cfg.lost(ctx, conn, &limit) || cfg.register(ctx, conn)
		case <-soon.C:
			if told && cfg.lost(ctx, conn, &limit) {
				told = cfg.register(ctx, conn)
			}
		}
	}
}

// settleTime is how long resolved's settings have to be at rest before they are looked at.
const settleTime = 300 * time.Millisecond

// lost reports whether somebody has changed what resolved was told of the link, and that
// may be mended now: `resolvectl revert`, or a program that manages networks. What
// resolved does not tell is taken to be as it was.
func (cfg Config) lost(ctx context.Context, conn *connection, limit *contention.Limiter) bool {
	end := conn.turn(ctx)
	if end == nil {
		return false
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var domains []linkDomain
	var servers []linkDNS
	path := linkPath(cfg.Ifindex)
	if conn.property(ctx, path, "Domains", &domains) != nil || conn.property(ctx, path, "DNS", &servers) != nil {
		return false
	}
	same := func(a, b linkDomain) int { return strings.Compare(a.Name, b.Name) }
	want := cfg.domains()
	slices.SortFunc(want, same)
	slices.SortFunc(domains, same)
	if slices.Equal(want, domains) && len(servers) == len(cfg.Addrs) || limit.Wait(time.Now()) > 0 {
		return false
	}
	limit.Repaired(time.Now())
	cfg.Logger.Warn("the registration with the host's resolver was changed: registering again", "domain", cfg.Domain)
	return true
}

// errConnectionLost says that the bus has gone away.
var errConnectionLost = errors.New("the connection to the bus was lost")

// hasOwner reports whether s says that resolved has started: NameOwnerChanged(name,
// old owner, new owner).
func hasOwner(s *dbus.Signal) bool {
	if len(s.Body) != 3 || s.Body[0] != busName {
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

// register tells resolved everything. It returns false when it took too long.
func (cfg Config) register(ctx context.Context, conn *connection) bool {
	end := conn.turn(ctx)
	if end == nil {
		return false
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, timeout)
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
			cfg.Logger.Warn("the host's resolver refused a setting", "method", c.method, "error", err)
		}
	}
	cfg.Logger.Info("registered with the host's resolver", "domain", cfg.Domain)
	return true
}

// revert takes everything back.
func (cfg Config) revert(ctx context.Context, conn *connection) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	end := conn.turn(ctx)
	if end == nil {
		return
	}
	defer end()
	err := conn.call(ctx, "RevertLink", int32(cfg.Ifindex))
	if err != nil && !isAbsent(err) { // a bridge that is gone is no link of resolved's any more
		cfg.Logger.Debug("taking back the registration with the host's resolver", "error", err)
	}
}

// isAbsent reports whether a call failed since resolved does not run.
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

// setServers returns the call that sets cfg.Addrs. Every systemd-resolved understands it for the
// usual port; for another systemd 246 is needed.
func (cfg Config) setServers() setting {
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
	if cfg.Port == 0 || cfg.Port == dnsPort {
		return setting{"SetLinkDNS", usual}
	}
	return setting{"SetLinkDNSEx", other}
}

// domains returns the domain and the reverse zones.
func (cfg Config) domains() []linkDomain {
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

// reverseZones returns the zones that have the reverse names of p and no others,
// or, if those are too many, the one that has them all.
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
			zones = append(zones, wire.ReverseZone(netip.PrefixFrom(a, bits)))
			a = after(a, bits)
		}
		return zones
	}
	return []string{wire.ReverseZone(p)}
}

// after returns the first address behind the prefix of a that is bits long.
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
