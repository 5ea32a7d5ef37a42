package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
)

// cluster6Document is a network of the cluster whose guests have addresses of IPv6 by DHCP, of one
// range.
const cluster6Document = `<network xmlns:vnetd='urn:vnetd:network:1'><name>apps</name><forward mode='nat'/><bridge name='virbr7' stp='on' delay='0'/><domain name='apps.test' localOnly='yes'/>
<ip address='10.50.0.1' prefix='16'><dhcp><range start='10.50.1.0' end='10.50.1.255'/></dhcp></ip>
<ip family='ipv6' address='fd00:50::1' prefix='64'><dhcp><range start='fd00:50::1:0' end='fd00:50::1:ffff'/>
<host id='00:03:00:01:52:54:00:00:00:0b' ip='fd00:50::b'/></dhcp></ip>
<vnetd:span cluster='lab' vni='7'/></network>`

// TestClusterDHCP6 has the hosts of a cluster give addresses of one range of IPv6: guests reach
// each other by them and by name, one keeps its own when it moves and renews it there, and one has
// what is reserved for it on whichever host.
func TestClusterDHCP6(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newClusterLab(t, 2)
		l.define(cluster6Document)
		a, b := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(1, "b", client.PortOptions{Name: "b"})
		a6, b6 := l.lease6(a), l.lease6(b)
		if a6 == b6 {
			t.Fatalf("both guests have %s", a6)
		}
		l.pings(a, b6)
		l.finds6(a, "b", b6)
		l.finds6(b, "a", a6)
		l.moves6(b)
		for i, name := range []string{"f1", "f2"} {
			p := l.portOfNone(i, net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0x0b})
			f := nstest.Machine(t, name, p.Info.MAC, p.Files[0])
			nstest.Eventually(t, spanLimit, "the guest has the address that is reserved for it on each host", func() error {
				got, err := l.ask6(f, dhcpv6.MessageTypeSolicit, netip.Addr{})
				if err == nil && got != "fd00:50::b" {
					err = fmt.Errorf("it is offered %s", got)
				}
				if err == nil {
					got, err = l.ask6(f, dhcpv6.MessageTypeRequest, netip.MustParseAddr(got))
				}
				if err == nil && got != "fd00:50::b" {
					err = fmt.Errorf("it has %s", got)
				}
				return err
			})
			_ = p.Close()
		}
	})
}

// portOfNone is a port of a card that no guest is said to have: there is none as long as the host
// has heard of it on another one, where its port may just have ended.
func (l *clusterLab) portOfNone(i int, card net.HardwareAddr) (p *client.OpenPort) {
	l.Helper()
	nstest.Eventually(l, spanLimit, fmt.Sprintf("h%d makes a port of %s", i+1, card), func() (err error) {
		p, err = l.port(i, client.PortOptions{MAC: card})
		return err
	})
	return p
}

// moves6 has a guest move to another host, and renew there.
func (l *clusterLab) moves6(b *nstest.NS) {
	l.Helper()
	card := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0x0a}
	options := client.PortOptions{Name: "m", MAC: card, OwnerUUID: "11111111-2222-4333-8444-555555555555"}
	was := l.guest(0, "m", options)
	m6 := ""
	nstest.Eventually(l, spanLimit, "the guest has an address", func() (err error) {
		if m6, err = l.ask6(was, dhcpv6.MessageTypeSolicit, netip.Addr{}); err == nil {
			_, err = l.ask6(was, dhcpv6.MessageTypeRequest, netip.MustParseAddr(m6))
		}
		return err
	})
	l.knows(1, was)
	p, err := l.port(1, options)
	if err != nil {
		l.Fatal(err)
	}
	was.IP("link set eth0 down") // a guest that moves runs on one host
	is := nstest.Machine(l.T, "m2", card.String(), p.Files[0])
	nstest.Eventually(l, spanLimit, "its new host has its lease", func() error {
		_ = is.Command(l.Context(), "ping", "-6", "-c1", "-W1", "ff02::1%eth0").Run() // it sends
		if out := l.ctl(1, "", "leases", "apps"); !strings.Contains(out, m6) {
			return errors.New(out)
		}
		return nil
	})
	for _, typ := range []dhcpv6.MessageType{dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind} {
		nstest.Eventually(l, spanLimit, "its new host renews its lease", func() error {
			got, err := l.ask6(is, typ, netip.MustParseAddr(m6))
			if err == nil && got != m6 {
				err = fmt.Errorf("it has %s, had %s", got, m6)
			}
			return err
		})
	}
	is.IP("addr replace " + m6 + "/64 dev eth0 nodad")
	l.pings(b, m6)
	l.finds6(b, "m", m6)
}

