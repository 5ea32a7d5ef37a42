package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/uplink"
	"github.com/vnetd/vnetd/pkg/store"
)

// Uplinks is what is asked of pkg/bridge/uplink; *uplink.Uplinks is the real one, whose
// contracts hold.
type Uplinks interface {
	Attach(ctx context.Context, cfg uplink.Config) (*uplink.State, error)
	Ensure(ctx context.Context, s *uplink.State, save func(uplink.State) error) (uplink.Found, error)
	Fit(s *uplink.State, mtu int, save func(uplink.State) error) error
	Detach(ctx context.Context, s uplink.State) error
	Certain(s uplink.State) (name string, certainly bool, err error)
	Watch(ctx context.Context, f func(uplink.Event)) error
}

// Keeper keeps uplinks in their bridges, and what the host is owed for them on disk until
// it was given back: an uplink may be away whenever a network starts or stops, or vnetd
// does. Its methods may be called concurrently.
type Keeper struct {
	uplinks Uplinks
	store   *store.Store
	log     *slog.Logger
	wake    chan struct{} // holds a value while something is due

	mu   sync.Mutex // the last lock taken
	held map[string]*holding
}

// holding is one uplink and its bridge.
type holding struct {
	bridge string
	limit  *rate.Limiter

	op       sync.Mutex    // one at a time; guards what follows
	dev      string        // the uplink, as its network names it
	wanted   Wanted        // of what is not attached yet
	released bool          // its network does not need it any more
	state    *uplink.State // nil: the uplink was not there yet
	dropped  bool          // not among Keeper.held any more
	doubt    time.Time     // since when a device is there that may be the uplink
	came     arrival       // the device that is or may be the uplink
	retry    time.Time     // when an uplink that could not be attached is tried again

	// What follows is guarded by Keeper.mu.
	due    bool
	links  [2]int // the indexes of uplink and bridge, 0 for what is not there
	status Uplink
}

// Uplink is how an uplink is.
type Uplink struct {
	Bridge string
	Dev    string // as the network names it
	Name   string // as it is called now; empty: it is away
	Owed   bool   // no network needs it: what is the host's waits for it on the bridge
	Err    error  // why it could not be made, or given back, what it should be
	// Ending are the host's addresses on the bridge that end soon.
	Ending []uplink.Ending
}

// owed is a holding as it stands on disk.
type owed struct {
	Dev      string        `json:"dev"`
	Released bool          `json:"released,omitempty"`
	State    *uplink.State `json:"state"`
}

// NewKeeper makes a keeper of nothing: Load follows.
func NewKeeper(uplinks Uplinks, st *store.Store, log *slog.Logger) *Keeper {
	return &Keeper{uplinks: uplinks, store: st, log: log, wake: make(chan struct{}, 1), held: make(map[string]*holding)}
}

// Load reads what a former vnetd left to be given back.
func (k *Keeper) Load() error {
	all, faults, err := k.store.Uplinks().All()
	errs := []error{err}
	for _, f := range faults {
		errs = append(errs, f)
	}
	for name, data := range all {
		var o owed
		err := json.Unmarshal(data, &o)
		if err == nil && o.State == nil {
			err = errors.New("it has no state")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("what the uplink of %q is owed can't be read: %w", name, err))
			continue
		}
		h := k.take(name)
		if h.state == nil {
			h.dev, h.released = o.Dev, o.Released
			h.expect(k, o.State)
		}
		h.op.Unlock()
	}
	return errors.Join(errs...)
}

// Adopt takes over what an older vnetd wrote down of an uplink elsewhere.
func (k *Keeper) Adopt(s uplink.State) error {
	h := k.take(s.Bridge)
	defer h.op.Unlock()
	if h.state != nil {
		return nil
	}
	h.dev = s.Uplink
	h.expect(k, &s)
	return k.save(h)
}

// expect has the holding be of that state, of which it is not known yet whether the uplink is
// there: List leaves it out. The caller holds h.op.
func (h *holding) expect(k *Keeper, s *uplink.State) {
	k.mu.Lock()
	defer k.mu.Unlock()
	h.state, h.links = s, [2]int{0, s.BridgeIndex}
}

// take returns the holding of the bridge, made if there is none, with its op held.
func (k *Keeper) take(name string) *holding {
	for {
		k.mu.Lock()
		h := k.held[name]
		if h == nil {
			h = &holding{bridge: name, limit: rate.NewLimiter(repairsPerSecond, repairBurst)}
			k.held[name] = h
		}
		k.mu.Unlock()
		h.op.Lock()
		if !h.dropped {
			return h
		}
		h.op.Unlock()
	}
}

