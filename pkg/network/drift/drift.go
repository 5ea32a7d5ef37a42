// Package drift keeps what vnetd made as it was made. A Keeper gathers suspicions, has
// them looked at soon, lets what differs be mended, counts and logs that, and holds back
// where somebody undoes the repairs as fast as they are made. What is to be compared,
// and how it is mended, is its owner's.
package drift

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/contention"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// quiet is how long suspicions are gathered: what comes in bursts is mended at once. It
// is short, as guests may be cut off meanwhile.
const quiet = 100 * time.Millisecond

// Of what the kernel does not tell, an audit does: one each auditLeast, or as much less
// often as keeps it below one part in auditShare of a processor's time.
const (
	auditLeast = time.Second
	auditShare = 100
)

// Suspects are what of a network may differ.
type Suspects struct {
	Bridge   bool
	AllPorts bool
	Ports    []int // ifindexes
	// Whole suspects what others keep as well: the rules, and the host's forwarding.
	Whole   bool
	Process string // who did it, empty where that is not known
}

// All suspects the bridge and all ports.
func All() Suspects { return Suspects{Bridge: true, AllPorts: true} }

// Whole suspects everything.
func Whole() Suspects { return Suspects{Bridge: true, AllPorts: true, Whole: true} }

// Has reports whether the port with that ifindex is suspected.
func (s *Suspects) Has(port int) bool { return s.AllPorts || slices.Contains(s.Ports, port) }

// join adds o to s.
func (s *Suspects) join(o Suspects) {
	s.Bridge, s.AllPorts, s.Whole = s.Bridge || o.Bridge, s.AllPorts || o.AllPorts, s.Whole || o.Whole
	for _, p := range o.Ports {
		if !slices.Contains(s.Ports, p) {
			s.Ports = append(s.Ports, p)
		}
	}
	if s.Process == "" {
		s.Process = o.Process
	}
}

// Owner is who has the networks.
type Owner interface {
	// Active lists the networks that are active.
	Active() []string
	// Mend compares what is suspected of a network once its turn has come, and mends what differs as
	// far as amend allows. It is called by one goroutine at a time for one network.
	Mend(ctx context.Context, network string, suspected func() Suspects, amend bridge.Amend) error
}

// Keeper keeps networks as they were made. Its methods may be called concurrently.
type Keeper struct {
	log  *slog.Logger
	wake chan struct{} // holds a value while something is suspected

	mu        sync.Mutex // guards what follows
	suspected map[string]Suspects
	busy      map[string]bool // being looked at
	kept      map[string]*record
}

// record is what is known of one network.
type record struct {
	counts   map[bridge.Aspect]uint64
	limiters map[subject]*contention.Limiter
	failed   string // what was logged of the last failure; empty after a success
}

// subject is what can be fought for.
type subject struct {
	link   string
	aspect bridge.Aspect
	want   string
}

// NewKeeper makes a Keeper of no network yet.
func NewKeeper(log *slog.Logger) *Keeper {
	return &Keeper{
		log: log, wake: make(chan struct{}, 1),
		suspected: make(map[string]Suspects), busy: make(map[string]bool), kept: make(map[string]*record),
	}
}

// Suspect has the network looked at soon. It never blocks.
func (k *Keeper) Suspect(network string, s Suspects) {
	k.mu.Lock()
	known := k.suspected[network]
	known.join(s)
	k.suspected[network] = known
	k.mu.Unlock()
	k.awake()
}

// awake has Run take what is suspected.
func (k *Keeper) awake() {
	select {
	case k.wake <- struct{}{}:
	default: // it is due already
	}
}

// Run looks at what is suspected until ctx ends. It returns when all is at rest.
func (k *Keeper) Run(ctx context.Context, owner Owner) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { k.audit(ctx, owner) })
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(quiet):
		}
		for network, s := range k.take() {
			running.Go(func() {
				later := k.look(ctx, owner, network, &s)
				if later == 0 {
					return
				}
				select {
				case <-ctx.Done():
				case <-time.After(later):
					s.Process = ""
					k.Suspect(network, s)
				}
			})
		}
	}
}

// take returns the suspicions of networks that nobody is looking at now; those of others
// stay until that is over.
func (k *Keeper) take() map[string]Suspects {
	k.mu.Lock()
	defer k.mu.Unlock()
	taken := make(map[string]Suspects)
	for network, s := range k.suspected {
		if !k.busy[network] {
			taken[network] = s
			k.busy[network] = true
			delete(k.suspected, network)
		}
	}
	return taken
}

// look mends what differs of a network, and returns how long what was held back has to
// wait, 0 for nothing. What comes to be suspected until it is the network's turn, which has to wait
// for its start for example, is added to s.
func (k *Keeper) look(ctx context.Context, owner Owner, network string, s *Suspects) (later time.Duration) {
	p := k.pass(network, true)
	err := owner.Mend(ctx, network, func() Suspects {
		k.mu.Lock()
		defer k.mu.Unlock()
		s.join(k.suspected[network])
		delete(k.suspected, network)
		return *s
	}, p.amend)
	k.report(p, s.Process, err)
	k.mu.Lock()
	delete(k.busy, network)
	more := len(k.suspected) > 0
	k.mu.Unlock()
	if more {
		k.awake()
	}
	return p.later
}

