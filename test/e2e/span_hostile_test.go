package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/guardtest"
)

// raw is a packet socket on the card of a machine.
type raw struct {
	*spanLab
	fd   int
	mac  firewall.MAC
	sent int
}

// raw opens it.
func (l *spanLab) raw(guest *nstest.NS) *raw {
	l.Helper()
	r := &raw{spanLab: l}
	r.fd = packetSocket(l.T, guest)
	if err := guest.Do(func() error {
		card, err := net.InterfaceByName("eth0")
		if err == nil {
			copy(r.mac[:], card.HardwareAddr)
		}
		return err
	}); err != nil {
		l.Fatal(err)
	}
	return r
}

// send sends a frame.
func (r *raw) send(frame []byte) {
	r.Helper()
	if _, err := unix.Write(r.fd, frame); err != nil {
		r.Fatal(err)
	}
}

// crosses sends a frame, and one behind it that everybody gets, and reports whether the other
// machine got both.
func (r *raw) crosses(to *raw, frame []byte) (got bool) {
	r.Helper()
	r.sent++
	behind := guardtest.Ether(guardtest.Everybody, r.mac, 0x88b5, fmt.Appendf(nil, "frame %d of this machine, long enough for one", r.sent))
	r.send(frame)
	r.send(behind)
	buffer := make([]byte, 1<<16)
	nstest.Eventually(r, spanLimit, "what was sent behind comes", func() error {
		for {
			n, err := unix.Read(to.fd, buffer)
			if err != nil {
				return err
			}
			got = got || bytes.HasPrefix(buffer[:n], frame)
			if bytes.Equal(buffer[:n], behind) {
				return nil
			}
		}
	})
	return got
}

// TestSpanHostileGuest has a guest whose port is not guarded claim what is the gateway's and
// others': the gateway's, DHCP and router advertisements stay on its host, and nobody's card
// moves to it on its own host or on theirs. With the guard that ports of such a network have, no
// host believes it.
func TestSpanHostileGuest(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newSpanLab(t, 3, false, 1500)
		for _, h := range l.hosts { // frames of a test have no checksums, for which iptables may not be asked
			h.Exec("sh", "-c", "sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0 || true")
		}
		hostile := l.guest(0, "a", client.PortOptions{Name: "a", Guard: "off"})
		neighbour, b, c := l.guest(0, "n", client.PortOptions{Name: "n"}), l.guest(1, "b", client.PortOptions{Name: "b"}), l.guest(2, "c", client.PortOptions{Name: "c"})
		machines := map[*nstest.NS]guardtest.Card{}
		for _, m := range []*nstest.NS{hostile, neighbour, b, c} {
			machines[m] = guardtest.Card{MAC: l.raw(m).mac, V4: netip.MustParseAddr(l.lease(m)), V6: netip.MustParseAddr(l.address(m, "-6", "fd00:50:"))}
		}
		gateway := guardtest.Card{MAC: firewall.MAC{2, 'v', 'n', 0, 0, 7}, V4: netip.MustParseAddr("10.50.0.1"), V6: netip.MustParseAddr("fd00:50::1")}
		s := guardtest.Segment{Gateway: gateway, Guest: machines[hostile], Other: machines[b], Further: guardtest.Card{
			MAC: firewall.MAC{0x52, 0x54, 0, 0, 0, 0x66}, V4: netip.MustParseAddr("10.50.9.9"), V6: netip.MustParseAddr("fd00:50::9"),
		}}
		from, to := l.raw(hostile), l.raw(b)
		l.frames(from, to, s)
		// The gateway is where it was for everybody.
		for _, m := range []*nstest.NS{neighbour, b, c} {
			l.pings(m, "10.50.0.1")
			if out := m.IP("neigh show 10.50.0.1"); !strings.Contains(out, "02:76:6e:00:00:07") {
				t.Errorf("%s has another gateway: %s", m.Name, out)
			}
		}
		// It claims cards of a neighbour and of guests on other hosts.
		for _, victim := range []*nstest.NS{neighbour, b, c} {
			from.crosses(to, guardtest.Ether(guardtest.Everybody, machines[victim].MAC, 0x88b5, []byte("a frame that claims to be another's, long enough")))
		}
		l.stayBehind(machines, []*nstest.NS{neighbour, b, c})
		for _, m := range []*nstest.NS{b, c} {
			l.pings(neighbour, machines[m].V4.String())
		}
		// With its guard no host hears of it.
		guarded := l.raw(neighbour)
		before := l.hosts[2].Exec("bridge", "fdb", "show", "dev", "vx7")
		if guarded.crosses(to, guardtest.Ether(guardtest.Everybody, machines[b].MAC, 0x88b5, []byte("a frame that claims to be another's, long enough"))) {
			t.Error("a guest with a guard may claim the card of one on another host")
		}
		b6 := machines[b].MAC.String() + " dst "
		if after := l.hosts[2].Exec("bridge", "fdb", "show", "dev", "vx7"); line(before, b6) != line(after, b6) {
			t.Errorf("another host believes it; before\n%s\nafter\n%s", before, after)
		}
	})
}

