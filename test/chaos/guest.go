package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// answerLimit is how long a guest waits for an answer before it tries again or gives up.
const answerLimit = 3 * time.Second

// guest is a machine without a machine: frames that are written to and read from the TAP
// device of its port.
type guest struct {
	w       *world
	n       int
	lots    *rand.Rand
	bus     *overBus
	network string
	mac     net.HardwareAddr
	name    string

	port    *client.OpenPort
	tap     *os.File
	reading sync.WaitGroup
	dhcp    chan *dhcpv4.DHCPv4
	dns     chan *dns.Msg

	mu     sync.Mutex
	addr   netip.Addr       // that it has; guarded by mu
	router net.HardwareAddr // the gateway's card, as heard
	server net.IP           // of DHCP
}

func newGuest(w *world, n int) *guest {
	return &guest{
		w: w, n: n, lots: lotsOf(w.seed, fmt.Sprintf("guest %d", n)), bus: new(overBus),
		network: baseName(n % bases), mac: net.HardwareAddr{0x52, 0x54, 0, 0xc0, byte(n >> 8), byte(n)}, name: fmt.Sprintf("guest%d", n),
	}
}

func (g *guest) live(ctx context.Context) {
	for ctx.Err() == nil {
		g.act(context.WithoutCancel(ctx))
		pause(ctx, g.lots, 4*time.Second)
	}
}

// act does one thing at random.
func (g *guest) act(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, actLimit)
	defer cancel()
	if g.port == nil {
		g.w.books.note("boot", g.boot(ctx))
		return
	}
	lot := g.lots.IntN(100)
	switch addr := g.address(); {
	case lot < 7:
		g.halt()
		g.w.books.note("halt", nil)
	case !addr.IsValid():
		g.w.books.note("lease", g.lease())
	case lot < 60:
		g.w.books.note("renew", g.renew(addr))
	case lot < 70:
		g.release(addr)
		g.w.books.note("release", nil)
	case lot < 85 && g.forwards():
		g.w.books.note("knock", g.knock())
	default:
		_, err := g.ask("router." + g.network + ".test.")
		g.w.books.note("ask", err)
	}
}

// boot has a port made, on which the guest listens then. One guest in four has it made by QEMU's
// way.
func (g *guest) boot(ctx context.Context) error {
	request := g.requestPort
	if g.n/bases%4 == 3 {
		request = g.helpedPort
	}
	return g.bus.with(ctx, func(c *client.Client) error {
		p, err := request(ctx, c)
		if err != nil {
			return err
		}
		g.w.books.port(portBook{uuid: p.Info.UUID, network: g.network, ifname: p.Info.IfName, state: yes})
		return g.power(p)
	})
}

// requestPort asks for a port over the bus.
func (g *guest) requestPort(ctx context.Context, c *client.Client) (*client.OpenPort, error) {
	o := client.PortOptions{Name: g.name, MAC: g.mac}
	if g.forwards() {
		o.Forwards = []api.ForwardOptions{{Protocol: "udp", Ports: strconv.Itoa(g.ownPort())}}
	}
	return c.RequestPort(ctx, g.network, o)
}

// power has the guest read what comes from its port. Its own copy of the descriptor can be
// waited for.
func (g *guest) power(p *client.OpenPort) error {
	fd, err := unix.FcntlInt(p.Files[0].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	g.port, g.tap = p, os.NewFile(uintptr(fd), p.Info.IfName)
	g.dhcp, g.dns = make(chan *dhcpv4.DHCPv4, 16), make(chan *dns.Msg, 16)
	g.reading.Go(g.read)
	return nil
}

// halt ends the port, and with it what the guest has been leased.
func (g *guest) halt() {
	if g.port == nil {
		return
	}
	g.w.books.endLease(g.network, g.address())
	g.w.books.endPort(g.port.Info.UUID, nil)
	g.setAddress(netip.Addr{})
	_, _ = g.tap.Close(), g.port.Close()
	g.reading.Wait()
	g.port = nil
}

func (g *guest) address() netip.Addr {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.addr
}

func (g *guest) setAddress(a netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.addr = a
}

// errNoAnswer says that nobody answered, which nobody promises while vnetd is away.
var errNoAnswer = errors.New("no answer")

// lease takes a lease, as a guest that has none.
func (g *guest) lease() error {
	offer, err := g.exchange(dhcpv4.MessageTypeDiscover)
	if err != nil {
		return err
	}
	ack, err := g.exchange(dhcpv4.MessageTypeRequest,
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier())))
	if err != nil {
		return err
	}
	if ack.MessageType() == dhcpv4.MessageTypeNak {
		return errors.New("refused what was offered")
	}
	g.acknowledged(ack)
	return nil
}

