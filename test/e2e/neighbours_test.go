package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
)

// The levels of guards, each with a network of that name.
var guardLevels = []string{"off", "gateway", "strict"}

// street is a lab with a network for each level, and guests that do no harm.
type street struct {
	*nstest.Lab
	t       *testing.T
	client  *client.Client
	libvirt *golibvirt.Libvirt
}

// newStreet starts vnetd, which libvirt's clients reach too, and the networks.
func newStreet(t *testing.T) *street {
	t.Helper()
	s := &street{Lab: nstest.NewLab(t), t: t}
	const config = "/run/vnetd.toml"
	err := errors.Join(os.MkdirAll(filepath.Dir(libvirtSocket), 0o755),
		os.WriteFile(config, []byte("[libvirt]\nsocket = '"+libvirtSocket+"'\npolkit = false\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	s.StartVnetd("--config", config)
	s.client = dial(t)
	s.libvirt = golibvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(libvirtSocket)))
	if err := s.libvirt.ConnectToURI("network:///system"); err != nil {
		t.Fatalf("connecting as libvirt's clients do: %v", err)
	}
	t.Cleanup(func() { _ = s.libvirt.Disconnect() })
	return s
}

// streetXML is the n-th network, whose ports have that level. Its guests have an address
// of each kind: leased and made up. Reservations stand in its <dhcp>.
func streetXML(n int, reservations string) string {
	level := guardLevels[n]
	return fmt.Sprintf(`<network xmlns:vnetd='urn:vnetd:network:1' xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>
  <name>%[1]s</name><forward mode='nat'><nat ipv6='yes'/></forward><bridge name='vb-%[1]s' stp='on' delay='0'/>
  <domain name='%[1]s.example' localOnly='yes'/>
  <ip address='198.18.%[2]d.1' netmask='255.255.255.0'><dhcp><range start='198.18.%[2]d.10' end='198.18.%[2]d.99'/>%[3]s</dhcp></ip>
  <ip family='ipv6' address='fd00:%[2]d::1' prefix='64'><dhcp><range start='fd00:%[2]d::100' end='fd00:%[2]d::1ff'/></dhcp><vnetd:ra autonomous='yes'/></ip>
  <vnetd:guard level='%[1]s'/>
  <dnsmasq:options><dnsmasq:option value='dhcp-option=58,8'/></dnsmasq:options>
</network>`, level, n, reservations)
}

// define makes the n-th network what streetXML says.
func (s *street) define(n int, reservations string) {
	s.t.Helper()
	if err := s.VnetctlInput(s.t.Context(), streetXML(n, reservations), "define", "-").Err(); err != nil {
		s.t.Fatalf("defining %s: %v", guardLevels[n], err)
	}
}

// register makes a port as libvirt's QEMU driver does: it tells of the port, makes the
// device by itself and plugs it in.
func (s *street) register(network, device, mac string) (uuid string) {
	s.t.Helper()
	n, err := s.libvirt.NetworkLookupByName(network)
	if err != nil {
		s.t.Fatal(err)
	}
	uuid = "0e1c9f52-77a4-4c0b-9d59-" + strings.ReplaceAll(mac, ":", "")
	doc := fmt.Sprintf("<networkport><uuid>%[1]s</uuid><owner><name>%[2]s</name><uuid>%[1]s</uuid></owner><mac address='%[3]s'/></networkport>", uuid, device, mac)
	if _, err := s.libvirt.NetworkPortCreateXML(n, doc, 0); err != nil {
		s.t.Fatalf("registering a port: %v", err)
	}
	return uuid
}

// plug plugs in the device of a registered port, whose address is made of the card's as
// libvirt does it.
func (s *street) plug(network, device, mac string) {
	s.t.Helper()
	nstest.IP(s.t, "link set "+device+" address fe"+mac[2:])
	nstest.IP(s.t, "link set "+device+" master vb-"+network+" up")
}

// neighbour is a guest that does no harm.
type neighbour struct {
	name, mac, card string
	network         int
	port            string // UUID
	leases6         bool
	// shell runs a line of shell in the guest, and returns what it prints.
	shell func(line string) (string, error)
	// start and stop are of its clients of DHCP, which release what they have; renew has
	// them renew it now, nil for those that do so by themselves.
	start, stop, renew func() error

	four, made, leased netip.Addr // what it has
}

// machine plugs a machine with those clients of DHCP into a network by a port of vnetd's own.
func (s *street) machine(network, n int, kinds ...string) *neighbour {
	s.t.Helper()
	m := &neighbour{name: fmt.Sprintf("%s%d", kinds[0], network), mac: fmt.Sprintf("52:54:00:%02x:00:%02x", network, n), card: "eth0", network: network, leases6: true}
	ns, port := s.own(guardLevels[network], m.name, m.mac)
	m.port = port
	m.shell = inNamespace(s.t, ns)
	var systems []*dhcpdtest.System
	for _, kind := range kinds {
		systems = append(systems, dhcpdtest.NewSystemOn(s.t, kind, ns, m.mac, ""))
	}
	m.start = func() error {
		// dhclient does not wait for the address that it speaks from.
		err := soon(func() error { return m.must("ip -6 -o addr show dev eth0 scope link -tentative | grep -q fe80") })
		for _, c := range systems {
			c.Start("")
		}
		return err
	}
	m.stop = func() error {
		for _, c := range systems {
			c.Stop(true)
		}
		return nil
	}
	return m
}

// own is a machine behind a port of vnetd's own, and the port's UUID.
func (s *street) own(network, name, mac string) (*nstest.NS, string) {
	s.t.Helper()
	card, err := net.ParseMAC(mac)
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := s.client.RequestPort(s.t.Context(), network, client.PortOptions{MAC: card, Name: name})
	if err != nil {
		s.t.Fatalf("a port for %s: %v", name, err)
	}
	s.t.Cleanup(func() { _ = p.Close() })
	return nstest.Machine(s.t, name, mac, p.Files[0]), p.Info.UUID
}

// inNamespace runs lines of shell in a namespace.
func inNamespace(t *testing.T, ns *nstest.NS) func(string) (string, error) {
	return func(line string) (string, error) {
		out, err := ns.Command(t.Context(), "sh", "-c", line).CombinedOutput()
		return string(out), err
	}
}

// guestScript is what the virtual machine does with a lease.
const guestScript = `#!/bin/busybox sh
case $1 in
bound | renew) ip addr replace $ip/24 dev $interface; ip route replace default via $router dev $interface metric $((10 + ${interface#eth})) ;;
deconfig) ip -4 addr flush dev $interface ;;
esac
`

// virtualMachine boots a guest of QEMU's with a card on each network, by ports that
// libvirt would have registered.
func (s *street) virtualMachine() (cards []*neighbour) {
	s.t.Helper()
	cfg := nstest.GuestConfig{Name: "vm", NoDHCP: true, MAC: "52:54:00:00:53:00"}
	cfg.Initrd = nstest.GuestInitrd(s.t, nstest.GuestFiles{Texts: map[string]string{"lease.sh": guestScript}})
	for i, level := range guardLevels {
		m := &neighbour{name: "vm", card: fmt.Sprintf("eth%d", i), mac: fmt.Sprintf("52:54:00:00:53:%02x", i), network: i}
		device := fmt.Sprintf("vnet9%d", i)
		m.port = s.register(level, device, m.mac)
		nstest.IP(s.t, "tuntap add "+device+" mode tap")
		s.plug(level, device, m.mac)
		netdev := fmt.Sprintf("tap,id=n%d,ifname=%s,script=no,downscript=no", i, device)
		if i == 0 {
			cfg.Netdev = netdev
		} else {
			cfg.More = append(cfg.More, netdev)
		}
		cards = append(cards, m)
	}
	q := nstest.BootGuest(s.t, cfg)
	for _, m := range cards {
		m.shell = func(line string) (string, error) {
			ctx, cancel := context.WithTimeout(s.t.Context(), limit)
			defer cancel()
			out, status, err := q.Run(ctx, line)
			if err == nil && status != 0 {
				err = fmt.Errorf("status %d", status)
			}
			return out, err
		}
		client := func(format string) func() error {
			return func() error { return m.must(fmt.Sprintf(format, m.card)) }
		}
		m.start = client("chmod 755 /lease.sh; ip link set %[1]s up; udhcpc -i %[1]s -R -s /lease.sh -t 20 -T 1 -p /tmp/%[1]s >/dev/null 2>&1")
		m.renew = client("kill -USR1 $(cat /tmp/%s)")
		m.stop = client("kill $(cat /tmp/%[1]s); while [ -e /tmp/%[1]s ]; do usleep 10000; done")
	}
	return cards
}

// must runs a line of shell in the guest that must succeed.
func (m *neighbour) must(line string) error {
	if out, err := m.shell(line); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}

// soon tries until it succeeds.
func soon(try func() error) (err error) {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if err = try(); err == nil {
			return nil
		}
	}
	return err
}

