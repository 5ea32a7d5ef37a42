package network_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// noticed bounds how long a condition takes to be noticed: on a busy machine vnetd
// looks less often.
const noticed = time.Minute

// find returns the condition of that kind among those of n.
func find(n *network.Network, kind string) (api.Condition, bool) {
	all := n.Conditions()
	i := slices.IndexFunc(all, func(c api.Condition) bool { return c.Kind == kind })
	if i < 0 {
		return api.Condition{}, false
	}
	return all[i], true
}

// await waits for a condition of n, or for its end.
func await(t *testing.T, n *network.Network, kind string, there bool) api.Condition {
	t.Helper()
	var c api.Condition
	nstest.Eventually(t, noticed, "condition "+kind, func() error {
		var ok bool
		if c, ok = find(n, kind); ok != there {
			return errors.New("not yet")
		}
		return nil
	})
	return c
}

// TestOverlapAfterStart has the host reach the network's subnet by a route that
// came later, as a VPN's.
func TestOverlapAfterStart(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		for _, args := range []string{"link add tun7 type veth peer name peer7", "link set tun7 up", "link set peer7 up"} {
			nstest.IP(t, args)
		}
		for _, c := range []struct {
			route    string
			severity api.Severity
			remedy   string
		}{
			{"192.0.2.128/25 dev tun7", api.SeverityError, "vnetctl renumber one --now"},
			{"192.0.0.0/16 dev tun7", api.SeverityInfo, "ip route show root 192.0.2.0/24"},
		} {
			nstest.IP(t, "route add "+c.route)
			got := await(t, n, "subnet-overlap", true)
			if got.Severity != c.severity || got.Remedy != c.remedy || !strings.Contains(got.Message, "tun7") || !strings.Contains(got.Evidence, "192.0.2.0/24") {
				t.Errorf("with a route to %s: %+v", c.route, got)
			}
			nstest.IP(t, "route del "+c.route)
			await(t, n, "subnet-overlap", false)
		}
	})
}

// TestForeignServer has a guest serve DHCP, unguarded, and another one choose it.
func TestForeignServer(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		// Ours knows one guest alone, so that the other has no choice.
		xml := strings.Replace(natXML("one", "192.0.2"), "<range start='192.0.2.2' end='192.0.2.254'/>", "", 1)
		xml = strings.Replace(xml, "name='myhost'", "mac='52:54:00:00:00:99' name='myhost'", 1)
		xml = strings.Replace(xml, "<network>", "<network xmlns:vnetd='urn:vnetd:network:1'>", 1)
		n := h.started(strings.Replace(xml, "</network>", "<vnetd:guard level='gateway' dhcp='off'/></network>", 1))
		rogue := nstest.Guest(t, "one", "rogue", "")
		rogue.IP("addr add 192.0.2.66/24 dev eth0")
		server := rogue.Command(t.Context(), "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=",
			"--no-resolv", "--no-hosts", "--port=0", "--interface=eth0", "--dhcp-range=192.0.2.100,192.0.2.150", "--dhcp-leasefile=/run/rogue.leases",
			"--dhcp-authoritative", "--no-ping")
		server.Stderr = os.Stderr
		must(t, server.Start())
		t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
		guest := nstest.Guest(t, "one", "guest", "")
		guest.Exec("busybox", "udhcpc", "-f", "-q", "-n", "-t", "20", "-T", "1", "-i", "eth0", "-s", "/bin/true")
		c := await(t, n, "foreign-dhcp", true)
		if c.Severity != api.SeverityWarning || !strings.Contains(c.Message, "192.0.2.66") {
			t.Errorf("condition %+v", c)
		}
	})
}

// TestOptionsWithoutEffect names the lines for dnsmasq that vnetd does not know.
func TestOptionsWithoutEffect(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		xml := strings.Replace(natXML("one", "192.0.2"), "<network>", "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>", 1)
		xml = strings.Replace(xml, "</network>", "<dnsmasq:options><dnsmasq:option value='conntrack'/></dnsmasq:options></network>", 1)
		n := h.started(xml)
		if c := await(t, n, "dnsmasq-options", true); !strings.Contains(c.Evidence, "conntrack") {
			t.Errorf("condition %+v", c)
		}
		must(t, n.Stop(t.Context()))
		await(t, n, "dnsmasq-options", false)
	})
}

// TestDisks fills the state's file system, then makes it read-only.
func TestDisks(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		state := filepath.Join(root, "state")
		must(t, os.MkdirAll(state, 0o755))
		nstest.Exec(t, "mount", "-t", "tmpfs", "-o", "size=4608k", "tmpfs", state)
		t.Cleanup(func() { _ = exec.Command("umount", "-l", state).Run() })
		h := newHub(t, root, hubOptions{})
		on := func(kind string, there bool) {
			t.Helper()
			nstest.Eventually(t, noticed, kind, func() error {
				found := slices.ContainsFunc(h.Conditions(), func(c api.Condition) bool {
					return c.Kind == kind && c.Severity == api.SeverityError && strings.Contains(c.Evidence, state)
				})
				if found != there {
					return errors.New("not yet")
				}
				return nil
			})
		}
		fill := filepath.Join(state, "fill")
		must(t, os.WriteFile(fill, make([]byte, 3500<<10), 0o600))
		on("disk-full", true)
		must(t, os.Remove(fill))
		on("disk-full", false)

		nstest.Exec(t, "mount", "--bind", state, state)
		nstest.Exec(t, "mount", "-o", "remount,bind,ro", state)
		on("disk-read-only", true)
		nstest.Exec(t, "umount", state)
		on("disk-read-only", false)
	})
}

// TestDamagedLeases starts with a lease database that can't be read.
func TestDamagedLeases(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		state := filepath.Join(root, "state")
		must(t, os.MkdirAll(state, 0o755))
		must(t, os.WriteFile(filepath.Join(state, "leases.db"), []byte(strings.Repeat("junk", 4096)), 0o600))
		h := newHub(t, root, hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		if c := await(t, n, "leases-damaged", true); !strings.Contains(c.Evidence, "leases.db.corrupt-") {
			t.Errorf("condition %+v", c)
		}
		if got := n.Info(); got.State != api.Active {
			t.Errorf("the network is %v (%s), want it active", got.State, got.LastError)
		}
	})
}