// renew has the guest's lease go on. A server must not refuse what it has acknowledged.
func (g *guest) renew(addr netip.Addr) error {
	ack, err := g.exchange(dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(addr.AsSlice()))
	if err != nil {
		return err
	}
	if ack.MessageType() == dhcpv4.MessageTypeNak {
		g.w.books.fault("%s of %s on %s is not its any more: the server refuses to renew it", addr, g.name, g.network)
		g.setAddress(netip.Addr{})
		return nil
	}
	if got, _ := netip.AddrFromSlice(ack.YourIPAddr.To4()); got != addr {
		g.w.books.fault("%s renews %s on %s and is given %s", g.name, addr, g.network, got)
	}
	g.acknowledged(ack)
	return nil
}

// acknowledged has the guest have what it was given.
func (g *guest) acknowledged(ack *dhcpv4.DHCPv4) {
	addr, _ := netip.AddrFromSlice(ack.YourIPAddr.To4())
	g.w.books.lease(g.network, addr, leaseBook{mac: g.mac.String(), hostname: g.name, until: time.Now().Add(ack.IPAddressLeaseTime(0))})
	g.mu.Lock()
	defer g.mu.Unlock()
	g.addr, g.server = addr, ack.ServerIdentifier()
}

// release gives the address back. Whether that arrives is not told.
func (g *guest) release(addr netip.Addr) {
	g.w.books.endLease(g.network, addr)
	g.setAddress(netip.Addr{})
	m, err := dhcpv4.New(dhcpv4.WithHwAddr(g.mac), dhcpv4.WithMessageType(dhcpv4.MessageTypeRelease), dhcpv4.WithClientIP(addr.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(g.server)))
	if err == nil {
		_ = g.send(addr, netip.AddrFrom4([4]byte(g.server.To4())), dhcpv4.ClientPort, dhcpv4.ServerPort, m.ToBytes())
	}
}

// exchange sends a message of DHCP and returns the answer.
func (g *guest) exchange(kind dhcpv4.MessageType, options ...dhcpv4.Modifier) (*dhcpv4.DHCPv4, error) {
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(g.mac), dhcpv4.WithMessageType(kind), dhcpv4.WithOption(dhcpv4.OptHostName(g.name)), dhcpv4.WithBroadcast(true)}, options...)...)
	if err != nil {
		return nil, err
	}
	from := netip.IPv4Unspecified()
	if !m.ClientIPAddr.IsUnspecified() {
		from, _ = netip.AddrFromSlice(m.ClientIPAddr.To4())
	}
	if err := g.send(from, netip.AddrFrom4([4]byte{255, 255, 255, 255}), dhcpv4.ClientPort, dhcpv4.ServerPort, m.ToBytes()); err != nil {
		return nil, err
	}
	for timeout := time.After(answerLimit); ; {
		select {
		case answer, ok := <-g.dhcp:
			if !ok {
				return nil, errors.New("the device is gone")
			}
			offered := kind == dhcpv4.MessageTypeDiscover
			if answer.TransactionID == m.TransactionID && (answer.MessageType() == dhcpv4.MessageTypeOffer) == offered {
				return answer, nil
			}
		case <-timeout:
			return nil, errNoAnswer
		}
	}
}

// ask asks the network's name server for the address of a name.
func (g *guest) ask(name string) (*dns.Msg, error) {
	g.mu.Lock()
	addr, server := g.addr, g.server
	g.mu.Unlock()
	if !addr.IsValid() {
		return nil, errors.New("without an address")
	}
	m := new(dns.Msg).SetQuestion(name, dns.TypeA)
	wire, err := m.Pack()
	if err != nil {
		return nil, err
	}
	if err := g.send(addr, netip.AddrFrom4([4]byte(server.To4())), 5353, 53, wire); err != nil {
		return nil, err
	}
	for timeout := time.After(answerLimit); ; {
		select {
		case answer, ok := <-g.dns:
			if !ok {
				return nil, errors.New("the device is gone")
			}
			if answer.Id == m.Id {
				return answer, nil
			}
		case <-timeout:
			return nil, errNoAnswer
		}
	}
}

