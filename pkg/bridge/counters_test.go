package bridge_test

import (
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
)

func TestCounters(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		hostLinks(t)
		nstest.IP(t, "addr add 192.0.2.5/25 dev eno1")
		b := newBridges(t)
		before, err := b.Counters()
		if err != nil {
			t.Fatal(err)
		}
		_ = nstest.Exec(t, "sh", "-c", "ping -c 3 -i 0.05 -W 1 -b -s 1000 192.0.2.127 || true")
		after, err := b.Counters()
		if err != nil {
			t.Fatal(err)
		}
		if sent := after["eno1"].TxPackets - before["eno1"].TxPackets; sent < 3 || after["eno2"].RxBytes-before["eno2"].RxBytes < 3000 {
			t.Errorf("eno1 from %+v to %+v, eno2 from %+v to %+v", before["eno1"], after["eno1"], before["eno2"], after["eno2"])
		}
		if _, ok := after["none"]; ok || len(after) < 3 {
			t.Errorf("counters of %d links", len(after))
		}
	})
}
