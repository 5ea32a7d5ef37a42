package network_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
)

// shell runs commands in the test's namespace.
func shell(t *testing.T, script string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// TestRoutingOfOthers has the host's routing cut guests off in every way: each is a
// condition with what shows it, which goes with its cause.
func TestRoutingOfOthers(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(damageXML)
		nstest.Guest(t, "one", "guest", "")
		shell(t, `ip link add ts0 type veth peer name ts1; ip link set ts0 up; ip link set ts1 up; ip addr add 100.64.0.9/32 dev ts0
			sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eno1.rp_filter=0 net.ipv4.conf.one.rp_filter=0`)
		for _, c := range []struct {
			what, do, undo string
			kind           string
			severity       api.Severity
			shows, remedy  string
		}{
			{
				"tailscale routes the guests' subnet", "ip rule add pref 5270 lookup 52; ip route add 192.0.2.0/24 dev ts0 table 52",
				"ip rule del pref 5270; ip route flush table 52",
				"route-to-guests", api.SeverityError, "dev ts0 table 52, by rule 5270: from all lookup 52", "ip rule add to 192.0.2.0/24 lookup main priority 5269",
			},
			{
				"a VPN routes half of the subnet", "ip rule add pref 5270 lookup 52; ip route add 192.0.2.128/25 dev ts0 table 52",
				"ip rule del pref 5270; ip route flush table 52",
				"route-to-guests", api.SeverityError, "ip route get 192.0.2.254: dev ts0 table 52", "ip rule add to 192.0.2.0/24",
			},
			{
				"the same of IPv6", "ip -6 rule add pref 5270 lookup 52; ip -6 route add 2001:db8:1::/64 dev ts0 table 52",
				"ip -6 rule del pref 5270; ip -6 route flush table 52",
				"route-to-guests", api.SeverityError, "dev ts0 table 52, by rule 5270: from all lookup 52", "ip -6 rule add to 2001:db8:1::/64 lookup main priority 5269",
			},
			{
				"a VPN's default route, as WireGuard's", "ip rule add not fwmark 0xca6c table 51820 pref 100; ip route add default dev ts0 table 51820; ip rule add table main suppress_prefixlength 0 pref 99",
				"ip rule del pref 100; ip rule del pref 99; ip route flush table 51820",
				"route-from-guests", api.SeverityInfo, "dev ts0 table 51820, by rule 100", "ip rule show",
			},
			{
				"guests alone leave elsewhere", "ip rule add from 192.0.2.0/24 lookup 77 pref 900; ip route add default dev ts0 table 77",
				"ip rule del pref 900; ip route flush table 77",
				"route-from-guests", api.SeverityInfo, "from 192.0.2.2 iif one: dev ts0 table 77, by rule 900: from 192.0.2.0/24 lookup 77", "ip rule show",
			},
			{
				"a rule prohibits guests", "ip rule add from 192.0.2.0/24 prohibit pref 900", "ip rule del pref 900",
				"route-from-guests", api.SeverityError, "prohibited, by rule 900: from 192.0.2.0/24 refuse", "ip rule show",
			},
			{
				"a kill switch", "ip rule add from 192.0.2.0/24 lookup 77 pref 900; ip route add blackhole default table 77", "ip rule del pref 900; ip route flush table 77",
				"route-from-guests", api.SeverityError, "blackhole", "ip rule show",
			},
			{
				"an unreachable default route", "ip rule add iif one lookup 77 pref 900; ip route add unreachable default table 77", "ip rule del pref 900; ip route flush table 77",
				"route-from-guests", api.SeverityError, "unreachable", "ip rule show",
			},
			{
				"the same of IPv6", "ip -6 rule add iif one lookup 77 pref 900; ip -6 route add unreachable default table 77", "ip -6 rule del pref 900; ip -6 route flush table 77",
				"route-from-guests", api.SeverityError, "unreachable", "ip -6 rule show",
			},
			{
				"a prohibited way back", "ip route add prohibit 192.0.2.0/24 table 77; ip rule add to 192.0.2.0/24 lookup 77 pref 900", "ip rule del pref 900; ip route flush table 77",
				"route-to-guests", api.SeverityError, "prohibited", "ip route show table all",
			},
			{
				"a strict reverse path filter", "sysctl -qw net.ipv4.conf.one.rp_filter=1; ip rule add iif eno1 lookup 77 pref 900; ip route add 192.0.2.0/24 dev ts0 table 77",
				"ip rule del pref 900; ip route flush table 77; sysctl -qw net.ipv4.conf.one.rp_filter=0",
				"reverse-path", api.SeverityError, "rp_filter is strict on one", "net.ipv4.conf.one.rp_filter=2",
			},
			{
				"a rule for what comes back", "ip rule add iif eno1 lookup 77 pref 900; ip route add 192.0.2.0/24 dev ts0 table 77",
				"ip rule del pref 900; ip route flush table 77",
				"route-to-guests", api.SeverityError, "from 198.41.0.4 iif eno1: dev ts0 table 77, by rule 900: from all iif eno1 lookup 77", "priority 899",
			},
			{
				"the uplink does not forward", "sysctl -qw net.ipv4.conf.eno1.forwarding=0", "sysctl -qw net.ipv4.conf.eno1.forwarding=1",
				"link-forwarding-off", api.SeverityError, "net.ipv4.conf.eno1.forwarding = 0", "sysctl -w net.ipv4.conf.eno1.forwarding=1",
			},
		} {
			shell(t, c.do)
			got := await(t, n, c.kind, true)
			if got.Severity != c.severity || !strings.Contains(got.Evidence, c.shows) || !strings.Contains(got.Remedy, c.remedy) {
				t.Errorf("%s: %+v", c.what, got)
			}
			shell(t, c.undo)
			await(t, n, c.kind, false)
			until(t, c.what+", and undone: nothing is left", func() bool {
				return !slices.ContainsFunc(n.Conditions(), func(c api.Condition) bool { return c.Severity != api.SeverityInfo })
			})
		}
	})
}

// TestForwardDevice has a network whose guests may leave by one link alone.
func TestForwardDevice(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(strings.Replace(natXML("one", "192.0.2"), "mode='nat'", "mode='nat' dev='wan0'", 1))
		if c := await(t, n, "forward-device", true); c.Severity != api.SeverityError || !strings.Contains(c.Evidence, "wan0") {
			t.Errorf("without the device: %+v", c)
		}
		shell(t, "ip link add wan0 type veth peer name wan1")
		await(t, n, "forward-device", true)
		shell(t, "ip link set wan0 up; ip link set wan1 up")
		await(t, n, "forward-device", false)
		if c := await(t, n, "route-from-guests", true); c.Severity != api.SeverityError || !strings.Contains(c.Message, "eno1") {
			t.Errorf("with a default route elsewhere: %+v", c)
		}
		shell(t, "ip addr add 198.51.100.2/24 dev wan0; ip route replace default via 198.51.100.1 dev wan0")
		await(t, n, "route-from-guests", false)
	})
}
