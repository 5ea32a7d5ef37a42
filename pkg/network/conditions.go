package network

import (
	"cmp"
	"context"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

// Severity says how bad a condition is.
type Severity string

// The severities, the worst last.
const (
	SeverityInfo    Severity = "info"    // nobody suffers; to know when something else changes
	SeverityWarning Severity = "warning" // something is not as it was meant, or soon will be
	SeverityError   Severity = "error"   // guests are cut off, or vnetd can't do its work
)

// Condition is something on this host, commonly not of vnetd's making, that keeps
// guests from what their networks promise.
type Condition struct {
	Kind     string   `json:"kind"` // stable, in words with hyphens: drop-policy, disk-full
	Severity Severity `json:"severity"`
	// Networks are the names of those concerned, in order; empty: the whole host.
	Networks []string `json:"networks"`
	// Message is one sentence, Evidence what shows it, Remedy the command that
	// would put it right, empty where there is none.
	Message  string    `json:"message"`
	Evidence string    `json:"evidence"`
	Remedy   string    `json:"remedy"`
	Since    time.Time `json:"since"`
}

// rank orders severities, the worst first.
func (s Severity) rank() int {
	return slices.Index([]Severity{SeverityError, SeverityWarning, SeverityInfo}, s)
}

// compare orders conditions: the worst first, then by kind, networks, evidence.
func (c Condition) compare(o Condition) int {
	return cmp.Or(
		cmp.Compare(c.Severity.rank(), o.Severity.rank()),
		cmp.Compare(c.Kind, o.Kind),
		slices.Compare(c.Networks, o.Networks),
		cmp.Compare(c.Evidence, o.Evidence),
	)
}

// same tells whether two are one condition, seen at different times.
func (c Condition) same(o Condition) bool {
	return c.Kind == o.Kind && c.Evidence == o.Evidence && slices.Equal(c.Networks, o.Networks)
}

// conditionPace is how often the host is looked at. What takes long is looked at
// less often, for one part in conditionShare of the time: on a host with thousands of rules
// a listing of them takes longer than the start of the network that changed them.
const (
	conditionPace  = time.Second
	conditionShare = 5
)

// observed are the conditions that were found last.
type observed struct {
	mu  sync.Mutex
	all []Condition
}

// Conditions lists what is amiss, the worst first, as Watch found it within the
// last seconds.
func (m *Manager) Conditions() []Condition {
	m.observed.mu.Lock()
	defer m.observed.mu.Unlock()
	return slices.Clone(m.observed.all)
}

// Conditions lists those that concern the network.
func (n *Network) Conditions() []Condition {
	return slices.DeleteFunc(n.m.Conditions(), func(c Condition) bool { return !slices.Contains(c.Networks, n.name) })
}

// watchConditions looks for conditions until ctx ends.
func (m *Manager) watchConditions(ctx context.Context) {
	sources := m.conditionSources()
	found := make([][]Condition, len(sources))
	said := make([]string, len(sources))
	rested := make([]time.Time, len(sources))
	tick := time.NewTicker(conditionPace)
	defer tick.Stop()
	for ctx.Err() == nil {
		for i, s := range sources {
			begin := time.Now()
			if begin.Before(rested[i]) {
				continue
			}
			var err error
			found[i], err = s.find(ctx)
			rested[i] = time.Now().Add(conditionShare * time.Since(begin))
			// Once, not every second.
			if text := errorText(err); text != said[i] && ctx.Err() == nil {
				said[i] = text
				m.log.Warn("looking for conditions", "of", s.name, keyError, err)
			}
		}
		m.observe(slices.Concat(found...))
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

// observe takes over what was found now, and tells what is new and what is gone.
func (m *Manager) observe(found []Condition) {
	now := time.Now()
	m.observed.mu.Lock()
	before := m.observed.all
	for i := range found {
		found[i].Since = now
		found[i].Networks = append([]string{}, found[i].Networks...) // [] in JSON, not null
		if j := slices.IndexFunc(before, found[i].same); j >= 0 {
			found[i].Since = before[j].Since
		}
	}
	slices.SortFunc(found, Condition.compare)
	m.observed.all = found
	m.observed.mu.Unlock()
	if len(before)+len(found) == 0 || reflect.DeepEqual(before, found) {
		return
	}
	appeared, gone := without(found, before), without(before, found)
	for _, c := range appeared {
		level := slog.LevelWarn
		if c.Severity == SeverityInfo {
			level = slog.LevelInfo
		}
		m.log.Log(context.Background(), level, "condition appeared", append(c.attrs(), "evidence", c.Evidence, "remedy", c.Remedy)...)
	}
	for _, c := range gone {
		m.log.Info("condition gone", c.attrs()...)
	}
	m.events.publish(Event{Kind: ConditionsChanged})
	m.tellConcerned(slices.Concat(appeared, gone))
}

// attrs are what the log says of a condition in any case.
func (c Condition) attrs() []any {
	return []any{"kind", c.Kind, "severity", string(c.Severity), "networks", strings.Join(c.Networks, " "), "condition", c.Message}
}

// without are those of a that b has not.
func without(a, b []Condition) []Condition {
	return slices.DeleteFunc(slices.Clone(a), func(c Condition) bool { return slices.ContainsFunc(b, c.same) })
}

// tellConcerned tells that what is known of the conditions' networks has changed.
func (m *Manager) tellConcerned(conditions []Condition) {
	for _, n := range m.all() {
		if slices.ContainsFunc(conditions, func(c Condition) bool { return slices.Contains(c.Networks, n.name) }) {
			n.changed()
		}
	}
}
