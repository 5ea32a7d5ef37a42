package network_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
)

const uplinkXML = "<network xmlns:vnetd='urn:vnetd:network:1'><name>lan</name><forward mode='bridge'/>" +
	"<bridge name='br0'/><vnetd:uplink dev='eno1'/></network>"

// hostNetwork is where the host's addresses and routes are, once the kernel knows
// of all carriers.
func hostNetwork(t *testing.T) (is string) {
	t.Helper()
	nstest.Eventually(t, wait, "the links have their carriers", func() error {
		is = nstest.IP(t, "-br addr show scope global") + nstest.IP(t, "route") + nstest.IP(t, "-6 route show default")
		if strings.Contains(is, "linkdown") {
			return errors.New(is)
		}
		return nil
	})
	return is
}

// TestBridgedWithUplink bridges a guest onto the LAN while the host talks to the
// LAN all the time, over the stop and the restart of the network, and gives the
// uplink back.
func TestBridgedWithUplink(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		lan := nstest.NewLAN(t)
		before := hostNetwork(t)
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		outside := guest{NS: lan, t: t}
		nstest.Eventually(t, wait, "the LAN reaches the host", func() error { return outside.pings(nstest.Uplink) })
		flood := startFlood(t, lan, nstest.Uplink)
		h.started(uplinkXML)
		if h.master("eno1") != "br0" || !strings.Contains(hostNetwork(t), "br0") {
			t.Errorf("after the start the host has\n%s", hostNetwork(t))
		}
		tenant := staticGuest(t, "br0", "a", "203.0.113.77", nstest.LANHost)
		nstest.Eventually(t, wait, "the guest reaches the LAN", func() error { return tenant.pings(nstest.LANHost) })
		h.end()
		h = newHub(t, root, hubOptions{})
		n, err := h.ByName("lan")
		must(t, err)
		if info := n.Info(); info.State != api.Active || h.master("eno1") != "br0" {
			t.Errorf("after a restart: %+v", info)
		}
		must(t, n.Stop(t.Context()))
		// As a link becomes a port, and as it ceases to be one, the kernel drops what comes in
		// between the two steps that this takes (br_add_if, del_nbp): nothing to speak of, but
		// as long as it gets no processor for the second. That the steps between lose nothing
		// is for the tests of pkg/bridge/uplink.
		if lost := flood.lost(t); len(lost) > 10 {
			t.Errorf("pings were lost: %v", lost)
		}
		if diff := cmp.Diff(before, hostNetwork(t)); diff != "" {
			t.Errorf("after the stop (-before +after):\n%s", diff)
		}
	})
}

// TestUplinkIsGivenBack takes down what a killed vnetd left, and waits for an uplink that
// is not there.
func TestUplinkIsGivenBack(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		before := hostNetwork(t)
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		h.started(uplinkXML)
		h.end()
		h = newHub(t, root, hubOptions{bare: true})
		must(t, h.Cleanup(t.Context()))
		if diff := cmp.Diff(before, hostNetwork(t)); diff != "" {
			t.Errorf("after cleanup (-before +after):\n%s", diff)
		}
		h.end()
		h = newHub(t, root, hubOptions{})
		n := h.define(strings.ReplaceAll(uplinkXML, "eno1", "eno7"))
		must(t, n.Start(t.Context()))
		if info := n.Info(); info.State != api.Degraded || !strings.Contains(info.LastError, `"eno7" is no link`) || linkExists("br0") {
			t.Errorf("started with an uplink that is not there: %+v", info)
		}
		h.condition("uplink-away")
		nstest.IP(t, "link set eno1 name eno7")
		until(t, "the uplink is plugged in", func() bool { return h.master("eno7") == "br0" && n.Info().State == api.Active })
		await(t, n, "uplink-away", false)
		must(t, n.Stop(t.Context()))
		if linkExists("br0") || !strings.Contains(hostNetwork(t), "eno7") {
			t.Errorf("stopped, the host has\n%s", hostNetwork(t))
		}
	})
}

// TestHostsLease has the host's DHCP client not renew, and then renew, the address that moved
// to the bridge.
func TestHostsLease(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		nstest.IP(t, "addr add 203.0.113.9/24 dev eno1 valid_lft 1000 preferred_lft 1000")
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(uplinkXML)
		nstest.IP(t, "addr change 203.0.113.9/24 dev br0 valid_lft 390 preferred_lft 390")
		if c := await(t, n, "uplink-lease", true); !strings.Contains(c.Evidence, "203.0.113.9/24 on br0 ends at ") || c.Severity != api.SeverityError {
			t.Errorf("condition %+v", c)
		}
		nstest.IP(t, "addr change 203.0.113.9/24 dev br0 valid_lft 1000 preferred_lft 1000")
		await(t, n, "uplink-lease", false)
	})
}
