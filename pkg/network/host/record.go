// Package host has what a network needs of the host beside its own links and rules, and
// what it changed there: an uplink, forwarding, accept_ra. What is to be put back is on
// disk, with the network's run-state, before it is true.
package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/uplink"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/admission"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
)

// Links is what is asked of pkg/bridge; *bridge.Bridges is the real one, whose
// contracts hold.
type Links interface {
	Lookup(name string) (bridge.Link, error)
	AddressOwner(p netip.Prefix, except string) (owner string, err error)
	Forward(v4, v6 bool) (bridge.Forwarding, error)
	RestoreAcceptRA(raised []bridge.AcceptRA) error
}

// changes are what a network changed on the host.
type changes struct {
	// Uplink is how the uplink was, as older versions wrote it down; nil for nothing.
	Uplink *uplink.State `json:"uplink,omitempty"`
	// AcceptRA are links whose accept_ra was raised, so that the host keeps its
	// routes although it forwards.
	AcceptRA []bridge.AcceptRA `json:"accept_ra,omitempty"`
	// Leads are forwards for which there may be rules.
	Leads []firewall.Forward `json:"forwards,omitempty"`
	// Learned are addresses of names that guests may reach.
	Learned []admission.Learned `json:"learned,omitempty"`
}

// Record is the run-state of one network, with what it changed on the host. Its
// methods are called one at a time.
type Record struct {
	network string
	store   *store.Store
	links   Links
	uplinks *Keeper
	log     *slog.Logger

	run   store.Run // as last written
	state changes
	lost  bool // the run-state could not be read, so that state may lack something
}

// NewRecord makes the record of the network of that name, of which nothing is on disk.
func NewRecord(network string, st *store.Store, links Links, uplinks *Keeper, log *slog.Logger) *Record {
	return &Record{network: network, store: st, links: links, uplinks: uplinks, log: log}
}

// Lose says that a former vnetd's run-state can't be read: what it has to say of the
// host is looked for when the next is written.
func (r *Record) Lose() { r.lost = true }

// Save writes the network's run-state.
func (r *Record) Save(run store.Run) error {
	if r.lost {
		if err := r.find(run.Network.UUID); err != nil {
			r.run = run
			return fmt.Errorf("saving run-state of network %q: what stands there can't be read: %w", r.network, err)
		}
	}
	data, err := json.Marshal(r.state)
	if err != nil {
		return fmt.Errorf("writing down what network %q changed on the host: %w", r.network, err)
	}
	run.Host = data
	r.run = run
	return r.store.SaveRun(run)
}

// Load takes over the run-state that a former vnetd wrote.
func (r *Record) Load(run store.Run) error {
	r.run, r.state = run, changes{}
	if run.Host == nil {
		return nil
	}
	if err := json.Unmarshal(run.Host, &r.state); err != nil {
		return fmt.Errorf("reading what network %q changed on the host: %w", r.network, err)
	}
	return r.handOver()
}

// handOver gives the keeper of uplinks what an older version wrote down here.
func (r *Record) handOver() error {
	if r.state.Uplink == nil {
		return nil
	}
	if err := r.uplinks.Adopt(*r.state.Uplink); err != nil {
		return err
	}
	r.state.Uplink = nil
	return nil
}

// Keep writes the run-state anew that somebody removed; there reports that it is on
// disk.
func (r *Record) Keep(there bool) error {
	if there && !r.lost {
		return nil
	}
	r.log.Warn("run-state of a network was gone and is written anew", "network", r.network)
	return r.Save(r.run)
}

// find looks for what a former vnetd wrote down of the host, which could not be read
// when the network was adopted.
func (r *Record) find(uuid string) error {
	run, err := r.store.Run(uuid)
	var state changes
	switch {
	case errors.Is(err, fs.ErrPermission), store.Passing(err):
		return err // there may be something, not to be overwritten
	case err == nil && run.Host != nil && json.Unmarshal(run.Host, &state) == nil:
		if r.state.Uplink == nil {
			r.state.Uplink = state.Uplink
		}
		r.state.AcceptRA = append(r.state.AcceptRA, state.AcceptRA...)
		r.state.Leads = append(r.state.Leads, state.Leads...)
	}
	r.lost = false
	return r.handOver()
}

