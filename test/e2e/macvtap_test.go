package e2e

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/test/story"
)

// cables makes n cables lan0, lan1, … that lead to the bridge of that name. Device nodes
// of macvtap are those of the machine, by ifindex: another test's must not be the same.
func cables(t *testing.T, n int, bridge string) {
	t.Helper()
	for range 10 + rand.IntN(90) {
		nstest.IP(t, "link add skip0 type veth peer name skip1")
		nstest.IP(t, "link del skip0")
	}
	for i := range n {
		nstest.IP(t, fmt.Sprintf("link add lan%d type veth peer name peer%d", i, i))
		nstest.IP(t, fmt.Sprintf("link set peer%d master %s up", i, bridge))
		nstest.IP(t, fmt.Sprintf("link set lan%d up", i))
	}
}

// poolXML is a network whose guests have macvtap devices on cables.
func poolXML(name, mode string, devs ...string) string {
	pool := ""
	for _, dev := range devs {
		pool += "<interface dev='" + dev + "'/>"
	}
	return "<network><name>" + name + "</name><forward mode='" + mode + "'>" + pool + "</forward></network>"
}

// cardOn is a card on a network, as virsh takes it.
func cardOn(network, mac string) string {
	return "<interface type='network'><mac address='" + mac + "'/><source network='" + network + "'/><model type='virtio'/></interface>"
}

// direct fails the test unless the guest's cards are all the ports there are, each with a
// macvtap device on its parent.
func (h *virtqemudHost) direct(when string, parents map[string]string) {
	h.t.Helper()
	nstest.Eventually(h.t, limit, "the ports of libvirt's guest are known "+when, func() error {
		all := ports(h.t)
		if len(all) != len(parents) {
			return fmt.Errorf("want %v, have %+v", parents, all)
		}
		for _, p := range all {
			link, err := os.Readlink("/sys/class/net/" + p.IfName + "/lower_" + parents[p.MAC])
			if p.IfName == "" || p.Parent != parents[p.MAC] || p.Bridge != "" || p.HostReach || err != nil {
				return fmt.Errorf("want it on %s, have %+v, %q, %w", parents[p.MAC], p, link, err)
			}
		}
		return nil
	})
}

// TestVirtqemudMacvtap has a real virtqemud run a guest with macvtap devices of pools:
// handed out, least used first or one each, given back, and claimed again.
func TestVirtqemudMacvtap(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newVirtqemudHost(t)
		cables(t, 2, "virbr7")
		h.virshInput(poolXML("pool", "bridge", "lan0", "lan1"), "net-define", "/dev/stdin")
		h.virshInput(poolXML("one", "passthrough", "lan1"), "net-define", "/dev/stdin")
		h.virsh("net-start", "pool")
		h.virsh("net-start", "one")
		guest := strings.Replace(h.virsh("dumpxml", "vm1", "--inactive"), "<source network='lab'/>", "<source network='pool'/>", 1)
		h.virshInput(guest, "define", "/dev/stdin")

		h.virsh("start", "vm1", "--paused")
		h.resume(false)
		h.direct("at its start", map[string]string{firstCard: "lan0"})
		h.reachesLAN("by macvtap")
		xml := h.virsh("net-dumpxml", "pool")
		if !strings.Contains(xml, "<network connections='1'>") || !strings.Contains(xml, "<interface dev='lan0' connections='1'/>") {
			t.Errorf("the network is %s", xml)
		}
		port := strings.TrimSpace(h.virsh("net-port-list", "pool"))
		if xml := h.virsh("net-port-dumpxml", "pool", port); !strings.Contains(xml, "<plug type='direct' dev='lan0' mode='bridge'/>") {
			t.Errorf("the port is %s", xml)
		}

		h.virshInput(cardOn("one", secondCard), "attach-device", "vm1", "/dev/stdin", "--live")
		h.direct("when a card was added", map[string]string{firstCard: "lan0", secondCard: "lan1"})
		if out, err := h.Virsh(cardOn("one", "52:54:00:00:00:13"), "attach-device", "vm1", "/dev/stdin", "--live"); err == nil || !strings.Contains(out, "requires exclusive access") {
			t.Errorf("a second card on an interface that a guest has for itself: %v: %s", err, out)
		}
		before := ports(t)
		h.Restart()
		h.vnetd.Kill()
		h.vnetd = startForLibvirt(t, h.Lab)
		h.direct("after both restarted", map[string]string{firstCard: "lan0", secondCard: "lan1"})
		for _, p := range ports(t) {
			if p.UUID != before[0].UUID && p.UUID != before[1].UUID {
				t.Errorf("the ports were %+v, and one is %+v", before, p)
			}
		}
		// A port that vnetd has lost is claimed by the next virtqemud.
		vnetctl(t, h.Lab, "port", "delete", port)
		h.Restart()
		h.direct("when virtqemud claimed its port", map[string]string{firstCard: "lan0", secondCard: "lan1"})
		h.reachesLAN("after all that")

		xml = regexp.MustCompile(`(?s)<interface .*?</interface>`).FindAllString(h.virsh("dumpxml", "vm1"), -1)[1]
		h.virshInput(xml, "detach-device", "vm1", "/dev/stdin", "--live")
		h.direct("when a card was removed", map[string]string{firstCard: "lan0"})
		h.virsh("destroy", "vm1")
		h.direct("when it is destroyed", nil)
		if xml := h.virsh("net-dumpxml", "pool"); strings.Contains(xml, "connections") {
			t.Errorf("the network is %s", xml)
		}
	})
}

