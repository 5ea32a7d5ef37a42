// Package vxlan owns the ends of tunnels by which a bridge is one with bridges of other hosts
// (RFC 7348): their devices, whom they send what floods, and behind which host a card is.
// Package bridge plugs them in.
package vxlan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// Kind is the kernel's name of the device type.
const Kind = "vxlan"

// ErrTaken says that the host has another link of the name, or another tunnel with the VNI at
// the port.
var ErrTaken = errors.New("another program has such a device")

// ErrUnsupported says that the kernel has no VXLAN.
var ErrUnsupported = errors.New("this kernel has no VXLAN, want CONFIG_VXLAN: modprobe vxlan")

// maxLearned is how many cards a tunnel learns at most. What is sent to those beyond it goes
// to all peers.
const maxLearned = 1 << 16

// Config is what a tunnel's end shall be.
type Config struct {
	Name  string
	VNI   int
	Local netip.Addr // of this host
	Port  uint16     // of UDP, here and there
	// Peers are the hosts that get what floods: frames to groups, and to cards of which it is
	// not known behind which host they are.
	Peers []netip.Addr
	// Learning has the device learn that from the frames that come. Cards beside that says of
	// some. Both change while the tunnel is at work.
	Learning bool
	Cards    []Card
	Alias    string // what the link says of itself, by which it is known as ours
	// Amend is asked of what differs on a device that is there, and of its absence.
	Amend bridge.Amend
}

// Card is one behind a host, on a bridge that this host's is one with.
type Card struct {
	MAC  [6]byte
	Peer netip.Addr
	Hold Hold
}

// Hold is how fast the device's bridge takes a card to be behind the device.
type Hold int

// How fast that is.
const (
	// Fast stands whatever comes by other ports.
	Fast Hold = iota
	// Loose stands until a frame of the card comes by a port that learns, and then is the
	// kernel's doing: it is not put back.
	Loose
	// Unsaid is not said to the bridge, which floods.
	Unsaid
)

// Tunnels speaks with the kernel about tunnels of one network namespace, that of the thread
// that first asks. The zero Tunnels can be used; Close it. Its methods may be called
// concurrently.
type Tunnels struct {
	socket netlink.Lazy
	addresses
}

// Close gives up the connection to the kernel. Tunnels stay.
func (t *Tunnels) Close() {
	t.socket.Close()
	t.addresses.close()
}

// Ensure makes the device that cfg asks for, which is down then and on no bridge, or brings
// the one that is there to it, and returns its ifindex; 0 where cfg.Amend leaves it away.
// plugged reports whether it is on a bridge, which is told of cfg.Cards only then. The error is
// ErrTaken where another program has what it needs, ErrUnsupported where the kernel has no such
// devices.
func (t *Tunnels) Ensure(ctx context.Context, cfg Config) (ifindex int, plugged bool, err error) {
	if err := cfg.validate(); err != nil {
		return 0, false, fmt.Errorf("tunnel %q: %w", cfg.Name, err)
	}
	s, err := t.socket.Open()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return 0, false, fmt.Errorf("tunnel %q: %w", cfg.Name, err)
	}
	l, err := cfg.device(s)
	if err == nil && l.index != 0 {
		err = cfg.settle(s, &l)
	}
	if err != nil {
		return 0, false, fmt.Errorf("tunnel %q: %w", cfg.Name, err)
	}
	return l.index, l.master != 0, nil
}

// validate refuses what the kernel would misunderstand or refuse late.
func (c *Config) validate() error {
	switch {
	case !ether.ValidName(c.Name):
		return errors.New("invalid name for a link")
	case c.VNI <= 0 || c.VNI >= 1<<24:
		return fmt.Errorf("VNI %d: want 1 to %d", c.VNI, 1<<24-1)
	case c.Port == 0:
		return errors.New("port 0: want 1 to 65535")
	case c.Alias == "":
		return errors.New("no alias, by which it is known")
	}
	for _, p := range append([]netip.Addr{c.Local}, c.Peers...) {
		if !p.IsValid() || p.Is4In6() || p.Zone() != "" || p.Is4() != c.Local.Is4() {
			return fmt.Errorf("address %v: want addresses of one family", p)
		}
	}
	return nil
}

