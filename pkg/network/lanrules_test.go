package network_test

import (
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
)

// TestLANCutOff: where packets within bridges pass iptables, a policy that drops what it is
// not told of cuts off guests on a host's bridge, which is told while it lasts.
func TestLANCutOff(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		shell(t, "ip link add br0 up type bridge; ip link add eno9 type veth peer name lan9; ip link set eno9 master br0 up; sysctl -qw net.bridge.bridge-nf-call-iptables=1")
		n := h.started("<network><name>office</name><forward mode='bridge'/><bridge name='br0'/></network>")
		nstest.Guest(t, "br0", "guest", "")
		shell(t, "iptables -P FORWARD DROP")
		c := await(t, n, "drop-policy", true)
		if c.Severity != api.SeverityError || !strings.Contains(c.Message, "what they send to the LAN") || c.Remedy != "iptables -I FORWARD -i br0 -o br0 -j ACCEPT" {
			t.Errorf("the condition is %+v", c)
		}
		shell(t, c.Remedy)
		await(t, n, "drop-policy", false)
	})
}
