package e2espan

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
)

// twoFamilies is a network of the cluster whose guests have IPv6 as well.
const twoFamilies = `<network xmlns:vnetd='urn:vnetd:network:1'><name>apps</name><forward mode='nat'/><bridge name='virbr7' stp='on' delay='0'/><domain name='apps.test' localOnly='yes'/>
<ip address='10.50.0.1' prefix='16'><dhcp><range start='10.50.1.0' end='10.50.1.255'/></dhcp></ip>
<ip family='ipv6' address='fd50::1' prefix='64'/>
<vnetd:span cluster='lab' vni='7' block='16'/></network>`

// TestMachines has a virtual machine on each of two hosts: they get addresses of both families,
// find each other, and nothing that is a host's own leaves it. An address that is taken on one
// host is found to be on another.
func TestMachines(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t)
		l.defineAs(twoFamilies)
		c := l.capture("wire1")
		a, b := l.machine(0, "anna", 10), l.machine(1, "ben", 11)
		a.finds(b)
		b.finds(a)
		l.duplicates()
		c.holds(l.gateway())
		l.check()
	})
}

// gateway is the MAC address of the network's gateway, which is the same on all hosts.
func (l *lab) gateway() net.HardwareAddr {
	l.Helper()
	mac, err := net.ParseMAC(strings.TrimSpace(l.hosts[0].Exec("cat", "/sys/class/net/virbr7/address")))
	if err != nil {
		l.Fatal(err)
	}
	return mac
}

// machine is a guest that QEMU runs.
type machine struct {
	*nstest.QEMU
	l      *lab
	name   string
	v4, v6 string
}

// machine boots one on a host, and waits until it has addresses.
func (l *lab) machine(i int, name string, n byte) *machine {
	l.Helper()
	o := options(name, n)
	o.VnetHdr = true
	p, err := l.port(i, o)
	if err != nil {
		l.Fatal(err)
	}
	wrap := l.hosts[i].Command(l.Context(), "sh", "-c", `exec "$@"`, "sh").Args
	m := &machine{nstest.BootGuest(l, nstest.GuestConfig{Name: name, MAC: p.Info.MAC, Netdev: "tap,id=n0,fd=3", Wrap: wrap, Files: p.Files}), l, name, "", ""}
	lease, err := m.Lease(l.Context())
	if err != nil {
		l.Fatalf("%s: %v", name, err)
	}
	m.v4 = lease.Address.Addr().String()
	l.book.acknowledged(lease.Address.Addr(), p.Info.MAC)
	nstest.Eventually(l, limit, name+" has an address of IPv6", func() error {
		out, _, err := m.Run(l.Context(), "ip -6 addr show dev eth0 scope global")
		_, rest, found := strings.Cut(out, "inet6 fd50:")
		if err != nil || !found || strings.Contains(out, "tentative") {
			return errors.Join(err, errors.New(out))
		}
		m.v6 = "fd50:" + rest[:strings.IndexByte(rest, '/')]
		return nil
	})
	l.Logf("%s on h%d has %s and %s", name, i+1, m.v4, m.v6)
	return m
}

// finds has it reach another by name, and by its address of IPv6.
func (m *machine) finds(other *machine) {
	m.l.Helper()
	for _, tt := range []struct{ command, want string }{
		{"ping -c 3 -i 0.2 " + other.name, "(" + other.v4 + ")"}, {"ping6 -c 3 -i 0.2 " + other.v6, "(" + other.v6 + ")"},
	} {
		nstest.Eventually(m.l, limit, m.name+": "+tt.command, func() error {
			out, status, err := m.Run(m.l.Context(), tt.command)
			if err != nil || status != 0 || !strings.Contains(out, tt.want) {
				return errors.Join(err, fmt.Errorf("ended with %d, want %s: %s", status, tt.want, out))
			}
			return nil
		})
	}
}

// duplicates has addresses be given by hand to a guest on the first host, and then to one on the
// third: it finds that they are taken, by ACD (RFC 5227) and DAD (RFC 4862).
func (l *lab) duplicates() {
	l.Helper()
	const v4, v6 = "10.50.200.9", "fd50::c809"
	has, wants := l.guest(0, "x", client.PortOptions{}), l.guest(2, "y", client.PortOptions{})
	has.IP("addr add " + v4 + "/16 dev eth0")
	has.IP("addr add " + v6 + "/64 dev eth0 nodad")
	l.knows(2, has.mac, "h1")
	l.knows(0, wants.mac, "h3")
	probe := func(address string) error {
		return wants.Command(l.Context(), "busybox", "arping", "-D", "-q", "-c", "2", "-w", "3", "-I", "eth0", address).Run()
	}
	if exit := new(exec.ExitError); !errors.As(probe(v4), &exit) || exit.ExitCode() != 1 {
		l.Errorf("%s is taken on another host, and ACD does not find that", v4)
	}
	if err := probe("10.50.200.10"); err != nil {
		l.Errorf("ACD finds that a free address is taken: %v", err)
	}
	wants.IP("addr add " + v6 + "/64 dev eth0")
	nstest.Eventually(l, limit, "DAD finds that "+v6+" is taken", func() error {
		if out := wants.IP("-6 addr show dev eth0"); !strings.Contains(out, "dadfailed") {
			return errors.New(out)
		}
		return nil
	})
}

