package attach

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
)

// Register records a port whose device another program makes, which runs as
// owner, and returns its document with all that the network adds to it, the plug
// above all. With reclaim the device is there already and the document says what it
// is plugged into. Errors are InvalidState for an inactive network, Exists for a UUID
// that is taken, LimitExceeded where the owner may have no more, and Invalid or
// Unsupported for what the port can't have.
func (s *Ports) Register(ctx context.Context, n Network, doc *netdef.Port, reclaim bool, owner uint32) (*netdef.Port, error) {
	begin := time.Now()
	if err := n.Begin(); err != nil {
		return nil, err
	}
	defer n.End()
	live := n.Live()
	if live == nil {
		return nil, api.Errorf(api.InvalidState, "network '%s' is not active", n.Name())
	}
	if !reclaim {
		if err := s.env.Clusters.Admit(ctx, live, doc.MAC, doc.Owner.UUID); err != nil {
			return nil, err
		}
		if coming, _ := s.env.Clusters.Stands(live, doc.MAC); coming {
			if err := s.networks.Expect(ctx, n); err != nil {
				return nil, err
			}
		}
	}
	p, err := Pools{s}.allocate(live, doc, reclaim, owner)
	if err != nil {
		return nil, err
	}
	err = s.promise(n, live, p)
	if err == nil {
		err = s.env.RunPortHook(ctx, env.HookPortCreated, live, p)
	}
	if err == nil {
		err = s.env.Store.SavePort(p.Record())
	}
	if err != nil {
		s.reg.Remove(p)
		return nil, errors.Join(err, s.Bandwidth().KeepBridge(n, live, n.BridgeIndex(), false, nil))
	}
	full := p.Document()
	s.Devices().Find(n)
	s.env.Logger.Info("port registered", env.KeyNetwork, n.Name(), env.KeyPort, full.UUID, env.KeyMAC, full.MAC.String(), "owner", full.Owner.Name)
	leases, _ := n.Services().Leases()
	for _, l := range leases {
		if bytes.Equal(l.MAC, full.MAC) {
			p.Lease(l.Addr)
		}
	}
	s.env.PortRequests.Add(time.Since(begin), 1)
	s.publish(env.PortAdded, n, s.info(p))
	return full, nil
}

// promise has the network keep the floor of p, if p has one.
func (s *Ports) promise(n Network, live *netdef.Network, p *port.Port) error {
	doc := p.Document()
	if err := s.Bandwidth().plan(n, live, p, doc); err != nil || doc.Bandwidth.Floor() == 0 {
		return err
	}
	return s.Bandwidth().KeepBridge(n, live, n.BridgeIndex(), false, nil)
}

// allocate registers a port of a network that is live, with all that the network adds to
// doc.
func (s Pools) allocate(live *netdef.Network, doc *netdef.Port, reclaim bool, owner uint32) (*port.Port, error) {
	s.choosing.Lock()
	defer s.choosing.Unlock()
	pool, err := s.Of(live)
	if err != nil {
		return nil, err
	}
	full, err := translate.NetworkPort(live, doc, reclaim, pool)
	if err == nil {
		err = vlans(s).check(live, full)
	}
	if err != nil {
		return nil, err
	}
	return s.reg.Register(live.Name, live.UUID, full, owner, s.env.Limits)
}

// TakeOver registers a port of n, which has that UUID, that another program's network
// had: it was root's. The caller has n's turn.
func (s *Ports) TakeOver(n Network, uuid string, doc *netdef.Port) error {
	p, err := s.reg.Register(n.Name(), uuid, doc, 0, port.Limits{})
	if err != nil {
		return err
	}
	if saved := s.env.Store.SavePort(p.Record()); saved != nil {
		err = fmt.Errorf("recording port %s: %w", doc.UUID, saved)
	}
	s.publish(env.PortAdded, n, s.info(p))
	return err
}

// Set makes the settings of a port of n what change makes of them, at once. The bandwidth
// of a port that another program registered is for that to keep, which has its device:
// vnetd keeps the floor. Errors are NotFound for a port that is not there,
// and what change returns; nothing is changed then.
func (b Bandwidth) Set(ctx context.Context, n Network, uuid string, change func(s *port.Settings) error) error {
	if err := n.Begin(); err != nil {
		return err
	}
	defer n.End()
	p := b.reg.UUID(uuid)
	if p == nil || p.Network != n.Name() {
		return port.NotFound(uuid)
	}
	former := p.Status()
	next := former.Settings
	if err := change(&next); err != nil {
		return err
	}
	if err := next.Check(); err != nil {
		return err
	}
	err := b.become(ctx, n, p, next)
	if err == nil {
		b.publish(env.PortChanged, n, b.info(p))
		return nil
	}
	p.Set(func(s *port.Settings, class *uint32) { *s, *class = former.Settings, former.ClassID })
	if live := n.Live(); live != nil {
		ctx := context.WithoutCancel(ctx)
		b.guards.Port(live, p)
		err = errors.Join(err, b.apply(n, live, p), vlans(b).follow(ctx, n, live, p, next), n.Admit(ctx))
	}
	return err
}

// ownRules refuses rules of a port whose device is another's: nobody holds its guest to a MAC
// address by which they know it.
func ownRules(p *port.Port, next port.Settings) error {
	if len(next.Rules) > 0 && p.Kind != port.Own {
		return api.Errorf(api.Unsupported, "setting rules: port %s is not vnetd's own: want rules of its network", label(p))
	}
	return nil
}

// become makes next the settings of p. The caller has the turn of n.
func (b Bandwidth) become(ctx context.Context, n Network, p *port.Port, next port.Settings) error {
	former := p.Status().Settings
	p.Set(func(s *port.Settings, _ *uint32) { *s = next })
	live := n.Live()
	if live != nil {
		if err := translate.CheckGroup(live, next.PortGroup); err != nil && p.Kind == port.Own {
			return err
		}
		if err := errors.Join(translate.CheckPortVLANs(live, next.OwnVLAN()), translate.CheckPortRules(live, next.Rules), ownRules(p, next)); err != nil {
			return err
		}
		doc := &netdef.Port{UUID: p.UUID, MAC: p.MAC, Bandwidth: next.Bandwidth}
		if err := b.plan(n, live, p, doc); err != nil {
			return err
		}
		b.guards.Port(live, p)
		if err := errors.Join(b.apply(n, live, p), vlans(b).follow(ctx, n, live, p, former), n.Admit(ctx)); err != nil {
			return err
		}
	}
	record := p.Record()
	if err := b.env.Store.SavePort(record); err != nil {
		return err
	}
	return b.remark(p, record)
}

// remark has the device of a port of vnetd's own say what it is now.
func (b Bandwidth) remark(p *port.Port, record store.Port) error {
	if p.Kind != port.Own {
		return nil
	}
	err := b.env.Links.SetAlias(record.Index, port.Mark(record))
	if errors.Is(err, bridge.ErrNotFound) {
		return nil
	}
	return err
}
