package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
)

// spanLimit only ends tests that would hang.
const spanLimit = limit / 2

// spanLab is three hosts with a network that spans them, on a wire between them.
type spanLab struct {
	*testing.T
	hosts []*nstest.Host
	v6    bool
}

// underlay is the address of the host with that number, from 0, on the wire.
func (l *spanLab) underlay(i int) string {
	if l.v6 {
		return fmt.Sprintf("2001:db8:ffff::%d", i+11)
	}
	return fmt.Sprintf("203.0.113.%d", i+11)
}

// document is the network on the host with that number: the same on all, but for the range
// from which its guests get addresses.
func (l *spanLab) document(i int) string {
	peers := ""
	for peer := range 3 {
		peers += "<vnetd:peer underlay='" + l.underlay(peer) + "'/>"
	}
	return fmt.Sprintf(`<network xmlns:vnetd='urn:vnetd:network:1'><name>apps</name><forward mode='nat'/><bridge name='virbr7' stp='on' delay='0'/>
<ip address='10.50.0.1' prefix='16'><dhcp><range start='10.50.%d.10' end='10.50.%[1]d.99'/></dhcp></ip>
<ip family='ipv6' address='fd00:50::1' prefix='64'/>
<vnetd:span vni='7'>%s</vnetd:span></network>`, i+1, peers)
}

// newSpanLab starts the network on all hosts.
func newSpanLab(t *testing.T, hosts int, v6 bool, mtu int) *spanLab {
	t.Helper()
	l := &spanLab{T: t, v6: v6}
	nstest.IP(t, "link add wire type bridge mcast_snooping 0")
	nstest.IP(t, "link set wire up")
	for i := range hosts {
		h := nstest.NewHost(t, fmt.Sprintf("h%d", i+1))
		nstest.IP(t, fmt.Sprintf("link add wire%d mtu %d type veth peer name eth0 mtu %[2]d netns %s", i+1, mtu, h.Name))
		nstest.IP(t, fmt.Sprintf("link set wire%d master wire up", i+1))
		h.IP("link set eth0 up")
		h.IP(fmt.Sprintf("addr add 203.0.113.%d/24 dev eth0", i+11))
		h.IP(fmt.Sprintf("-6 addr add 2001:db8:ffff::%d/64 dev eth0 nodad", i+11))
		h.StartVnetd()
		l.hosts = append(l.hosts, h)
		l.ctl(i, l.document(i), "define", "-")
		l.ctl(i, "", "start", "apps")
	}
	return l
}

// ctl runs vnetctl on a host and fails the test when it fails.
func (l *spanLab) ctl(i int, stdin string, args ...string) string {
	l.Helper()
	r := l.hosts[i].Vnetctl(l.Context(), stdin, args...)
	if err := r.Err(); err != nil {
		l.Fatalf("h%d: vnetctl %s: %v", i+1, strings.Join(args, " "), err)
	}
	return r.Stdout
}

// guest is a machine on a port of the network on a host.
func (l *spanLab) guest(i int, name string, options client.PortOptions) *nstest.NS {
	l.Helper()
	l.Setenv("DBUS_SYSTEM_BUS_ADDRESS", l.hosts[i].Bus())
	c, err := client.Dial(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = c.Close() })
	p, err := c.RequestPort(l.Context(), "apps", options)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = p.Close() })
	return nstest.Machine(l.T, name, p.Info.MAC, p.Files[0])
}

// lease has the guest get an address by DHCP, with the MTU that comes with it, and returns it.
func (l *spanLab) lease(guest *nstest.NS) string {
	l.Helper()
	script := filepath.Join(l.TempDir(), "script")
	text := "#!/bin/sh\n[ \"$1\" = bound ] && ip addr replace $ip/16 dev eth0 && ip route replace default via $router && ip link set eth0 mtu $mtu\nexit 0\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		l.Fatal(err)
	}
	nstest.Eventually(l, spanLimit, "guest "+guest.Name+" has a lease", func() error {
		return guest.Command(l.Context(), "udhcpc", "-f", "-q", "-n", "-t", "3", "-T", "1", "-i", "eth0", "-O", "mtu", "-s", script).Run()
	})
	return l.address(guest, "-4", "10.50.")
}

