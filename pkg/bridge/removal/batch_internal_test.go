package removal

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestBatches holds what is deleted at a time to what may be, and in its order.
func TestBatches(t *testing.T) {
	for _, c := range []struct {
		name string
		cost []Cost
		want []int // links of each batch
	}{
		{"none", nil, nil},
		{"one", []Cost{Bridge}, []int{1}},
		{"bridges", repeat(Bridge, 17), []int{8, 8, 1}},
		{"others", repeat(Other, 65), []int{64, 1}},
		{"a bridge behind others", append(repeat(Other, 57), Bridge, Other), []int{57, 2}},
		{"more than a batch may cost", []Cost{mostCost + 1, Other}, []int{1, 1}},
	} {
		q := new(Queue)
		for index, cost := range c.cost {
			q.add(&request{index: index, cost: cost})
		}
		var got []int
		next := 0
		for batch := q.take(); len(batch) > 0; batch = q.take() {
			got = append(got, len(batch))
			for _, r := range batch {
				if r.index != next {
					t.Errorf("%s: link %d comes where %d is next", c.name, r.index, next)
				}
				next++
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: batches (-want +got):\n%s", c.name, diff)
		}
	}
}

func repeat(c Cost, n int) []Cost {
	all := make([]Cost, n)
	for i := range all {
		all[i] = c
	}
	return all
}
