package bridge_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
)

func staticRoute(prefix, gateway string, metric uint32) bridge.Route {
	return bridge.Route{Prefix: netip.MustParsePrefix(prefix), Gateway: netip.MustParseAddr(gateway), Metric: metric}
}

// routedConfig is a network with others behind two of its guests.
func routedConfig() bridge.Config {
	cfg := defaultConfig()
	cfg.Routes = []bridge.Route{
		staticRoute("198.51.100.7/24", "192.168.122.2", 0),
		staticRoute("203.0.113.0/24", "192.168.122.3", 5),
		staticRoute("2001:db8:7::/64", "2001:db8:122::2", 0),
		staticRoute("2001:db8:8::/64", "2001:db8:122::3", 9),
	}
	return cfg
}

// staticRoutes are the routes of virbr0 by gateways, as ip(8) shows them.
func staticRoutes(t *testing.T) []string {
	t.Helper()
	var lines []string
	for _, family := range []string{"-4", "-6"} {
		for line := range strings.Lines(nstest.IP(t, family+" route show dev virbr0")) {
			if strings.Contains(line, "via") {
				line = strings.TrimSuffix(strings.TrimSpace(line), " pref medium")
				lines = append(lines, strings.TrimSpace(strings.ReplaceAll(line, " linkdown", "")))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

func checkStaticRoutes(t *testing.T, when string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if diff := cmp.Diff(want, staticRoutes(t)); diff != "" {
		t.Errorf("%s: routes (-want +got):\n%s", when, diff)
	}
}

var routedLines = []string{
	"198.51.100.0/24 via 192.168.122.2 proto 66 metric 1",
	"203.0.113.0/24 via 192.168.122.3 proto 66 metric 5",
	"2001:db8:7::/64 via 2001:db8:122::2 proto 66 metric 1",
	"2001:db8:8::/64 via 2001:db8:122::3 proto 66 metric 9",
}

func TestStaticRoutes(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		ensure(t, b, routedConfig())
		checkStaticRoutes(t, "at first", routedLines...)
		for _, change := range []string{
			"route del 198.51.100.0/24",
			"-6 route del 2001:db8:7::/64",
			"route change 203.0.113.0/24 via 192.168.122.9 dev virbr0 metric 5 proto 66",
			"link set virbr0 down",
			"addr del 192.168.122.1/24 dev virbr0",
		} {
			nstest.IP(t, change)
			ensure(t, b, routedConfig())
			checkStaticRoutes(t, change, routedLines...)
		}
		becomesSilent(t, b, routedConfig())
	})
}

// TestStaticRoutesChange: what isn't wanted any more goes, what others added stays.
func TestStaticRoutesChange(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		hostLinks(t)
		b := newBridges(t)
		cfg := routedConfig()
		ensure(t, b, cfg)
		for _, args := range []string{
			"route add 198.18.0.0/24 via 192.168.122.2 dev virbr0",
			"route add 198.18.1.0/24 via 192.168.122.2 dev virbr0 proto static",
			"route add 198.18.2.0/24 dev eno1 proto 66",
		} {
			nstest.IP(t, args)
		}
		foreign := []string{"198.18.0.0/24 via 192.168.122.2", "198.18.1.0/24 via 192.168.122.2 proto static"}
		cfg.Routes[0].Gateway = netip.MustParseAddr("192.168.122.4")
		cfg.Routes[2].Gateway = netip.MustParseAddr("2001:db8:122::4")
		cfg.Routes[1].Metric = 6
		ensure(t, b, cfg)
		checkStaticRoutes(t, "changed", append([]string{
			"198.51.100.0/24 via 192.168.122.4 proto 66 metric 1",
			"203.0.113.0/24 via 192.168.122.3 proto 66 metric 6",
			"2001:db8:7::/64 via 2001:db8:122::4 proto 66 metric 1",
			"2001:db8:8::/64 via 2001:db8:122::3 proto 66 metric 9",
		}, foreign...)...)
		cfg.Routes = nil
		ensure(t, b, cfg)
		checkStaticRoutes(t, "none", foreign...)
		if out := nstest.IP(t, "route show dev eno1"); !strings.Contains(out, "198.18.2.0/24") {
			t.Errorf("the route of another link went: %q", out)
		}
	})
}

func TestStaticRouteErrors(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		hostLinks(t)
		nstest.IP(t, "route add 198.51.100.0/24 dev eno1 metric 1")
		b := newBridges(t)
		for _, tt := range []struct {
			what string
			r    bridge.Route
		}{
			{"an unreachable gateway", staticRoute("198.18.0.0/24", "203.0.113.9", 0)},
			{"a route that is there", staticRoute("198.51.100.0/24", "192.168.122.2", 1)},
			{"mixed families", staticRoute("198.18.0.0/24", "2001:db8:122::2", 0)},
			{"no gateway", bridge.Route{Prefix: netip.MustParsePrefix("198.18.0.0/24")}},
			{"nothing", bridge.Route{}},
		} {
			cfg := defaultConfig()
			cfg.Routes = []bridge.Route{tt.r}
			_, err := b.Ensure(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), tt.r.String()) {
				t.Errorf("%s: %v, want an error that names it", tt.what, err)
			}
			if exists(t, name) {
				t.Errorf("%s: the bridge is left", tt.what)
			}
		}
	})
}

// TestLoopbackOfEach has several bridges answer for what this host sends from ::1.
func TestLoopbackOfEach(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		first, second := defaultConfig(), defaultConfig()
		second.Name, second.MAC, second.Addrs = "virbr1", parseMAC("52:54:00:00:00:77"), prefixes("2001:db8:123::1/64")
		for _, on := range []bool{true, false, true} {
			for _, cfg := range []*bridge.Config{&first, &second} {
				cfg.Loopback6, cfg.FormerLoopback6 = on, !on
				ensure(t, b, *cfg)
			}
			for _, cfg := range []bridge.Config{first, second} {
				routes := nstest.IP(t, "-6 route show table local dev "+cfg.Name)
				if strings.Contains(routes, "local ::1 ") != on {
					t.Errorf("the bridge %s should have a route to ::1: %v; it has\n%s", cfg.Name, on, routes)
				}
			}
		}
		becomesSilent(t, b, first)
	})
}
