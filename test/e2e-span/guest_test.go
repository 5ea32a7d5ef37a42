package e2espan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// book is which card each address was acknowledged to: all acknowledgements that clients of
// the test got are in it. Its zero value is empty.
type book struct {
	mu    sync.Mutex
	cards map[netip.Addr]string
	twice []string
}

// acknowledged takes one in. A lease ends by release alone: the tests are shorter than one.
func (b *book) acknowledged(a netip.Addr, mac string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cards == nil {
		b.cards = make(map[netip.Addr]string)
	}
	if had := b.cards[a]; had != "" && had != mac {
		b.twice = append(b.twice, fmt.Sprintf("%v was acknowledged to %s, and to %s", a, had, mac))
	}
	b.cards[a] = mac
}

// released takes in that a card gives its address back.
func (b *book) released(a netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.cards, a)
}

// of is who has an address, "" for nobody.
func (b *book) of(a netip.Addr) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cards[a]
}

// check fails the test where an address was acknowledged to two cards.
func (l *lab) check() {
	l.Helper()
	l.book.mu.Lock()
	defer l.book.mu.Unlock()
	for _, text := range l.book.twice {
		l.Error(text)
	}
	l.Logf("%d addresses acknowledged, %d of them to two cards", len(l.book.cards), len(l.book.twice))
}

// port is one on a host, until the test ends.
func (l *lab) port(i int, o client.PortOptions) (*client.OpenPort, error) {
	p, err := l.bus[i].RequestPort(l.Context(), "apps", o)
	if err == nil {
		l.Cleanup(func() { _ = p.Close() })
	}
	return p, err
}

// guest is a machine on a host.
type guest struct {
	*nstest.NS
	l    *lab
	port *client.OpenPort
	mac  string
}

// guest plugs one in.
func (l *lab) guest(i int, name string, o client.PortOptions) *guest {
	l.Helper()
	var p *client.OpenPort
	nstest.Eventually(l, limit, "guest "+name+" has a port", func() (err error) {
		if p, err = l.port(i, o); err != nil && !errors.Is(err, api.Busy) { // one that moves may have to ask again
			l.Fatal(err)
		}
		return err
	})
	return &guest{nstest.Machine(l.T, name, p.Info.MAC, p.Files[0]), l, p, p.Info.MAC}
}

// lease has the guest get its address by DHCP, or have it renewed, and returns it.
func (g *guest) lease() string {
	g.l.Helper()
	script := filepath.Join(g.l.TempDir(), "script")
	const text = "#!/bin/sh\n[ \"$1\" = bound ] && ip addr replace $ip/16 dev eth0 && ip route replace default via $router && ip link set eth0 mtu ${mtu:-1500} && echo $ip\nexit 0\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		g.l.Fatal(err)
	}
	var address netip.Addr
	nstest.Eventually(g.l, limit, "guest "+g.Name+" has a lease", func() error {
		out, err := g.Command(g.l.Context(), "busybox", "udhcpc", "-f", "-q", "-n", "-t", "3", "-T", "1", "-i", "eth0", "-O", "mtu", "-s", script).Output()
		if err != nil {
			return err
		}
		address, err = netip.ParseAddr(strings.TrimSpace(string(out)))
		return err
	})
	g.l.book.acknowledged(address, g.mac)
	return address.String()
}

// release has the guest give its address back.
func (g *guest) release(a netip.Addr) {
	g.l.Helper()
	hw, err := net.ParseMAC(g.mac)
	if err != nil {
		g.l.Fatal(err)
	}
	server := net.IPv4(10, 50, 0, 1)
	m, err := dhcpv4.New(dhcpv4.WithHwAddr(hw), dhcpv4.WithMessageType(dhcpv4.MessageTypeRelease), dhcpv4.WithClientIP(a.AsSlice()), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server)),
		dhcpv4.WithOption(dhcpv4.OptClientIdentifier(append([]byte{1}, hw...)))) // that udhcpc says
	if err == nil {
		err = g.Do(func() error {
			c, err := net.DialUDP("udp4", &net.UDPAddr{Port: dhcpv4.ClientPort}, &net.UDPAddr{IP: server, Port: dhcpv4.ServerPort})
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			_, err = c.Write(m.ToBytes())
			return err
		})
	}
	if err != nil {
		g.l.Fatal(err)
	}
	g.l.book.released(a)
}

// reaches has an address answer the guest, soon.
func (g *guest) reaches(address string) {
	g.l.Helper()
	nstest.Eventually(g.l, limit, g.Name+" reaches "+address, func() error {
		return g.Command(g.l.Context(), "ping", "-c1", "-W1", address).Run()
	})
}

// finds has the guest find another by name.
func (g *guest) finds(name, address string) {
	g.l.Helper()
	nstest.Eventually(g.l, limit, g.Name+" finds "+name, func() error {
		out, _ := g.Command(g.l.Context(), "dig", "+short", "+time=1", "+tries=1", "@10.50.0.1", name+".apps.test").Output()
		if strings.TrimSpace(string(out)) != address {
			return fmt.Errorf("got %q, want %s", out, address)
		}
		return nil
	})
}

// stream is packets that a guest sends, 1,000 a second.
type stream struct {
	l    *lab
	what string
	end  func() string
}

// streams begins one.
func (g *guest) streams(address string) *stream {
	g.l.Helper()
	cmd := g.Command(g.l.Context(), "ping", "-q", "-i", "0.001", address)
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		g.l.Fatal(err)
	}
	return &stream{g.l, g.Name + " to " + address, func() string {
		_ = cmd.Process.Signal(os.Interrupt) // ip executes ping in its own place
		_ = cmd.Wait()
		return out.String()
	}}
}

var counted = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)

