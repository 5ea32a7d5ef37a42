package port_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/network/port"
)

func TestMain(m *testing.M) { os.Exit(m.Run()) }

// TestNamesOfDevices gives devices the names with the lowest numbers that are free, beside
// those that others have taken, however many.
func TestNamesOfDevices(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		r := port.NewRegistry()
		load(t, r, port.Own, "one", record(2, 0))
		nstest.IP(t, "tuntap add vnet2 mode tap")
		made := func(want string) *port.Port {
			t.Helper()
			p, dev, err := r.Make("one", uuid(90), port.Spec{}, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = dev.Close() })
			if dev.Name != want {
				t.Errorf("the device is %s, want %s", dev.Name, want)
			}
			r.Add(p)
			return p
		}
		made("vnet0")
		nstest.IP(t, "tuntap add vnet1 mode tap")
		p := made("vnet3")
		if _, _, err := r.Make("one", uuid(90), port.Spec{IfName: "vnet1"}, 0); err == nil {
			t.Error("the name of another's device is given")
		}
		made("vnet4")
		r.Remove(p)
		nstest.IP(t, "link del vnet3")
		made("vnet3")
		for i := range 30 {
			nstest.IP(t, fmt.Sprintf("tuntap add vnet%d mode tap", 5+i))
		}
		made("vnet35")
		made("vnet36")
	})
}