// device finds the device or makes it anew; its index is 0 where cfg.Amend leaves that.
func (c *Config) device(s *netlink.Socket) (device, error) {
	want := device{name: c.Name, vni: c.VNI, local: c.Local, port: c.Port, learning: c.Learning, alias: c.Alias, kind: Kind}
	l, err := byName(s, c.Name)
	switch {
	case err != nil:
		return device{}, err
	case l.index == 0:
		if c.Amend != nil && !c.Amend(bridge.Difference{Link: c.Name, Aspect: bridge.AspectTunnel, Want: want.String()}) {
			return device{}, nil
		}
		return c.create(s)
	case l.alias == "" && l.tunnel() == want.tunnel():
		return l, c.claim(s, l.index) // its maker ended before it could
	case l.kind != Kind || l.alias != c.Alias:
		return device{}, fmt.Errorf("%w: link %q of kind %q says of itself %q: delete it, or choose another VNI", ErrTaken, c.Name, l.kind, l.alias)
	case l.tunnel() == want.tunnel():
		return l, nil
	}
	if c.Amend != nil && !c.Amend(bridge.Difference{Link: c.Name, Aspect: bridge.AspectTunnel, Has: l.String(), Want: want.String()}) {
		return l, nil
	}
	if err := s.RemoveLink(l.index); err != nil {
		return device{}, err
	}
	return c.create(s)
}

// create makes the device. One of ours that somebody has given another name is in the way, and
// goes.
func (c *Config) create(s *netlink.Socket) (device, error) {
	err := errors.Join(s.Do(c.creation())...)
	if errors.Is(err, unix.EEXIST) {
		if renamed, found := c.renamed(s); found {
			err = errors.Join(append([]error{s.RemoveLink(renamed.index)}, s.Do(c.creation())...)...)
		}
	}
	switch {
	case errors.Is(err, unix.EEXIST):
		return device{}, fmt.Errorf("%w: VNI %d at port %d is that of another device", ErrTaken, c.VNI, c.Port)
	case errors.Is(err, unix.EOPNOTSUPP):
		return device{}, fmt.Errorf("%w: %w", ErrUnsupported, err)
	case err != nil:
		return device{}, fmt.Errorf("making the device: %w", err)
	}
	l, err := byName(s, c.Name)
	if err != nil || l.index == 0 {
		return l, err
	}
	l.fresh = true
	return l, c.claim(s, l.index)
}

// claim has a device that was just made say whose it is, and nothing by itself: what this host
// would send by it, as who wants what is for routers, would pass no hook of the bridge.
func (c *Config) claim(s *netlink.Socket, index int) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+c.Name+"/disable_ipv6", []byte("1"), 0o644)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a host without IPv6
		return fmt.Errorf("having no IPv6 on the device: %w", err)
	}
	return errors.Join(s.Do(setAlias(index, c.Alias))...)
}

// renamed is the device of ours under another name.
func (c *Config) renamed(s *netlink.Socket) (device, bool) {
	bodies, err := s.Dump(request(unix.RTM_GETLINK, unix.NLM_F_DUMP, netlink.LinkHeader(0)), unix.RTM_NEWLINK)
	if err != nil {
		return device{}, false
	}
	for _, b := range bodies {
		if l := parseDevice(b); l.kind == Kind && l.alias == c.Alias {
			return l, true
		}
	}
	return device{}, false
}

