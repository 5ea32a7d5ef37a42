package network_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/network"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/tap"
)

// guardedXML is a network that gives IPv4 and IPv6 addresses, with what stands inside.
func guardedXML(inside string) string {
	return "<network xmlns:vnetd='urn:vnetd:network:1'><name>one</name><forward mode='nat'/><bridge name='one' stp='on' delay='0'/>" +
		"<ip address='192.0.2.1' prefix='24'><dhcp><range start='192.0.2.100' end='192.0.2.199'/></dhcp></ip>" +
		"<ip family='ipv6' address='fd00:2::1' prefix='64'/>" + inside + "</network>"
}

// lease has the guest's client of DHCP get an address, and set it.
func lease(t *testing.T, guest *nstest.NS) {
	t.Helper()
	script := filepath.Join(t.TempDir(), "script")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" = bound ] && ip addr replace $ip/24 dev eth0 && ip route replace default via $router\nexit 0\n"), 0o755))
	nstest.Eventually(t, wait, "the guest has a lease", func() error {
		return guest.Command(t.Context(), "udhcpc", "-f", "-q", "-n", "-t", "3", "-T", "1", "-i", "eth0", "-s", script).Run()
	})
}

// reaches asks an address once for an answer, which may take a busy machine long.
func reaches(guest *nstest.NS, address string) error {
	return guest.Command(context.Background(), "ping", "-c1", "-W20", address).Run()
}

// stoppedOf is what the guard of a port has stopped.
func stoppedOf(h *hub, p api.Port) map[string]uint64 {
	time.Sleep(1100 * time.Millisecond) // counters are as old as that
	return h.Ports().Guards().StoppedBy(p.UUID)
}

// TestStrictGuest has guests of users who may not choose addresses lose nothing of
// what is theirs, and get nothing of what is others'.
func TestStrictGuest(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(guardedXML(""))
		info, f := h.port(n, network.PortOptions{Untrusted: true, Owner: 1000})
		other, g := h.port(n, network.PortOptions{Untrusted: true, Owner: 1001})
		defer f.Close()
		defer g.Close()
		if info.Guard != "strict" {
			t.Fatalf("the guard is %q", info.Guard)
		}
		// The second launcher does not use the address that was made up for it.
		const card = "52:54:00:77:77:77"
		a, b := nstest.Machine(t, "a", info.MAC, f), nstest.Machine(t, "b", card, g)
		lease(t, a)
		lease(t, b)
		hosts := map[*nstest.NS]string{}
		for _, guest := range []*nstest.NS{a, b} {
			hosts[guest] = strings.Split(strings.Fields(strings.SplitN(guest.IP("-4 -o addr show dev eth0"), "inet ", 2)[1])[0], "/")[0]
			nstest.Eventually(t, wait, "an address of IPv6", func() error {
				if out := guest.IP("-6 -o addr show dev eth0 scope global"); !strings.Contains(out, "fd00:2::") || strings.Contains(out, "tentative") {
					return fmt.Errorf("it has %s", out)
				}
				return nil
			})
			for _, to := range []string{"192.0.2.1", "fd00:2::1"} {
				if err := reaches(guest, to); err != nil {
					t.Errorf("%s does not reach %s: %v", guest.Name, to, err)
				}
			}
		}
		if err := reaches(a, hosts[b]); err != nil {
			t.Errorf("guests don't reach each other: %v", err)
		}
		for guest, p := range map[*nstest.NS]api.Port{a: info, b: other} {
			if got := stoppedOf(h, p); len(got) > 0 {
				t.Errorf("of guest %s is stopped: %v", guest.Name, got)
			}
		}
		// Now they are hostile.
		a.IP("addr add 192.0.2.77/24 dev eth0")
		if a.Command(t.Context(), "ping", "-c1", "-W1", "-I", "192.0.2.77", "192.0.2.1").Run() == nil {
			t.Error("a guest may use an address that is not its own")
		}
		b.IP("link set eth0 address 52:54:00:77:77:78")
		if b.Command(t.Context(), "ping", "-c1", "-W1", "192.0.2.1").Run() == nil {
			t.Error("a guest may have another card than the one that is known")
		}
		if got := stoppedOf(h, info); got["arp"]+got["ip"] == 0 {
			t.Errorf("what was stopped is not shown: %v", got)
		}
		if got := stoppedOf(h, other); got["mac"] == 0 {
			t.Errorf("what was stopped is not shown: %v", got)
		}
	})
}

