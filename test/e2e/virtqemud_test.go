package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
)

// The cards of the guest of virtqemud's, and where its console is.
const (
	firstCard  = "52:54:00:00:00:11"
	secondCard = "52:54:00:00:00:12"
	serial     = "/run/serial"
)

// virtqemudHost is a host with libvirt's modular daemons, where vnetd stands for
// virtnetworkd.
type virtqemudHost struct {
	*nstest.Lab
	*nstest.Libvirtd
	t     *testing.T
	vnetd *nstest.Vnetd
	guest *nstest.QEMU
}

// vnetdConfig is of a vnetd that stands for virtnetworkd, and is measured.
const vnetdConfig = "[libvirt]\nsocket = '" + libvirtSocket + "'\npolkit = false\n[metrics]\nlisten = '127.0.0.1:9753'\n"

// startForLibvirt starts a vnetd that answers at libvirt's socket.
func startForLibvirt(t *testing.T, l *nstest.Lab) *nstest.Vnetd {
	t.Helper()
	const config = "/run/vnetd.toml"
	if err := errors.Join(os.MkdirAll(filepath.Dir(libvirtSocket), 0o755), os.WriteFile(config, []byte(vnetdConfig), 0o644)); err != nil {
		t.Fatal(err)
	}
	return l.StartVnetd("--config", config)
}

// virsh runs a command of virsh, on virtqemud, that must succeed.
func (h *virtqemudHost) virsh(args ...string) string {
	h.t.Helper()
	return h.virshInput("", args...)
}

// virshInput is virsh with a document that the command reads of /dev/stdin.
func (h *virtqemudHost) virshInput(document string, args ...string) string {
	h.t.Helper()
	out, err := h.Virsh(document, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// in runs a command in the guest that must succeed.
func (h *virtqemudHost) in(command string) string {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), limit)
	defer cancel()
	out, code, err := h.guest.Run(ctx, command)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d", code)
	}
	if err != nil {
		h.t.Fatalf("in the guest, %s: %v: %s", command, err, out)
	}
	return out
}

// resume lets the guest go on, or begin, once its console is heard.
func (h *virtqemudHost) resume(running bool) {
	h.t.Helper()
	h.guest = nstest.AttachGuest(h.t, serial, running)
	h.virsh("resume", "vm1")
}

// reachesLAN holds that the guest has its address and gets through NAT.
func (h *virtqemudHost) reachesLAN(when string) {
	h.t.Helper()
	nstest.Eventually(h.t, limit, "the guest reaches the LAN "+when, func() error {
		ctx, cancel := context.WithTimeout(h.t.Context(), limit)
		defer cancel()
		out, code, err := h.guest.Run(ctx, "wget -q -O - http://"+nstest.LANHost+"/page")
		if err == nil && code != 0 {
			err = errors.New(out)
		}
		return err
	})
}

// card is a card of a guest of libvirt's, and the network that it is on.
type card struct{ mac, network, bridge string }

// counted holds that the guest's cards are all the ports there are, wherever ports
// are shown or counted, and that each has its device.
func (h *virtqemudHost) counted(when string, cards ...card) {
	h.t.Helper()
	nstest.Eventually(h.t, limit, "the ports of libvirt's guest are known "+when, func() error {
		on := map[string]int{"lab": 0, "dmz": 0}
		metrics, err := exec.Command("curl", "-sSf", "http://127.0.0.1:9753/metrics").Output()
		if err != nil {
			return err
		}
		all := ports(h.t)
		if len(all) != len(cards) || strings.Count(string(metrics), "\nvnetd_port_info{") != len(cards) {
			return fmt.Errorf("want %d ports, have %+v, and measured are\n%s", len(cards), all, metrics)
		}
		for _, c := range cards {
			on[c.network]++
			err = cmp.Or(err, h.shown(c, string(metrics)))
		}
		for name, n := range on {
			err = cmp.Or(err, h.countedOn(name, n, string(metrics)))
		}
		return err
	})
}

