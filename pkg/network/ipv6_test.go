package network_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
)

// TestIPv6Guest gives guests IPv6 addresses: by router advertisement, or by
// DHCPv6, and a resolver either way.
func TestIPv6Guest(t *testing.T) {
	const xml = "<network><name>one</name><forward mode='route'/><bridge name='one' stp='off'/><mac address='52:54:00:01:02:03'/>" +
		"<domain name='vm.example'/><ip family='ipv6' address='2001:db8:1::1' prefix='64'>%s</ip></network>"
	const resolver = "fe80::5054:ff:fe01:203%eth0"
	t.Run("advertised", func(t *testing.T) {
		nstest.Run(t, func(t *testing.T) {
			h := newHub(t, t.TempDir(), hubOptions{})
			h.started(fmt.Sprintf(xml, ""))
			guest := nstest.Guest(t, "one", "guest", "")
			nstest.Eventually(t, wait, "the guest has an address and a router", func() error {
				state := guest.IP("-6 addr show dev eth0") + guest.IP("-6 route show default")
				if strings.Contains(state, "tentative") || !strings.Contains(state, "2001:db8:1:") || !strings.Contains(state, "via fe80::5054:ff:fe01:203") {
					return fmt.Errorf("it has\n%s", state)
				}
				return nil
			})
			if got := guest.Exec("dig", "+short", "@"+resolver, "gateway.vm.example", "AAAA"); strings.TrimSpace(got) != "2001:db8:1::1" {
				t.Errorf("the guest asks its resolver for the gateway and gets %q", got)
			}
		})
	})
	t.Run("DHCPv6", func(t *testing.T) {
		nstest.Run(t, func(t *testing.T) {
			h := newHub(t, t.TempDir(), hubOptions{})
			n := h.started(fmt.Sprintf(xml, "<dhcp><range start='2001:db8:1::100' end='2001:db8:1::1ff'/></dhcp>"))
			guest := nstest.Guest(t, "one", "guest", "")
			nstest.Eventually(t, wait, "the guest's link-local address is ready", func() error {
				if out := guest.IP("-6 addr show dev eth0 scope link"); !strings.Contains(out, "fe80:") || strings.Contains(out, "tentative") {
					return fmt.Errorf("it is %q", out)
				}
				return nil
			})
			dir := t.TempDir()
			guest.Exec("dhclient", "-6", "-1", "-sf", "/bin/true", "-lf", filepath.Join(dir, "leases"),
				"-pf", filepath.Join(dir, "pid"), "eth0")
			defer endByPID(t, filepath.Join(dir, "pid"))
			leases, err := n.Leases()
			must(t, err)
			pool := netip.MustParsePrefix("2001:db8:1::100/120")
			if len(leases) != 1 || !pool.Contains(leases[0].Addr) || leases[0].PrefixLen != 64 || leases[0].DUID == nil {
				t.Errorf("leases: %+v", leases)
			}
		})
	})
}

// TestPrefixesAdvertised has guests make addresses by themselves beside DHCPv6 where the
// document says so, and tells of a prefix of which they can't.
func TestPrefixesAdvertised(t *testing.T) {
	const xml = "<network xmlns:vnetd='urn:vnetd:network:1'><name>one</name><forward mode='route'/><bridge name='one' stp='off'/>" +
		"<ip family='ipv6' address='2001:db8:1::1' prefix='64'><dhcp><range start='2001:db8:1::100' end='2001:db8:1::1ff'/></dhcp>" +
		"<vnetd:ra autonomous='yes'/></ip><ip family='ipv6' address='2001:db8:2::1' prefix='80'/></network>"
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(xml)
		guest := nstest.Guest(t, "one", "guest", "")
		nstest.Eventually(t, wait, "the guest has an address and routes", func() error {
			state := guest.IP("-6 addr show dev eth0 scope global") + guest.IP("-6 route show")
			if !strings.Contains(state, "inet6 2001:db8:1:") || !strings.Contains(state, "2001:db8:2::/80 dev eth0") {
				return fmt.Errorf("it has\n%s", state)
			}
			return nil
		})
		if got := guest.IP("-6 addr show dev eth0 scope global"); strings.Contains(got, "2001:db8:2:") {
			t.Errorf("the guest made an address of a prefix of 80 bits:\n%s", got)
		}
		until(t, "the prefix to be named", func() bool {
			return slices.ContainsFunc(n.Conditions(), func(c api.Condition) bool {
				return c.Kind == "prefix-unusable" && strings.Contains(c.Message, "2001:db8:2::/80")
			})
		})
		for _, c := range n.Conditions() {
			if c.Kind == "prefix-unusable" && strings.Contains(c.Message, "2001:db8:1::") {
				t.Errorf("a prefix that guests can use is named: %+v", c)
			}
		}
	})
}

// endByPID ends the process whose number is in a file, or soon will be: dhclient
// writes it after its parent has returned.
func endByPID(t *testing.T, path string) {
	t.Helper()
	var pid []byte
	until(t, "the process has written its number", func() bool {
		pid, _ = os.ReadFile(path)
		return len(pid) > 0
	})
	nstest.Exec(t, "kill", strings.TrimSpace(string(pid)))
}
