package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// bondXML is a network whose uplink is a bond.
const bondXML = `<network xmlns:vnetd='urn:vnetd:network:1'>
  <name>lan</name><forward mode='bridge'/><bridge name='br0'/><vnetd:uplink dev='bond0'/>
</network>
`

// On the LAN, this test's own namespace is the gateway, the guest the host.
const (
	bondGateway = "198.51.100.1"
	bondHost    = "198.51.100.2"
)

// machine is a guest in which commands must succeed.
type machine struct {
	*nstest.QEMU
	t *testing.T
}

func (m machine) run(format string, args ...any) string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), limit)
	defer cancel()
	command := fmt.Sprintf(format, args...)
	out, status, err := m.Run(ctx, command)
	if err != nil || status != 0 {
		m.t.Fatalf("%s: status %d, %v\n%s", command, status, err, out)
	}
	return out
}

// has fails the test unless a command prints all words.
func (m machine) has(command string, words ...string) {
	m.t.Helper()
	out := m.run("%s", command)
	for _, word := range words {
		if !strings.Contains(out, word) {
			m.t.Errorf("%s lacks %q:\n%s", command, word, out)
		}
	}
}

// TestBondAsUplink runs vnetd in a virtual machine whose kernel has the bonding
// driver, with two cards on one LAN. A TCP connection to the machine's address on
// the bond lives through the start, the loss of a card, and the stop.
func TestBondAsUplink(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		for _, args := range []string{
			"link add lan type bridge",
			"addr add " + bondGateway + "/24 dev lan",
			"link set lan up",
			"tuntap add nic0 mode tap",
			"tuntap add nic1 mode tap",
			"link set nic0 master lan up",
			"link set nic1 master lan up",
		} {
			nstest.IP(t, args)
		}
		m := machine{nstest.BootGuest(t, nstest.GuestConfig{
			Name: "host", Memory: 512, NoDHCP: true,
			Netdev: "tap,id=n0,ifname=nic0,script=no,downscript=no",
			More:   []string{"tap,id=n1,ifname=nic1,script=no,downscript=no"},
			Initrd: nstest.GuestInitrd(t, nstest.GuestFiles{
				Programs: []string{"dbus-daemon", filepath.Join(l.Bin, "vnetd"), filepath.Join(l.Bin, "vnetctl")},
				Modules:  []string{"llc", "stp", "bridge", "tls", "bonding"},
				Texts:    map[string]string{"/etc/passwd": "root:x:0:0::/:/bin/sh\n", "/bus.conf": nstest.BusConfig, "/lan.xml": bondXML},
			}),
		}), t}
		makeBond(m)
		m.run("(nc -ll -p 7 -e cat &) >/dev/null 2>&1")
		m.run("ping -c1 -W5 %s", bondGateway)
		echo := dialEcho(t, net.JoinHostPort(bondHost, "7"))
		before := hostNetwork(m)

		startVnetd(m)
		m.run("vnetctl define /lan.xml && vnetctl start lan")
		// Its kernel has not loaded what guards need.
		m.run("for i in $(seq 50); do vnetctl status | grep -q \"the kernel does not take the ports' guards\" && exit; usleep 200000; done; lsmod; vnetctl doctor; cat /tmp/vnetd.log; false")
		m.has("ip addr show dev br0", bondHost+"/24")
		m.has("ip route", "default via "+bondGateway+" dev br0")
		m.has("ip link show dev bond0", "master br0")
		echo.answers("with the network up")
		m.run("ping -c1 -W5 %s", bondGateway)

		// The card that is in use fails.
		m.run("ip link set $(cat /sys/class/net/bond0/bonding/active_slave) down")
		echo.answers("over the other card")

		m.run("vnetctl stop lan")
		echo.answers("after the stop")
		m.run("ping -c1 -W5 %s", bondGateway)
		same(t, "addresses and routes after the stop", before, hostNetwork(m))
	})
}

// makeBond makes bond0 of eth0 and eth1, as the machine's way to the LAN.
func makeBond(m machine) {
	m.t.Helper()
	for _, command := range []string{
		"for i in llc stp bridge tls bonding; do insmod /modules/$i.ko || exit 1; done",
		"ip link set eth0 down && ip link set lo up && ip link set bond0 down",
		"echo active-backup >/sys/class/net/bond0/bonding/mode && echo 100 >/sys/class/net/bond0/bonding/miimon",
		"echo +eth0 >/sys/class/net/bond0/bonding/slaves && echo +eth1 >/sys/class/net/bond0/bonding/slaves",
		"ip link set bond0 up && ip addr add " + bondHost + "/24 dev bond0 && ip route add default via " + bondGateway,
	} {
		m.run("%s", command)
	}
}

// hostNetwork is where the machine's IPv4 addresses and routes are.
func hostNetwork(m machine) string {
	m.t.Helper()
	return m.run("ip -4 -o addr show; ip route")
}

// startVnetd starts the bus and vnetd in the machine, and waits until it answers.
func startVnetd(m machine) {
	m.t.Helper()
	m.run("mkdir -p /run/dbus /var/lib && ln -s /run /var/run && dbus-daemon --config-file=/bus.conf --fork --nopidfile")
	m.run("(vnetd >/tmp/vnetd.log 2>&1 &)")
	m.run("for i in $(seq 50); do vnetctl list 2>/dev/null && exit; usleep 200000; done; cat /tmp/vnetd.log; false")
}

// echo is a connection to a server that sends back each line.
type echo struct {
	t     *testing.T
	conn  net.Conn
	lines *bufio.Reader
}

func dialEcho(t *testing.T, address string) *echo {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &echo{t, conn, bufio.NewReader(conn)}
}

// answers fails the test unless a line comes back.
func (e *echo) answers(when string) {
	e.t.Helper()
	err := e.conn.SetDeadline(time.Now().Add(limit))
	if err == nil {
		_, err = fmt.Fprintln(e.conn, when)
	}
	line := ""
	if err == nil {
		line, err = e.lines.ReadString('\n')
	}
	if err != nil || line != when+"\n" {
		e.t.Fatalf("the connection %s: %q, %v", when, line, err)
	}
}