// resolves reports an error unless the name has the address.
func (g *guest) resolves(name, addr string) error {
	answer, err := g.ask(name)
	if err != nil {
		return fmt.Errorf("asking for %s: %w", name, err)
	}
	for _, rr := range answer.Answer {
		if a, ok := rr.(*dns.A); ok && a.A.String() == addr {
			return nil
		}
	}
	return fmt.Errorf("%s is not %s: %s, %v", name, addr, dns.RcodeToString[answer.Rcode], answer.Answer)
}

// broadcast is the address of all cards.
func broadcast() net.HardwareAddr { return net.HardwareAddr{255, 255, 255, 255, 255, 255} }

// send sends a UDP packet, to the gateway's card if that is known.
func (g *guest) send(from, to netip.Addr, fromPort, toPort uint16, payload []byte) error {
	card := broadcast()
	g.mu.Lock()
	if !from.IsUnspecified() && g.router != nil && to != netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		card = g.router
	}
	g.mu.Unlock()
	udp := binary.BigEndian.AppendUint16(nil, fromPort)
	udp = binary.BigEndian.AppendUint16(udp, toPort)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...) // IPv4 does without its checksum
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(udp)))
	ip = append(append(ip, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], headerChecksum(ip))
	return g.write(card, unix.ETH_P_IP, append(ip, udp...))
}

// headerChecksum is that of an IPv4 header.
func headerChecksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// write sends a frame.
func (g *guest) write(to net.HardwareAddr, kind uint16, payload []byte) error {
	frame := append(append([]byte{}, to...), g.mac...)
	frame = binary.BigEndian.AppendUint16(frame, kind)
	_, err := g.tap.Write(append(frame, payload...))
	return err
}

// read takes frames until the device is gone or closed.
func (g *guest) read() {
	answers, names := g.dhcp, g.dns
	defer func() { close(answers); close(names) }()
	buffer := make([]byte, 9000)
	for {
		n, err := g.tap.Read(buffer)
		if err != nil {
			return
		}
		g.take(buffer[:n], answers, names)
	}
}

// take deals with one frame.
func (g *guest) take(frame []byte, answers chan<- *dhcpv4.DHCPv4, names chan<- *dns.Msg) {
	if len(frame) < 14 {
		return
	}
	payload := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_ARP:
		g.takeARP(payload)
	case unix.ETH_P_IP:
		if len(payload) < 28 || payload[0] != 0x45 || payload[9] != unix.IPPROTO_UDP {
			return
		}
		switch udp := payload[20:]; binary.BigEndian.Uint16(udp) {
		case dhcpv4.ServerPort:
			g.hear(frame[6:12])
			// Answers are broadcast, those to other guests as well.
			if m, err := dhcpv4.FromBytes(udp[8:]); err == nil && bytes.Equal(m.ClientHWAddr, g.mac) {
				offer(answers, m)
			}
		case 53:
			if m := new(dns.Msg); m.Unpack(udp[8:]) == nil {
				offer(names, m)
			}
		default:
			g.takeKnock(payload[:20], udp)
		}
	}
}

// offer passes m on unless nobody takes it.
func offer[T any](to chan<- T, m T) {
	select {
	case to <- m:
	default:
	}
}

// hear notes the gateway's card.
func (g *guest) hear(card []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.router = append(net.HardwareAddr{}, card...)
}

// takeARP answers who asks for the guest's address.
func (g *guest) takeARP(b []byte) {
	if len(b) < 28 || binary.BigEndian.Uint16(b[6:]) != 1 {
		return
	}
	if addr := g.address(); !addr.IsValid() || netip.AddrFrom4([4]byte(b[24:28])) != addr {
		return
	}
	answer := append(append([]byte{}, b[:6]...), 0, 2)
	answer = append(append(answer, g.mac...), b[24:28]...)
	answer = append(answer, b[8:18]...)
	_ = g.write(b[8:14], unix.ETH_P_ARP, answer)
}
