package host

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vnetd/vnetd/pkg/bridge/uplink"
)

const (
	// keepQuiet is how long there must be no event before what they are about is looked
	// at, keepGather how long at most they are gathered: whoever sets up a card gives
	// it an address first and then routes, which need the address.
	keepQuiet  = 150 * time.Millisecond
	keepGather = 500 * time.Millisecond

	// keepPace is how often it is looked at without any: the kernel is silent about
	// some IPv4 routes that it takes away.
	keepPace = 5 * time.Second

	// doubtPeriod is how long a device that may be the uplink must be there: udev
	// renames devices soon after they come.
	doubtPeriod = 500 * time.Millisecond

	// attachPause is how long an uplink whose gateway did not answer over the bridge is
	// the host's again before that is tried once more.
	attachPause = time.Minute

	// Somebody who undoes what was put right does not keep vnetd busy.
	repairsPerSecond = 1
	repairBurst      = 5
)

// Watch plugs uplinks in when they come, gives back what is owed when it can be, and
// puts right what others change, until ctx ends. changed is called with the name of a
// bridge whose uplink is another way than before; it does not wait for the keeper.
func (k *Keeper) Watch(ctx context.Context, changed func(bridge string)) error {
	if k.uplinks == nil {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return k.uplinks.Watch(ctx, k.onEvent) })
	g.Go(func() error {
		k.keepAll(ctx, changed)
		return nil
	})
	return g.Wait()
}

// onEvent notes which uplinks an event concerns.
func (k *Keeper) onEvent(e uplink.Event) {
	k.mu.Lock()
	defer k.mu.Unlock()
	due := false
	for _, h := range k.held {
		awaited := e.Link && (h.links[0] == 0 || h.status.Err != nil)
		if e.Index == 0 || e.Index == h.links[0] || e.Index == h.links[1] || awaited {
			h.due, due = true, true
		}
	}
	if due {
		k.poke()
	}
}

// poke has keepAll look at what is due.
func (k *Keeper) poke() {
	select {
	case k.wake <- struct{}{}:
	default: // it is about to
	}
}

// keepAll looks at what is due until ctx ends.
func (k *Keeper) keepAll(ctx context.Context, changed func(bridge string)) {
	tick := time.NewTicker(keepPace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			k.keepFiles()
			k.onEvent(uplink.Event{})
			continue
		case <-k.wake:
		}
		if k.gather(ctx); ctx.Err() != nil {
			return // an uplink that could not be looked at is not away
		}
		for _, h := range k.all() {
			if !k.takeDue(h) || !h.op.TryLock() {
				continue
			}
			before := k.statusOf(h)
			if !h.dropped {
				k.keep(ctx, h)
			}
			h.op.Unlock()
			if after := k.statusOf(h); after.Name != before.Name || (after.Err == nil) != (before.Err == nil) || h.dropped {
				changed(h.bridge)
			}
		}
	}
}

// gather waits for the end of a burst of events.
func (k *Keeper) gather(ctx context.Context) {
	quiet, enough := time.NewTimer(keepQuiet), time.After(keepGather)
	defer quiet.Stop()
	for {
		select {
		case <-k.wake:
			quiet.Reset(keepQuiet)
		case <-quiet.C:
			return
		case <-enough:
			return
		case <-ctx.Done():
			return
		}
	}
}

// takeDue reports whether the holding is due, and not too often; it is not afterwards.
func (k *Keeper) takeDue(h *holding) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !h.due {
		return false
	}
	if !h.limit.Allow() {
		k.later(time.Second / repairsPerSecond)
		return false
	}
	h.due = false
	return true
}

// later pokes after some time.
func (k *Keeper) later(wait time.Duration) { time.AfterFunc(wait, k.poke) }

func (k *Keeper) statusOf(h *holding) Uplink {
	k.mu.Lock()
	defer k.mu.Unlock()
	return h.status
}

// keep brings one uplink to what it should be. The caller holds h.op.
func (k *Keeper) keep(ctx context.Context, h *holding) {
	if h.state != nil && k.doubtful(h) || h.state == nil && time.Now().Before(h.retry) || k.unfinished(h) {
		return
	}
	before := k.statusOf(h)
	err := k.reconcile(ctx, h)
	// Once, not every time.
	if err != nil && !errors.Is(err, uplink.ErrAway) && (before.Err == nil || before.Err.Error() != err.Error()) && ctx.Err() == nil {
		k.log.Error("an uplink can't be brought to what it should be", "bridge", h.bridge, "uplink", h.dev, "error", err)
	}
}

// doubtful reports whether a device is there that may or may not be the uplink, and came
// a moment ago: it is looked at again.
func (k *Keeper) doubtful(h *holding) bool {
	name, certainly, err := k.uplinks.Certain(*h.state)
	switch {
	case err != nil || name == "" || certainly:
		h.doubt = time.Time{}
		return false
	case h.doubt.IsZero():
		h.doubt = time.Now()
	}
	left := doubtPeriod - time.Since(h.doubt)
	if left <= 0 {
		return false
	}
	k.again(h, left)
	return true
}

// again has the holding looked at after some time.
func (k *Keeper) again(h *holding, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	h.due = true
	k.later(wait)
}

// keepFiles writes anew what somebody removed from disk.
func (k *Keeper) keepFiles() {
	there, err := k.store.Uplinks().Recorded()
	if err != nil {
		return
	}
	for _, h := range k.all() {
		if there[h.bridge] || !h.op.TryLock() {
			continue
		}
		if h.state != nil && !h.dropped {
			err := k.save(h)
			k.log.Warn("what an uplink is owed was gone from disk and is written anew", "bridge", h.bridge, "error", err)
		}
		h.op.Unlock()
	}
}
