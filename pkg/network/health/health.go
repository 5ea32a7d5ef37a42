// Package health finds conditions: what on this host, commonly not of vnetd's
// making, keeps guests from what their networks promise. A Board asks its sources
// one after the other, says in the log what is new and what is gone, and tells
// its owner. The sources that look at one part of the host are here; those that
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
	// Reachable are those of IPv6 whose guests may be connected to from outside, though
	// those of IPv4 may not and the document does not say that it is meant so.
	Reachable []netip.Prefix
}

// interval is how often the host is looked at. What takes long is looked at less
// often, for one part in share of the time: on a host with thousands of rules a
// listing of them takes longer than the start of the network that changed them.
const (
	interval = time.Second
	share    = 5
)

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

// Watch asks the sources until ctx ends.
func (b *Board) Watch(ctx context.Context, sources []Source) {
	found := make([][]api.Condition, len(sources))
	said := make([]string, len(sources))
	rested := make([]time.Time, len(sources))
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for ctx.Err() == nil {
		for i, s := range sources {
			begin := time.Now()
			if begin.Before(rested[i]) {
				continue
			}
			var err error
			found[i], err = s.Find(ctx)
			rested[i] = time.Now().Add(share * time.Since(begin))
			// Once, not every second.
			if text := errorText(err); text != said[i] && ctx.Err() == nil {
				said[i] = text
				b.log.Warn("looking for conditions", "of", s.Name, "error", err)
			}
		}
		b.observe(slices.Concat(found...))
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// errorText is err's message, empty for nil.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
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