// TestGuardFollowsTheHost has guests reached and answered in subnets that the
// administrator puts on the bridge, or routes to a guest, beside the network's own.
func TestGuardFollowsTheHost(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(guardedXML(""))
		info, f := h.port(n, network.PortOptions{})
		defer f.Close()
		a := nstest.Machine(t, "a", info.MAC, f)
		a.IP("addr add 192.0.2.50/24 dev eth0")
		a.IP("addr add 198.51.100.5/24 dev eth0")
		a.IP("link set lo up")
		a.IP("addr add 203.0.113.1/24 dev lo")
		a.IP("addr add 2001:db8:5::5/64 dev eth0 nodad")
		for _, change := range []struct{ command, source, to string }{
			{"addr add 198.51.100.1/24 dev one", "198.51.100.5", "198.51.100.1"},
			{"addr add 2001:db8:5::1/64 dev one nodad", "2001:db8:5::5", "2001:db8:5::1"},
			{"route add 203.0.113.0/24 via 192.0.2.50", "203.0.113.1", "192.0.2.1"},
		} {
			ping := func() error {
				return a.Command(t.Context(), "ping", "-c1", "-W1", "-I", change.source, change.to).Run()
			}
			if ping() == nil {
				t.Errorf("%s reaches %s before %q", change.source, change.to, change.command)
			}
			nstest.IP(t, change.command)
			nstest.Eventually(t, wait, change.source+" reaches "+change.to+" after "+change.command, ping)
		}
	})
}

// TestGuardOfOneMachine has a machine with two cards on one network answer for the
// address of one by the other, and no other machine do so.
func TestGuardOfOneMachine(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(guardedXML(""))
		const machineUUID = "11111111-2222-4333-8444-555555555555"
		first, f := h.port(n, network.PortOptions{OwnerUUID: machineUUID})
		second, g := h.port(n, network.PortOptions{OwnerUUID: machineUUID})
		other, o := h.port(n, network.PortOptions{})
		defer f.Close()
		defer g.Close()
		defer o.Close()
		lease(t, nstest.Machine(t, "a", first.MAC, f))
		now, err := h.Ports().Find(first.UUID)
		must(t, err)
		held := now.Addresses[0].String()
		for _, m := range []struct {
			name    string
			port    api.Port
			file    *os.File
			answers bool
		}{{"b", second, g, true}, {"c", other, o, false}} {
			guest := nstest.Machine(t, m.name, m.port.MAC, m.file)
			guest.IP("addr add " + held + "/24 dev eth0")
			_ = guest.Command(t.Context(), "ping", "-c1", "-W1", "-I", held, "192.0.2.1").Run() // ARP is first
			if stopped := stoppedOf(h, m.port)["arp"]; (stopped == 0) != m.answers {
				t.Errorf("of ARP of machine %s is stopped: %d frames", m.name, stopped)
			}
		}
	})
}

// TestGuardsOverARestart has guards stand while no hub runs, and the next one know
// what was leased under the one before.
func TestGuardsOverARestart(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		n := h.started(guardedXML(""))
		info, f := h.port(n, network.PortOptions{Untrusted: true, Owner: 1000, Lifetime: "persistent"})
		defer f.Close()
		guest := nstest.Machine(t, "a", info.MAC, f)
		lease(t, guest)
		guest.IP("addr add 192.0.2.77/24 dev eth0")
		check := func(when string) {
			t.Helper()
			if err := reaches(guest, "192.0.2.1"); err != nil {
				t.Errorf("%s: the guest does not reach its gateway: %v", when, err)
			}
			if guest.Command(t.Context(), "ping", "-c1", "-W1", "-I", "192.0.2.77", "192.0.2.1").Run() == nil {
				t.Errorf("%s: the guest may use another address", when)
			}
		}
		check("at first")
		h.end()
		check("without a hub")
		h = newHub(t, root, hubOptions{})
		check("under the next")
		n, err := h.ByName("one")
		must(t, err)
		must(t, n.Stop(t.Context()))
		if table := nstest.Exec(t, "nft", "list", "tables", "netdev"); strings.Contains(table, "vnetd") {
			t.Errorf("left of guards: %s", table)
		}
	})
}

