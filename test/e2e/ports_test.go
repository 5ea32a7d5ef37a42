package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/test/story"
)

// alice has no rights but those that a network gives her.
var alice = nstest.User{Name: "alice", UID: 4001}

// asAlice stands before a command that she runs.
var asAlice = []string{"setpriv", "--reuid=4001", "--regid=4001", "--clear-groups"}

// card is the guest's in these tests.
const (
	cardMAC     = "52:54:00:00:53:01"
	cardAddress = "192.0.2.77"
)

// labXML is the network lab, with what stands in its <vnetd:access>.
func labXML(access string) string {
	return "<network xmlns:vnetd='urn:vnetd:network:1'><name>lab</name><uuid>6f0f6d4c-6a38-4a0c-8a8e-0d6a3f2b6f11</uuid>" +
		"<bridge name='virbr7' stp='on' delay='0'/><domain name='lab.example'/>" +
		"<ip address='192.0.2.1' netmask='255.255.255.0'><dhcp><range start='192.0.2.100' end='192.0.2.200'/></dhcp></ip>" +
		"<vnetd:access>" + access + "</vnetd:access></network>"
}

// portLab is a lab with polkit, alice, and the network lab running.
func portLab(t *testing.T, access string) *nstest.Lab {
	t.Helper()
	nstest.NewUsers(t, alice)
	nstest.PublicTUN(t)
	l := nstest.NewLab(t)
	nstest.StartPolkit(t)
	// In places that she may reach, wherever the source tree is.
	for _, name := range []string{"vnet-bridge-helper", "vnetctl"} {
		nstest.Exec(t, "install", "-m", "755", filepath.Join(l.Bin, name), "/run/"+name)
	}
	l.StartVnetd()
	define(t, l, access)
	vnetctl(t, l, "start", "lab")
	return l
}

// define makes the network lab what labXML says.
func define(t *testing.T, l *nstest.Lab, access string) {
	t.Helper()
	if err := l.VnetctlInput(t.Context(), labXML(access), "define", "-").Err(); err != nil {
		t.Fatalf("defining lab: %v", err)
	}
}

// leased boots a guest and waits for its address.
func leased(t *testing.T, cfg nstest.GuestConfig) (*nstest.QEMU, string) {
	t.Helper()
	q := nstest.BootGuest(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	lease, err := q.Lease(ctx)
	if err != nil {
		t.Fatalf("guest %q: %v", cfg.Name, err)
	}
	return q, lease.Address.Addr().String()
}

// traces is what a guest on lab has on this host: ports, TAP devices, leases, and
// the name web.
func traces(t *testing.T, l *nstest.Lab) string {
	t.Helper()
	out := vnetctl(t, l, "port", "list") + vnetctl(t, l, "leases", "lab") + nstest.Exec(t, "ip", "tuntap")
	name, _ := exec.CommandContext(t.Context(), "dig", "+short", "+tries=1", "@192.0.2.1", "web.lab.example").Output()
	lines := slices.DeleteFunc(strings.Split(out+string(name), "\n"), func(line string) bool {
		return line == "" || line == strings.ToUpper(line) && !strings.ContainsAny(line, "0123456789")
	})
	return strings.Join(lines, "\n")
}

// gone waits until nothing of a guest is left.
func gone(t *testing.T, l *nstest.Lab) {
	t.Helper()
	began := time.Now()
	nstest.Eventually(t, limit, "all of the guest going", func() error {
		if left := traces(t, l); left != "" {
			return errors.New(left)
		}
		return nil
	})
	t.Logf("port, device, lease and name were gone %v after QEMU", time.Since(began).Round(time.Millisecond))
}

// TestUnprivilegedGuest has alice boot QEMU with one flag: denied, then allowed by
// the network itself.
func TestUnprivilegedGuest(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := portLab(t, "")
		const helper = "tap,id=n0,br=lab,helper=/run/vnet-bridge-helper"
		q := nstest.BootGuest(t, nstest.GuestConfig{Name: "web", Netdev: helper, Wrap: asAlice})
		if err := q.Err(); err == nil {
			t.Error("QEMU ended with 0 for a stranger")
		}
		if err := story.Contains("QEMU", q.Console(), `network "lab": user alice may not request ports`, "<vnetd:access>"); err != nil {
			t.Error(err)
		}
		define(t, l, "<vnetd:user name='alice'/>")
		q, address := leased(t, nstest.GuestConfig{Name: "web", Netdev: helper, MAC: cardMAC, Wrap: asAlice})
		t.Logf("alice's guest has %s", address)
		q.Kill()
		nstest.Eventually(t, limit, "the port going", func() error { return noPorts(t) })

		define(t, l, "<vnetd:user name='alice' choose='yes'/>")
		q, _ = leased(t, nstest.GuestConfig{
			Name: "guest", Netdev: helper + " --mac=" + cardMAC + " --name=web", MAC: cardMAC, Wrap: asAlice,
		})
		ports, err := dial(t).Ports(t.Context())
		if err != nil || len(ports) != 1 || ports[0].Name != "web" || ports[0].Owner != alice.UID || len(ports[0].Addresses) != 1 {
			t.Errorf("alice's port: %+v (%v)", ports, err)
		}
		if seen := traces(t, l); !strings.Contains(seen, "\n"+ports[0].Addresses[0].String()) {
			t.Errorf("the name web is not served:\n%s", seen)
		}
		q.Kill()
		gone(t, l)
	})
}

