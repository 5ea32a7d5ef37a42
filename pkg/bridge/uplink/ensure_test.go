package uplink_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge/uplink"
)

// ensure brings the host to what s says.
func ensure(t *testing.T, u *uplink.Uplinks, s *uplink.State) uplink.Found {
	t.Helper()
	f, err := u.Ensure(t.Context(), s, func(uplink.State) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// damages are what others do to an uplink and its bridge.
var damages = []struct {
	name   string
	do     []string
	uplink string // what it is called then
}{
	{"the address is deleted", []string{"addr del 203.0.113.3/24 dev br0"}, "eno1"},
	{"an IPv6 address is deleted", []string{"-6 addr del 2001:db8:ffff::3/128 dev br0"}, "eno1"},
	{"a route is deleted", []string{"route del 198.18.1.0/24 table 100"}, "eno1"},
	{"the bridge is deleted", []string{"link del br0"}, "eno1"},
	{"the bridge is renamed", []string{"link set br0 name br7"}, "eno1"},
	{"the bridge is down", []string{"link set br0 down"}, "eno1"},
	{"the uplink is no port", []string{"link set eno1 nomaster"}, "eno1"},
	{"the uplink is renamed", []string{"link set eno1 name lan9"}, "lan9"},
	{"a client puts its address on the uplink again", []string{"addr add 203.0.113.2/24 dev eno1", "route replace default via 203.0.113.1 dev eno1"}, "eno1"},
}

// TestUplinkIsPutRight: whatever others do, the bridge has again what the uplink had, and
// the uplink gets it back.
func TestUplinkIsPutRight(t *testing.T) {
	t.Parallel()
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				hypervisor(t)
				before := hostState(t)
				u := newUplinks(t)
				s := attachUplink(t, u, "eno1")
				want := routesOf(t, "br0")
				if f := ensure(t, u, &s); len(f.Repaired) > 0 {
					t.Errorf("where nothing is damaged it repairs %q", f.Repaired)
				}
				for _, args := range d.do {
					nstest.IP(t, args)
				}
				f := ensure(t, u, &s)
				if len(f.Repaired) == 0 && d.uplink == "eno1" || f.Uplink != d.uplink || show(t, d.uplink).Master != "br0" {
					t.Errorf("it found %+v and made %+v", f, show(t, d.uplink))
				}
				if diff := cmp.Diff(want, routesOf(t, "br0")); diff != "" {
					t.Errorf("routes of the bridge (-before +now):\n%s", diff)
				}
				if f := ensure(t, u, &s); len(f.Repaired) > 0 {
					t.Errorf("it goes on repairing: %q", f.Repaired)
				}
				nstest.IP(t, "link set "+d.uplink+" name eno1")
				detachUplink(t, u, s)
				sameHost(t, d.name, before)
			})
		})
	}
}

// TestRouteComesMeanwhile: a network manager goes on setting up the uplink while its
// addresses move, and no route of it gets lost with them.
func TestRouteComesMeanwhile(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		hypervisor(t)
		u := newUplinks(t)
		s := attachUplink(t, u, "eno1")
		nstest.IP(t, "addr add 203.0.113.77/24 dev eno1")
		came := false
		u.AfterStep(func() error {
			if !came {
				came = true
				nstest.IP(t, "route add 198.18.9.0/24 via 203.0.113.1 dev eno1 proto static metric 7")
			}
			return nil
		})
		if f := ensure(t, u, &s); len(f.Repaired) == 0 {
			t.Error("nothing was moved")
		}
		if out := nstest.IP(t, "route show 198.18.9.0/24"); !strings.Contains(out, "dev br0 proto static metric 7") {
			t.Errorf("the route that came meanwhile is %q", out)
		}
		u.AfterStep(nil)
		detachUplink(t, u, s)
		if out := nstest.IP(t, "route show 198.18.9.0/24"); !strings.Contains(out, "dev eno1 proto static metric 7") {
			t.Errorf("given back, the route that came meanwhile is %q", out)
		}
	})
}

// TestUplinkAway: the bridge has the host's addresses while the uplink is away, also one
// made anew, and gives them to the card that comes.
func TestUplinkAway(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		settle(t)
		want := routesOf(t, "eno1")
		u := newUplinks(t)
		s := attachUplink(t, u, "eno1")
		nstest.IP(t, "link del eno1")
		nstest.IP(t, "link del br0")
		if f := ensure(t, u, &s); f.Uplink != "" {
			t.Errorf("the uplink that is away is %q", f.Uplink)
		}
		if out := nstest.IP(t, "-br addr show dev br0"); !strings.Contains(out, nstest.Uplink+"/24") || !strings.Contains(out, nstest.Uplink6+"/64") {
			t.Errorf("the bridge has %s", out)
		}
		nstest.IP(t, "link add eno1 type veth peer name lan7")
		nstest.IP(t, "link set lan7 up")
		detachUplink(t, u, s)
		nstest.Eventually(t, soon, "the card that came has carrier", func() error { return carried(t) })
		if diff := cmp.Diff(want, routesOf(t, "eno1")); diff != "" || exists(t, "br0") {
			t.Errorf("routes of the card that came (-before +now), bridge there: %t\n%s", exists(t, "br0"), diff)
		}
	})
}
