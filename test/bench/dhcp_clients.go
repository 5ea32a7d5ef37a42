package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// dhcpClients finds what it makes of a difference how many clients ask at a time, by which way,
// and on how many networks.
func dhcpClients(b *bench) {
	t := new(table)
	t.add("server", "clients", "by", "networks", "leases/s", "lost", "D-O p50", "D-O p99", "R-A p50", "R-A p99", "CPU/lease", "PSS")
	for _, s := range []struct {
		name  string
		start func(b *bench, dir string, networks int) server
	}{{"vnetd", startVnetdSites}, {"Kea", startKeaSites}, {"dnsmasq, no ping, no script", startDnsmasqSites}} {
		for _, c := range []crowd{{1, false, []int{1, 64, 1024}}, {1, true, []int{64, 1024}}, {100, false, []int{64, 1024}}} {
			b.play(func(b *bench) {
				dir, err := os.MkdirTemp(b.dir, "state-")
				if err != nil {
					b.Fatalf("making a folder: %w", err)
				}
				c.measure(b, t, s.name, s.start(b, dir, c.networks))
			})
		}
	}
	b.printf("%s", t)
	b.printf("  D-O: DISCOVER to OFFER; R-A: REQUEST to ACK; all clients are new, for %v\n", loadPeriod)
}

// site is one of several networks that are alike.
type site int

func (s site) bridge() string { return "virbr" + strconv.Itoa(int(s)) }

// of is what an address or a text of the one network of the other benchmarks is of s.
func (s site) of(text string) string {
	return strings.NewReplacer("10.20.", fmt.Sprintf("10.%d.", 20+int(s)), bridge, s.bridge()).Replace(text)
}

// crowd is clients on so many networks, on the link or behind a relay, and how many of them ask at
// a time.
type crowd struct {
	networks int
	linked   bool
	clients  []int
}

// measure adds the rows of a crowd to a table.
func (c crowd) measure(b *bench, t *table, name string, srv server) {
	var loads []*load
	for n := range c.networks {
		s := site(n)
		guest := nstest.Guest(b, s.bridge(), "guest"+strconv.Itoa(n), "")
		guest.IP("addr add " + s.of(guestAddr) + prefix + " dev " + guestLink)
		l := newLoadAt(b, guest, s, c.linked)
		l.next = n * maxClients
		b.await(l, name)
		loads = append(loads, l)
	}
	by := "relay"
	if c.linked {
		by = "link"
	}
	for _, clients := range c.clients {
		row := []string{name, strconv.Itoa(clients), by, strconv.Itoa(c.networks)}
		t.add(append(row, measureClients(b, name, srv, loads, clients)...)...)
	}
}

// measureClients is the rest of a row.
func measureClients(b *bench, name string, srv server, loads []*load, clients int) []string {
	before := srv.usage(b)
	var all errgroup.Group
	for n, l := range loads {
		clear(l.waiting)
		l.result, l.window = loadResult{}, max(1, clients/len(loads))
		left := (n+1)*maxClients - l.next - 2*l.window // addresses of the network
		all.Go(func() error {
			_, err := l.run(loadPeriod, left)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		b.Fatalf("%s with %d clients on %d networks: %w", name, clients, len(loads), err)
	}
	after := srv.usage(b)
	var sum loadResult
	for _, l := range loads {
		sum.period = max(sum.period, l.result.period)
		sum.leases += l.result.leases
		sum.lost += l.result.lost
		sum.offers, sum.grants = append(sum.offers, l.result.offers...), append(sum.grants, l.result.grants...)
	}
	cells := sum.cells(before, after)
	b.Logf("%s with %d clients on %d networks: %v", name, clients, len(loads), cells)
	return cells
}

// newLoadAt is newLoad of a site: behind a relay, or on the link itself.
func newLoadAt(b *bench, guest *nstest.NS, s site, linked bool) *load {
	l := &load{server: netip.MustParseAddr(s.of(serverAddr)), window: loadWindow, waiting: make(map[int]*visitor)}
	var err error
	if linked {
		l.wire, err = openLink(guest)
	} else {
		l.relay = netip.MustParseAddr(s.of(guestAddr))
		l.wire, err = openRelay(guest, l.relay, l.server)
	}
	if err != nil {
		b.Fatalf("opening the guest's socket: %w", err)
	}
	b.Cleanup(func() { _ = l.Close() })
	return l
}

// linkWire is the link of clients that have a card each, as machines on it have.
type linkWire struct{ *os.File }

// openLink opens it in a guest.
func openLink(guest *nstest.NS) (w linkWire, err error) {
	guest.IP("link set " + guestLink + " promisc on")
	err = guest.Do(func() error {
		request, err := unix.NewIfreq(guestLink)
		if err != nil {
			return err
		}
		const ip = unix.ETH_P_IP<<8 | unix.ETH_P_IP>>8 // in the order of the network
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, ip&0xffff)
		if err != nil {
			return err
		}
		w.File = os.NewFile(uintptr(fd), "link")
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request); err != nil {
			return err
		}
		roomFor(fd)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ip & 0xffff, Ifindex: int(request.Uint32())})
	})
	return w, err
}