// lost ends it, and fails the test where packets of it were lost. The last may be on its way.
func (s *stream) lost() {
	s.l.Helper()
	out := s.end()
	n := counted.FindStringSubmatch(out)
	var sent, got int
	if n != nil {
		_, _ = fmt.Sscan(n[1], &sent)
		_, _ = fmt.Sscan(n[2], &got)
	}
	if s.l.Logf("%s: %d of %d packets lost", s.what, sent-got, sent); sent == 0 || sent-got > 1 {
		s.l.Errorf("%s: packets were lost: %s", s.what, out)
	}
}

// crowd is guests that share a port of a host, for many cards are behind it: they ask by DHCP.
type crowd struct {
	l   *lab
	tap *os.File

	patience time.Duration // how long is waited for an answer

	mu   sync.Mutex
	wait map[dhcpv4.TransactionID]chan *dhcpv4.DHCPv4
}

// crowd plugs one in.
func (l *lab) crowd(i int) *crowd {
	l.Helper()
	p, err := l.port(i, client.PortOptions{})
	if err != nil {
		l.Fatal(err)
	}
	fd, err := unix.FcntlInt(p.Files[0].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		l.Fatal(err)
	}
	c := &crowd{l: l, patience: 2 * time.Second, tap: os.NewFile(uintptr(fd), "tap"), wait: make(map[dhcpv4.TransactionID]chan *dhcpv4.DHCPv4)}
	l.Cleanup(func() { _ = c.tap.Close() })
	go c.read()
	return c
}

// headers are those of Ethernet, IPv4 and UDP.
const headers = 14 + 20 + 8

// read hands out what comes until the port is closed.
func (c *crowd) read() {
	frame := make([]byte, 1<<16)
	for {
		n, err := c.tap.Read(frame)
		if err != nil {
			return
		}
		if n < headers || frame[12] != 8 || frame[13] != 0 || frame[23] != unix.IPPROTO_UDP || binary.BigEndian.Uint16(frame[36:]) != dhcpv4.ClientPort {
			continue
		}
		m, err := dhcpv4.FromBytes(append([]byte(nil), frame[headers:n]...))
		if err != nil {
			continue
		}
		c.mu.Lock()
		w := c.wait[m.TransactionID]
		c.mu.Unlock()
		if w != nil {
			select {
			case w <- m:
			default:
			}
		}
	}
}

// errSilent says that nobody answers.
var errSilent = errors.New("no answer")

// ask sends a message, and returns the answer.
func (c *crowd) ask(m *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	w := make(chan *dhcpv4.DHCPv4, 1)
	c.mu.Lock()
	c.wait[m.TransactionID] = w
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.wait, m.TransactionID)
		c.mu.Unlock()
	}()
	if _, err := c.tap.Write(frameOf(m)); err != nil {
		return nil, err
	}
	select {
	case answer := <-w:
		return answer, nil
	case <-time.After(c.patience):
		return nil, errSilent
	case <-c.l.Context().Done():
		return nil, c.l.Context().Err()
	}
}

// frameOf is a message as a client broadcasts it.
func frameOf(m *dhcpv4.DHCPv4) []byte {
	payload := m.ToBytes()
	frame := make([]byte, headers, headers+len(payload))
	copy(frame, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	copy(frame[6:], m.ClientHWAddr)
	frame[12] = 8 // IPv4
	ip, udp := frame[14:34], frame[34:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(20+8+len(payload)))
	copy(ip[12:], m.ClientIPAddr.To4())
	copy(ip[16:], net.IPv4bcast.To4())
	binary.BigEndian.PutUint16(ip[10:], nstest.Checksum(ip))
	binary.BigEndian.PutUint16(udp, dhcpv4.ClientPort)
	binary.BigEndian.PutUint16(udp[2:], dhcpv4.ServerPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(payload)))
	return append(frame, payload...)
}

// lease has a card get an address, and returns it.
func (c *crowd) lease(mac net.HardwareAddr) (netip.Addr, error) {
	discover, err := dhcpv4.NewDiscovery(mac, dhcpv4.WithBroadcast(true))
	if err != nil {
		return netip.Addr{}, err
	}
	offer, err := c.ask(discover)
	if err != nil {
		return netip.Addr{}, err
	}
	request, err := dhcpv4.NewRequestFromOffer(offer, dhcpv4.WithBroadcast(true))
	if err != nil {
		return netip.Addr{}, err
	}
	return c.granted(request)
}

// renew has a card's lease go on.
func (c *crowd) renew(mac net.HardwareAddr, a netip.Addr) error {
	request, err := dhcpv4.New(dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithClientIP(a.AsSlice()), dhcpv4.WithBroadcast(true))
	if err != nil {
		return err
	}
	got, err := c.granted(request)
	if err == nil && got != a {
		err = fmt.Errorf("%v renews %v and is given %v", mac, a, got)
	}
	return err
}

// granted asks for an address, which is in the book once it is acknowledged.
func (c *crowd) granted(request *dhcpv4.DHCPv4) (netip.Addr, error) {
	ack, err := c.ask(request)
	if err != nil {
		return netip.Addr{}, err
	}
	if ack.MessageType() != dhcpv4.MessageTypeAck {
		return netip.Addr{}, fmt.Errorf("%v: %v", ack.MessageType(), ack.Summary())
	}
	a, _ := netip.AddrFromSlice(ack.YourIPAddr.To4())
	c.l.book.acknowledged(a, request.ClientHWAddr.String())
	return a, nil
}

// card is the address of a card of a crowd.
func card(host, n int) net.HardwareAddr {
	return net.HardwareAddr{0x52, 0x54, 0, byte(0xc0 + host), byte(n >> 8), byte(n)}
}
