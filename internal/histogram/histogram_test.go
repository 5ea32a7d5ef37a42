package histogram_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/histogram"
)

// TestHistogram: a time falls into the first class whose bound is not below it.
func TestHistogram(t *testing.T) {
	bounds := []time.Duration{time.Second, 2 * time.Second}
	h := histogram.New(bounds)
	for _, d := range []time.Duration{0, time.Second, time.Second + 1, 2 * time.Second, time.Hour} {
		h.Add(d, 1)
	}
	h.Add(time.Minute, 3)
	h.Add(time.Minute, 0)
	want := histogram.Counts{Bounds: bounds, Counts: []uint64{2, 2, 4}, Sum: time.Hour + 3*time.Minute + 4*time.Second + 1}
	if diff := cmp.Diff(want, h.Load()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestPlus: what is added to does not change, and what counted nothing adds nothing.
func TestPlus(t *testing.T) {
	bounds := []time.Duration{time.Second}
	a := histogram.Counts{Bounds: bounds, Counts: []uint64{1, 2}, Sum: 3}
	b := histogram.Counts{Bounds: bounds, Counts: []uint64{10, 20}, Sum: 30}
	for _, c := range []struct{ a, b, want histogram.Counts }{
		{a, b, histogram.Counts{Bounds: bounds, Counts: []uint64{11, 22}, Sum: 33}},
		{a, histogram.Counts{}, a},
		{histogram.Counts{}, b, b},
		{histogram.Counts{Bounds: bounds}, b, b},
	} {
		if diff := cmp.Diff(c.want, c.a.Plus(c.b)); diff != "" {
			t.Errorf("%v and %v (-want +got):\n%s", c.a, c.b, diff)
		}
	}
	if a.Counts[0] != 1 || b.Counts[0] != 10 {
		t.Error("the counts that were added have changed")
	}
}