// TestRunWithQueues has alice run QEMU by vnetctl, on a port with four queues and
// an address of its own.
func TestRunWithQueues(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := portLab(t, "<vnetd:user name='alice' choose='yes'/>")
		run := append(slices.Clone(asAlice), "/run/vnetctl", "run", "-n", "lab:queues=4,name=web,address="+cardAddress, "--")
		q, address := leased(t, nstest.GuestConfig{
			Name: "guest", Netdev: "tap,id=n0,fds=@n0@", MAC: "@mac0@,mq=on,vectors=10", CPUs: 4, Wrap: run,
		})
		if address != cardAddress {
			t.Errorf("the guest has %s, the port %s", address, cardAddress)
		}
		out, _, err := q.Run(t.Context(), "ls /sys/class/net/eth0/queues")
		if err != nil || !strings.Contains(out, "rx-3") || strings.Contains(out, "rx-4") {
			t.Errorf("the guest's queues: %s (%v)", out, err)
		}
		ports, err := dial(t).Ports(t.Context())
		if err != nil || len(ports) != 1 {
			t.Fatalf("ports %v, %v", ports, err)
		}
		if channels := nstest.Exec(t, "ls", "/sys/class/net/"+ports[0].IfName+"/queues"); !strings.Contains(channels, "tx-3") {
			t.Errorf("the device's queues: %s", channels)
		}
		got, err := dial(t).Port(ports[0].UUID).WaitForAddress(t.Context())
		if err != nil || fmt.Sprint(got) != "["+cardAddress+"]" {
			t.Errorf("its addresses: %v, %v", got, err)
		}
		if out := vnetctl(t, l, "port", "wait", ports[0].IfName); out != cardAddress+"\n" {
			t.Errorf("port wait: %q", out)
		}
		q.Kill()
		gone(t, l)
	})
}

// TestPersistentPort makes a port for alice's QEMU, which opens its device by name,
// twice, and follows that in the monitor.
func TestPersistentPort(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := portLab(t, "")
		events := monitor(t, l)
		vnetctl(t, l, "port", "create", "lab", "--lifetime", "persistent", "--owner", "alice", "--ifname", "vnet-web",
			"--name", "web", "--mac", cardMAC, "--address", cardAddress, "--id", "web")
		for range 2 {
			q, address := leased(t, nstest.GuestConfig{
				Name: "guest", Netdev: "tap,id=n0,ifname=vnet-web,script=no,downscript=no", MAC: cardMAC, Wrap: asAlice,
			})
			if address != cardAddress {
				t.Errorf("the guest has %s, the port %s", address, cardAddress)
			}
			q.Kill()
		}
		vnetctl(t, l, "port", "delete", "vnet-web")
		gone(t, l)
		events.expect(t, client.PortAdded, client.PortChanged, client.LeaseChanged, client.PortRemoved)
	})
}

// monitored is what vnetctl monitor prints.
type monitored struct{ lines *bufio.Scanner }

// monitor starts vnetctl monitor.
func monitor(t *testing.T, l *nstest.Lab) monitored {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*limit) // what is missing must not be waited for
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, filepath.Join(l.Bin, "vnetctl"), "monitor", "lab", "--json")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatalf("starting vnetctl monitor: %v", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	m := monitored{bufio.NewScanner(out)}
	// It listens once it tells of something.
	told := make(chan bool, 1)
	go func() { told <- m.lines.Scan() }()
	nstest.Eventually(t, limit, "monitor telling", func() error {
		vnetctl(t, l, "enable", "lab")
		vnetctl(t, l, "disable", "lab")
		select {
		case ok := <-told:
			if !ok {
				return errors.New("it ended")
			}
			return nil
		case <-time.After(time.Second):
			return errors.New("not yet")
		}
	})
	return m
}

// expect reads until events of these kinds have come in this order.
func (m monitored) expect(t *testing.T, kinds ...client.EventKind) {
	t.Helper()
	for len(kinds) > 0 && m.lines.Scan() {
		var e struct{ Event, Network string }
		if err := json.Unmarshal(m.lines.Bytes(), &e); err != nil || e.Network != "lab" {
			t.Fatalf("an event that makes no sense: %s (%v)", m.lines.Text(), err)
		}
		if e.Event == string(kinds[0]) {
			kinds = kinds[1:]
		}
	}
	if len(kinds) > 0 {
		t.Errorf("monitor ended before it told of %v", kinds)
	}
}