// Now calls mend, which mends all that differs of a network at once, whoever undoes it.
func (k *Keeper) Now(network string, mend func(amend bridge.Amend) error) error {
	p := k.pass(network, false)
	err := mend(p.amend)
	k.report(p, "", err)
	return err
}

// audit suspects everything from time to time. It has a thread of its own, whose time
// counts: on a busy machine it waits long, and is needed all the same.
func (k *Keeper) audit(ctx context.Context, owner Owner) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	rest := auditLeast
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(rest):
		}
		begin := threadTime()
		for _, network := range owner.Active() {
			if k.claim(network) {
				s := All()
				k.look(ctx, owner, network, &s)
			}
		}
		rest = max(auditLeast, auditShare*(threadTime()-begin))
	}
}

// threadTime is how long this thread has run, in the kernel, too.
func threadTime() time.Duration {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now) // which every Linux has
	return time.Duration(now.Nano())
}

// claim says that the caller looks at the network, unless somebody does already.
func (k *Keeper) claim(network string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy[network] {
		return false
	}
	k.busy[network] = true
	return true
}

// pass is one look at a network. It is used by one goroutine.
type pass struct {
	k       *Keeper
	network string
	limited bool
	mended  []bridge.Difference
	later   time.Duration // until what was held back may be mended, 0 for nothing
	news    []string      // what is being fought for from now on
}

func (k *Keeper) pass(network string, limited bool) *pass {
	return &pass{k: k, network: network, limited: limited}
}

// amend allows to mend a difference unless that happened too often of late.
func (p *pass) amend(d bridge.Difference) bool {
	now := time.Now()
	p.k.mu.Lock()
	defer p.k.mu.Unlock()
	l := p.k.limiter(p.network, subject{d.Link, d.Aspect, d.Want})
	if wait := l.Wait(now); wait > 0 && p.limited {
		if p.later == 0 || wait < p.later {
			p.later = wait
		}
		return false
	}
	before := l.Contended(now)
	l.Repaired(now)
	if l.Contended(now) && !before {
		p.news = append(p.news, d.String())
	}
	p.mended = append(p.mended, d)
	return true
}

// limiter is that of a subject, and forgets those that are idle. The caller holds k.mu.
func (k *Keeper) limiter(network string, s subject) *contention.Limiter {
	r := k.record(network)
	l := r.limiters[s]
	if l == nil {
		maps.DeleteFunc(r.limiters, func(_ subject, old *contention.Limiter) bool { return old.Idle(time.Now()) })
		l = new(contention.Limiter)
		r.limiters[s] = l
	}
	return l
}

// record is that of a network. The caller holds k.mu.
func (k *Keeper) record(network string) *record {
	r := k.kept[network]
	if r == nil {
		r = &record{counts: make(map[bridge.Aspect]uint64), limiters: make(map[subject]*contention.Limiter)}
		k.kept[network] = r
	}
	return r
}

// report counts and logs what a pass mended: one repair, by the first difference, from
// which the others commonly follow. A failure is logged once, not at every try. The end of
// vnetd, or of who asked, in the middle of a pass is none.
func (k *Keeper) report(p *pass, process string, err error) {
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	var all []string
	for _, d := range p.mended {
		all = append(all, d.String())
	}
	attrs := []any{"network", p.network, "differences", strings.Join(all, "; "), "process", process}
	k.mu.Lock()
	r := k.record(p.network)
	failed := fmt.Sprint(err)
	if err == nil {
		failed = ""
		if len(p.mended) > 0 {
			r.counts[p.mended[0].Aspect]++
		}
	}
	again := failed == r.failed
	r.failed = failed
	k.mu.Unlock()
	switch {
	case err != nil && !again:
		k.log.Error("network could not be repaired", append(attrs, "error", err)...)
	case err == nil && len(p.mended) > 0:
		k.log.Warn("network repaired", append(attrs, "what", string(p.mended[0].Aspect))...)
	}
	for _, what := range p.news {
		k.log.Warn("somebody keeps undoing repairs of a network: repairing less often from now on",
			"network", p.network, "difference", what, "process", process, "repairs", contention.Burst, "within", contention.Window)
	}
}

// Counts are how often a network was repaired, by what was amiss first.
func (k *Keeper) Counts(network string) map[bridge.Aspect]uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.kept[network]; r != nil {
		return maps.Clone(r.counts)
	}
	return nil
}

// Forget forgets a network that is gone.
func (k *Keeper) Forget(network string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.kept, network)
	delete(k.suspected, network)
}

// Fight is something of a network that somebody keeps undoing.
type Fight struct{ Network, What string }

// Fights lists what is being fought for, in order.
func (k *Keeper) Fights() (all []Fight) {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	for network, r := range k.kept {
		for s, l := range r.limiters {
			if l.Contended(now) {
				all = append(all, Fight{network, fmt.Sprintf("%s: %s %s", s.link, s.aspect, s.want)})
			}
		}
	}
	slices.SortFunc(all, func(a, b Fight) int {
		return strings.Compare(a.Network+"\x00"+a.What, b.Network+"\x00"+b.What)
	})
	return all
}