// TestGuardOfNetwork has the document say how ports are guarded, also those that are there.
func TestGuardOfNetwork(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(guardedXML(""))
		admin, f := h.port(n, network.PortOptions{})
		chosen, g := h.port(n, network.PortOptions{Guard: "strict,arp=off", Allow: []string{"vlan=7", "198.51.100.0/24"}})
		defer f.Close()
		defer g.Close()
		for _, c := range []struct{ inside, admin string }{
			{"", "gateway"}, {"<vnetd:guard level='strict' mac='off'/>", "strict,mac=off"}, {"<vnetd:guard level='off'/>", "off"},
		} {
			h.define(guardedXML(c.inside))
			for p, want := range map[string]string{admin.UUID: c.admin, chosen.UUID: "strict,arp=off"} {
				got, err := h.Ports().Find(p)
				must(t, err)
				if got.Guard != want {
					t.Errorf("with %q the guard of %s is %q, want %q", c.inside, p, got.Guard, want)
				}
			}
		}
		for option, opts := range map[string]network.PortOptions{
			"guard": {Guard: "lax"}, "allow": {Allow: []string{"vlan=4095"}},
		} {
			_, _, err := h.Ports().Request(t.Context(), n, opts)
			if network.KindOf(err) != api.Invalid || !strings.Contains(fmt.Sprint(err), "option "+option) {
				t.Errorf("a faulty %s: %v", option, err)
			}
		}
	})
}

// TestForeignGuests guards devices that others plug in, has them forward at once where
// they are virtual machines', and lets nobody be the root of the spanning tree.
func TestForeignGuests(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		// By itself a port would forward after a minute.
		h.started(strings.Replace(guardedXML(""), "delay='0'", "delay='30'", 1))
		nstest.IP(t, "tuntap add vnet7 mode tap")
		nstest.IP(t, "link set vnet7 address fe:54:00:00:00:07")
		nstest.IP(t, "link set vnet7 master one up")
		guest := nstest.Guest(t, "one", "evil", "52:54:00:00:00:66")
		until(t, "the guards of both devices", func() bool {
			out, err := exec.CommandContext(t.Context(), "nft", "list", "table", "netdev", firewall.GuardTable("one")).Output()
			return err == nil && strings.Contains(string(out), `device "vnet7"`) && strings.Contains(string(out), `device "v-evil"`)
		})
		dev, err := tap.Reopen(tap.Config{Name: "vnet7"}, index(t, h, "vnet7"))
		must(t, err)
		defer dev.Close()
		nstest.Eventually(t, wait, "the device forwards", func() error {
			state, err := os.ReadFile("/sys/class/net/vnet7/brport/state")
			if err == nil && strings.TrimSpace(string(state)) != "3" {
				err = errors.New("state " + string(state))
			}
			return err
		})
		rootOf := func() string { return nstest.Exec(t, "cat", "/sys/class/net/one/bridge/root_id") }
		before := rootOf()
		must(t, guest.Do(func() error { return sendBPDU("eth0") }))
		time.Sleep(200 * time.Millisecond)
		if after := rootOf(); after != before {
			t.Errorf("a guest is the root: %s, was %s", after, before)
		}
	})
}

// TestGuardEndsWithTheNetwork has a guest that libvirt moves to a bridge of the admin's
// be guarded no more, whether its port is deleted before or after.
func TestGuardEndsWithTheNetwork(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(guardedXML(""))
		nstest.IP(t, "link add theirs type bridge")
		guarded := func(device string) bool {
			out, err := exec.CommandContext(t.Context(), "nft", "list", "table", "netdev", firewall.GuardTable("one")).Output()
			return err == nil && strings.Contains(string(out), `device "`+device+`"`)
		}
		for i, deletedFirst := range []bool{true, false} {
			doc := libvirts(byte(i + 1))
			device := fmt.Sprintf("vnet%d", i)
			_, err := h.Ports().Register(t.Context(), n, doc, false, 0)
			must(t, err)
			nstest.IP(t, "tuntap add "+device+" mode tap")
			nstest.IP(t, fmt.Sprintf("link set %s address fe:54:00:00:00:%02x", device, i+1))
			nstest.IP(t, "link set "+device+" master one up")
			until(t, "the guard of "+device, func() bool { return guarded(device) })
			if deletedFirst {
				must(t, h.Ports().Release(t.Context(), doc.UUID))
			}
			nstest.IP(t, "link set "+device+" master theirs")
			until(t, "no guard of "+device, func() bool { return !guarded(device) })
		}
	})
}