// address is the guest's address with that beginning, once it may be used.
func (l *spanLab) address(guest *nstest.NS, family, begin string) (address string) {
	l.Helper()
	nstest.Eventually(l, spanLimit, "guest "+guest.Name+" has an address "+begin, func() error {
		out := guest.IP(family + " -o addr show dev eth0 scope global")
		for word := range strings.FieldsSeq(out) {
			if p, err := netip.ParsePrefix(word); err == nil && strings.HasPrefix(word, begin) && !strings.Contains(out, "tentative") {
				address = p.Addr().String()
				return nil
			}
		}
		return errors.New(out)
	})
	return address
}

// pings has an address answer a guest, soon.
func (l *spanLab) pings(guest *nstest.NS, address string) {
	l.Helper()
	nstest.Eventually(l, spanLimit, guest.Name+" reaches "+address, func() error {
		return guest.Command(l.Context(), "ping", "-c1", "-W1", address).Run()
	})
}

// capture is what passes a device of the test's own namespace until it is ended.
type capture struct {
	file string
	cmd  *exec.Cmd
}

// listen begins to capture.
func (l *spanLab) listen(device string) *capture {
	l.Helper()
	c := &capture{file: filepath.Join(l.TempDir(), "pcap")}
	c.cmd = exec.Command("tcpdump", "-i", device, "-U", "--immediate-mode", "-s", "256", "-Z", "root", "-w", c.file)
	said, err := c.cmd.StderrPipe()
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		l.Fatal(err)
	}
	if _, err := said.Read(make([]byte, 1)); err != nil { // "listening on"
		l.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, said) }()
	l.Cleanup(func() { _ = c.cmd.Process.Kill() })
	return c
}

// end ends the capture and returns the frames inside of tunnels, one on a line.
func (l *spanLab) end(c *capture) string {
	l.Helper()
	_ = c.cmd.Process.Signal(os.Interrupt)
	_ = c.cmd.Wait()
	out := nstest.Exec(l, "tcpdump", "-nn", "-e", "-v", "-r", c.file, "udp port 4789")
	return strings.ReplaceAll(strings.ReplaceAll(out, "\n    ", " "), "\n\t", " ")
}

// TestSpan has guests of one network on three hosts reach each other, each of them with the
// gateway of its own host: nothing of that, of DHCP and of router advertisements is on the
// wire. What others do to the tunnel is mended, a vnetd that ends and comes back costs
// nothing, and nothing is left at the end.
func TestSpan(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newSpanLab(t, 3, false, 1500)
		wire := l.listen("wire1")
		a, b := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(1, "b", client.PortOptions{Name: "b"})
		a4, b4 := l.lease(a), l.lease(b)
		if !strings.HasPrefix(a4, "10.50.1.") || !strings.HasPrefix(b4, "10.50.2.") {
			t.Errorf("guests have %s and %s, each of another host's range", a4, b4)
		}
		if out := a.IP("link show eth0"); !strings.Contains(out, "mtu 1450") {
			t.Errorf("the guest was told of another MTU:\n%s", out)
		}
		a6, b6 := l.address(a, "-6", "fd00:50:"), l.address(b, "-6", "fd00:50:")
		for _, address := range []string{b4, b6, "10.50.0.1", "fd00:50::1"} {
			l.pings(a, address)
		}
		for _, address := range []string{a4, a6, "10.50.0.1", "fd00:50::1"} {
			l.pings(b, address)
		}
		// By its host the guest reaches outside, and its packets have the host's address.
		l.pings(a, l.underlay(2))
		frames := l.end(wire)
		for _, want := range []string{
			"who-has " + b4 + " tell " + a4, a4 + " > " + b4 + ": ICMP echo request", "ICMP6, neighbor solicitation", a6 + " > " + b6 + ": [icmp6 sum ok] ICMP6, echo request",
		} {
			if !strings.Contains(frames, want) {
				t.Errorf("not on the wire: %q", want)
			}
		}
		for _, unwanted := range []string{
			"02:76:6e:00:00:07", "who-has 10.50.0.1 ", "tell 10.50.0.1,", "BOOTP", "dhcp6", "router advertisement", "router solicitation", "who has fd00:50::1,", "STP", "multicast listener report v2, 1 group record(s) [gaddr ff02::1:ff00:7",
		} {
			for line := range strings.Lines(frames) {
				if strings.Contains(line, unwanted) {
					t.Errorf("on the wire: %q in\n%s", unwanted, line)
					break
				}
			}
		}
		l.mends(a, b4)
		l.restarts(a, b4)
		status := l.ctl(0, "", "status", "apps")
		if want := "VNI 7, vx7, from 203.0.113.11 (eth0) to 203.0.113.12, 203.0.113.13, not encrypted"; !strings.Contains(status, want) {
			t.Errorf("want %q:\n%s", want, status)
		}
		// A host that leaves the network leaves nothing of it, and the others go on.
		l.ctl(2, "", "stop", "apps")
		l.pings(a, b4)
		if left := l.hosts[2].Exec("ip", "link") + l.hosts[2].Exec("nft", "list", "tables"); strings.Contains(left, "vx7") || strings.Contains(left, "vnetd_span") {
			t.Errorf("left on a host:\n%s", left)
		}
	})
}

