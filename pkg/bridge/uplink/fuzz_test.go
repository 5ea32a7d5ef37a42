package uplink

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// FuzzState: whatever a state file holds, it is read, or refused, without
// a panic, and routes keep what isn't about their link.
func FuzzState(f *testing.F) {
	route := message{head: []byte{unix.AF_INET, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0}, attrs: []attr{
		{unix.RTA_OIF, netlink.Uint32(2)},
		{unix.RTA_GATEWAY, []byte{192, 0, 2, 1}},
		{unix.RTA_TABLE, netlink.Uint32(254)},
	}}
	hop := append([]byte{16, 0, 0, 0, 2, 0, 0, 0, 8, 0, 5, 0}, 192, 0, 2, 1)
	multipath := route.without(unix.RTA_OIF, unix.RTA_GATEWAY).with(unix.RTA_MULTIPATH, hop)
	address := message{head: []byte{unix.AF_INET, 24, 128, 0, 2, 0, 0, 0}, attrs: []attr{
		{unix.IFA_LOCAL, []byte{192, 0, 2, 7}}, {unix.IFA_LABEL, []byte("eno1:web\x00")}, {unix.IFA_CACHEINFO, make([]byte, 16)},
	}}
	for _, m := range []message{route, multipath, address} {
		f.Add(m.bytes(), m.bytes(), m.bytes())
	}
	f.Fuzz(func(t *testing.T, address, route, neighbour []byte) {
		s := &State{
			Index: 2, Addresses: [][]byte{address}, Neighbours: [][]byte{neighbour},
			Routes: []Route{{Message: route, Advertised: len(route)%2 == 0}},
		}
		s.gateways()
		s.Temporary()
		mv, err := newMove(s, bridge.Link{Index: 2, Name: "eno1"}, bridge.Link{Index: 3, Name: "br0"})
		if err != nil {
			return
		}
		mv.dropExpired()
		mv.switchOver()
		for _, a := range mv.addresses {
			addAddress(a, mv.to)
		}
		for _, n := range mv.neighbours {
			addNeighbour(n, 3)
		}
		for _, r := range mv.routes {
			there := r.on(2, 3)
			if back := there.on(3, 2); !r.leads(3) && !bytes.Equal(back.bytes(), r.on(2, 2).bytes()) {
				t.Errorf("route %x comes back as %x", r.on(2, 2).bytes(), back.bytes())
			}
		}
	})
}