// frames has a machine send frames of many kinds, some of which cross to one on another host.
func (l *spanLab) frames(from, to *raw, s guardtest.Segment) {
	l.Helper()
	cross := map[string]bool{"own": true, "ARP": true, "ARP probe": true, "ND": true, "DAD": true, "IPv4 to a guest": true, "IPv6 to a guest": true, "ARP of a further address": true}
	stay := []string{
		"from the bridge", "STP", "LACP", "EAPOL", "LLDP", "ARP of the gateway behind a priority", "ARP of the gateway", "gratuitous ARP of the gateway", "ND of the gateway",
		"ND of the gateway's link-local address", "solicitation as another guest", "router solicitation", "router advertisement", "redirect", "DHCP request", "DHCP answer",
		"DHCPv6 request", "DHCPv6 answer", "DHCP answer to one card", "DHCPv6 answer to one card",
	}
	for _, name := range stay {
		cross[name] = false
	}
	seen := 0
	for _, f := range s.Frames() {
		want, asked := cross[f.Name]
		if !asked {
			continue
		}
		seen++
		if got := from.crosses(to, f.Bytes); got != want {
			l.Errorf("%s: a guest on another host gets it is %v, want %v", f.Name, got, want)
		}
	}
	if seen != len(cross) {
		l.Errorf("%d of %d frames were sent", seen, len(cross))
	}
}

// stayBehind holds that each host has its guest, one of each, behind the guest's port, and those
// of others behind the tunnel.
func (l *spanLab) stayBehind(machines map[*nstest.NS]guardtest.Card, guests []*nstest.NS) {
	l.Helper()
	for i, own := range guests {
		entries := l.hosts[i].Exec("bridge", "fdb", "show", "br", "virbr7")
		for j, m := range guests {
			where := "vx7"
			if own == m {
				where = "vnet"
			}
			if !behind(entries, machines[m].MAC.String(), where) {
				l.Errorf("on h%d the guest of h%d is not behind %s:\n%s", i+1, j+1, where, entries)
			}
		}
	}
}

// behind reports whether entries of a bridge, as bridge(8) lists them, have a card behind
// devices of that beginning alone.
func behind(entries, mac, device string) bool {
	found := false
	for line := range strings.Lines(entries) {
		if !strings.HasPrefix(line, mac+" ") || strings.Contains(line, " self") {
			continue
		}
		if found = true; !strings.HasPrefix(line, mac+" dev "+device) {
			return false
		}
	}
	return found
}

// line is the first line with that beginning.
func line(text, begin string) string {
	for l := range strings.Lines(text) {
		if strings.HasPrefix(l, begin) {
			return l
		}
	}
	return ""
}

// TestSpanDuplicate has guests find out that their address is that of a guest on another host.
func TestSpanDuplicate(t *testing.T) { nstest.Run(t, findDuplicates) }

// TestSpanOnDebian has the kernel of Debian 12 carry the network, with rules of nftables.
func TestSpanOnDebian(t *testing.T) { nstest.RunInGuest(t, spanFiles(), findDuplicates) }

