package attach

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
	"github.com/vnetd/vnetd/pkg/network/env"
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
func (s *Ports) Request(ctx context.Context, n Network, opts port.Spec) (api.Port, []*os.File, error) {
	begin := time.Now()
	if err := opts.Check(); err != nil {
		return api.Port{}, nil, err
	}
	opts.Lifetime = cmp.Or(opts.Lifetime, api.LifetimeFD)
	if err := n.Begin(); err != nil {
		return api.Port{}, nil, err
	}
	defer n.End()
	live, err := activeFor(ctx, n)
	if err != nil {
		return api.Port{}, nil, err
	}
	r := request{s, n, live, opts}
	p, dev, err := r.sameAgain()
	if p == nil && err == nil {
		p, dev, err = r.add(ctx)
	}
	if err != nil {
		return api.Port{}, nil, err
	}
	s.env.PortRequests.Add(time.Since(begin), 1)
	return s.info(p), dev.Files, nil
}

// request is that of a port of a network, which is live. Whoever uses it has
// the turn of n.
type request struct {
	*Ports
	n    Network
	live *netdef.Network
	opts port.Spec
}

// activeFor is the document of the network, which somebody wants a port of. The
// caller has the turn.
func activeFor(ctx context.Context, n Network) (*netdef.Network, error) {
	if live := n.Live(); live != nil {
		return live, nil
	}
	live, err := n.StartOnDemand(ctx)
	if live == nil && err == nil {
		err = api.Errorf(api.InvalidState, "network %q is not active: start it first", n.Name())
	}
	return live, err
}

// sameAgain opens the port that the owner has under the ID of the request; nil when
// there is none.
func (r *request) sameAgain() (*port.Port, *tap.Device, error) {
	if r.opts.ID == "" {
		return nil, nil, nil
	}
	p := r.reg.ID(r.opts.Owner, r.opts.ID)
	if p == nil {
		return nil, nil, nil
	}
	if p.Network != r.n.Name() {
		return nil, nil, api.Errorf(api.Exists, "option id: port %q is there already, on network %q", r.opts.ID, p.Network)
	}
	if option := r.opts.Differs(p); option != "" {
		return nil, nil, api.Errorf(api.Exists, "option id: port %q is there already, with another %s", r.opts.ID, option)
	}
	dev, err := p.Open(r.env.Links, store.Nodes(r.env.Store))
	if errors.Is(err, port.ErrGone) {
		return nil, nil, r.end(p) // nobody noticed yet
	}
	if err != nil {
		return nil, nil, err
	}
	if p.Lifetime == api.LifetimeBus {
		p.Hold(r.opts.Holder)
	}
	if p.Lifetime == api.LifetimeBus || p.OnMacvtap() {
		err = r.env.Store.SavePort(p.Record())
	}
	if err != nil {
		return nil, nil, errors.Join(err, dev.Close())
	}
	return p, dev, nil
}

// add makes a port, and tells.
func (r *request) add(ctx context.Context) (_ *port.Port, _ *tap.Device, err error) {
	if err := translate.CheckOwn(r.live); err != nil {
		return nil, nil, err
	}
	if err := errors.Join(r.conflict(), translate.CheckPortVLANs(r.live, r.opts.Settings.OwnVLAN()), translate.CheckPortRules(r.live, r.opts.Settings.Rules)); err != nil {
		return nil, nil, err
	}
	if err := r.reg.Admit(&r.opts, r.env.Limits); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			r.reg.Dismiss(&r.opts)
		}
	}()
	r.opts.MadeUp = r.opts.MAC == nil
	if r.opts.MadeUp {
		r.opts.MAC = r.reg.NewMAC(r.live.UUID, r.live.MAC, &r.opts)
	}
	if err := r.env.Clusters.Admit(ctx, r.live, r.opts.MAC, r.opts.OwnerUUID); err != nil {
		return nil, nil, err
	}
	guest := store.Port{Name: r.opts.Name, Aliases: r.opts.Aliases, MAC: r.opts.MAC, Addrs: r.opts.Addrs}
	if err := expect(r.n, r.live, guest); err != nil {
		return nil, nil, err
	}
	plugIn := r.plugIn
	if r.live.PortPlug() == netdef.PlugDirect {
		plugIn = r.plugInMacvtap
	}
	p, dev, err := plugIn(ctx)
	if err != nil {
		r.n.Services().Withdraw(GuestOf(guest))
		return nil, nil, err
	}
	if len(r.opts.Settings.Rules) > 0 { // before anybody has its files
		if err := r.n.Admit(ctx); err != nil {
			return nil, nil, errors.Join(err, dev.Close(), r.end(p))
		}
	}
	info := r.info(p)
	r.env.Logger.Info("port added", env.KeyNetwork, r.n.Name(), env.KeyPort, p.UUID, env.KeyIfName, p.IfName, env.KeyMAC, info.MAC, "owner", p.Owner, "lifetime", p.Lifetime)
	r.publish(env.PortAdded, r.n, info)
	return p, dev, nil
}

