package announce

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bgp"
)

// Speaker is what is asked of pkg/bgp; *bgp.Speaker is the real one, whose contracts hold.
type Speaker interface {
	Config() bgp.Config
	Announce(prefixes []netip.Prefix)
	Settle(ctx context.Context)
	State() bgp.State
}

// Keeper has a speaker announce what networks have it announce. Its methods may be called
// concurrently; those of nil do nothing, as where nobody is told.
type Keeper struct {
	speaker Speaker
	v4, v6  bool // which families anybody is told of

	mu sync.Mutex // guards what follows, and what the speaker is told
	by map[string][]netip.Prefix
}

// NewKeeper makes a keeper with nothing to announce.
func NewKeeper(s Speaker) *Keeper {
	k := &Keeper{speaker: s}
	cfg := s.Config()
	for i := range cfg.Neighbours {
		v4, v6 := cfg.Families(&cfg.Neighbours[i])
		k.v4, k.v6 = k.v4 || v4, k.v6 || v6
	}
	return k
}

// Follow has what look returns, by the names of networks, be announced, and no more. Nothing is
// withdrawn meanwhile.
func (k *Keeper) Follow(look func() map[string][]netip.Prefix) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.by = look()
	for name, all := range k.by {
		k.by[name] = slices.DeleteFunc(all, func(p netip.Prefix) bool { return p.Addr().Is4() && !k.v4 || p.Addr().Is6() && !k.v6 })
	}
	k.tell()
}

// tell tells the speaker. The caller holds k.mu.
func (k *Keeper) tell() { k.speaker.Announce(slices.Concat(slices.Collect(maps.Values(k.by))...)) }

// settleLimit is how long a network waits at its end until routers are told.
const settleLimit = time.Second

// Withdraw has nothing be announced of a network any more, and returns when routers that are
// reached are told, soon.
func (k *Keeper) Withdraw(ctx context.Context, network string) {
	if k == nil {
		return
	}
	k.mu.Lock()
	announced := len(k.by[network]) > 0
	if announced {
		delete(k.by, network)
		k.tell()
	}
	k.mu.Unlock()
	if announced {
		ctx, cancel := context.WithTimeout(ctx, settleLimit)
		defer cancel()
		k.speaker.Settle(ctx)
	}
}

// Of is what is announced of a network, in order; nil where it announces nothing.
func (k *Keeper) Of(network string) []netip.Prefix {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.by[network])
}

// Status is how the speaker stands to routers; nil where nobody is told.
func (k *Keeper) Status() *api.BGP {
	if k == nil {
		return nil
	}
	cfg, is := k.speaker.Config(), k.speaker.State()
	s := &api.BGP{AS: cfg.AS, RouterID: is.RouterID, Neighbours: []api.BGPNeighbour{}, Prefixes: []netip.Prefix{}}
	for i, p := range is.Neighbours {
		s.Neighbours = append(s.Neighbours, api.BGPNeighbour{Address: p.Address, AS: cfg.Neighbours[i].AS, Up: p.Up, Since: p.Since, Reason: p.Reason, Flaps: p.Flaps})
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s.Prefixes = append(s.Prefixes, slices.Concat(slices.Collect(maps.Values(k.by))...)...)
	slices.SortFunc(s.Prefixes, func(a, b netip.Prefix) int { return a.Compare(b) })
	s.Prefixes = slices.Compact(s.Prefixes)
	return s
}
