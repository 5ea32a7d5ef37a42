package bridge_test

import (
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
)

func TestHostNets(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		hostLinks(t)
		for _, args := range []string{
			"addr add 192.0.2.5/25 dev eno1",
			"addr add 203.0.113.9/28 dev eno2 noprefixroute",
			"route add 198.51.100.0/24 dev eno2",
			"route add default dev eno1",
			"-6 route add 2001:db8::/48 dev eno2",
		} {
			nstest.IP(t, args)
		}
		nets, err := newBridges(t).HostNets()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for _, n := range nets {
			got[n.Link+" "+n.Prefix.String()]++
		}
		for _, want := range []string{"eno1 192.0.2.0/25", "eno2 203.0.113.0/28", "eno2 198.51.100.0/24", "eno2 2001:db8::/48"} {
			if got[want] != 1 {
				t.Errorf("%s is there %d times in %v", want, got[want], nets)
			}
		}
		if got["eno1 0.0.0.0/0"] != 0 {
			t.Errorf("the default route is in %v", nets)
		}
	})
}