// conflict refuses a MAC address that somebody on the network has already,
// since two cards with one address cut each other off, and the name of somebody
// else's guest.
func (r *request) conflict() error {
	if bytes.Equal(r.opts.MAC, r.live.MAC) && r.opts.MAC != nil {
		return api.Errorf(api.Conflict, "option mac: %q is the address of the bridge %q", r.opts.MAC, r.live.Bridge.Name)
	}
	if p := r.reg.MAC(r.live.Name, r.opts.MAC); p != nil {
		return api.Errorf(api.Conflict, "option mac: %q is the address of port %s", r.opts.MAC, label(p))
	}
	return r.nameConflict()
}

// nameConflict refuses names that somebody else's guest has, an alias that anybody has, and
// one that is there by the network's definition.
func (r *request) nameConflict() error {
	for _, p := range r.reg.Named(r.live.Name, r.opts.Name) {
		switch {
		case p.HasAlias(r.opts.Name):
			return api.Errorf(api.Conflict, "option name: %q is an alias of port %s, which belongs to user %d", r.opts.Name, label(p), p.Owner)
		case p.Owner != r.opts.Owner:
			return api.Errorf(api.Conflict, "option name: %q is the name of port %s, which belongs to user %d", r.opts.Name, label(p), p.Owner)
		}
	}
	for _, alias := range r.opts.Aliases {
		if owner := translate.NameOwner(r.live, alias); owner != "" {
			return api.Errorf(api.Conflict, "option aliases: %q is a name of %s in the definition of network %q", alias, owner, r.live.Name)
		}
		for _, p := range r.reg.Named(r.live.Name, alias) {
			return api.Errorf(api.Conflict, "option aliases: %q is a name of port %s, which belongs to user %d", alias, label(p), p.Owner)
		}
	}
	return nil
}

// plugIn makes the TAP device of a port, puts it on the bridge, and records it
// as the last step but before anyone else has its file descriptors. What it
// made is gone when it fails.
func (r *request) plugIn(ctx context.Context) (_ *port.Port, _ *tap.Device, err error) {
	target, err := r.env.Links.Lookup(r.live.Bridge.Name)
	if err != nil {
		return nil, nil, fmt.Errorf("looking for bridge %q: %w", r.live.Bridge.Name, err)
	}
	p, dev, err := r.reg.Make(r.live.Name, r.live.UUID, r.opts, target.MTU)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			port.Abandon(r.reg, p.UUID)
			err = errors.Join(err, dev.Close(), r.env.Bandwidth.End(dev.Index))
			if p.Status().ClassID != 0 {
				r.Bandwidth().floorGone(r.n)
			}
		}
	}()
	r.guards.Port(r.live, p)
	if err := r.limit(p, target.Index); err != nil {
		return nil, nil, err
	}
	if err := p.Attach(ctx, r.env.Links, target.Index, plugged(r.env, r.live, p)); err != nil {
		return nil, nil, translate.VLANError(r.live, err)
	}
	if err := (vlans{r.Ports}).carry(r.live, vlansOf(r.live, p), nil); err != nil {
		return nil, nil, err
	}
	if err := r.env.RunPortHook(ctx, env.HookPortCreated, r.live, p); err != nil {
		return nil, nil, err
	}
	if err := r.env.Store.SavePort(p.Record()); err != nil {
		return nil, nil, err
	}
	// Not before it is recorded: a crash must not leave a device that stays.
	if p.Lifetime != api.LifetimeFD {
		if err := dev.Persist(); err != nil {
			return nil, nil, errors.Join(err, r.env.Store.DeletePort(p.UUID))
		}
	}
	r.reg.Add(p)
	return p, dev, nil
}

