package bridge_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// asked collects the differences that Ensure and Attach find, and has them mended, or
// none.
type asked struct {
	mend  bool
	found []string
}

func (a *asked) amend(d bridge.Difference) bool {
	a.found = append(a.found, d.String())
	return a.mend
}

// TestDifferencesAreNamed damages a bridge and a port: each difference is named once, left
// where that is asked, and else mended.
func TestDifferencesAreNamed(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		cfg := defaultConfig()
		cfg.Alias, cfg.MTU = "vnetd network x", 1500
		index := ensure(t, b, cfg)
		_, port := openTAP(t, "vnet0")
		plug := bridge.PortConfig{MTU: 1500, NoLearning: true, FDB: parseMAC("52:54:00:00:00:07")}
		attach(t, b, index, port, plug)
		for _, d := range []struct {
			do   string
			want []string
		}{
			{"link set virbr0 mtu 1400", []string{"virbr0: mtu is 1400, should be 1500"}},
			{"addr del 192.168.122.1/24 dev virbr0", []string{"virbr0: address 192.168.122.1/24 is not there"}},
			{"addr add 192.0.2.9/24 dev virbr0", nil},
			{"route add 192.0.2.0/28 via 192.168.122.9", nil},
			{"link set vnet0 nomaster", []string{"vnet0: master virbr0 is not there"}},
			{"link set vnet0 type bridge_slave learning on", []string{"vnet0: learning is on, should be off"}},
			{"link set vnet0 down", []string{"vnet0: up is down, should be up"}},
		} {
			nstest.IP(t, d.do)
			for _, mend := range []bool{false, true, true} {
				a := &asked{mend: mend}
				cfg.Index, cfg.Amend, plug.Amend = index, a.amend, a.amend
				ensure(t, b, cfg)
				attach(t, b, index, port, plug)
				// The others follow from the first.
				if len(d.want) > 0 && len(a.found) > 1 {
					a.found = a.found[:1]
				}
				if diff := cmp.Diff(d.want, a.found); diff != "" {
					t.Errorf("%s, mending %v (-want +got):\n%s", d.do, mend, diff)
				}
				if mend {
					d.want = nil // nothing is left for the second time
				}
			}
		}
	})
}

// TestRenamedBridge gives a bridge its name back, and no other one.
func TestRenamedBridge(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		cfg := defaultConfig()
		cfg.Alias = "vnetd network x"
		cfg.Index = ensure(t, b, cfg)
		nstest.IP(t, "link set virbr0 down")
		nstest.IP(t, "link set virbr0 name other")
		if got := ensure(t, b, cfg); got != cfg.Index || exists(t, "other") {
			t.Errorf("the bridge has index %d, want %d", got, cfg.Index)
		}
		nstest.IP(t, "link set virbr0 down")
		nstest.IP(t, "link set virbr0 name other")
		nstest.IP(t, "link set other alias somebody's")
		if got := ensure(t, b, cfg); got == cfg.Index || !exists(t, "other") {
			t.Error("a bridge without the mark is renamed")
		}
	})
}
