package uplink_test

import (
	"errors"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/uplink"
)

// TestMTU holds that the bridge has the MTU that is asked for, the uplink no less, whatever
// others do, and its own again in the end.
func TestMTU(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		hypervisor(t)
		before := hostState(t)
		u := newUplinks(t)
		var kept saved
		attached, err := u.Attach(t.Context(), uplink.Config{Bridge: "br0", Uplink: "eno1", MTU: 9000, Save: kept.save})
		if err != nil {
			t.Fatal(err)
		}
		s := *attached
		mtus := func(when string, bridge, uplink int) {
			t.Helper()
			if b, e := show(t, "br0").MTU, show(t, "eno1").MTU; b != bridge || e != uplink {
				t.Errorf("%s: the MTU of the bridge is %d, of the uplink %d, want %d and %d", when, b, e, bridge, uplink)
			}
		}
		mtus("more than the uplink's", 9000, 9000)
		nstest.IP(t, "link set br0 mtu 1400")
		nstest.IP(t, "link set eno1 mtu 1300")
		if _, err := u.Ensure(t.Context(), &s, kept.save); err != nil {
			t.Fatal(err)
		}
		mtus("after others changed it", 9000, 9000)
		for _, step := range []struct{ asked, bridge, uplink int }{{1400, 1400, 9000}, {9000, 9000, 9000}, {0, 1500, 1500}, {1400, 1400, 1500}, {0, 1500, 1500}, {9000, 9000, 9000}} {
			if err := u.Fit(&s, step.asked, kept.save); err != nil {
				t.Fatal(err)
			}
			mtus("when asked for another", step.bridge, step.uplink)
		}
		detachUplink(t, u, kept.state(t))
		sameHost(t, "after Detach", before)
	})
}

// TestVLANOfUplink makes a VLAN of an interface the uplink, whose device is made and goes
// with the bridge, comes back with the interface, and is left where it was there before.
func TestVLANOfUplink(t *testing.T) {
	files := nstest.GuestFiles{Programs: []string{"ping"}, Modules: []string{"llc", "stp", "bridge", "garp", "mrp", "8021q", "veth"}}
	nstest.RunInGuest(t, files, func(t *testing.T) {
		lan := nstest.NewLAN(t)
		lan.IP("link add lan0.42 link lan0 type vlan id 42")
		lan.IP("addr add 198.18.42.1/24 dev lan0.42")
		lan.IP("link set lan0.42 up")
		settle(t)
		before := hostState(t)
		u := newUplinks(t)
		cfg := uplink.Config{Bridge: "br42", Uplink: "eno1.42", Parent: "eno1", VLAN: 42}
		attach := func() uplink.State {
			t.Helper()
			var kept saved
			cfg.Save = kept.save
			if _, err := u.Attach(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			return kept.state(t)
		}
		reaches := func(when string) {
			t.Helper()
			nstest.IP(t, "addr replace 198.18.42.2/24 dev br42")
			nstest.Exec(t, "busybox", "ping", "-c1", "-W9", "198.18.42.1")
			nstest.Exec(t, "busybox", "ping", "-c1", "-W9", nstest.LANHost) // as before, by the interface itself
			if show(t, "eno1.42").Master != "br42" {
				t.Errorf("%s: the VLAN is no port", when)
			}
		}
		s := attach()
		reaches("attached")
		nstest.IP(t, "link del eno1.42")
		if f, err := u.Ensure(t.Context(), &s, func(uplink.State) error { return nil }); err != nil || f.Uplink != "eno1.42" {
			t.Errorf("after the device was deleted: %+v, %v", f, err)
		}
		reaches("made again")
		detachUplink(t, u, s)
		sameHost(t, "after Detach", before)

		nstest.IP(t, "link add eno1.42 link eno1 type vlan id 42")
		nstest.IP(t, "link set eno1.42 up")
		settle(t)
		s = attach()
		reaches("a device that was there")
		detachUplink(t, u, s)
		if show(t, "eno1.42").Master != "" {
			t.Error("the device is a port still")
		}

		for _, tt := range []struct {
			cfg  uplink.Config
			want error
		}{
			{uplink.Config{Bridge: "br43", Uplink: "eno7.43", Parent: "eno7", VLAN: 43}, bridge.ErrNotFound},
			{uplink.Config{Bridge: "br43", Uplink: "eno1.42", Parent: "eno1", VLAN: 43}, nil},
			{uplink.Config{Bridge: "br43", Uplink: "eno1.x", Parent: "eno1", VLAN: 42}, nil},
		} {
			if _, err := u.Attach(t.Context(), tt.cfg); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%+v: %v, want an error (%v)", tt.cfg, err, tt.want)
			}
		}
	})
}