// capture is what passes by a link, as tcpdump writes it.
type capture struct {
	l    *lab
	cmd  *exec.Cmd
	file string
}

// capture begins one.
func (l *lab) capture(link string) *capture {
	l.Helper()
	c := &capture{l: l, file: filepath.Join(l.TempDir(), "pcap")}
	c.cmd = exec.CommandContext(l.Context(), "tcpdump", "-i", link, "-U", "-Z", "root", "-w", c.file, "udp", "port", "4789")
	var said strings.Builder
	c.cmd.Stderr = &said
	if err := c.cmd.Start(); err != nil {
		l.Fatal(err)
	}
	nstest.Eventually(l, limit, "tcpdump listens", func() error {
		if _, err := os.Stat(c.file); err != nil {
			return errors.New(said.String())
		}
		return nil
	})
	return c
}

// holds ends it, and fails the test where something passed by the tunnel that is a host's own, or
// nothing did that guests sent each other.
func (c *capture) holds(gateway net.HardwareAddr) {
	c.l.Helper()
	_ = c.cmd.Process.Signal(os.Interrupt)
	_ = c.cmd.Wait() // by the signal
	text, err := os.ReadFile(c.file)
	if err != nil {
		c.l.Fatal(err)
	}
	const outer = 14 + 20 + 8 + 8 // Ethernet, IPv4, UDP, VXLAN
	kinds := make(map[string]int)
	for rest := text[24:]; len(rest) >= 16; { // after the file's header, each has one of its own
		n := int(binary.LittleEndian.Uint32(rest[8:]))
		packet := rest[16 : 16+n]
		rest = rest[16+n:]
		if len(packet) < outer+14 {
			continue
		}
		frame := packet[outer:]
		kind := kindOf(frame)
		if bytes.Equal(frame[:6], gateway) || bytes.Equal(frame[6:12], gateway) {
			kind = "the gateway's own"
		}
		if kinds[kind]++; strings.HasPrefix(kind, "the gateway's") || strings.HasPrefix(kind, "DHCP") || strings.HasPrefix(kind, "router") {
			c.l.Errorf("%s passes from host to host: % x", kind, frame)
		}
	}
	c.l.Logf("by the tunnel of h1 passed %v", kinds)
	for _, want := range []string{"IPv4 ICMP", "ping of IPv6", "ARP", "neighbour discovery"} {
		if kinds[want] == 0 {
			c.l.Errorf("nothing of %s passes", want)
		}
	}
}

// kindOf says what a frame is, as far as that matters here.
func kindOf(frame []byte) string {
	payload := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_ARP:
		gateway := netip.MustParseAddr("10.50.0.1").As4()
		if len(payload) >= 28 && (bytes.Equal(payload[14:18], gateway[:]) || bytes.Equal(payload[24:28], gateway[:])) {
			return "the gateway's ARP"
		}
		return "ARP"
	case unix.ETH_P_IP:
		if len(payload) >= 28 && payload[9] == unix.IPPROTO_UDP && isDHCP(payload[20:]) {
			return "DHCP"
		} else if len(payload) >= 20 && payload[9] == unix.IPPROTO_ICMP {
			return "IPv4 ICMP"
		}
		return "IPv4"
	case unix.ETH_P_IPV6:
		return kindOf6(payload)
	}
	return "other"
}

// isDHCP reports whether a header of UDP is of DHCP, of either family.
func isDHCP(udp []byte) bool {
	for _, port := range []uint16{67, 68, 546, 547} {
		if binary.BigEndian.Uint16(udp) == port || binary.BigEndian.Uint16(udp[2:]) == port {
			return true
		}
	}
	return false
}

// kindOf6 is kindOf of IPv6.
func kindOf6(p []byte) string {
	if len(p) < 48 || p[6] != unix.IPPROTO_ICMPV6 {
		if len(p) >= 48 && p[6] == unix.IPPROTO_UDP && isDHCP(p[40:]) {
			return "DHCPv6"
		}
		return "IPv6" // reports of groups among it, with a header in between
	}
	switch p[40] {
	case 128, 129:
		return "ping of IPv6"
	case 133, 134, 137:
		return fmt.Sprintf("router discovery (ICMPv6 type %d)", p[40])
	case 135, 136:
		if len(p) >= 64 && netip.AddrFrom16([16]byte(p[48:64])) == netip.MustParseAddr("fd50::1") {
			return "the gateway's neighbour discovery"
		}
		return "neighbour discovery"
	}
	return "ICMPv6"
}