// TestUplinkIsNoGuest leaves the way to the LAN alone, of whatever kind its device is,
// beside a guest's device that is guarded.
func TestUplinkIsNoGuest(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		nstest.IP(t, "link add up0 type veth peer name far0")
		nstest.IP(t, "link set up0 up")
		nstest.IP(t, "link set far0 up")
		h.started("<network xmlns:vnetd='urn:vnetd:network:1'><name>lan</name><forward mode='bridge'/><bridge name='lan'/><vnetd:uplink dev='up0'/></network>")
		nstest.IP(t, "tuntap add vnet7 mode tap")
		nstest.IP(t, "link set vnet7 master lan up")
		var guards string
		until(t, "the guard of the guest's device", func() bool {
			out, err := exec.CommandContext(t.Context(), "nft", "list", "table", "netdev", firewall.GuardTable("lan")).Output()
			guards = string(out)
			return err == nil && strings.Contains(guards, `device "vnet7"`)
		})
		if strings.Contains(guards, `"up0"`) {
			t.Errorf("the uplink has a guard:\n%s", guards)
		}
	})
}

func index(t *testing.T, h *hub, name string) int {
	t.Helper()
	l, err := h.links.Lookup(name)
	must(t, err)
	return l.Index
}

// sendBPDU sends a configuration BPDU of the best root there can be (IEEE 802.1D, section
// 9.3.1) on a device.
func sendBPDU(device string) error {
	card, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	id := append([]byte{0, 0}, card.HardwareAddr...)
	frame := append([]byte{1, 0x80, 0xc2, 0, 0, 0}, card.HardwareAddr...)
	frame = append(frame, 0, 38, 0x42, 0x42, 3, 0, 0, 0, 0, 0)
	frame = append(append(append(frame, id...), 0, 0, 0, 0), id...)
	frame = append(frame, 0x80, 1, 0, 0, 20, 0, 2, 0, 15, 0)
	frame = append(frame, make([]byte, 60-len(frame))...)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: card.Index, Halen: 6})
}

