package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
)

// gatewayLevel is the place of the level gateway in guardLevels.
const gatewayLevel = 1

// resident plugs a machine with addresses of its own choice into the network gateway.
func (s *street) resident(name string, n int) *neighbour {
	s.t.Helper()
	m := &neighbour{name: name, mac: fmt.Sprintf("52:54:00:01:01:%02x", n), card: "eth0", network: gatewayLevel}
	ns, port := s.own("gateway", name, m.mac)
	ns.IP(fmt.Sprintf("addr add 198.18.1.%d/24 dev eth0", n))
	ns.IP(fmt.Sprintf("addr add fd00:1::%x/64 dev eth0 nodad", n))
	m.port, m.shell = port, inNamespace(s.t, ns)
	return m
}

// background runs a program in the guest until what it returns is called, or the test ends.
func (s *street) background(m *neighbour, argv ...string) (end func()) {
	s.t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(s.t.Context()), "ip", append([]string{"netns", "exec", m.name}, argv...)...)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	end = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	}
	s.t.Cleanup(func() {
		end()
		if s.t.Failed() {
			s.t.Logf("%s in %s:\n%s", argv[0], m.name, &log)
		}
	})
	return end
}

// answers waits until a guest has an answer from an address, of the card with that MAC
// address; empty: of any.
func (m *neighbour) answers(address, card string) error {
	return soon(func() error {
		if err := m.must("ping -c 1 -w 1 " + address); err != nil {
			return err
		}
		out, err := m.shell("ip neigh show to " + address)
		if err == nil && !strings.Contains(out, card) {
			err = fmt.Errorf("%s is behind %swant %s", address, out, card)
		}
		return err
	})
}

// keepalivedConf is two virtual routers with a MAC address of VRRP's, one for each family,
// and one that moves an address from card to card.
const keepalivedConf = `vrrp_instance four { state BACKUP
 interface eth0
 virtual_router_id 7
 priority %[1]d
 advert_int 1
 use_vmac
 virtual_ipaddress { 198.18.1.240/24 } }
vrrp_instance six { state BACKUP
 interface eth0
 virtual_router_id 8
 version 3
 priority %[1]d
 advert_int 1
 use_vmac
 virtual_ipaddress { fe80::5e:8
 fd00:1::240/64 } }
vrrp_instance cards { state BACKUP
 interface eth0
 virtual_router_id 9
 priority %[1]d
 advert_int 1
 virtual_ipaddress { 198.18.1.241/24 } }
`