// settle brings what the device forwards to what it shall be.
func (c *Config) settle(s *netlink.Socket, l *device) error {
	var entries []entry
	if !l.fresh {
		var err error
		if entries, err = listEntries(s, l.index); err != nil {
			return err
		}
	}
	var messages [][]byte
	for _, one := range c.changes(l, entries) {
		if c.Amend == nil || c.Amend(one.difference(c.Name)) {
			messages = append(messages, one.message)
		}
	}
	if len(messages) == 0 {
		return nil
	}
	for _, err := range s.Do(messages...) {
		// An entry that another program took or made meanwhile is as it shall be.
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("setting whom the tunnel sends to: %w", err)
		}
	}
	return nil
}

// Remove deletes the device of that name if it is one of ours, by its alias. One that is gone,
// or is another's, is success.
func (t *Tunnels) Remove(name, alias string) error {
	s, err := t.socket.Open()
	if err != nil {
		return err
	}
	l, err := byName(s, name)
	if err == nil && l.index == 0 {
		c := Config{Alias: alias}
		l, _ = c.renamed(s)
	}
	if err != nil || l.index == 0 || l.kind != Kind || l.alias != alias {
		return err
	}
	if err := s.RemoveLink(l.index); err != nil {
		return fmt.Errorf("removing tunnel %q: %w", name, err)
	}
	return nil
}

// RouteMulticast has the port of a bridge with that ifindex get all frames to groups and all
// that is said about who wants them, where the bridge looks at that: behind it are hosts, whose
// bridges decide themselves.
func (t *Tunnels) RouteMulticast(port int) error {
	s, err := t.socket.Open()
	if err != nil {
		return err
	}
	l, err := byIndex(s, port)
	if err != nil || l.router == routerAlways || l.router == routerUnknown {
		return err
	}
	if err := errors.Join(s.Do(setRouter(port))...); err != nil {
		return fmt.Errorf("sending link %d what is for groups: %w", port, err)
	}
	return nil
}

// Shares reports whether the kernel takes what comes to a port of UDP for tunnels that there
// are, whoever's: more of them may have it then, as the VNI tells them apart.
func (t *Tunnels) Shares(port uint16) (bool, error) {
	s, err := t.socket.Open()
	if err != nil {
		return false, err
	}
	mask := netlink.AppendAttribute(nil, unix.IFLA_EXT_MASK, netlink.Uint32(netlink.SkipStats))
	bodies, err := s.Dump(request(unix.RTM_GETLINK, unix.NLM_F_DUMP, netlink.LinkHeader(0), mask), unix.RTM_NEWLINK)
	if err != nil {
		return false, fmt.Errorf("listing links: %w", err)
	}
	return slices.ContainsFunc(bodies, func(b []byte) bool {
		d := parseDevice(b)
		return d.kind == Kind && d.port == port && d.up
	}), nil
}

// Underlay is where a host is reached.
type Underlay struct {
	Addr netip.Addr
	Link string // which has the address
	MTU  int    // of the link
	// Own are those of the addresses in question that are the host's, and Broadcasts those by which
	// everybody on one of its links is reached.
	Own, Broadcasts []netip.Addr
}

// ErrNoUnderlay says that this host has none of some addresses.
var ErrNoUnderlay = errors.New("no link of this host has the address")

// Underlay finds which of some addresses this host has, the first that it has, and which of those in
// question are its own. Where it has none of the former the error is ErrNoUnderlay, and Own and
// Broadcasts are set all the same.
func (t *Tunnels) Underlay(addrs, question []netip.Addr) (Underlay, error) {
	s, err := t.socket.Open()
	if err != nil {
		return Underlay{}, err
	}
	var u Underlay
	index, err := t.find(s, &u, addrs, question)
	switch {
	case err != nil:
		return Underlay{}, fmt.Errorf("listing addresses: %w", err)
	case index == 0:
		return u, fmt.Errorf("%w: want one of %v", ErrNoUnderlay, addrs)
	}
	link, err := byIndex(s, index)
	u.Link, u.MTU = link.name, link.mtu
	return u, err
}

// String is the card's address.
func (c Card) String() string { return net.HardwareAddr(c.MAC[:]).String() }
