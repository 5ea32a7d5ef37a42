package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// What takes long is looked at less often, each source for one part in rareShare of the
// time, so that a host with many networks has its processors for the guests; but at
// least every rareMost, unless that were one part in mostShare: on a host with
// thousands of rules a listing of them takes longer than the start of the network that
// changed them.
const (
	rareShare = 300
	rareMost  = 5 * time.Second
	mostShare = 5
)

// A source that has not answered within lateAfter is a condition of its own, and what it
// said last stands; within giveUp its question ends.
const (
	lateAfter = 2 * time.Second
	giveUp    = 30 * time.Second
)

// asking is a source that is asked again and again, and what it said last.
type asking struct {
	Source
	log *slog.Logger

	mu     sync.Mutex // guards what follows
	found  []api.Condition
	said   string    // the error that was logged last
	since  time.Time // it is being asked; zero: it is not
	rested time.Time // it is not asked before
	silent bool      // it gave no answer to the last question
}

// begin reports whether the source is to be asked now, by the caller.
func (a *asking) begin(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.since.IsZero() || now.Before(a.rested) {
		return false
	}
	a.since = now
	return true
}

// ask asks the source once. begin was true before.
func (a *asking) ask(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, giveUp)
	defer cancel()
	found, err := a.Find(limited)
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	took := min(now.Sub(a.since), giveUp) // longer it takes only where this process itself stood still
	a.since = time.Time{}
	if ctx.Err() != nil || errors.Is(err, firewall.ErrChanging) {
		return
	}
	if a.silent = errors.Is(limited.Err(), context.DeadlineExceeded); a.silent {
		a.rested = now.Add(giveUp) // sooner than others: what was found is old by now
	} else {
		a.rested = now.Add(max(mostShare*took, min(rareShare*took, rareMost)))
		a.found = found
	}
	// Once, not every second.
	if text := errorText(err); text != a.said {
		a.said = text
		a.log.Warn("looking for conditions", "of", a.Name, "error", err)
	}
}

// conditions are what the source said last, and that it does not answer.
func (a *asking) conditions(now time.Time) []api.Condition {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := slices.Clone(a.found)
	if a.silent || !a.since.IsZero() && now.Sub(a.since) >= lateAfter {
		all = append(all, api.Condition{
			Kind: "no-answer", Severity: api.SeverityWarning,
			Message:  fmt.Sprintf("looking at the host for conditions of %s gives no answer: what was found last may not be true any more", a.Name),
			Evidence: fmt.Sprintf("%s: no answer within %v", a.Name, lateAfter),
			Remedy:   "journalctl -u vnetd -g 'looking for conditions'",
		})
	}
	return all
}

// errorText is err's message, empty for nil.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