// shown is an error while a card isn't listed, measured and plugged in.
func (h *virtqemudHost) shown(c card, metrics string) error {
	for _, p := range ports(h.t) {
		if p.MAC != c.mac || p.Network != c.network || p.Name != "vm1" || p.IfName == "" {
			continue
		}
		if master, err := os.Readlink("/sys/class/net/" + p.IfName + "/master"); err != nil || filepath.Base(master) != c.bridge {
			return fmt.Errorf("%s is plugged into %q, want %s: %w", p.IfName, master, c.bridge, err)
		}
		info := fmt.Sprintf("\nvnetd_port_info{port=%q,network=%q,name=\"vm1\",mac=%q,ifname=%q} 1\n", p.UUID, c.network, c.mac, p.IfName)
		if !strings.Contains(metrics, info) || !strings.Contains(metrics, "\nvnetd_port_transmit_bytes_total{port=\""+p.UUID+"\"} ") {
			return fmt.Errorf("not measured: %s\n%s", info, metrics)
		}
		if out := h.virsh("net-port-list", c.network); !strings.Contains(out, p.UUID) {
			return fmt.Errorf("net-port-list does not have %s:\n%s", p.UUID, out)
		}
		return nil
	}
	return fmt.Errorf("no port of %+v in %+v", c, ports(h.t))
}

// countedOn is an error while a network does not say that it has n ports.
func (h *virtqemudHost) countedOn(network string, n int, metrics string) error {
	opening := "<network>"
	if n > 0 {
		opening = fmt.Sprintf("<network connections='%d'>", n)
	}
	if xml := h.virsh("net-dumpxml", network); !strings.HasPrefix(xml, opening) {
		return fmt.Errorf("want %s, have\n%s", opening, xml)
	}
	if line := fmt.Sprintf("\nvnetd_network_ports{network=%q} %d\n", network, n); !strings.Contains(metrics, line) {
		return fmt.Errorf("no %s in\n%s", line, metrics)
	}
	return nil
}

// TestVirtqemud has a real virtqemud run a guest on networks of vnetd: its whole life,
// under which either daemon is killed and networks go and come back.
func TestVirtqemud(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newVirtqemudHost(t)
		h.boot()
		h.plug()
		h.killed()
		h.saved()
		h.networkStops()
		h.undefined()
		h.virsh("destroy", "vm1")
		h.counted("when it is destroyed")
	})
}

// newVirtqemudHost starts the daemons and has virsh define, on virtqemud, two
// networks and a guest.
func newVirtqemudHost(t *testing.T) *virtqemudHost {
	t.Helper()
	h := &virtqemudHost{Lab: nstest.NewLab(t), t: t}
	h.vnetd = startForLibvirt(t, h.Lab)
	h.Libvirtd = h.StartVirtqemud()
	h.virshInput(networkDocumentOf("lab", "virbr7", "198.51.100"), "net-define", "/dev/stdin")
	h.virshInput("<network><name>dmz</name><bridge name='virbr9'/><ip address='192.0.2.1' netmask='255.255.255.0'/><portgroup name='staff'/></network>", "net-define", "/dev/stdin")
	h.virsh("net-start", "lab")
	h.virsh("net-start", "dmz")
	root, err := nstest.Root()
	if err != nil {
		t.Fatal(err)
	}
	guest := strings.Replace(fmt.Sprintf(domain, filepath.Join(root, ".cache/guest")),
		"<serial type='file'><source path='/run/console'/></serial>", "<serial type='unix'><source mode='bind' path='"+serial+"'/></serial>", 1)
	h.virshInput(guest, "define", "/dev/stdin")
	return h
}

// The networks and cards of the tests below.
var (
	firstOnLab  = card{firstCard, "lab", "virbr7"}
	secondOnLab = card{secondCard, "lab", "virbr7"}
	secondOnDMZ = card{secondCard, "dmz", "virbr9"}
)

