package hostlink_test

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/hostlink"
)

// config is a link with a way of each family.
func config() hostlink.Config {
	way := func(subnet, a string) hostlink.Way {
		return hostlink.Way{Subnet: netip.MustParsePrefix(subnet), Addr: netip.MustParseAddr(a), MTU: 1450}
	}
	return hostlink.Config{
		Name: "vh7", Port: "vhp7", MAC: net.HardwareAddr{6, 0, 0, 0, 0, 1}, PortMAC: net.HardwareAddr{0xfe, 0, 0, 0, 0, 1}, MTU: 1500, Bridge: "br7",
		Table: 1000000007, Ways: []hostlink.Way{way("10.50.0.1/16", "10.50.1.7"), way("fd00:50::1/64", "fd00:50::7")}, Alias: "vnetd network u n",
	}
}

// ensure is Links.Ensure and Links.Settle, with the ports plugged in between, and returns what was amended.
func ensure(t *testing.T, links *hostlink.Links, cfg hostlink.Config) (amended []string) {
	t.Helper()
	cfg.Amend = func(d bridge.Difference) bool {
		amended = append(amended, d.String())
		return true
	}
	host, port, err := links.Ensure(t.Context(), cfg)
	if err != nil || host == 0 || port == 0 {
		t.Fatalf("ifindexes %d and %d: %v", host, port, err)
	}
	nstest.IP(t, "link set vhp7 master br7 up")
	if err := links.Settle(t.Context(), host, cfg); err != nil {
		t.Fatal(err)
	}
	return amended
}

// kernel is what there is of the link.
func kernel(t *testing.T) string {
	t.Helper()
	return nstest.Exec(t, "sh", "-c", "ip -br link | grep -o '^vh[p0-9]*'; ip -o addr show dev vh7 scope global 2>/dev/null | grep -o 'inet.*/[0-9]*'; ip rule; ip -6 rule; ip route show table 1000000007 2>/dev/null; ip -6 route show table 1000000007 2>/dev/null; true")
}

// whole is kernel of config.
const whole = `vhp7
vh7
inet 10.50.1.7/32
inet6 fd00:50::7/128
0:	from all lookup local
32700:	from 10.50.1.7 to 10.50.0.0/16 iif lo lookup 1000000007 proto 66
32701:	from 0.0.0.0 to 10.50.0.0/16 iif lo ipproto icmp dport 768-1535 lookup main proto 66
32701:	from 0.0.0.0 to 10.50.0.0/16 iif lo ipproto icmp dport 2816-3327 lookup main proto 66
32702:	from 0.0.0.0 to 10.50.0.0/16 iif lo lookup 1000000007 proto 66
32766:	from all lookup main
32767:	from all lookup default
0:	from all lookup local
32700:	from fd00:50::7 to fd00:50::/64 iif lo lookup 1000000007 proto 66
32701:	from ::/1 to fd00:50::/64 iif lo lookup main proto 66
32701:	from 8000::/1 to fd00:50::/64 iif lo lookup main proto 66
32701:	from all to fd00:50::/64 iif lo ipproto ipv6-icmp dport 256-32767 lookup main proto 66
32702:	from all to fd00:50::/64 iif lo lookup 1000000007 proto 66
32766:	from all lookup main
10.50.0.0/16 dev vh7 proto 66 scope link src 10.50.1.7 mtu 1450 
fd00:50::/64 dev vh7 proto 66 src fd00:50::7 metric 1024 mtu 1450 pref medium
`

// bare is kernel without a link.
const bare = `0:	from all lookup local
32766:	from all lookup main
32767:	from all lookup default
0:	from all lookup local
32766:	from all lookup main
`