func (w linkWire) send(n int, message []byte) error {
	_, err := w.Write(guestFrame(clientMAC(n), message))
	return err
}

func (w linkWire) receive(buf []byte) ([]byte, error) {
	const protocolAt, portAt = 23, 36
	n, err := w.Read(buf)
	if err != nil || n < guestFrameHead || buf[protocolAt] != unix.IPPROTO_UDP || binary.BigEndian.Uint16(buf[portAt:]) != dhcpv4.ClientPort {
		return nil, err
	}
	return buf[guestFrameHead:n], nil
}

// startVnetdSites starts vnetd with so many networks, on which a port may have any number of
// addresses.
func startVnetdSites(b *bench, dir string, networks int) server {
	b.vnetd(dir)
	for n := range networks {
		s, name := site(n), fmt.Sprintf("bench%d", n)
		text := strings.NewReplacer("<network>", "<network xmlns:vnetd='urn:vnetd:network:1'>", "<name>bench<", "<name>"+name+"<",
			networkUUID, fmt.Sprintf("%s%04x", networkUUID[:len(networkUUID)-4], n),
			"</network>", "  <vnetd:guard level='off'/>\n</network>").Replace(s.of(vnetdNetwork))
		xml := filepath.Join(dir, name+".xml")
		b.write(xml, text)
		b.vnetctl("create", xml)
	}
	return server{comm: "vnetd"}
}

// makeSite makes the bridge of a network, with a carrier.
func makeSite(b *bench, s site) {
	nstest.IP(b, "link add "+s.bridge()+" type bridge stp_state 0 forward_delay 0")
	b.Cleanup(func() { nstest.IP(b, "link del "+s.bridge()) })
	nstest.IP(b, "addr add "+s.of(serverAddr)+prefix+" dev "+s.bridge())
	nstest.IP(b, "link set "+s.bridge()+" up")
	plugInto(b, s.bridge(), fmt.Sprintf("kea%d-0", int(s)), fmt.Sprintf("kea%d-1", int(s)))
}

// startKeaSites starts one Kea for so many networks.
func startKeaSites(b *bench, dir string, networks int) server {
	var interfaces, subnets []string
	for n := range networks {
		s := site(n)
		makeSite(b, s)
		interfaces = append(interfaces, strconv.Quote(s.bridge()))
		subnets = append(subnets, s.of(fmt.Sprintf(keaSubnet, n+1, "10.20.0.0"+prefix, rangeStart+" - "+rangeEnd)))
	}
	return runKea(b, dir, "4", filepath.Join(dir, "leases.csv"), strings.Join(interfaces, ", "), "", strings.Join(subnets, ",\n    "))
}

// startDnsmasqSites starts a dnsmasq for each of so many networks, as libvirt does, but without
// what takes it longest: see dnsmasq.
func startDnsmasqSites(b *bench, dir string, networks int) server {
	for n := range networks {
		s := site(n)
		makeSite(b, s)
		of := filepath.Join(dir, s.bridge())
		runDnsmasq(b, of, fmt.Sprintf(s.of(dnsmasqSettings), of, maxClients)+"no-ping\n")
	}
	return server{comm: "dnsmasq"}
}

// errSilent says that nobody answers.
var errSilent = errors.New("no answer")

// cells are the figures of a result, in the order of the tables of loads.
func (r *loadResult) cells(before, after usage) []string {
	row := []string{strconv.Itoa(int(float64(r.leases) / r.period.Seconds())), strconv.Itoa(r.lost)}
	for _, times := range [][]time.Duration{r.offers, r.grants} {
		if len(times) == 0 {
			times = []time.Duration{0}
		}
		row = append(row, millis(quantile(times, 0.5)), millis(quantile(times, 0.99)))
	}
	each := (after.cpu - before.cpu) / time.Duration(max(r.leases, 1))
	return append(row, strconv.Itoa(int(each.Microseconds()))+" us", after.memory())
}
