package iface

import (
	"testing"
	"time"
)

// However many guests there are, only so many are remembered: those seen last.
func TestRateLimitsAreBounded(t *testing.T) {
	const most = 8
	r := NewRateLimits[int](time.Second, 1, most)
	now := time.Now()
	for n := range 1000 {
		if !r.Allow(n, now) {
			t.Errorf("guest %d may not do it once", n)
		}
	}
	if len(r.seen) != most || r.order.Len() != most {
		t.Errorf("%d guests are remembered, %d in order, want %d", len(r.seen), r.order.Len(), most)
	}
	if r.Allow(999, now) {
		t.Error("the last guest may do it twice")
	}
}