// drop forgets the holding. The caller holds h.op.
func (k *Keeper) drop(h *holding) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.held, h.bridge)
	h.dropped = true
}

// all lists the holdings in order of the bridges' names.
func (k *Keeper) all() []*holding {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []*holding
	for _, h := range k.held {
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b *holding) int { return strings.Compare(a.bridge, b.bridge) })
	return all
}

// Holds reports whether the bridge of that name has, or had, an uplink that the host is
// owed something for: it is vnetd's.
func (k *Keeper) Holds(name string) bool {
	k.mu.Lock()
	h := k.held[name]
	k.mu.Unlock()
	if h == nil {
		return false
	}
	h.op.Lock()
	defer h.op.Unlock()
	return h.state != nil
}

// Port is the ifindex of the uplink in the bridge of that name, as it was seen last; 0
// where there is none.
func (k *Keeper) Port(name string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h := k.held[name]; h != nil {
		return h.links[0]
	}
	return 0
}

// Wanted is the uplink that a network wants: Dev, or, where VLAN is not 0, the device Dev of
// that VLAN of Parent. MTU is that of the network, 0 for none.
type Wanted struct {
	Dev, Parent string
	VLAN, MTU   int
}

// Attach makes an uplink a port of a bridge of that name, or sees to it that it
// is. While the uplink is away that is no error: Problem says so, and Watch attaches it
// when it comes. After another error of an uplink that was not attached before nothing
// is changed.
func (k *Keeper) Attach(ctx context.Context, name string, w Wanted) error {
	h := k.take(name)
	defer h.op.Unlock()
	if h.state != nil && (h.released || h.dev != w.Dev) {
		h.want(w)
		if err := k.save(h); err != nil {
			return err
		}
	}
	if h.state != nil && h.state.AskedMTU != w.MTU {
		if err := k.uplinks.Fit(h.state, w.MTU, h.keep(k)); err != nil {
			return err
		}
	}
	h.dev, h.wanted = w.Dev, w
	isNew := h.state == nil
	if k.unfinished(h) {
		return nil // Watch sees to it
	}
	err := k.reconcile(ctx, h)
	if errors.Is(err, uplink.ErrAway) {
		return nil
	}
	if err != nil && isNew && h.state == nil {
		k.drop(h)
	}
	return err
}

// keep is what stores another state of the holding.
func (h *holding) keep(k *Keeper) func(uplink.State) error {
	return func(s uplink.State) error {
		h.state = &s
		return k.save(h)
	}
}

// want has the holding be for w, and needed. Where that is another device than before,
// it takes the former one's place.
func (h *holding) want(w Wanted) {
	s := *h.state
	if h.dev != w.Dev {
		s.Uplink, s.Device = w.Dev, uplink.Device{Kind: "replaced"}
		s.Parent, s.VLAN = w.Parent, w.VLAN
	}
	h.released, h.state = false, &s
}

// Detach gives the host its uplink back and removes the bridge. While the uplink is
// away the bridge stays, with the host's addresses, and Watch gives them back when the
// uplink comes.
func (k *Keeper) Detach(ctx context.Context, name string) error {
	k.mu.Lock()
	known := k.held[name] != nil
	k.mu.Unlock()
	if !known {
		return nil
	}
	h := k.take(name)
	defer h.op.Unlock()
	if h.state == nil {
		k.drop(h)
		return nil
	}
	var unsaved error
	if !h.released {
		h.released = true
		unsaved = k.save(h)
	}
	err := k.reconcile(ctx, h)
	switch {
	case errors.Is(err, uplink.ErrAway):
		return unsaved
	case err != nil:
		return errors.Join(err, unsaved)
	}
	return nil
}

// reconcile makes of the host what the holding asks for. What is begun is brought to its end,
// where vnetd ends meanwhile: it would be taken back otherwise. The caller holds h.op.
func (k *Keeper) reconcile(ctx context.Context, h *holding) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	var found uplink.Found
	switch {
	case h.released:
		if err = k.giveBack(ctx, h); err == nil {
			k.drop(h)
		}
	case h.state == nil:
		found.Uplink, err = k.attach(ctx, h)
	default:
		found, err = k.uplinks.Ensure(ctx, h.state, h.keep(k))
		if len(found.Repaired) > 0 {
			k.log.Warn("an uplink and its bridge are put right", "bridge", h.bridge, "uplink", found.Uplink, "was", strings.Join(found.Repaired, ", "))
		}
		if err == nil && found.Uplink == "" {
			err = uplink.ErrAway
		}
	}
	k.note(h, found, err)
	return err
}

