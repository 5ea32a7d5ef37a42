package network

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
	"github.com/vnetd/vnetd/pkg/tap"
)

// Request makes a TAP device on the network's bridge, up and forwarding,
// and returns its open file descriptors: the caller hands them over and closes
// its own. An inactive network is started, if that is configured; otherwise the
// error is InvalidState. With the ID of a port that the owner has, it is that
// port, opened anew; Exists where it is not what the options say, Busy while
// somebody has it open.
func (s *Ports) Request(ctx context.Context, n *Network, opts PortOptions) (api.Port, []*os.File, error) {
	begin := time.Now()
	if err := opts.Check(); err != nil {
		return api.Port{}, nil, err
	}
	opts.Lifetime = cmp.Or(opts.Lifetime, api.LifetimeFD)
	if err := n.begin(); err != nil {
		return api.Port{}, nil, err
	}
	defer n.op.Unlock()
	live, err := activeFor(ctx, n)
	if err != nil {
		return api.Port{}, nil, err
	}
	p, dev, err := s.sameAgain(n, &opts)
	if p == nil && err == nil {
		p, dev, err = s.add(ctx, n, live, opts)
	}
	if err != nil {
		return api.Port{}, nil, err
	}
	s.m.portRequests.Add(time.Since(begin), 1)
	return s.info(p), dev.Files, nil
}

// activeFor is the document of the network, which somebody wants a port of. The
// caller holds n.op.
func activeFor(ctx context.Context, n *Network) (*netdef.Network, error) {
	if live := n.liveNetwork(); live != nil {
		return live, nil
	}
	live, err := n.startOnDemand(ctx)
	if live == nil && err == nil {
		err = api.Errorf(api.InvalidState, "network %q is not active: start it first", n.name)
	}
	return live, err
}

// sameAgain opens the port that the owner has under the ID of opts; nil when
// there is none.
func (s *Ports) sameAgain(n *Network, opts *PortOptions) (*port.Port, *tap.Device, error) {
	if opts.ID == "" {
		return nil, nil, nil
	}
	p := s.reg.ID(opts.Owner, opts.ID)
	if p == nil {
		return nil, nil, nil
	}
	if p.Network != n.name {
		return nil, nil, api.Errorf(api.Exists, "option id: port %q is there already, on network %q", opts.ID, p.Network)
	}
	if option := opts.Differs(p); option != "" {
		return nil, nil, api.Errorf(api.Exists, "option id: port %q is there already, with another %s", opts.ID, option)
	}
	dev, err := p.Open(s.m.cfg.Links)
	if errors.Is(err, port.ErrGone) {
		return nil, nil, s.end(p) // nobody noticed yet
	}
	if err != nil {
		return nil, nil, err
	}
	if p.Lifetime == api.LifetimeBus {
		p.Hold(opts.Holder)
		err = s.m.cfg.Store.SavePort(p.Record())
	}
	if err != nil {
		return nil, nil, errors.Join(err, dev.Close())
	}
	return p, dev, nil
}

// add makes a port, and tells. The caller holds n.op.
func (s *Ports) add(ctx context.Context, n *Network, live *netdef.Network, opts PortOptions) (_ *port.Port, _ *tap.Device, err error) {
	if err := s.conflict(live, &opts); err != nil {
		return nil, nil, err
	}
	if err := s.reg.Admit(&opts, s.m.cfg.Limits); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			s.reg.Dismiss(&opts)
		}
	}()
	opts.MadeUp = opts.MAC == nil
	if opts.MadeUp {
		opts.MAC = s.reg.NewMAC(live.UUID, live.MAC, &opts)
	}
	guest := store.Port{Name: opts.Name, MAC: opts.MAC, Addrs: opts.Addrs}
	if err := expect(n, live, guest); err != nil {
		return nil, nil, err
	}
	p, dev, err := s.plugIn(ctx, live, opts)
	if err != nil {
		n.runningServices().Withdraw(guestOf(guest))
		return nil, nil, err
	}
	info := s.info(p)
	s.m.log.Info("port added", keyNetwork, n.name, keyPort, p.UUID, keyIfName, p.IfName, keyMAC, info.MAC, "owner", p.Owner, "lifetime", p.Lifetime)
	s.publish(PortAdded, n, info)
	return p, dev, nil
}

// conflict refuses a MAC address that somebody on the network has already,
// since two cards with one address cut each other off, and the name of somebody
// else's guest.
func (s *Ports) conflict(live *netdef.Network, opts *PortOptions) error {
	if bytes.Equal(opts.MAC, live.MAC) && opts.MAC != nil {
		return api.Errorf(api.Conflict, "option mac: %q is the address of the bridge %q", opts.MAC, live.Bridge.Name)
	}
	if p := s.reg.MAC(live.Name, opts.MAC); p != nil {
		return api.Errorf(api.Conflict, "option mac: %q is the address of port %s", opts.MAC, label(p))
	}
	if opts.Name == "" {
		return nil
	}
	if p := s.reg.Named(live.Name, opts.Name, opts.Owner); p != nil {
		return api.Errorf(api.Conflict, "option name: %q is the name of port %s, which belongs to user %d", opts.Name, label(p), p.Owner)
	}
	return nil
}

// label is what tells a user which port p is.
func label(p *port.Port) string {
	if p.Kind == port.Own {
		return fmt.Sprintf("%s (%s)", p.UUID, p.IfName)
	}
	return p.UUID
}

// plugIn makes the TAP device of a port, puts it on the bridge, and records it
// as the last step but before anyone else has its file descriptors. What it
// made is gone when it fails.
func (s *Ports) plugIn(ctx context.Context, live *netdef.Network, opts PortOptions) (_ *port.Port, _ *tap.Device, err error) {
	target, err := s.m.cfg.Links.Lookup(live.Bridge.Name)
	if err != nil {
		return nil, nil, fmt.Errorf("looking for bridge %q: %w", live.Bridge.Name, err)
	}
	p, dev, err := s.reg.Make(live.Name, live.UUID, opts, target.MTU)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dev.Close())
		}
	}()
	if err := p.Attach(ctx, s.m.cfg.Links, target.Index, translate.Port(live)); err != nil {
		return nil, nil, err
	}
	if err := s.m.hookPort(ctx, hookPortCreated, live, p); err != nil {
		return nil, nil, err
	}
	if err := s.m.cfg.Store.SavePort(p.Record()); err != nil {
		return nil, nil, err
	}
	// Not before it is recorded: a crash must not leave a device that stays.
	if p.Lifetime != api.LifetimeFD {
		if err := dev.Persist(); err != nil {
			return nil, nil, errors.Join(err, s.m.cfg.Store.DeletePort(p.UUID))
		}
	}
	s.reg.Add(p)
	return p, dev, nil
}

// expect sets the addresses and the name of a port aside. The error is Conflict
// where somebody else has an address, and Invalid where nobody on the network
// could get it; nothing is set aside then.
func expect(n *Network, live *netdef.Network, p store.Port) error {
	for _, a := range p.Addrs {
		if a.Is4() && translate.DHCPIP(live) == nil || !a.Is4() && translate.DHCP6IP(live) == nil {
			return api.Errorf(api.Invalid, "option address: %v can't be given to a guest: network %q has no DHCP for its family", a, live.Name)
		}
	}
	err := n.runningServices().Expect(guestOf(p))
	switch {
	case errors.Is(err, dhcpd.ErrTaken):
		return api.Errorf(api.Conflict, "option address: %w", err)
	case err != nil:
		return api.Errorf(api.Invalid, "option address: %w", err)
	}
	return nil
}