// boot starts the guest, which gets its address.
func (h *virtqemudHost) boot() {
	h.t.Helper()
	h.virsh("start", "vm1", "--paused")
	h.resume(false)
	h.counted("at its start", firstOnLab)
	h.reachesLAN("after its start")
	if out := h.virsh("domifaddr", "vm1", "--source", "lease"); !strings.Contains(out, firstCard) || !strings.Contains(out, "198.51.100.") {
		h.t.Errorf("virsh domifaddr: %s", out)
	}
}

// plug has a card come, move to another network, and go.
func (h *virtqemudHost) plug() {
	h.t.Helper()
	cardOn := func(network string) string {
		return "<interface type='network'><mac address='" + secondCard + "'/><source network='" + network + "'/><model type='virtio'/></interface>"
	}
	h.virshInput(cardOn("lab"), "attach-device", "vm1", "/dev/stdin", "--live")
	h.counted("when a card was added", firstOnLab, secondOnLab)
	nstest.Eventually(h.t, limit, "the guest sees its new card", func() error {
		if out := h.in("cat /sys/class/net/*/address"); !strings.Contains(out, secondCard) {
			return errors.New(out)
		}
		return nil
	})
	// What libvirt has added meanwhile, its alias and its address, must be there.
	xml := regexp.MustCompile(`(?s)<interface .*?</interface>`).FindAllString(h.virsh("dumpxml", "vm1"), -1)
	if len(xml) != 2 {
		h.t.Fatalf("the guest's cards are %q", xml)
	}
	moved := regexp.MustCompile(`<source network='lab'[^>]*/>`).ReplaceAllString(xml[1], "<source network='dmz'/>")
	h.virshInput(moved, "update-device", "vm1", "/dev/stdin", "--live")
	h.counted("when a card was moved", firstOnLab, secondOnDMZ)
	// Of another group virtqemud asks for a new port, and ends that again where it has nothing
	// to change itself: the guest stays where it is.
	xml = regexp.MustCompile(`(?s)<interface .*?</interface>`).FindAllString(h.virsh("dumpxml", "vm1"), -1)
	grouped := regexp.MustCompile(`<source network='dmz'[^>]*/>`).ReplaceAllString(xml[1], "<source network='dmz' portgroup='staff'/>")
	h.virshInput(grouped, "update-device", "vm1", "/dev/stdin", "--live")
	h.counted("when a card was to be moved to a group", firstOnLab, secondOnDMZ)
	i := slices.IndexFunc(ports(h.t), func(p api.Port) bool { return p.MAC == secondCard && p.PortGroup == "" })
	if i < 0 {
		h.t.Fatalf("the port is in the group, or has ended: %+v", ports(h.t))
	}
	if out := vnetctl(h.t, h.Lab, "port", "set", ports(h.t)[i].UUID, "portgroup=staff"); !strings.Contains(out, "staff") {
		h.t.Errorf("the port is in no group: %s", out)
	}
	h.virshInput(cardOn("dmz"), "detach-device", "vm1", "/dev/stdin", "--live")
	h.counted("when a card was removed", firstOnLab)
}

