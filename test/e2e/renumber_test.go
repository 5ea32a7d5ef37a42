package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/test/story"
)

// TestRenumber has a VPN come up over the subnet of an active network. What the condition
// names moves the network, and its guest gets an address of the new subnet as it renews.
func TestRenumber(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		l.StartVnetd()
		defineXML(t, l, "define", "<name>web</name><forward mode='nat'/><bridge name='virbr-web'/><ip address='192.0.2.1' prefix='25'><dhcp>"+
			"<range start='192.0.2.10' end='192.0.2.99'/><host mac='52:54:00:00:00:01' ip='192.0.2.20'/></dhcp></ip><vnetd:forward proto='tcp' port='8080' to='192.0.2.20'/>")
		vnetctl(t, l, "start", "web")
		port, err := dial(t).RequestPort(t.Context(), "web", client.PortOptions{Name: "web1", MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = port.Close() }()
		guest := nstest.Machine(t, "web1", port.Info.MAC, port.Files[0])
		renew, leased := renewing(t, guest)
		leased("192.0.2.20")

		planned := l.Vnetctl(t.Context(), "renumber", "web", "--subnet", "10.7.0.0/24", "--plan")
		if err := story.Contains("the plan", planned.Stdout+planned.Stderr, "192.0.2.0/25 becomes 10.7.0.0/24", "10.7.0.1/24 on virbr-web", "10.7.0.10 to 10.7.0.99"); err != nil || planned.Code != 0 {
			t.Errorf("exit code %d; %v", planned.Code, err)
		}
		if is := vnetctl(t, l, "cat", "web", "--inactive"); !strings.Contains(is, "192.0.2.1'") {
			t.Errorf("a plan changed the network:\n%s", is)
		}

		nstest.IP(t, "link add tun7 type veth peer name peer7")
		nstest.IP(t, "link set tun7 up")
		nstest.IP(t, "link set peer7 up")
		nstest.IP(t, "route add 192.0.2.0/26 dev tun7")
		nstest.Eventually(t, limit, "the overlap is told, and heals", func() error {
			d, _ := doctor(t, l)
			i := slices.IndexFunc(d.Findings, func(f finding) bool { return f.Check == "subnet-overlap" })
			if i < 0 {
				return fmt.Errorf("findings %+v", d.Findings)
			}
			nstest.Exec(t, "sh", "-ec", "PATH="+l.Bin+":$PATH; "+d.Findings[i].Remedy)
			return nil
		})
		if is := vnetctl(t, l, "cat", "web"); story.Contains("the network", is, "<ip address='192.168.100.1' prefix='25'>", "ip='192.168.100.20'", "to='192.168.100.20'") != nil || strings.Contains(is, "192.0.2.") {
			t.Errorf("the network is\n%s", is)
		}
		renew()
		leased("192.168.100.20")
		nstest.Eventually(t, limit, "the overlap is told no more", func() error {
			if d, _ := doctor(t, l); slices.ContainsFunc(d.Findings, func(f finding) bool { return f.Check == "subnet-overlap" }) {
				return fmt.Errorf("findings %+v", d.Findings)
			}
			return nil
		})
	})
}

// renewing runs a DHCP client in a guest that goes on. renew has it renew its lease, and
// leased waits until it has an address.
func renewing(t *testing.T, guest *nstest.NS) (renew func(), leased func(address string)) {
	t.Helper()
	dir := t.TempDir()
	script, got := filepath.Join(dir, "lease"), filepath.Join(dir, "address")
	body := "#!/bin/sh\ncase $1 in\nbound | renew) ip addr flush dev $interface; ip addr add $ip/$mask dev $interface; echo $ip >" + got + ";;\ndeconfig) ip -4 addr flush dev $interface;;\nesac\n"
	if err := os.WriteFile(script, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := guest.Command(t.Context(), "busybox", "udhcpc", "-f", "-t", "20", "-T", "1", "-A", "1", "-i", "eth0", "-s", script)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(cmd.Process.Kill(), cmd.Wait()) })
	return func() {
			if err := cmd.Process.Signal(unix.SIGUSR1); err != nil { // the only process: ip netns exec becomes it
				t.Fatal(err)
			}
		}, func(address string) {
			t.Helper()
			nstest.Eventually(t, limit, "the guest has "+address, func() error {
				text, err := os.ReadFile(got)
				if is := strings.TrimSpace(string(text)); is != address {
					return fmt.Errorf("it has %q: %v", is, err)
				}
				return nil
			})
		}
}