// spanFiles are those of a machine of which two hosts can be made.
func spanFiles() nstest.GuestFiles {
	files := nstest.GuestFiles{
		Modules: []string{
			"llc", "stp", "bridge", "veth", "tun", "tls", "udp_tunnel", "ip6_udp_tunnel", "vxlan", "dummy",
			"nfnetlink", "libcrc32c", "nf_defrag_ipv4", "nf_defrag_ipv6", "nf_conntrack", "nf_nat", "nf_tables", "nft_ct", "nft_chain_nat", "nft_masq", "nft_nat",
			"nf_reject_ipv4", "nf_reject_ipv6", "nft_reject", "nft_reject_ipv4", "nft_reject_ipv6", "nft_reject_inet", "nft_redir", "nft_fib", "nft_fib_ipv4", "nft_fib_ipv6", "nft_limit", "nft_meta_bridge",
		},
		Texts: map[string]string{"/etc/passwd": "root:x:0:0::/:/bin/sh\n", "/bus.conf": nstest.BusConfig},
	}
	if root, err := nstest.Root(); err == nil { // not in the guest
		files.Programs = []string{"dbus-daemon", filepath.Join(root, "bin", "vnetd"), filepath.Join(root, "bin", "vnetctl")}
	}
	return files
}

// findDuplicates has guests of two hosts reach each other and the gateway, and find out that an
// address is the other's, by RFC 5227 and RFC 4862.
func findDuplicates(t *testing.T) {
	l := newSpanLab(t, 2, false, 1500)
	a, b := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(1, "b", client.PortOptions{Name: "b"})
	a4, b4 := l.lease(a), l.lease(b)
	l.pings(a, b4)
	l.pings(b, a4)
	for _, address := range []string{"10.50.0.1", "fd00:50::1", l.address(b, "-6", "fd00:50:")} {
		l.pings(a, address)
	}
	a.IP("addr add 10.50.7.7/16 dev eth0")
	if b.Command(t.Context(), "busybox", "arping", "-D", "-q", "-c", "2", "-w", "5", "-I", "eth0", "10.50.7.7").Run() == nil {
		t.Error("a probe does not find the address on the other host")
	}
	if err := b.Command(t.Context(), "busybox", "arping", "-D", "-q", "-c", "1", "-w", "1", "-I", "eth0", "10.50.7.8").Run(); err != nil {
		t.Errorf("a probe finds an address that is nobody's: %v", err)
	}
	a.IP("-6 addr add fd00:50::7/64 dev eth0 nodad")
	b.IP("-6 addr add fd00:50::7/64 dev eth0")
	nstest.Eventually(t, spanLimit, "IPv6 finds the address on the other host", func() error {
		if out := b.IP("-6 -o addr show dev eth0 to fd00:50::7"); !strings.Contains(out, "dadfailed") {
			return errors.New(out)
		}
		return nil
	})
}

// vxlanFrame is a frame in the tunnel with VNI 7.
func vxlanFrame(frame []byte) []byte { return append([]byte{8, 0, 0, 0, 0, 0, 7, 0}, frame...) }

// TestSpanForeignPackets has a guest be reached by the tunnel from hosts of the network alone:
// not by another machine on the wire, whatever it says, and not by guests, neither at their own
// host nor by it at another.
func TestSpanForeignPackets(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newSpanLab(t, 2, false, 1500)
		nstest.IP(t, "addr add 203.0.113.99/24 dev wire")
		a, b := l.guest(0, "a", client.PortOptions{Name: "a", Guard: "off"}), l.guest(1, "b", client.PortOptions{Name: "b"})
		a4, b4 := netip.MustParseAddr(l.lease(a)), netip.MustParseAddr(l.lease(b))
		l.pings(a, b4.String())
		// echo is a packet in the tunnel that a guest counts which gets it.
		echo := func(to *nstest.NS, address netip.Addr) []byte {
			icmp := []byte{8, 0, 0, 0, 0, 1, 0, 1}
			binary.BigEndian.PutUint16(icmp[2:], ^uint16(8<<8+1+1))
			s := guardtest.Segment{Guest: guardtest.Card{MAC: firewall.MAC{0x52, 0x54, 0, 0, 0, 0x66}}}
			return vxlanFrame(s.IP(l.raw(to).mac, netip.MustParseAddr("10.50.9.9"), address, unix.IPPROTO_ICMP, icmp))
		}
		sendTo := func(from *nstest.NS, to string, packet []byte) {
			t.Helper()
			send := func() error {
				c, err := net.Dial("udp", to+":4789")
				if err != nil {
					return err
				}
				_, err = c.Write(packet)
				return errors.Join(err, c.Close())
			}
			err := error(nil)
			if from == nil {
				err = send()
			} else {
				err = from.Do(send)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		member := func(to *nstest.NS, address netip.Addr, from, at int) {
			t.Helper()
			was := echoes(t, to)
			sendTo(l.hosts[from].NS, l.underlay(at), echo(to, address))
			nstest.Eventually(t, spanLimit, "a packet of a host of the network comes", func() error {
				if is := echoes(t, to); is != was+1 {
					return fmt.Errorf("%d echo requests, had %d", is, was)
				}
				return nil
			})
		}
		member(a, a4, 1, 0)
		member(b, b4, 0, 1)
		was := []int{echoes(t, a), echoes(t, b)}
		sendTo(nil, l.underlay(0), echo(a, a4))
		for _, to := range []string{"10.50.0.1", l.underlay(0)} { // its own host
			sendTo(a, to, echo(a, a4))
		}
		sendTo(a, l.underlay(1), echo(b, b4)) // by its own host, with whose address it would come
		// As another host, by which its own would answer.
		a.IP("addr add 203.0.113.12/32 dev lo")
		a.IP("route add 203.0.113.11 via 10.50.0.1 src 203.0.113.12")
		sendTo(a, l.underlay(0), echo(a, a4))
		for i, m := range []*nstest.NS{a, b} { // what was sent before is there by then
			member(m, []netip.Addr{a4, b4}[i], 1-i, i)
			if is := echoes(t, m); is != was[i]+1 {
				t.Errorf("%s got %d packets of others by the tunnel", m.Name, is-was[i]-1)
			}
		}
		counts := l.hosts[0].Exec("nft", "list", "chain", "inet", "vnetd_span", "input") + l.hosts[0].Exec("nft", "list", "chain", "inet", "vnetd_span", "forward")
		if stopped := strings.Count(counts, "counter packets") - strings.Count(counts, "counter packets 0 "); stopped != 3 {
			t.Errorf("%d rules stopped something, want 3: those of guests, of strangers, and of what is forwarded\n%s", stopped, counts)
		}
	})
}