// makeMacvtap makes the macvtap device of a port on the least used interface of its network.
func (r *request) makeMacvtap() (*port.Port, *tap.Device, error) {
	switch {
	case r.opts.Isolated && r.live.Mode() != netdef.ModePrivate:
		return nil, nil, api.Errorf(api.Unsupported, "option isolated: ports of network %q, of mode %s, are isolated by <forward mode='private'> alone", r.live.Name, r.live.Mode())
	case r.opts.Guard != "" && r.opts.Guard != "off", len(r.opts.Allow) > 0:
		return nil, nil, api.Errorf(api.Unsupported, "option guard: network %q has no bridge: what a guest sends by macvtap does not enter the host", r.live.Name)
	case len(r.opts.Addrs) > 0:
		return nil, nil, api.Errorf(api.Invalid, "option address: network %q has no DHCP: the LAN gives its guests their addresses", r.live.Name)
	}
	pool, err := Pools{r.Ports}.Of(r.live)
	if err != nil {
		return nil, nil, err
	}
	dev, err := pool.Dev(r.live, translate.Exclusive(r.live, nil))
	if err != nil {
		return nil, nil, err
	}
	parent, err := r.env.Links.Lookup(dev)
	if err != nil {
		return nil, nil, err
	}
	if !parent.Up && r.live.Mode() == netdef.ModePassthrough { // nobody else has a use of it
		if err := tap.SetUp(parent.Index); err != nil {
			return nil, nil, err
		}
	}
	return port.MakeMacvtap(r.reg, r.live.Name, r.live.UUID, r.opts, parent, string(r.live.Mode()), store.Nodes(r.env.Store))
}

// plugInMacvtap is plugIn on a network without a bridge.
func (r *request) plugInMacvtap(ctx context.Context) (_ *port.Port, _ *tap.Device, err error) {
	r.choosing.Lock()
	defer r.choosing.Unlock()
	p, dev, err := r.makeMacvtap()
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dev.Close(), r.Clear(p.Record()))
		}
	}()
	if err := r.limit(p, 0); err != nil {
		return nil, nil, err
	}
	if err := r.env.RunPortHook(ctx, env.HookPortCreated, r.live, p); err != nil {
		return nil, nil, err
	}
	if err := r.env.Store.SavePort(p.Record()); err != nil {
		return nil, nil, err
	}
	r.reg.Add(p)
	r.Devices().follow(p)
	return p, dev, nil
}

// limit has the device of p, which is on no bridge yet, be held to p's bandwidth, and the
// network keep its floor.
func (r *request) limit(p *port.Port, bridgeIndex int) error {
	if err := translate.CheckGroup(r.live, r.opts.Settings.PortGroup); err != nil {
		return err
	}
	doc := p.Describe(r.live.Bridge.Name)
	if err := r.Bandwidth().plan(r.n, r.live, p, doc); err != nil {
		return err
	}
	if err := r.Bandwidth().keepPort(r.live, p, false, nil); err != nil || doc.Bandwidth.Floor() == 0 {
		return err
	}
	if err := r.Bandwidth().remark(p, p.Record()); err != nil {
		return err
	}
	all := append(r.Documents(r.n), p.Describe(r.live.Bridge.Name))
	return r.env.Bandwidth.Keep(bridgeIndex, r.live.Bridge.Name, translate.BridgeBandwidth(r.live, all), nil)
}

// label is what tells a user which port p is.
func label(p *port.Port) string {
	if p.Kind == port.Own {
		return fmt.Sprintf("%s (%s)", p.UUID, p.IfName)
	}
	return p.UUID
}

// expect sets the addresses and the name of a port aside. The error is Conflict
// where somebody else has an address, and Invalid where nobody on the network
// could get it; nothing is set aside then.
func expect(n Network, live *netdef.Network, p store.Port) error {
	for _, a := range p.Addrs {
		if a.Is4() && translate.DHCPIP(live) == nil || !a.Is4() && translate.DHCP6IP(live) == nil {
			return api.Errorf(api.Invalid, "option address: %v can't be given to a guest: network %q has no DHCP for its family", a, live.Name)
		}
	}
	err := n.Services().Expect(GuestOf(p))
	switch {
	case errors.Is(err, dhcpd.ErrTaken):
		return api.Errorf(api.Conflict, "option address: %w", err)
	case err != nil:
		return api.Errorf(api.Invalid, "option address: %w", err)
	}
	return nil
}
