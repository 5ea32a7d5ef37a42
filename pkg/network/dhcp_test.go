package network_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
)

// TestProbe has a running network ask who has an address from now on: the guest
// that comes then does not get the one that another has set by hand.
func TestProbe(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		xml := strings.Replace(natXML("one", "192.0.2"), "start='192.0.2.2' end='192.0.2.254'", "start='192.0.2.100' end='192.0.2.101'", 1)
		n := h.started(xml)
		xml = strings.Replace(xml, "<network>", "<network xmlns:vnetd='urn:vnetd:network:1'>", 1)
		h.define(strings.Replace(xml, "</network>", "<vnetd:dhcp identity='mac' probe='yes'/></network>", 1))
		squatter := nstest.Guest(t, "one", "squatter", "")
		squatter.IP("addr add 192.0.2.100/24 dev eth0")
		nstest.Eventually(t, 3*wait, "the bridge forwards to it", func() error {
			return exec.CommandContext(t.Context(), "ping", "-c1", "-W1", "192.0.2.100").Run()
		})
		guest := nstest.Guest(t, "one", "guest", "")
		nstest.Eventually(t, 3*wait, "the guest has a lease", func() error {
			_ = guest.Command(t.Context(), "busybox", "udhcpc", "-f", "-q", "-n", "-i", "eth0", "-s", "/bin/true", "-r", "192.0.2.100").Run()
			leases, err := n.Leases()
			if err != nil || len(leases) != 1 {
				return errors.New("no lease")
			}
			if got := leases[0].Addr.String(); got != "192.0.2.101" {
				t.Errorf("the guest has %s, want the address that nobody had", got)
			}
			return nil
		})
	})
}
