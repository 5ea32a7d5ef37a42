package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
)

// vrfXML is a network that needs no rules: its machine has no iptables.
const vrfXML = `<network>
  <name>open</name><forward mode='open'/><bridge name='virbr7'/>
  <ip address='192.0.2.1' netmask='255.255.255.0'/>
</network>
`

// TestVRF has the way out of a machine whose kernel has VRFs in one of them: guests reach
// it when their bridge is there too, and status says so as long as it is not.
func TestVRF(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		m := machine{nstest.BootGuest(t, nstest.GuestConfig{
			Name: "host", Memory: 512, NoDHCP: true, Netdev: "user,id=n0,restrict=on",
			Initrd: nstest.GuestInitrd(t, nstest.GuestFiles{
				Programs: []string{"dbus-daemon", "ip", filepath.Join(l.Bin, "vnetd"), filepath.Join(l.Bin, "vnetctl")},
				Modules:  []string{"llc", "stp", "bridge", "tls", "vrf"},
				Texts:    map[string]string{"/etc/passwd": "root:x:0:0::/:/bin/sh\n", "/bus.conf": nstest.BusConfig, "/open.xml": vrfXML},
			}),
		}), t}
		m.run("for i in llc stp bridge tls vrf; do insmod /modules/$i.ko || exit 1; done; ip link set lo up")
		for _, command := range []string{
			"link add blue type vrf table 10", "link set blue up", "link set eth0 master blue", "link set eth0 up",
			"addr add 198.51.100.2/24 dev eth0", "route add default via 198.51.100.1 table 10",
		} {
			m.run("ip %s", command)
		}
		startVnetd(m)
		m.run("vnetctl define /open.xml && vnetctl start open")

		m.doctor("outside of the VRF", "its way out, by eth0, is in VRF blue", true)
		m.doctor("outside of the VRF", "ip link set virbr7 master blue", true)
		m.run("ip link set virbr7 master blue")
		m.doctor("in the VRF", "route-", false)
		m.run("ip route del default table 10")
		m.run("ip link add dm0 type bridge; ip addr add 203.0.113.2/24 dev dm0; ip link set dm0 up; ip route add default via 203.0.113.1 dev dm0")
		m.doctor("in a VRF without a way", "don't go there, but to dm0", true)
		m.doctor("in a VRF without a way", "ip link set dm0 master blue", true)
		m.run("ip link set virbr7 nomaster")
		m.doctor("outside again", "route-", false)
	})
}

// doctor waits until doctor says a word, or says it no longer.
func (m machine) doctor(when, word string, said bool) {
	m.t.Helper()
	nstest.Eventually(m.t, limit, when, func() error {
		ctx, cancel := context.WithTimeout(m.t.Context(), limit)
		defer cancel()
		out, _, err := m.Run(ctx, "vnetctl doctor")
		if err == nil && strings.Contains(out, word) != said {
			err = fmt.Errorf("says %q: %t, in:\n%s", word, !said, out)
		}
		return err
	})
}