// attach is reconcile for an uplink that was not there yet.
func (k *Keeper) attach(ctx context.Context, h *holding) (name string, err error) {
	w := h.wanted
	s, err := k.uplinks.Attach(ctx, uplink.Config{Bridge: h.bridge, Uplink: w.Dev, Parent: w.Parent, VLAN: w.VLAN, MTU: w.MTU, Save: h.keep(k)})
	switch {
	case err == nil:
		for _, p := range s.Temporary() {
			k.log.Info("an address of the uplink has a lifetime: its client works on the uplink or the bridge", "bridge", h.bridge, "uplink", h.dev, "address", p.String())
		}
		h.state = s
		return h.dev, k.save(h)
	case h.state == nil && errors.Is(err, bridge.ErrNotFound):
		return "", uplink.ErrAway
	case h.state == nil:
		return "", err
	}
	// It was undone, or is now, or when the uplink is back.
	h.retry = time.Now().Add(attachPause)
	if undo := k.giveBack(context.WithoutCancel(ctx), h); undo != nil {
		h.released = true
		err = errors.Join(err, undo, k.save(h))
	}
	return "", err
}

// giveBack gives the host what it is owed, and forgets it.
func (k *Keeper) giveBack(ctx context.Context, h *holding) error {
	if err := k.uplinks.Detach(ctx, *h.state); err != nil {
		return err
	}
	if err := k.store.Uplinks().Delete(h.bridge); err != nil {
		return err
	}
	k.log.Info("the host has its uplink back", "bridge", h.bridge, "uplink", h.dev)
	h.state = nil
	return nil
}

// save writes the holding to disk. The caller holds h.op.
func (k *Keeper) save(h *holding) error {
	data, err := json.Marshal(owed{Dev: h.dev, Released: h.released, State: h.state})
	if err != nil {
		return err
	}
	return k.store.Uplinks().Save(h.bridge, data)
}

// note records how the uplink is. The caller holds h.op.
func (k *Keeper) note(h *holding, found uplink.Found, err error) {
	away := found.Uplink == "" && (err == nil || errors.Is(err, uplink.ErrAway))
	if away {
		err = nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	was, name := h.status, found.Uplink
	h.status = Uplink{Bridge: h.bridge, Dev: h.dev, Name: name, Owed: h.released, Err: err, Ending: found.Ending}
	h.links = [2]int{}
	if h.state != nil {
		h.links[1] = h.state.BridgeIndex
		if name != "" {
			h.links[0] = h.state.Index
		}
	}
	if away && was.Name != "" && !h.dropped {
		k.log.Warn("an uplink is away: its bridge has the host's addresses until it is back", "bridge", h.bridge, "uplink", h.dev)
	}
}

// List tells how the uplinks are.
func (k *Keeper) List() []Uplink {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []Uplink
	for _, h := range k.held {
		if h.status.Bridge != "" { // it was looked at, and is not being made for the first time
			all = append(all, h.status)
		}
	}
	slices.SortFunc(all, func(a, b Uplink) int { return strings.Compare(a.Bridge, b.Bridge) })
	return all
}

// Problem is why the uplink of the bridge is not its port, nil where it is.
func (k *Keeper) Problem(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := k.held[name]
	switch {
	case h == nil:
		return nil
	case h.status.Err != nil:
		return h.status.Err
	case h.status.Name == "":
		return awayError(h.status.Dev)
	}
	return nil
}

// GiveBack is Detach for all bridges. The error names those whose uplink is away.
func (k *Keeper) GiveBack(ctx context.Context) error {
	var errs []error
	for _, h := range k.all() {
		errs = append(errs, k.Detach(ctx, h.bridge))
	}
	for _, u := range k.List() {
		errs = append(errs, fmt.Errorf("the uplink %q is away: bridge %q keeps the host's addresses until a vnetd, or another --cleanup, finds it back", u.Dev, u.Bridge))
	}
	return errors.Join(errs...)
}

// awayError is the error of a network whose uplink the host has not.
func awayError(dev string) error {
	return api.Errorf(api.Conflict, "network/vnetd:uplink/@dev: %q is no link of this host: the network waits for it", dev)
}
