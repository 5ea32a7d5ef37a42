package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// tcClasses fails the test until the classes of a device have all words.
func tcClasses(t *testing.T, dev string, words ...string) {
	t.Helper()
	nstest.Eventually(t, limit, fmt.Sprintf("classes of %s with %q", dev, words), func() error {
		out, err := exec.Command("tc", "class", "show", "dev", dev).CombinedOutput()
		for _, word := range words {
			if !strings.Contains(string(out), word) {
				return errors.Join(err, errors.New(string(out)))
			}
		}
		return err
	})
}

// portParameters is what a program of libvirt's clients prints of all ports of "lab", after
// it has set some, if any are given.
func portParameters(t *testing.T, set string) string {
	t.Helper()
	const program = `
import libvirt, sys
lab = libvirt.open("network+unix:///system?socket=` + libvirtSocket + `").networkLookupByName("lab")
for port in lab.listAllPorts():
    if len(sys.argv) > 1:
        port.setParameters(eval(sys.argv[1]))
    print(sorted(port.parameters().items()))
`
	args := []string{"-c", program}
	if set != "" {
		args = append(args, set)
	}
	out, err := exec.CommandContext(t.Context(), "/usr/bin/python3", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// TestFloorsOfVirtqemud has a real virtqemud run a guest that can count on a part of its
// network's bandwidth: vnetd's bridge has its class from the guest's start to its end, as
// virsh and other clients of libvirt change it.
func TestFloorsOfVirtqemud(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newVirtqemudHost(t)
		h.virsh("net-destroy", "lab")
		lab := strings.Replace(h.virsh("net-dumpxml", "lab"), "<ip ", "<bandwidth><inbound average='12500'/></bandwidth><ip ", 1)
		h.virshInput(lab, "net-define", "/dev/stdin")
		h.virsh("net-start", "lab")
		tcClasses(t, "virbr7", "766e:1 root", "rate 100Mbit")
		guest := strings.Replace(h.virsh("dumpxml", "vm1"), "<model type='virtio'/>", "<bandwidth><inbound floor='2500'/></bandwidth><model type='virtio'/>", 1)
		h.virshInput(guest, "define", "/dev/stdin")
		h.virsh("start", "vm1", "--paused")
		tcClasses(t, "virbr7", "766e:3 parent 766e:1", "rate 20Mbit", "rate 80Mbit")
		if xml := h.virsh("net-port-dumpxml", "lab", onlyPort(h)); !regexp.MustCompile(`<bandwidth classID='3'>\s*<inbound floor='2500'/>`).MatchString(xml) {
			t.Errorf("the port is\n%s", xml)
		}
		if has := portParameters(t, ""); !strings.Contains(has, "('inbound.floor', 2500)") {
			t.Errorf("the port's parameters are %s", has)
		}
		if has := portParameters(t, "{'inbound.floor': 5000}"); !strings.Contains(has, "('inbound.floor', 5000)") {
			t.Errorf("changed, the port's parameters are %s", has)
		}
		tcClasses(t, "virbr7", "766e:3 parent 766e:1", "rate 40Mbit", "rate 60Mbit")
		h.vnetd.Kill()
		nstest.Exec(t, "tc", "qdisc", "del", "dev", "virbr7", "root")
		h.vnetd = startForLibvirt(t, h.Lab)
		tcClasses(t, "virbr7", "766e:3 parent 766e:1", "rate 40Mbit")
		if out, err := h.Virsh("", "domiftune", "vm1", firstCard, "--inbound", "0,0,0,20000", "--live"); err == nil || !strings.Contains(err.Error(), "overcommit") {
			t.Errorf("more than the network has: %s, %v", out, err)
		}
		h.virsh("destroy", "vm1")
		nstest.Eventually(t, limit, "the class goes with the guest", func() error {
			if out := nstest.Exec(t, "tc", "class", "show", "dev", "virbr7"); strings.Contains(out, "766e:3") {
				return errors.New(out)
			}
			return nil
		})
	})
}

