package neighbour_test

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge/neighbour"
)

func TestMain(m *testing.M) { os.Exit(m.Run()) }

// TestTable writes what this host knows of guests, and lists it, whatever else the kernel's
// table has.
func TestTable(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, args := range []string{
			"link add br0 type bridge", "addr add 192.0.2.1/24 dev br0", "addr add 2001:db8::1/64 dev br0 nodad", "link set br0 up",
			"neigh add 192.0.2.9 lladdr 00:00:5e:00:53:09 dev br0",
		} {
			nstest.IP(t, args)
		}
		br0, err := net.InterfaceByName("br0")
		if err != nil {
			t.Fatal(err)
		}
		table := new(neighbour.Table)
		defer table.Close()
		want := []neighbour.Entry{
			{Addr: netip.MustParseAddr("192.0.2.7"), MAC: [6]byte{0, 0, 0x5e, 0, 0x53, 1}},
			{Addr: netip.MustParseAddr("2001:db8::7"), MAC: [6]byte{0, 0, 0x5e, 0, 0x53, 2}},
		}
		check := func(when string, want []neighbour.Entry) {
			t.Helper()
			got, err := table.List(br0.Index)
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || err != nil {
				t.Errorf("%s the entries are (%v, -want +got):\n%s", when, err, diff)
			}
		}
		check("at first", nil)
		nstest.IP(t, "neigh add 192.0.2.7 lladdr 00:00:5e:00:53:77 nud reachable dev br0") // as ARP has it
		for _, e := range want {
			for range 2 {
				if err := table.Set(br0.Index, e); err != nil {
					t.Error(err)
				}
			}
			if got := nstest.IP(t, "neigh show dev br0 to "+e.Addr.String()); !strings.Contains(got, net.HardwareAddr(e.MAC[:]).String()+" PERMANENT") {
				t.Errorf("the entry of %v is %q", e.Addr, got)
			}
		}
		check("once set", want)
		for range 2 {
			if err := table.Delete(br0.Index, want[0].Addr); err != nil {
				t.Error(err)
			}
		}
		check("once one is deleted", want[1:])
		if got := nstest.IP(t, "neigh show dev br0 to 192.0.2.9"); got == "" {
			t.Error("an entry of somebody else's is gone")
		}
		nstest.IP(t, "link del br0")
		if err := table.Delete(br0.Index, want[1].Addr); err != nil {
			t.Errorf("without the link: %v", err)
		}
		if err := table.Set(br0.Index, want[0]); err == nil {
			t.Error("an entry is set on a link that is not there")
		}
	})
}