// Forward has the host forward what live needs. Links that would lose routes of
// router advertisements by it keep them.
func (r *Record) Forward(live *netdef.Network) error {
	changed, err := r.links.Forward(translate.Forwards(live))
	switch {
	case errors.Is(changed.Unsaved, fs.ErrPermission): // no fault: vnetd does not run as root
		r.log.Info("forwarding is on; where a file for sysctl says otherwise, `sysctl --system` switches it off", "network", r.network)
	case changed.Unsaved != nil:
		r.log.Warn("forwarding is on, but `sysctl --system` will not keep it", "network", r.network, "error", changed.Unsaved)
	}
	if len(changed.AcceptRA) > 0 {
		r.state.AcceptRA = append(r.state.AcceptRA, changed.AcceptRA...)
		for _, ra := range changed.AcceptRA {
			r.log.Info("accept_ra raised to 2: the host keeps its IPv6 routes though it forwards", "network", r.network, "link", ra.Link, "was", ra.AcceptRA)
		}
		err = errors.Join(err, r.Save(r.run))
	}
	return err
}

// Lead writes down for which forwards there may be rules, unless that stands there.
func (r *Record) Lead(forwards []firewall.Forward) error {
	if slices.EqualFunc(r.state.Leads, forwards, func(a, b firewall.Forward) bool { return a.Equal(&b) }) {
		return nil
	}
	r.state.Leads = forwards
	return r.Save(r.run)
}

// Leads are the forwards for which a former vnetd may have made rules.
func (r *Record) Leads() []firewall.Forward { return r.state.Leads }

// Learn writes down which addresses of names guests may reach, unless that stands there.
func (r *Record) Learn(all []admission.Learned) error {
	if slices.EqualFunc(r.state.Learned, all, func(a, b admission.Learned) bool {
		return a.Name == b.Name && a.Addr == b.Addr && a.Until.Equal(b.Until)
	}) {
		return nil
	}
	r.state.Learned = all
	return r.Save(r.run)
}

// Learned are the addresses of names that a former vnetd let guests reach.
func (r *Record) Learned() []admission.Learned { return r.state.Learned }

// Restore puts back what the network changed on the host.
func (r *Record) Restore(ctx context.Context) error {
	var err error
	if live := r.run.Network; live != nil && live.Uplink != "" {
		err = r.uplinks.Detach(ctx, live.Bridge.Name)
	}
	if len(r.state.AcceptRA) > 0 {
		if raErr := r.links.RestoreAcceptRA(r.state.AcceptRA); raErr != nil {
			return errors.Join(err, raErr)
		}
		r.state.AcceptRA = nil
	}
	return err
}

// AttachUplink makes live's uplink a port of its bridge, unless it is. How the
// uplink was is on disk before anything changes. While the uplink is away it is
// waited for, without an error.
func (r *Record) AttachUplink(ctx context.Context, live *netdef.Network) error {
	w := Wanted{Dev: live.UplinkDevice(), VLAN: live.UplinkVLAN, MTU: live.MTU}
	if w.VLAN != 0 {
		w.Parent = live.Uplink
	}
	err := r.uplinks.Attach(ctx, live.Bridge.Name, w)
	if errors.Is(err, uplink.ErrNoAnswer) {
		return api.Errorf(api.Conflict, "network/vnetd:uplink/@dev: everything is put back: %w", err)
	}
	if errors.Is(err, uplink.ErrNoVLANs) {
		return api.Errorf(api.Unsupported, "network/vnetd:uplink/@vlan: %w", err)
	}
	return err
}