// TestQEMUOnMacvtap has QEMU guests on the LAN by macvtap: one by vnetctl run with two
// queues, one by the helper, which does not say which card its guest has.
func TestQEMUOnMacvtap(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		l.StartVnetd()
		startNetwork(t, l, story.Network)
		cables(t, 1, story.Bridge)
		file := filepath.Join(t.TempDir(), "pool.xml")
		if err := os.WriteFile(file, []byte(poolXML("pool", "bridge", "lan0")), 0o644); err != nil {
			t.Fatal(err)
		}
		vnetctl(t, l, "define", file)
		vnetctl(t, l, "start", "pool")
		s := &story.Story{Lab: l}
		helped := nstest.BootGuest(t, nstest.GuestConfig{Name: "helped", Netdev: s.Netdev("pool")})
		addrA := hasLease(t, helped, "helped")
		ran := nstest.BootGuest(t, nstest.GuestConfig{Name: "ran", Wrap: []string{filepath.Join(l.Bin, "vnetctl"), "run", "-n", "pool:name=ran,queues=2", "--"}})
		addrB := hasLease(t, ran, "ran")
		for _, q := range []struct {
			from *nstest.QEMU
			to   string
		}{{helped, addrB}, {ran, addrA}} {
			if out, status, err := q.from.Run(t.Context(), "ping -c 1 -W 10 "+q.to); err != nil || status != 0 {
				t.Errorf("guests on one parent do not reach each other: %v %s", err, out)
			}
		}
		for _, p := range ports(t) {
			if p.Parent != "lan0" || p.Mode != "bridge" || p.Lifetime != api.LifetimeFD {
				t.Errorf("the port is %+v", p)
			}
		}
		if out := vnetctl(t, l, "port", "show", "ran"); !strings.Contains(out, "this host and the guest do not reach each other") {
			t.Errorf("vnetctl port show: %s", out)
		}
		helped.Kill()
		ran.Kill()
		nstest.Eventually(t, limit, "the ports end with QEMU", func() error {
			if all := ports(t); len(all) != 0 {
				return fmt.Errorf("there are %+v", all)
			}
			return nil
		})
		if left := nstest.IP(t, "-br link show type macvtap"); left != "" {
			t.Errorf("left behind: %s", left)
		}
	})
}

// hasLease is the address that a guest has got.
func hasLease(t *testing.T, q *nstest.QEMU, name string) (address string) {
	t.Helper()
	nstest.Eventually(t, limit, "the guest "+name+" has an address", func() error {
		out, _, err := q.Run(t.Context(), "ip -o -4 addr show dev eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/'")
		address = strings.TrimSpace(out)
		if address == "" {
			return cmp.Or(err, fmt.Errorf("it has none"))
		}
		return nil
	})
	return address
}