// mends has what others do to the tunnel and its rules be put back.
func (l *spanLab) mends(guest *nstest.NS, address string) {
	l.Helper()
	h := l.hosts[0]
	index := h.Exec("cat", "/sys/class/net/vx7/ifindex")
	for _, damage := range []string{
		"ip link set vx7 nomaster", "ip link set vx7 down", "bridge fdb del 00:00:00:00:00:00 dev vx7 dst 203.0.113.12",
		"bridge link set dev vx7 learning off", "ip link del vx7", "nft delete table bridge vnetd_span", "nft delete table inet vnetd_span", "ip link set vx7 mtu 1300",
	} {
		h.Exec("sh", "-c", damage)
		nstest.Eventually(l, spanLimit, "mended after "+damage, func() error {
			if out := h.Exec("sh", "-c", "bridge -d link show dev vx7; ip link show vx7; true"); !strings.Contains(out, "master virbr7") || !strings.Contains(out, "learning on") ||
				!strings.Contains(out, ",UP") || !strings.Contains(out, "mtu 1500") {
				return errors.New(out)
			}
			if out := h.Exec("sh", "-c", "bridge fdb show dev vx7; true"); !strings.Contains(out, "00:00:00:00:00:00 dst 203.0.113.12") || !strings.Contains(out, "00:00:00:00:00:00 dst 203.0.113.13") {
				return errors.New(out)
			}
			if out := h.Exec("nft", "list", "tables"); strings.Count(out, "vnetd_span") != 2 {
				return errors.New(out)
			}
			return nil
		})
		l.pings(guest, address)
	}
	if again := h.Exec("cat", "/sys/class/net/vx7/ifindex"); again == index {
		l.Error("the device that was deleted is the same")
	}
}

// restarts ends a vnetd and starts another, which loses nothing of what passes the tunnel.
func (l *spanLab) restarts(guest *nstest.NS, address string) {
	l.Helper()
	h := l.hosts[0]
	state := func() string {
		return h.Exec("sh", "-c", "cat /sys/class/net/vx7/ifindex; bridge fdb show dev vx7 | grep dst.*permanent; nft -s list table bridge vnetd_span; nft -s list table inet vnetd_span")
	}
	was := state()
	ping := l.counts(guest, address)
	h.KillVnetd()
	h.StartVnetd()
	ping.end("while vnetd was away")
	if is := state(); is != was {
		l.Errorf("another vnetd has it otherwise; was\n%s\nis\n%s", was, is)
	}
	l.pings(guest, address)
}