// keepalived runs keepalived in a guest.
func (s *street) keepalived(m *neighbour, priority int) (end func()) {
	s.t.Helper()
	// Else each of the guest's cards answers for the addresses of the others as well.
	if err := m.must("sysctl -qw net.ipv4.conf.all.arp_ignore=1"); err != nil {
		s.t.Fatal(err)
	}
	conf := "/run/" + m.name + ".conf"
	if err := os.WriteFile(conf, fmt.Appendf(nil, keepalivedConf, priority), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return s.background(m, nstest.Keepalived(s.t, "--vrrp", "--dont-fork", "--log-console", "--log-detail",
		"--use-file="+conf, "--pid=/run/"+m.name+".pid", "--vrrp_pid=/run/"+m.name+".vrrp")...)
}

// virtualRouters has two guests be one router, and the second take over from the first.
func (s *street) virtualRouters() (all []*neighbour) {
	master, backup, user := s.resident("master", 201), s.resident("backup", 202), s.resident("user", 203)
	virtual := map[string]string{"198.18.1.240": "00:00:5e:00:01:07", "fd00:1::240": "00:00:5e:00:02:08"}
	owned := func(when string, by *neighbour) {
		s.t.Helper()
		for a, card := range virtual {
			if err := soon(func() error { return by.must("ip addr | grep -q ' " + a + "/'") }); err != nil {
				s.t.Errorf("%s: %s is not the router: %v", when, by.name, err)
			}
			if err := user.answers(a, card); err != nil {
				s.t.Errorf("%s: %v", when, err)
			}
			nstest.Exec(s.t, "ping", "-c1", "-w9", a)
		}
		if err := user.answers("198.18.1.241", by.mac); err != nil {
			s.t.Errorf("%s: %v", when, err)
		}
	}
	end := s.keepalived(master, 150)
	owned("alone", master)
	s.keepalived(backup, 100)
	end()
	owned("when the master ended", backup)
	s.keepalived(master, 150)
	owned("when the master came back", master)
	return []*neighbour{master, backup, user}
}

// nested has three guests behind a bridge that is itself in a guest, each with a card and a
// lease.
func (s *street) nested() []*neighbour {
	m := &neighbour{name: "nest", mac: "52:54:00:01:02:00", network: gatewayLevel}
	ns, port := s.own("gateway", m.name, m.mac)
	m.port = port
	for _, args := range []string{"link add inner type bridge", "link set eth0 master inner", "link set inner up"} {
		ns.IP(args)
	}
	var inner []*neighbour
	for i := range 3 {
		g := &neighbour{name: fmt.Sprintf("inner%d", i), mac: fmt.Sprintf("52:54:00:01:02:%02x", i+1), card: "eth0", network: gatewayLevel, leases6: true}
		guest := nstest.NewNS(s.t, g.name)
		ns.IP(fmt.Sprintf("link add v%d type veth peer name eth0 address %s netns %s", i, g.mac, g.name))
		ns.IP(fmt.Sprintf("link set v%d master inner up", i))
		guest.IP("link set eth0 up")
		g.shell = inNamespace(s.t, guest)
		dhcpdtest.NewSystemOn(s.t, "networkd", guest, g.mac, "").Start("")
		inner = append(inner, g)
	}
	each(s.t, inner, "addresses behind a nested bridge", func(g *neighbour) error { return soon(g.addressed) })
	each(s.t, inner, "reaching from behind a nested bridge", func(g *neighbour) error { return g.reaches(s.others(inner, g)...) })
	return []*neighbour{m}
}

// balancer has two guests answer for further addresses, as MetalLB's speakers do, and one
// take such an address from the other.
func (s *street) balancer(user *neighbour) []*neighbour {
	first, second := s.resident("first", 211), s.resident("second", 212)
	serve := func(m *neighbour) {
		s.t.Helper()
		err := errors.Join(m.must("ip addr add 198.18.1.230/32 dev lo && ip addr add fd00:1::230/128 dev eth0 nodad"),
			m.must("busybox arping -q -U -c 2 -w 3 -I eth0 198.18.1.230"))
		for _, a := range []string{"198.18.1.230", "fd00:1::230"} {
			err = errors.Join(err, user.answers(a, m.mac))
		}
		if err != nil {
			s.t.Errorf("%s serves a further address: %v", m.name, err)
		}
	}
	serve(first)
	const leave = "ip addr del 198.18.1.230/32 dev lo; ip addr del fd00:1::230/128 dev eth0"
	// Nobody tells of an address of IPv6 here: it is looked for anew.
	if err := errors.Join(first.must(leave), user.must("ip neigh del fd00:1::230 dev eth0")); err != nil {
		s.t.Error(err)
	}
	serve(second)
	return []*neighbour{first, second}
}

// router has a guest give addresses of both families, and lead on, on a network where vnetd
// gives none.
func (s *street) router() {
	const wild = "<network><name>wild</name><bridge name='vb-wild'/></network>"
	if err := s.VnetctlInput(s.t.Context(), wild, "create", "-").Err(); err != nil {
		s.t.Fatal(err)
	}
	r := &neighbour{name: "router", mac: "52:54:00:05:00:01"}
	ns, port := s.own("wild", r.name, r.mac)
	r.port, r.shell = port, inNamespace(s.t, ns)
	for _, args := range []string{"addr add 198.18.5.1/24 dev eth0", "addr add fd00:5::1/64 dev eth0 nodad", "addr add 198.18.6.1/32 dev lo", "addr add fd00:6::1/128 dev lo"} {
		ns.IP(args)
	}
	s.background(r, "sh", "-c", "sysctl -qw net.ipv6.conf.all.forwarding=1; exec dnsmasq -d --conf-file=/dev/null --port=0 --user=root --dhcp-authoritative"+
		" --interface=eth0 --dhcp-leasefile=/run/router.leases --dhcp-range=198.18.5.10,198.18.5.99,1h --enable-ra --dhcp-range=fd00:5::100,fd00:5::1ff,slaac,64,1h")
	g := &neighbour{name: "routed", mac: "52:54:00:05:00:02", card: "eth0", network: 5, leases6: true}
	guest, port := s.own("wild", g.name, g.mac)
	g.port, g.shell = port, inNamespace(s.t, guest)
	dhcpdtest.NewSystemOn(s.t, "networkd", guest, g.mac, "").Start("")
	if err := soon(g.addressed); err != nil {
		s.t.Fatalf("behind a router guest: %v", err)
	}
	for _, a := range []string{"198.18.5.1", "fd00:5::1", "198.18.6.1", "fd00:6::1"} {
		if err := g.answers(a, ""); err != nil {
			s.t.Errorf("behind a router guest: %v", err)
		}
	}
	for _, p := range []string{r.port, g.port} {
		if got, err := s.client.Port(p).Get(s.t.Context()); err != nil || got.Guard != "gateway" || len(got.Stopped) > 0 {
			s.t.Errorf("the guard beside a router guest is %q and has stopped %v (%v)", got.Guard, got.Stopped, err)
		}
	}
}

// TestNeighboursOfManyAddresses has guests that have more than a card and an address lose
// nothing at level gateway: routers that are one (keepalived), a bridge within a guest, who
// answers for further addresses (MetalLB), and a router with a DHCP server of its own.
func TestNeighboursOfManyAddresses(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newStreet(t)
		s.define(gatewayLevel, "")
		vnetctl(t, s.Lab, "start", "gateway")
		guests := s.virtualRouters()
		guests = append(guests, s.nested()...)
		guests = append(guests, s.balancer(guests[2])...)
		s.router()
		s.stoppedNothing(guests, nil)
	})
}