// onlyPort is the UUID of the one port of "lab".
func onlyPort(h *virtqemudHost) string {
	h.t.Helper()
	return regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`).FindString(h.virsh("net-port-list", "lab"))
}

// slowXML is a network whose ports are held to 2 Mbit/s unless they are of another group.
const slowXML = `<network><name>slow</name><forward mode='open'/><bridge name='virbr7'/>
  <ip address='192.0.2.1' netmask='255.255.255.0'><dhcp><range start='192.0.2.2' end='192.0.2.2'/></dhcp></ip>
  <portgroup name='slow' default='yes'><bandwidth><inbound average='250'/><outbound average='250'/></bandwidth></portgroup>
</network>
`

// TestBandwidthOfAGuest has a guest of QEMU, with the offloads of its card, send and
// receive at the rates of its port, and at others when these change.
func TestBandwidthOfAGuest(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		l.StartVnetd()
		for _, args := range [][]string{{"define", "-"}, {"start", "slow"}} {
			if r := l.VnetctlInput(t.Context(), slowXML, args...); r.Err() != nil {
				t.Fatal(r.Err())
			}
		}
		m := machine{nstest.BootGuest(t, nstest.GuestConfig{
			Name: "web1", Netdev: "tap,id=n0,br=slow,helper=" + l.Helper(), Memory: 256,
			Initrd: nstest.GuestInitrd(t, nstest.GuestFiles{Programs: []string{"iperf3", "ethtool"}}),
		}), t}
		m.run("for i in $(seq 100); do ip addr show dev eth0 | grep -q 192.0.2.2 && exit; usleep 100000; done; false")
		m.has("ethtool -k eth0", "tx-tcp-segmentation: on", "tx-checksumming: on")
		m.run("(iperf3 -s >/dev/null 2>&1 &) ; for i in $(seq 100); do netstat -ltn | grep -q :5201 && exit; usleep 100000; done; false")
		passes := func(when string, to, from float64) {
			t.Helper()
			through(t, when+", TCP to the guest", to*tcpShare)
			through(t, when+", TCP from the guest", from*tcpShare, "-R")
			through(t, when+", UDP to the guest", to*udpShare, "-u", "-l", "1472", "-b", fmt.Sprint(int(to*2e6)))
			through(t, when+", UDP from the guest", from*udpShare, "-R", "-u", "-l", "1472", "-b", fmt.Sprint(int(from*2e6)))
		}
		passes("at first", 2, 2)
		port := ports(t)[0].UUID
		if r := l.Vnetctl(t.Context(), "port", "set", port, "inbound.average=500", "outbound.average=125"); r.Err() != nil {
			t.Fatal(r.Err())
		}
		passes("changed", 4, 1)
	})
}

// What of a frame is payload, at an MTU of 1500: rates are those of frames with their
// Ethernet header.
const (
	tcpShare = 1448.0 / 1514
	udpShare = 1472.0 / 1514
)

// through fails the test unless what gets through of a load, within 5 %, is so many
// Mbit/s: at one of some tries, as a busy machine may send less, and at none more.
func through(t *testing.T, what string, want float64, args ...string) {
	t.Helper()
	for range 5 {
		off := measured(t, args...)/want - 1
		t.Logf("%s: %+.1f %%", what, off*100)
		if off > 0.05 {
			t.Errorf("%s: %+.1f %%", what, off*100)
		}
		if off > -0.05 {
			return
		}
	}
	t.Errorf("%s: never within 5 %% of %.2f Mbit/s", what, want)
}

// measured is how many Mbit/s of a load get through. The guest's server takes its time
// between two of them.
func measured(t *testing.T, args ...string) (mbit float64) {
	t.Helper()
	args = append([]string{"-c", "192.0.2.2", "-J", "-t", "10"}, args...)
	nstest.Eventually(t, 5*time.Minute, "a load", func() error {
		out, err := exec.CommandContext(t.Context(), "iperf3", args...).Output()
		var report struct {
			End struct {
				Received struct {
					Bits float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			} `json:"end"`
			Error string `json:"error"` // its exit code is none
		}
		err = cmp.Or(err, json.Unmarshal(out, &report))
		if report.Error != "" {
			err = errors.New(report.Error)
		}
		mbit = report.End.Received.Bits / 1e6
		return err
	})
	return mbit
}
