package health

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/vnetd/vnetd/pkg/api"
)

// Hooks are the calls of the admin's hook that failed, each until the hook succeeds at
// the same operation of that network. The zero value is empty. Its methods may be called
// concurrently, with any lock held.
type Hooks struct {
	mu     sync.Mutex
	failed []FailedHook
}

// FailedHook is a call of the hook that failed.
type FailedHook struct {
	Network, Operation string
	// Undone says that the operation was not done, or was taken back, for it.
	Undone bool
	Err    error // nil: it succeeded
}

// Called takes note of a call and how it ended.
func (h *Hooks) Called(c FailedHook) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed = slices.DeleteFunc(h.failed, func(f FailedHook) bool { return f.Network == c.Network && f.Operation == c.Operation })
	if c.Err != nil {
		h.failed = append(h.failed, c)
	}
}

// Forget forgets a network that is gone.
func (h *Hooks) Forget(network string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed = slices.DeleteFunc(h.failed, func(f FailedHook) bool { return f.Network == network })
}

// Source is the source of the calls that failed.
func (h *Hooks) Source() Source {
	return Source{"hooks", func(context.Context) ([]api.Condition, error) {
		h.mu.Lock()
		failed := slices.Clone(h.failed)
		h.mu.Unlock()
		var all []api.Condition
		for _, f := range failed {
			all = append(all, api.Condition{
				Kind: "hook-failed", Severity: api.SeverityWarning, Networks: []string{f.Network}, Evidence: evidenceOf(f.Err),
				Message: fmt.Sprintf("the hook fails at the operation %q of network %q, which %s", f.Operation, f.Network, consequence(f.Undone)),
				Remedy:  "journalctl -u vnetd -g hook",
			})
		}
		return all, nil
	}}
}

// consequence is what a failure of the hook did to its operation.
func consequence(undone bool) string {
	if undone {
		return "was refused for it"
	}
	return "was done all the same"
}

// evidenceSize bounds what a condition tells of an error, in bytes: a program can say
// much.
const evidenceSize = 1000

// evidenceOf is the text of an error, with its end cut off where it is long.
func evidenceOf(err error) string {
	text := err.Error()
	if len(text) > evidenceSize {
		text = strings.ToValidUTF8(text[:evidenceSize], "") + "…"
	}
	return text
}
