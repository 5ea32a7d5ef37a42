// Package hostlink owns the links by which this host itself is in networks that span hosts: pairs of
// veth devices, of which one end is a port of the network's bridge and the other has a card and
// addresses of this host's own. What programs of this host send to such a network without choosing an
// address goes by that, and has its answers come back there from every host. All else goes by the
// bridge as before: what is forwarded, what has the gateway's address or another of this host's, and
// what the kernel tells of errors. Package bridge plugs the ports in.
package hostlink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// Kind is the kernel's name of the device type.
const Kind = "veth"

// ErrTaken says that the host has another link of one of the names.
var ErrTaken = errors.New("another program has such a device")

// Config is what a link shall be.
type Config struct {
	Name    string           // of the host's end
	Port    string           // of the end that is for the bridge
	MAC     net.HardwareAddr // of the host's end
	PortMAC net.HardwareAddr
	MTU     int // of both ends
	Bridge  string
	// Table is the number of the table of routes that is for this link alone.
	Table uint32
	Ways  []Way
	// Unsettled4 says that the address of IPv4 is not known yet: what is there of that family stays.
	Unsettled4 bool
	Alias      string // what both ends say of themselves, by which they are known as ours
	// Amend is asked of what differs on a link that is there, and of its absence.
	Amend bridge.Amend
}

// Way is a subnet that is reached by the link.
type Way struct {
	Subnet netip.Prefix
	Addr   netip.Addr // this host's own there
	MTU    int        // of what is sent there, 0 for that of the link
}

// Links speaks with the kernel about such links of one network namespace, that of the thread that
// first asks. The zero Links can be used; Close it. Its methods may be called concurrently.
type Links struct{ socket netlink.Lazy }

// Close gives up the connection to the kernel. Links stay.
func (l *Links) Close() { l.socket.Close() }

// Ensure makes the link that cfg asks for, or brings the one that is there to it, and returns the
// ifindexes of both ends; 0 where cfg.Amend leaves it away. Neither end is up then, and Settle has the
// rest. The error is ErrTaken where another program has a device of one of the names.
func (l *Links) Ensure(ctx context.Context, cfg Config) (host, port int, err error) {
	s, err := l.open(ctx, &cfg)
	if err != nil {
		return 0, 0, err
	}
	own, end, err := cfg.find(s)
	if err == nil && own.index == 0 {
		own, end, err = cfg.create(s)
	}
	if err == nil && own.index != 0 {
		err = cfg.mend(s, cfg.linkChanges(&own, &end))
	}
	if err != nil {
		return 0, 0, fmt.Errorf("link %q: %w", cfg.Name, err)
	}
	return own.index, end.index, nil
}

// Settle has the link with that ifindex, which Ensure made and whose other end is plugged in, be up, with addresses, routes and
// rules as cfg says.
func (l *Links) Settle(ctx context.Context, index int, cfg Config) error {
	s, err := l.open(ctx, &cfg)
	if err == nil {
		err = cfg.settle(s, index)
	}
	if errors.Is(err, unix.ENODEV) {
		return nil // it has just gone: that is seen
	}
	if err != nil {
		return fmt.Errorf("link %q: %w", cfg.Name, err)
	}
	return nil
}

// open checks cfg and opens the socket.
func (l *Links) open(ctx context.Context, cfg *Config) (*netlink.Socket, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("link %q: %w", cfg.Name, err)
	}
	s, err := l.socket.Open()
	return s, errors.Join(err, ctx.Err())
}

// validate refuses what the kernel would misunderstand or refuse late.
func (c *Config) validate() error {
	switch {
	case !ether.ValidName(c.Name) || !ether.ValidName(c.Port) || !ether.ValidName(c.Bridge):
		return errors.New("invalid name for a link")
	case !ether.IsCard(c.MAC) || !ether.IsCard(c.PortMAC):
		return fmt.Errorf("MAC addresses %v and %v: want those of cards", c.MAC, c.PortMAC)
	case c.Table < 1<<8:
		return fmt.Errorf("table %d: want one of its own", c.Table)
	case c.Alias == "":
		return errors.New("no alias, by which it is known")
	}
	for _, w := range c.Ways {
		if !w.Subnet.IsValid() || !w.Subnet.Contains(w.Addr) || w.Addr.Is4In6() {
			return fmt.Errorf("address %v in %v: want one of the subnet", w.Addr, w.Subnet)
		}
	}
	return nil
}

