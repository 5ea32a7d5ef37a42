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

// TestBandwidthWithoutLimits has a port with an empty bandwidth be held to nothing, whatever its group is.
func TestBandwidthWithoutLimits(t *testing.T) {
	live := &netdef.Network{Bridge: netdef.Bridge{Name: "br0"}, PortGroups: []netdef.PortGroup{{Default: true, Bandwidth: &netdef.Bandwidth{Inbound: &netdef.Rate{Average: 10}}}}}
	for limits, want := range map[string]int{"": 1, "<bandwidth/>": 0, "<bandwidth><inbound average='0'/></bandwidth>": 0} {
		doc, err := netdef.ParsePort([]byte("<networkport><uuid>77777777-0000-4000-8000-000000000001</uuid><owner><name>vm</name>" +
			"<uuid>77777777-0000-4000-8000-000000000002</uuid></owner><mac address='52:54:00:00:00:09'/>" + limits + "</networkport>"))
		if err != nil {
			t.Fatal(err)
		}
		full, err := translate.NetworkPort(live, doc, false, nil)
		if err != nil || len(full.Bandwidth.Limits()) != want {
			t.Errorf("%q: %v, limits %v, want %d", limits, err, full.Bandwidth.Limits(), want)
		}
		doc.Plug = full.Plug
		if full, err = translate.NetworkPort(live, doc, true, nil); err != nil || len(full.Bandwidth.Limits()) != 0 {
			t.Errorf("%q, reclaimed: %v, limits %v, want those of its document", limits, err, full.Bandwidth.Limits())
		}
	}
}