// TestNeighbourTable has a guest whose port has no guard pose as another one towards this
// host: what that one was leased stays its own, in either family, over a restart and a
// repair of the bridge, for as long as the lease lasts.
func TestNeighbourTable(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		n := h.started("<network><name>one</name><bridge name='one'/><ip address='192.0.2.1' prefix='24'><dhcp><range start='192.0.2.100' end='192.0.2.199'/></dhcp></ip>" +
			"<ip family='ipv6' address='fd00:2::1' prefix='64'><dhcp><range start='fd00:2::100' end='fd00:2::1ff'/></dhcp></ip></network>")
		info, f := h.port(n, network.PortOptions{Lifetime: "persistent"})
		forger, g := h.port(n, network.PortOptions{Guard: "off", Lifetime: "persistent"})
		defer f.Close()
		defer g.Close()
		victim, evil := nstest.Machine(t, "victim", info.MAC, f), nstest.Machine(t, "evil", forger.MAC, g)
		client := dhcpdtest.NewSystemOn(t, "networkd", victim, info.MAC, "")
		client.Start("")
		var held []netip.Addr
		until(t, "leases of both families", func() bool {
			p, err := h.Ports().Find(info.UUID)
			must(t, err)
			held = p.Addresses
			return len(held) == 2 && strings.Count(victim.IP("addr show dev eth0 -tentative"), "inet") == 3
		})
		entry := func(a netip.Addr) string { return nstest.IP(t, "neigh show dev one to "+a.String()) }
		check := func(when string) {
			t.Helper()
			for _, a := range held {
				if got := entry(a); !strings.Contains(got, "lladdr "+info.MAC+" ") || !strings.Contains(got, "PERMANENT") {
					t.Errorf("%s %v is behind %q, want %s for good", when, a, got, info.MAC)
				}
				nstest.Exec(t, "ping", "-c1", "-w9", a.String())
			}
		}
		forge := func() {
			for _, a := range held {
				as, to := "/24 dev eth0", "192.0.2.1"
				if a.Is6() {
					as, to = "/64 dev eth0 nodad", "fd00:2::1"
				}
				evil.IP("addr replace " + a.String() + as)
				_ = evil.Command(t.Context(), "ping", "-c1", "-W1", "-I", a.String(), to).Run()
			}
			_ = evil.Command(t.Context(), "busybox", "arping", "-q", "-U", "-c", "1", "-I", "eth0", held[0].String()).Run()
			evil.IP("addr flush dev eth0")
		}
		check("once leased")
		forge()
		check("while another guest claims it")
		h.end()
		forge()
		check("without a hub")
		h = newHub(t, root, hubOptions{})
		check("under the next hub")
		nstest.IP(t, "link set one down")
		until(t, "the bridge is whole again", func() bool {
			return strings.Contains(entry(held[1]), "PERMANENT") && strings.Contains(entry(held[0]), "PERMANENT")
		})
		forge()
		check("after the bridge was down")
		client.Stop(true) // networkd releases IPv4 alone
		until(t, "nobody has what was released", func() bool { return !strings.Contains(entry(held[0]), "PERMANENT") })
		must(t, h.Ports().Release(t.Context(), info.UUID))
		until(t, "nobody has what is left of the port", func() bool { return !strings.Contains(entry(held[1]), "PERMANENT") })
	})
}

// TestRulesOfPortsHold has a guest try to get past the rules of its port by another card, and somebody
// on the LAN by the address of IPv6 that the guest has made for itself.
func TestRulesOfPortsHold(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(strings.Replace(routedTo6("nat", ""), "prefix='24'/>", "prefix='24'><dhcp><range start='192.168.66.10' end='192.168.66.20'/></dhcp></ip>", 1))
		lan := nstest.NewLAN(t)
		lan.IP("-6 route add 2001:db8:1::/64 via " + nstest.Uplink6)
		info, f := h.opened(n, network.PortOptions{Settings: port.Settings{Rules: []string{"ingress drop", "egress reject tcp/80"}}})
		guest := nstest.Machine(t, "guest", info.MAC, f)
		guest.Exec("sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=2")
		lease(t, guest)
		serve6(t, guest)
		listen(t, lan, "80")
		own := ""
		nstest.Eventually(t, wait, "an address of IPv6", func() error {
			for _, w := range strings.Fields(guest.IP("-6 -o addr show dev eth0 scope global -tentative")) {
				if a, _, err := net.ParseCIDR(w); err == nil {
					own = a.String()
					return nil
				}
			}
			return errors.New("there is none")
		})
		connects := func(ns *nstest.NS, to string) error {
			return ns.Do(func() error {
				c, err := net.DialTimeout("tcp", to, 2*time.Second)
				if err == nil {
					err = c.Close()
				}
				return err
			})
		}
		if connects(lan, net.JoinHostPort(own, "80")) == nil {
			t.Error("a rule at ingress does not hold for an address that the guest has made for itself")
		}
		if connects(guest, net.JoinHostPort(nstest.LANHost, "80")) == nil {
			t.Error("a rule at egress does not hold")
		}
		// The guest's own card takes answers, another one sends.
		guest.IP("link set eth0 address 52:54:00:de:ad:01")
		guest.IP("link add card link eth0 address " + info.MAC + " type macvlan mode bridge")
		guest.Exec("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.card.rp_filter=0", "net.ipv4.conf.eth0.rp_filter=0")
		guest.IP("link set card up")
		guest.IP("route replace default via 192.168.66.1 dev eth0")
		if connects(guest, net.JoinHostPort(nstest.LANHost, "80")) == nil {
			t.Error("a rule at egress does not hold for another card")
		}
	})
}
