package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// What is usual where the configuration does not say.
const (
	UsualHold    = 90 * time.Second
	UsualRetry   = 5 * time.Second
	UsualRestart = 2 * time.Minute
)

// The bounds of times. A hold time is at least three seconds (RFC 4271 section 4.2), a restart
// time has twelve bits (RFC 4724 section 3).
const (
	minHold    = 3 * time.Second
	maxHold    = 65535 * time.Second
	minRetry   = 2 * time.Second
	maxRetry   = 10 * time.Minute
	minRestart = time.Second
	maxRestart = 4095 * time.Second
)

// Config is how this host speaks BGP.
type Config struct {
	AS uint32 `json:"as"` // this host's
	// RouterID is an address of IPv4 that no other speaker has; invalid: that by which this host
	// reaches the first neighbour of IPv4.
	RouterID netip.Addr `json:"router_id,omitzero"`
	// Listen are addresses of this host at which neighbours may connect; none: it connects alone.
	Listen []netip.Addr `json:"listen,omitempty"`
	// NextHops are the addresses that routers send what is for guests to, at most one of a
	// family; where there is none, this host's end of the session.
	NextHops []netip.Addr  `json:"next_hops,omitempty"`
	Restart  time.Duration `json:"restart"` // how long routers keep routes while no vnetd runs; whole seconds

	Neighbours []Neighbour `json:"neighbours"`
}

// Neighbour is a router that is told.
type Neighbour struct {
	Address      netip.Addr    `json:"address"`
	AS           uint32        `json:"as"`
	PasswordFile string        `json:"password_file,omitempty"` // of TCP MD5 (RFC 2385); empty: none
	Hold         time.Duration `json:"hold"`                    // whole seconds
	Retry        time.Duration `json:"retry"`                   // between attempts to connect; whole seconds
	Hops         int           `json:"hops"`                    // how far it is at most, 1 for a router on this host's link; of another AS
}

// Families are those that n is told of: its own, and the other where the next hop is known.
func (c *Config) Families(n *Neighbour) (v4, v6 bool) {
	has := func(is func(netip.Addr) bool) bool { return is(n.Address) || slices.ContainsFunc(c.NextHops, is) }
	return has(netip.Addr.Is4), has(netip.Addr.Is6)
}

// NextHop is where what is for guests of a family is to be sent; invalid: to this host's end of
// the session.
func (c *Config) NextHop(v4 bool) netip.Addr {
	for _, a := range c.NextHops {
		if a.Is4() == v4 {
			return a
		}
	}
	return netip.Addr{}
}

// Check finds what can't be, each with its key as vnetd.toml has it below [bgp].
func (c *Config) Check() []error {
	return slices.Concat(c.checkIdentity(), c.checkAddresses(), c.checkNeighbours())
}

// checkIdentity checks who this host is, and for how long routers believe it.
func (c *Config) checkIdentity() (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.AS == 0 {
		fault("as: missing, want the number of this host's autonomous system, 64512 to 65534 or 4200000000 to 4294967294 for private use")
	}
	if c.RouterID.IsValid() && (!c.RouterID.Is4() || c.RouterID.IsUnspecified()) {
		fault("router_id: %q: want an address of IPv4 that no other speaker has", c.RouterID)
	}
	if !c.RouterID.IsValid() && !slices.ContainsFunc(c.Neighbours, func(n Neighbour) bool { return n.Address.Is4() }) {
		fault("router_id: missing, want an address of IPv4 that no other speaker has: no neighbour is of IPv4, by which it could be chosen")
	}
	if err := checkTime(c.Restart, minRestart, maxRestart); err != nil {
		fault("restart_time: %w", err)
	}
	return faults
}

// checkAddresses checks addresses of this host.
func (c *Config) checkAddresses() (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	for i, a := range c.Listen {
		if !usable(a) && !a.IsUnspecified() {
			fault("listen: %q: want an address of this host, without a port", a)
		} else if slices.Contains(c.Listen[:i], a) {
			fault("listen: %q: want each address once", a)
		}
	}
	for i, a := range c.NextHops {
		if !usable(a) {
			fault("next_hop: %q: want an address of this host that routers reach", a)
		} else if slices.ContainsFunc(c.NextHops[:i], func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			fault("next_hop: %q: want one address of a family at most", a)
		}
	}
	return faults
}

// checkNeighbours checks who is told.
func (c *Config) checkNeighbours() (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(c.Neighbours) == 0 {
		fault("neighbour: missing, want at least one [[bgp.neighbour]]")
	}
	for i := range c.Neighbours {
		n := &c.Neighbours[i]
		for _, err := range n.check() {
			fault("neighbour[%d].%w", i+1, err)
		}
		if slices.ContainsFunc(c.Neighbours[:i], func(o Neighbour) bool { return o.Address == n.Address }) {
			fault("neighbour[%d].address: %q: want each neighbour once", i+1, n.Address)
		}
		if n.AS == c.AS && n.Hops > 1 {
			fault("neighbour[%d].multihop: %d: not for a neighbour of the same AS, which may be any number of hops away", i+1, n.Hops)
		}
	}
	return faults
}

// maxHops is the largest TTL.
const maxHops = 255

// check finds what can't be of n.
func (n *Neighbour) check() (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !usable(n.Address) {
		fault("address: %q: want the address of a router", n.Address)
	}
	if n.AS == 0 {
		fault("as: missing, want the number of the neighbour's autonomous system")
	}
	if err := checkTime(n.Hold, minHold, maxHold); err != nil {
		fault("hold_time: %w", err)
	}
	if err := checkTime(n.Retry, minRetry, maxRetry); err != nil {
		fault("connect_retry: %w", err)
	}
	if n.Hops < 1 || n.Hops > maxHops {
		fault("multihop: %d: want 1 to %d hops", n.Hops, maxHops)
	}
	return faults
}

// usable reports whether an address is one that somebody has, in the form that sessions have.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && a.Zone() == "" && (a.IsGlobalUnicast() || a.IsLoopback())
}

// checkTime holds that d is of whole seconds within bounds.
func checkTime(d, least, most time.Duration) error {
	if d < least || d > most || d%time.Second != 0 {
		return fmt.Errorf("%v: want whole seconds from %v to %v", d, least, most)
	}
	return nil
}
