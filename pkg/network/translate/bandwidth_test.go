package translate_test

import (
	"math"
	"testing"

	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// TestBandwidthOfLargeNumbers finds that a limit of more bytes than can be counted is none
// of a few.
func TestBandwidthOfLargeNumbers(t *testing.T) {
	wraps := uint64(math.MaxUint64/1000 + 1) // times 1000 it is less than 1000
	got := translate.Bandwidth(&netdef.Bandwidth{Inbound: &netdef.Rate{Average: wraps, Peak: wraps, Burst: math.MaxUint64/1024 + 1}}).Egress
	if got.Average != math.MaxUint64 || got.Peak != math.MaxUint64 || got.Burst != math.MaxUint64 {
		t.Errorf("a limit of %d kB/s is %+v, want as much as there is", wraps, *got)
	}
}
