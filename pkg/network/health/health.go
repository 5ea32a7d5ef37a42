// Package health finds conditions: what on this host, commonly not of vnetd's
// making, keeps guests from what their networks promise. A Board asks its sources
// side by side, says in the log what is new and what is gone, and tells its owner. The sources that look at one part of the host are here; those that
// need to know networks from inside are the hub's.
package health

import (
	"context"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
)

// Source finds conditions of one sort. With an error comes what was found all
// the same. Since is the board's to fill in.
type Source struct {
	Name string
	Find func(ctx context.Context) ([]api.Condition, error)
}

// Network is what sources ask of an active network.
type Network struct {
	Name    string
	Bridge  string // the bridge's name
	Subnets []netip.Prefix
	// HostLink is the link by which the host itself is in it, empty for none.
	HostLink string
	// Reachable are those of IPv6 whose guests may be connected to from outside, though
	// those of IPv4 may not and the document does not say that it is meant so.
	Reachable []netip.Prefix
}

// interval is how often the host is looked at.
const interval = time.Second

// Board has the conditions that were found last. Its methods may be called
// concurrently.
type Board struct {
	log     *slog.Logger
	changed func(concerned []string)

	mu  sync.Mutex
	all []api.Condition
}

// NewBoard makes a board on which nothing is found yet. changed is called when a
// condition appeared or is gone, with the names of the networks concerned; the
// board is not locked then.
func NewBoard(log *slog.Logger, changed func(concerned []string)) *Board {
	return &Board{log: log, changed: changed}
}

// Conditions lists what is amiss, the worst first, as Watch found it within the
// last seconds.
func (b *Board) Conditions() []api.Condition {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.all)
}

// Watch asks the sources until ctx ends, and returns when none is being asked any more.
// They are asked side by side, so that none holds up another.
func (b *Board) Watch(ctx context.Context, sources []Source) {
	asked := make([]*asking, len(sources))
	for i, s := range sources {
		asked[i] = &asking{Source: s, log: b.log}
	}
	var running sync.WaitGroup
	defer running.Wait()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for ctx.Err() == nil {
		b.round(ctx, asked, &running)
		var found []api.Condition
		for _, a := range asked {
			found = append(found, a.conditions(time.Now())...)
		}
		b.observe(found)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// round asks those that are due, and waits for their answers, though not for long: what
// comes later is seen in the next one.
func (b *Board) round(ctx context.Context, all []*asking, running *sync.WaitGroup) {
	var answers sync.WaitGroup
	for _, a := range all {
		if !a.begin(time.Now()) {
			continue
		}
		answers.Add(1)
		running.Go(func() {
			defer answers.Done()
			a.ask(ctx)
		})
	}
	answered := make(chan struct{})
	running.Go(func() {
		answers.Wait()
		close(answered)
	})
	select {
	case <-answered:
	case <-time.After(interval / 2):
	}
}

// observe takes over what was found now, and says what is new and what is gone.
func (b *Board) observe(found []api.Condition) {
	now := time.Now()
	b.mu.Lock()
	before := b.all
	for i := range found {
		found[i].Since = now
		found[i].Networks = append([]string{}, found[i].Networks...) // [] in JSON, not null
		if j := slices.IndexFunc(before, found[i].Same); j >= 0 {
			found[i].Since = before[j].Since
		}
	}
	slices.SortFunc(found, api.Condition.Compare)
	b.all = found
	b.mu.Unlock()
	if len(before)+len(found) == 0 || reflect.DeepEqual(before, found) {
		return
	}
	appeared, gone := without(found, before), without(before, found)
	for _, c := range appeared {
		level := slog.LevelWarn
		if c.Severity == api.SeverityInfo {
			level = slog.LevelInfo
		}
		b.log.Log(context.Background(), level, "condition appeared", append(attrs(c), "evidence", c.Evidence, "remedy", c.Remedy)...)
	}
	for _, c := range gone {
		b.log.Info("condition gone", attrs(c)...)
	}
	b.changed(concerned(slices.Concat(appeared, gone)))
}

// attrs are what the log says of a condition in any case.
func attrs(c api.Condition) []any {
	return []any{"kind", c.Kind, "severity", string(c.Severity), "networks", strings.Join(c.Networks, " "), "condition", c.Message}
}

// without are those of a that b has not.
func without(a, b []api.Condition) []api.Condition {
	return slices.DeleteFunc(slices.Clone(a), func(c api.Condition) bool { return slices.ContainsFunc(b, c.Same) })
}

// concerned are the names of the networks that conditions name, in order.
func concerned(conditions []api.Condition) []string {
	var names []string
	for _, c := range conditions {
		names = append(names, c.Networks...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