// killed kills either daemon under a ping through NAT, which loses nothing.
func (h *virtqemudHost) killed() {
	h.t.Helper()
	before := ports(h.t)
	h.in("ping -i 0.2 " + nstest.LANHost + " >/tmp/ping 2>&1 & echo $! >/tmp/pid")
	answers := func() int {
		n, err := strconv.Atoi(strings.TrimSpace(h.in("wc -l </tmp/ping")))
		if err != nil {
			h.t.Fatal(err)
		}
		return n
	}
	seen := func(when string) {
		h.t.Helper()
		from := answers()
		nstest.Eventually(h.t, limit, "the ping goes on "+when, func() error {
			if n := answers(); n < from+3 {
				return fmt.Errorf("%d answers since", n-from)
			}
			return nil
		})
	}
	seen("before anything is killed")
	start := h.Kill()
	seen("without virtqemud")
	start()
	seen("with a new virtqemud")
	h.counted("after virtqemud was killed", firstOnLab)
	h.vnetd.Kill()
	seen("without vnetd")
	h.vnetd = startForLibvirt(h.t, h.Lab)
	seen("with a new vnetd")
	h.counted("after vnetd was killed", firstOnLab)

	// virtqemud is killed and comes back while there is no vnetd: it can't claim its
	// port then, and need not.
	h.vnetd.Kill()
	start = h.Kill()
	start()
	h.vnetd = startForLibvirt(h.t, h.Lab)
	seen("after both were killed")
	h.counted("after both were killed", firstOnLab)
	if err := lossless(h.in("kill -INT $(cat /tmp/pid); while kill -0 $(cat /tmp/pid); do usleep 10000; done; cat /tmp/ping")); err != nil {
		h.t.Errorf("the ping: %v", err)
	}
	if after := ports(h.t); len(after) != 1 || after[0].UUID != before[0].UUID || after[0].IfName != before[0].IfName {
		h.t.Errorf("the port was %+v and is %+v", before, after)
	}
}

// saved saves the guest and restores it, with the address that it has.
func (h *virtqemudHost) saved() {
	h.t.Helper()
	address := h.in("ip -o -4 addr show dev eth0")
	h.virsh("save", "vm1", "/run/vm1.save")
	h.counted("while it is saved")
	if out := h.virsh("net-dhcp-leases", "lab"); !strings.Contains(out, firstCard) {
		h.t.Errorf("the lease of a guest that is saved is gone: %s", out)
	}
	h.virsh("restore", "/run/vm1.save", "--paused")
	h.resume(true)
	h.counted("after it was restored", firstOnLab)
	h.reachesLAN("after it was restored")
	if got := h.in("ip -o -4 addr show dev eth0"); got != address {
		h.t.Errorf("the guest's address was %s and is %s", address, got)
	}
}

// networkStops stops and starts the network under the guest.
func (h *virtqemudHost) networkStops() {
	h.t.Helper()
	h.virsh("net-destroy", "lab")
	h.virsh("net-start", "lab")
	h.counted("after its network was stopped and started", firstOnLab)
	h.reachesLAN("after its network was stopped and started")
	h.Restart()
	h.counted("after virtqemud restarted, too", firstOnLab)
	h.virsh("dommemstat", "vm1") // it has claimed its port by then, which would be back else
	// A port that vnetd has lost is claimed by the next virtqemud.
	vnetctl(h.t, h.Lab, "port", "delete", ports(h.t)[0].UUID)
	h.counted("when its port was deleted")
	h.Restart()
	h.counted("when virtqemud claimed its port", firstOnLab)

	// What can't start says so, and leaves nothing behind.
	h.virsh("net-destroy", "dmz")
	dmz := "<interface type='network'><mac address='" + secondCard + "'/><source network='dmz'/></interface>"
	if out, err := h.Virsh(dmz, "attach-device", "vm1", "/dev/stdin", "--live"); err == nil || !strings.Contains(out, "network 'dmz' is not active") {
		h.t.Errorf("a card on a network that is not active: %v: %s", err, out)
	}
	h.virsh("net-start", "dmz")
	h.counted("after a card that could not be added", firstOnLab)
}

// undefined takes the network's definition away under the guest, and gives it back.
func (h *virtqemudHost) undefined() {
	h.t.Helper()
	xml := h.virsh("net-dumpxml", "lab", "--inactive")
	h.virsh("net-undefine", "lab")
	if out := strings.Join(strings.Fields(h.virsh("net-list", "--all")), " "); !strings.Contains(out, "lab active no no") {
		h.t.Errorf("a network that was undefined in use: %s", out)
	}
	h.counted("when its network was undefined", firstOnLab)
	h.reachesLAN("when its network was undefined")
	h.virshInput(xml, "net-define", "/dev/stdin")
	h.counted("when its network was defined again", firstOnLab)
	h.reachesLAN("when its network was defined again")
}