// echoes is how many echo requests a machine has got.
func echoes(t *testing.T, m *nstest.NS) int {
	t.Helper()
	names, values := []string(nil), []string(nil)
	for l := range strings.Lines(m.Exec("cat", "/proc/net/snmp")) {
		if strings.HasPrefix(l, "Icmp: ") {
			names, values = values, strings.Fields(l)
		}
	}
	for i, name := range names {
		if name == "InEchos" {
			n, err := strconv.Atoi(values[i])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("the kernel does not count echo requests")
	return 0
}

// TestSpanMTU has TCP pass between guests with the MTU that they were told, and with that of
// Ethernet, by underlays of IPv4 and IPv6, and with large ones.
func TestSpanMTU(t *testing.T) {
	nstest.Beside(t)
	for _, tt := range []struct {
		name      string
		v6        bool
		mtu, told int
	}{
		{"IPv4", false, 1500, 1450},
		{"IPv6", true, 1500, 1430},
		{"large", false, 9000, 8950},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				l := newSpanLab(t, 2, tt.v6, tt.mtu)
				a, b := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(1, "b", client.PortOptions{Name: "b"})
				a4, b4 := l.lease(a), l.lease(b)
				if out := a.IP("link show eth0"); !strings.Contains(out, fmt.Sprintf("mtu %d ", tt.told)) {
					t.Errorf("want MTU %d:\n%s", tt.told, out)
				}
				// As large as is told passes in one piece.
				nstest.Eventually(t, spanLimit, "packets of the MTU pass", func() error {
					return a.Command(t.Context(), "ping", "-c1", "-W1", "-M", "do", "-s", strconv.Itoa(tt.told-28), b4).Run()
				})
				for _, mtu := range []int{tt.told, tt.mtu} {
					for _, m := range []*nstest.NS{a, b} {
						m.IP(fmt.Sprintf("link set eth0 mtu %d", mtu))
					}
					l.transfers(a, b, b4)
					l.transfers(b, a, a4)
				}
			})
		})
	}
}

// transfers has one guest send another some data by TCP.
func (l *spanLab) transfers(from, to *nstest.NS, address string) {
	l.Helper()
	server := to.Command(l.Context(), "iperf3", "--server", "--one-off", "--bind", address)
	if err := server.Start(); err != nil {
		l.Fatal(err)
	}
	defer func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	nstest.Eventually(l, spanLimit, "20 MB pass from "+from.Name, func() error {
		out, err := from.Command(l.Context(), "timeout", "20", "iperf3", "--client", address, "--bytes", "20M", "--connect-timeout", "1000").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}