// find is the link that is there; its index is 0 where there is none, or none that is whole: what is
// left of that is deleted.
func (c *Config) find(s *netlink.Socket) (own, end device, err error) {
	own, err = byName(s, c.Name)
	if err == nil {
		end, err = byName(s, c.Port)
	}
	if err == nil {
		err = errors.Join(c.mustBeOurs(&own), c.mustBeOurs(&end))
	}
	if err != nil || end.index != 0 && own.peer == end.index || own.index == 0 && end.index == 0 {
		return own, end, err
	}
	return device{}, device{}, errors.Join(s.RemoveLink(own.index), s.RemoveLink(end.index))
}

// mustBeOurs gives ErrTaken for a device that another program has made.
func (c *Config) mustBeOurs(d *device) error {
	if d.index == 0 || d.kind == Kind && d.alias == c.Alias {
		return nil
	}
	if d.kind == Kind && d.alias == "" && (bytes.Equal(d.mac, c.MAC) || bytes.Equal(d.mac, c.PortMAC)) {
		return nil // its maker ended before it could say so
	}
	return fmt.Errorf("%w: link %q of kind %q says of itself %q: delete it, or choose another VNI", ErrTaken, d.name, d.kind, d.alias)
}

// create makes the link; nothing where c.Amend leaves that.
func (c *Config) create(s *netlink.Socket) (own, end device, err error) {
	if c.Amend != nil && !c.Amend(bridge.Difference{Link: c.Name, Aspect: bridge.AspectHostLink, Want: "veth peer name " + c.Port}) {
		return device{}, device{}, nil
	}
	err = errors.Join(s.Do(c.creation())...)
	if errors.Is(err, unix.EEXIST) {
		err = fmt.Errorf("%w: a link %q or %q", ErrTaken, c.Name, c.Port)
	}
	if err == nil {
		own, err = byName(s, c.Name)
	}
	if err == nil && own.peer != 0 {
		end, err = byIndex(s, own.peer)
	}
	if err != nil || own.index == 0 || end.index == 0 {
		return device{}, device{}, err
	}
	c.Amend = nil
	return own, end, nil
}

// Remove deletes the link of that name if it is one of ours, by its alias, and the rules that lead to
// its table. One that is gone, or is another's, is success.
func (l *Links) Remove(name, alias string, table uint32) error {
	s, err := l.socket.Open()
	if err != nil {
		return err
	}
	// Rules first: what programs send goes by the bridge again.
	c := Config{Name: name, Table: table}
	changes, err := c.ruleChanges(s)
	if err == nil {
		err = c.mend(s, changes)
	}
	d, looked := byName(s, name)
	if looked == nil && d.kind == Kind && d.alias == alias {
		looked = s.RemoveLink(d.index)
	}
	if err = errors.Join(err, looked); err != nil {
		return fmt.Errorf("removing link %q: %w", name, err)
	}
	return nil
}

// change mends a difference, by messages or by a function.
type change struct {
	bridge.Difference
	messages [][]byte
	do       func() error
}

// mend makes the changes that c.Amend allows, one by one.
func (c *Config) mend(s *netlink.Socket, changes []change) error {
	for _, one := range changes {
		if c.Amend != nil && !c.Amend(one.Difference) {
			continue
		}
		var errs []error
		for _, err := range s.Do(one.messages...) {
			// Somebody else was quicker.
			if !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EADDRNOTAVAIL) {
				errs = append(errs, err)
			}
		}
		if one.do != nil {
			errs = append(errs, one.do())
		}
		if err := errors.Join(errs...); err != nil {
			return fmt.Errorf("mending %v: %w", one.Difference, err)
		}
	}
	return nil
}