// each has all guests do something at once, and says who could not.
func each(t *testing.T, guests []*neighbour, what string, do func(*neighbour) error) {
	t.Helper()
	var all sync.WaitGroup
	for _, m := range guests {
		all.Go(func() {
			if err := do(m); err != nil {
				t.Errorf("%s: %s on %s: %v", what, m.name, guardLevels[m.network], err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// addressed looks for the guest's addresses: leased by each protocol, and made up.
func (m *neighbour) addressed() error {
	out, err := m.shell("ip -4 -o addr show dev " + m.card + "; ip -6 -o addr show dev " + m.card + " scope global")
	if err != nil {
		return err
	}
	m.four, m.made, m.leased = netip.Addr{}, netip.Addr{}, netip.Addr{}
	pool := netip.MustParsePrefix(fmt.Sprintf("fd00:%d::100/120", m.network))
	for line := range strings.Lines(out) {
		for _, field := range strings.Fields(line) {
			p, err := netip.ParsePrefix(field)
			switch {
			case err != nil || strings.Contains(line, "tentative"):
			case p.Addr().Is4():
				m.four = p.Addr()
			case pool.Contains(p.Addr()):
				m.leased = p.Addr()
			default:
				m.made = p.Addr()
			}
		}
	}
	if !m.four.IsValid() || !m.made.IsValid() || m.leases6 && !m.leased.IsValid() {
		return fmt.Errorf("it has\n%s", out)
	}
	return nil
}

// reaches has the guest ping addresses and ask the name server by both families.
func (m *neighbour) reaches(more ...netip.Addr) error {
	var errs []error
	gateways := []string{fmt.Sprintf("198.18.%d.1", m.network), fmt.Sprintf("fd00:%d::1", m.network)}
	to := append([]string{nstest.LANHost, nstest.LANHost6}, gateways...)
	for _, a := range more {
		if a.IsValid() {
			to = append(to, a.String())
		}
	}
	for _, a := range to {
		errs = append(errs, m.must(fmt.Sprintf("ping -c 1 -w 9 -I %s %s", m.card, a)))
	}
	for _, server := range gateways {
		errs = append(errs, m.must("busybox nslookup -type=a "+nstest.LANName+" "+server))
	}
	return errors.Join(errs...)
}

// leaseOf is the end of the guest's lease of IPv4, zero for none.
func (s *street) leaseOf(m *neighbour) (ends time.Time) {
	leases, err := s.client.Network(guardLevels[m.network]).Leases(s.t.Context())
	if err != nil {
		s.t.Errorf("listing leases: %v", err)
	}
	for _, l := range leases {
		if l.MAC == m.mac && l.Address.Is4() && l.Expiry != nil {
			ends = *l.Expiry
		}
	}
	return ends
}

// counts are how many frames of each kind the guards of guests' ports have stopped.
type counts map[*neighbour]map[string]uint64

// stoppedBy is what they have stopped so far.
func (s *street) stoppedBy(guests []*neighbour) counts {
	s.t.Helper()
	time.Sleep(countersAge)
	all := make(counts)
	for _, m := range guests {
		p, err := s.client.Port(m.port).Get(s.t.Context())
		if err != nil || p.Guard != guardLevels[m.network] {
			s.t.Errorf("the guard of %s on %s is %q (%v)", m.name, guardLevels[m.network], p.Guard, err)
		}
		all[m] = p.Stopped
	}
	return all
}

// stoppedNothing fails the test where the guard of a guest's port has stopped anything since
// it had stopped so much.
func (s *street) stoppedNothing(guests []*neighbour, since counts) {
	s.t.Helper()
	for m, now := range s.stoppedBy(guests) {
		if !maps.Equal(now, since[m]) {
			s.t.Errorf("the guard of %s on %s has stopped %v, before that %v", m.name, guardLevels[m.network], now, since[m])
		}
	}
}

// released is what guards have stopped of guests that gave up their addresses: they tell vnetd,
// and then take the addresses off their cards. Who asks them meanwhile has an answer from an
// address that is theirs no more, which level strict stops.
func (s *street) released(guests []*neighbour) counts {
	s.t.Helper()
	all := s.stoppedBy(guests)
	for m, now := range all {
		for kind, n := range now {
			if guardLevels[m.network] != "strict" || kind != "arp" && kind != "nd" && kind != "ip" {
				s.t.Errorf("the guard of %s on %s has stopped %d frames of kind %s", m.name, guardLevels[m.network], n, kind)
			}
		}
	}
	return all
}

// TestNeighbours has guests that do no harm lose nothing at any level: with each client of
// DHCP, and as a virtual machine of libvirt's, they get addresses of each kind, reach their
// gateway, each other and what is beyond, renew, release, and change address.
func TestNeighbours(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := newStreet(t)
		var guests []*neighbour
		for n, level := range guardLevels {
			s.define(n, "")
			vnetctl(t, s.Lab, "start", level)
		}
		guests = append(guests, s.virtualMachine()...)
		for n := range guardLevels {
			guests = append(guests, s.machine(n, 1, "dhclient", "dhclient6"), s.machine(n, 2, "dhcpcd46"), s.machine(n, 3, "networkd"))
		}
		each(t, guests, "starting", func(m *neighbour) error { return m.start() })
		each(t, guests, "addresses", func(m *neighbour) error { return soon(m.addressed) })
		meet := func(m *neighbour) error { return m.reaches(s.others(guests, m)...) }
		each(t, guests, "reaching", meet)
		before := make(map[*neighbour]time.Time)
		for _, m := range guests {
			before[m] = s.leaseOf(m)
		}
		time.Sleep(time.Second) // of which the end of a lease is a number
		each(t, guests, "renewing", func(m *neighbour) error {
			if m.renew != nil {
				if err := m.renew(); err != nil {
					return err
				}
			}
			return soon(func() error {
				if ends := s.leaseOf(m); !ends.After(before[m]) {
					return fmt.Errorf("the lease ends at %v, as before", ends)
				}
				return nil
			})
		})
		s.stoppedNothing(guests, nil)
		each(t, guests, "releasing", func(m *neighbour) error {
			if err := m.stop(); err != nil {
				return err
			}
			return soon(func() error {
				if ends := s.leaseOf(m); !ends.IsZero() {
					return fmt.Errorf("there is a lease until %v", ends)
				}
				return nil
			})
		})
		stopped := s.released(guests)
		reserved := make(map[*neighbour]netip.Addr)
		for n := range guardLevels {
			var hosts strings.Builder
			for i, m := range guests {
				if m.network == n {
					reserved[m] = netip.AddrFrom4([4]byte{198, 18, byte(n), byte(200 + i)})
					fmt.Fprintf(&hosts, "<host mac='%s' ip='%s'/>", m.mac, reserved[m])
				}
			}
			s.define(n, hosts.String())
		}
		each(t, guests, "starting again", func(m *neighbour) error { return m.start() })
		each(t, guests, "another address", func(m *neighbour) error {
			return soon(func() error {
				if err := m.addressed(); err != nil || m.four != reserved[m] {
					return fmt.Errorf("its address is %v, want %v (%w)", m.four, reserved[m], err)
				}
				return nil
			})
		})
		each(t, guests, "reaching by another address", meet)
		s.stoppedNothing(guests, stopped)
	})
}

// others are the addresses of the guests on the network of m.
func (s *street) others(guests []*neighbour, m *neighbour) (all []netip.Addr) {
	for _, o := range guests {
		if o != m && o.network == m.network {
			all = append(all, o.four, o.made, o.leased)
		}
	}
	return all
}
