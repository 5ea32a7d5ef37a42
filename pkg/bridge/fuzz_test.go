package bridge

import (
	"bytes"
	"maps"
	"os"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// FuzzUplinkState: whatever a state file holds, it is read, or refused, without
// a panic, and routes keep what isn't about their link.
func FuzzUplinkState(f *testing.F) {
	route := message{head: []byte{unix.AF_INET, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0}, attrs: []attr{
		{unix.RTA_OIF, nl.Uint32Attr(2)},
		{unix.RTA_GATEWAY, []byte{192, 0, 2, 1}},
		{unix.RTA_TABLE, nl.Uint32Attr(254)},
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
		s := &UplinkState{
			Index: 2, Addresses: [][]byte{address}, Neighbours: [][]byte{neighbour},
			Routes: []UplinkRoute{{Message: route, Advertised: len(route)%2 == 0}},
		}
		s.gateways()
		s.Temporary()
		mv, err := newMove(s, link{Link: Link{Index: 2, Name: "eno1"}}, link{Link: Link{Index: 3, Name: "br0"}})
		if err != nil {
			return
		}
		mv.dropDead()
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

// FuzzSysctlFile: a file that was read and written reads the same.
func FuzzSysctlFile(f *testing.F) {
	f.Add([]byte("# comment\nnet/ipv4/ip_forward = 1\nnet/ipv6/conf/eno1.5/accept_ra = 2\n"))
	f.Add([]byte("net.ipv4.ip_forward=1\nnet/a = b = c\n = \nnet/x =  \r"))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys := parseSysctlFile(data)
		if again := parseSysctlFile(formatSysctlFile(keys)); !maps.Equal(keys, again) {
			t.Errorf("%q: read %q, then %q", data, keys, again)
		}
	})
}

// FuzzAdvertisedRoutes reads what /proc/net/ipv6_route could hold.
func FuzzAdvertisedRoutes(f *testing.F) {
	zero := "00000000000000000000000000000000"
	f.Add([]byte(zero + " 00 " + zero + " 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003     eno1\n"))
	f.Add([]byte(zero + " 00 " + zero + " 00 xx 00000400 00000001 00000000 00450003     eno1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseAdvertised(bytes.NewReader(data))
		if err == nil && len(all) > len(data) {
			t.Errorf("%d routes of %d bytes", len(all), len(data))
		}
	})
}

// TestAdvertisedRoutesOfThisKernel: the format is what the running kernel writes.
func TestAdvertisedRoutesOfThisKernel(t *testing.T) {
	data, err := os.ReadFile("/proc/net/ipv6_route")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseAdvertised(bytes.NewReader(data)); err != nil {
		t.Error(err)
	}
}