// lease6 has the guest get an address by dhclient, and returns it.
func (l *clusterLab) lease6(guest *nstest.NS) string {
	l.Helper()
	l.linkLocal(guest)
	dir := l.TempDir()
	script := filepath.Join(dir, "script")
	text := "#!/bin/sh\n[ -n \"$new_ip6_address\" ] && ip -6 addr replace $new_ip6_address/64 dev eth0 nodad\nexit 0\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		l.Fatal(err)
	}
	args := []string{"-6", "-1", "-sf", script, "-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid")}
	nstest.Eventually(l, spanLimit, "guest "+guest.Name+" has a lease", func() error {
		return guest.Command(l.Context(), "dhclient", append(args, "eth0")...).Run()
	})
	guest.Exec("dhclient", append([]string{"-x"}, append(args, "eth0")...)...)
	return l.address(guest, "-6", "fd00:50:")
}

// linkLocal waits for the guest's own address on the link.
func (l *clusterLab) linkLocal(guest *nstest.NS) {
	l.Helper()
	nstest.Eventually(l, spanLimit, "the guest has a link-local address", func() error {
		if out := guest.IP("-6 addr show dev eth0 scope link"); !strings.Contains(out, "fe80:") || strings.Contains(out, "tentative") {
			return errors.New(out)
		}
		return nil
	})
}

// finds6 has a guest find the address of IPv6 of another by its name.
func (l *clusterLab) finds6(guest *nstest.NS, name, address string) {
	l.Helper()
	nstest.Eventually(l, spanLimit, guest.Name+" finds "+name, func() error {
		out, _ := guest.Command(l.Context(), "dig", "+short", "+time=1", "+tries=1", "@fd00:50::1", "AAAA", name+".apps.test").Output()
		if strings.TrimSpace(string(out)) != address {
			return fmt.Errorf("got %q, want %s", out, address)
		}
		return nil
	})
}

// ask6 sends a message of DHCPv6 as the guest, which is known by its card, and returns the address
// that it is answered with.
func (l *clusterLab) ask6(guest *nstest.NS, typ dhcpv6.MessageType, addr netip.Addr) (address string, err error) {
	l.linkLocal(guest)
	card, err := net.ParseMAC(strings.TrimSpace(guest.Exec("cat", "/sys/class/net/eth0/address")))
	if err != nil {
		return "", err
	}
	m, err := dhcpv6.NewMessage()
	if err != nil {
		return "", err
	}
	m.MessageType = typ
	m.AddOption(dhcpv6.OptClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: card}))
	if typ == dhcpv6.MessageTypeRequest || typ == dhcpv6.MessageTypeRenew {
		gateway := net.HardwareAddr{0x02, 0x76, 0x6e, 0, 0, 7} // of the VNI, on all hosts
		m.AddOption(dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: gateway}))
	}
	ia := &dhcpv6.OptIANA{IaId: [4]byte{3: 1}}
	if addr.IsValid() {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: addr.AsSlice()})
	}
	m.AddOption(ia)
	err = guest.Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		conn, err := net.ListenUDP("udp6", &net.UDPAddr{Port: 546, Zone: "eth0", IP: net.IPv6unspecified})
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		if _, err := conn.WriteToUDP(m.ToBytes(), &net.UDPAddr{IP: net.ParseIP("ff02::1:2"), Port: 547, Zone: link.Name}); err != nil {
			return err
		}
		reply, err := answerTo(conn, m)
		if err != nil {
			return err
		}
		if ia := reply.Options.OneIANA(); ia != nil && ia.Options.OneAddress() != nil && ia.Options.OneAddress().ValidLifetime != 0 {
			address = ia.Options.OneAddress().IPv6Addr.String()
			return nil
		}
		return errors.New(reply.Summary())
	})
	return address, err
}

// answerTo reads until the answer to a message has come: that to a former one may be late.
func answerTo(conn *net.UDPConn, m *dhcpv6.Message) (*dhcpv6.Message, error) {
	for buf := make([]byte, 1500); ; {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if reply, err := dhcpv6.MessageFromBytes(buf[:n]); err != nil || reply.TransactionID == m.TransactionID {
			return reply, err
		}
	}
}
