package network_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
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
				state := guest.IP("-6 addr show dev eth0 scope global") + guest.IP("-6 route show default")
				if !strings.Contains(state, "2001:db8:1:") || !strings.Contains(state, "via fe80::5054:ff:fe01:203") {
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