// TestEnsure makes a link, finds it as it is, mends what others did, follows changes, and takes all
// away.
func TestEnsure(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link add br7 type bridge")
		nstest.IP(t, "link set br7 up")
		links := new(hostlink.Links)
		defer links.Close()
		cfg := config()
		ensure(t, links, cfg)
		is := func(when, want string) {
			t.Helper()
			if diff := cmp.Diff(sorted(want), sorted(kernel(t))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
			if amended := ensure(t, links, cfg); amended != nil {
				t.Errorf("%s, and then again amended: %q", when, amended)
			}
		}
		is("made", whole)
		for _, doing := range []string{
			"ip rule del pref 32702", "ip -6 rule del pref 32701", "ip addr add 192.0.2.1/24 dev vh7", "ip addr flush dev vh7 scope global", "ip link set vh7 down",
			"ip link del vh7", "ip route replace 10.50.0.0/16 dev br7 table 1000000007", "ip route add 192.0.2.0/24 dev br7 table 1000000007",
			"ip link set vh7 address 06:00:00:00:00:02", "ip link set vhp7 name other",
		} {
			nstest.Exec(t, "sh", "-c", doing)
			if amended := ensure(t, links, cfg); amended == nil {
				t.Errorf("%s: nothing is amended", doing)
			}
			is(doing, whole)
		}
		cfg.Unsettled4, cfg.Ways = true, cfg.Ways[1:]
		is("while the address is not known", whole)
		cfg.Unsettled4 = false
		ensure(t, links, cfg)
		if got := kernel(t); strings.Contains(got, "10.50.") || !strings.Contains(got, "fd00:50::7") {
			t.Errorf("without IPv4 there is:\n%s", got)
		}
		must(t, links.Remove("vh7", "of another", cfg.Table), links.Remove("vh7", cfg.Alias, cfg.Table), links.Remove("vh7", cfg.Alias, cfg.Table))
		if diff := cmp.Diff(bare, kernel(t)); diff != "" {
			t.Errorf("removed (-want +got):\n%s", diff)
		}
	})
}

// sorted are the lines of a text: rules of one priority have no order.
func sorted(text string) []string { return slices.Sorted(strings.Lines(text)) }

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

// TestTaken leaves alone what another program has made, and takes over what a process left that ended
// before it could say whose it is.
func TestTaken(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link add br7 type bridge")
		links := new(hostlink.Links)
		defer links.Close()
		cfg := config()
		for _, other := range []string{"vh7 type bridge", "vhp7 type bridge", "vh7 type veth peer name x"} {
			nstest.IP(t, "link add "+other)
			if _, _, err := links.Ensure(t.Context(), cfg); !errors.Is(err, hostlink.ErrTaken) {
				t.Errorf("%s: %v", other, err)
			}
			nstest.IP(t, "link del "+strings.Fields(other)[0])
		}
		nstest.IP(t, "link add vh7 address 06:00:00:00:00:01 type veth peer name vhp7 address fe:00:00:00:00:01")
		index := nstest.Exec(t, "cat", "/sys/class/net/vh7/ifindex")
		if host, _, err := links.Ensure(t.Context(), cfg); err != nil || strconv.Itoa(host) != strings.TrimSpace(index) {
			t.Errorf("left half made: ifindex %d, want %s: %v", host, index, err)
		}
		cfg.Amend = func(bridge.Difference) bool { return false }
		must(t, links.Remove("vh7", cfg.Alias, cfg.Table))
		if host, _, err := links.Ensure(t.Context(), cfg); err != nil || host != 0 {
			t.Errorf("a link that is left away: ifindex %d, %v", host, err)
		}
		for _, faulty := range []func(*hostlink.Config){
			func(c *hostlink.Config) { c.Name = "a/b" }, func(c *hostlink.Config) { c.MAC = nil }, func(c *hostlink.Config) { c.Table = 254 },
			func(c *hostlink.Config) { c.Alias = "" }, func(c *hostlink.Config) { c.Ways[0].Addr = netip.MustParseAddr("192.0.2.1") },
		} {
			bad := config()
			faulty(&bad)
			if _, _, err := links.Ensure(t.Context(), bad); err == nil {
				t.Errorf("%+v is taken", bad)
			}
		}
	})
}
