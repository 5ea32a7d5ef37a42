package e2e

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
)

// TestClusterLeave has a guest move to another host live, and its port on the first one end
// before it has sent anything by the new one, as when QEMU ends there at once: the guest keeps
// its address.
func TestClusterLeave(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newClusterLab(t, 2)
		l.define(clusterDocument)
		const mac, owner = "52:54:00:00:00:0a", "11111111-2222-4333-8444-555555555555"
		card, _ := net.ParseMAC(mac)
		options := client.PortOptions{Name: "m", MAC: card, OwnerUUID: owner}
		was, err := l.port(0, options)
		if err != nil {
			t.Fatal(err)
		}
		m4 := l.lease(nstest.Machine(t, "m", mac, was.Files[0]))
		nstest.Eventually(t, spanLimit, "the other host hears of the lease", func() error {
			if out := l.ctl(1, "", "where", m4); !strings.Contains(out, "h1") {
				return errors.New(out)
			}
			return nil
		})
		is, err := l.port(1, options)
		if err != nil {
			t.Fatal(err)
		}
		nstest.Eventually(t, spanLimit, "the first host hears of the new port", func() error {
			if out := l.ctl(0, "", "where", mac); !strings.Contains(out, "h2") {
				return errors.New(out)
			}
			return nil
		})
		if err := was.Close(); err != nil { // its QEMU ends
			t.Fatal(err)
		}
		nstest.Eventually(t, spanLimit, "the port on the first host has ended", func() error {
			if out := l.ctl(0, "", "port", "list", "--format", "{{.mac}}"); strings.Contains(out, mac) {
				return errors.New(out)
			}
			return nil
		})
		m := nstest.Machine(t, "m2", mac, is.Files[0])
		m.IP("addr add " + m4 + "/16 dev eth0")
		l.pings(m, "10.50.0.1")
		nstest.Eventually(t, spanLimit, "its new host has its lease", func() error {
			if out := l.ctl(1, "", "leases", "apps"); !strings.Contains(out, m4) {
				return errors.New(out)
			}
			return nil
		})
		if got := l.lease(m); got != m4 {
			t.Errorf("the guest has %s, had %s", got, m4)
		}
	})
}
