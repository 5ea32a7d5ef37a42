package iface_test

import (
	"slices"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// TestPortsOfCards: cards are found at their ports, and those of which the bridge knows none at its
// own, whoever was asked for before.
func TestPortsOfCards(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link add br0 type bridge")
		index := func(name string) int { return link(t, name).Index }
		cards := []iface.HWAddr{{2, 1}, {2, 2}, {}, {2, 1}, {2, 3}}
		for i, port := range []string{"p1", "p2"} {
			nstest.IP(t, "link add "+port+" type veth peer name "+port+"-guest")
			nstest.IP(t, "link set "+port+" master br0")
			nstest.Exec(t, "bridge", "fdb", "add", cards[i].String(), "dev", port, "master", "static")
		}
		ports, err := iface.OpenPorts(index("br0"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ports.Close() }()
		want := []int{index("p1"), index("p2"), 0, index("p1"), index("br0")}
		var got []int
		for n := range cards { // ever fewer
			for range 2 {
				if got = ports.At(cards[n:], got[:0]); !slices.Equal(got, want[n:]) {
					t.Errorf("cards %v are at %v, want %v", cards[n:], got, want[n:])
				}
			}
		}
	})
}
