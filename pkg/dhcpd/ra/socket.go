package ra

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/handover"
	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// errNoLinkLocal says that the bridge has no link-local address yet.
var errNoLinkLocal = errors.New("the interface has no link-local address")

// errSourceGone says that the bridge does not have the source address any more.
var errSourceGone = errors.New("the interface has another link-local address, or none")

// socket is the Server's end of one bridge: a raw ICMPv6 socket, bound to the
// device but to no address, since the link-local one may come later.
type socket struct {
	ip     *net.IPConn
	conn   *ipv6.PacketConn // of ip
	raw    syscall.RawConn  // of conn
	ifname string
	index  int // of the interface

	mu  sync.Mutex
	src netip.Addr // the link-local address if known
}

// type check
var _ raLink = (*socket)(nil)

// listen opens the socket on an interface, or takes over the one of left.
func listen(ifname string, left []*os.File) (*socket, error) {
	ifi, err := iface.ByName(ifname)
	if err != nil {
		return nil, err
	}
	conn, err := bind(ifname, left)
	if err != nil {
		return nil, fmt.Errorf("opening the ICMPv6 socket: %w", err)
	}
	pc := ipv6.NewPacketConn(conn)
	if err := configure(pc, ifi); err != nil {
		return nil, errors.Join(fmt.Errorf("setting up the ICMPv6 socket: %w", err), pc.Close())
	}
	s := &socket{ip: conn, conn: pc, ifname: ifname, index: ifi.Index}
	if s.raw, err = conn.SyscallConn(); err != nil {
		return nil, errors.Join(err, pc.Close())
	}
	if err := s.raw.Control(func(fd uintptr) { iface.GrowBuffers(int(fd)) }); err != nil {
		return nil, errors.Join(err, pc.Close())
	}
	return s, nil
}

// bind opens a socket that is bound to a device, or makes a copy of the one of left.
func bind(ifname string, left []*os.File) (*net.IPConn, error) {
	// The kernel has the protocol in the place of a port.
	at := netip.AddrPortFrom(netip.IPv6Unspecified(), unix.IPPROTO_ICMPV6)
	if f := (handover.Socket{Type: unix.SOCK_RAW, Addr: at, Device: ifname}).Find(left); f != nil {
		conn, err := net.FilePacketConn(f)
		if err != nil {
			return nil, fmt.Errorf("taking it over: %w", err)
		}
		return conn.(*net.IPConn), nil
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), ifname) }), err)
	}}
	conn, err := lc.ListenPacket(context.Background(), "ip6:ipv6-icmp", "::")
	if err != nil {
		return nil, err
	}
	return conn.(*net.IPConn), nil
}

// configure sets the options of the socket, which it may have already.
func configure(pc *ipv6.PacketConn, ifi *net.Interface) error {
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterSolicitation)
	// EADDRINUSE: the socket was taken over and is in the group.
	joined := pc.JoinGroup(ifi, &net.UDPAddr{IP: netip.IPv6LinkLocalAllRouters().AsSlice()})
	if errors.Is(joined, unix.EADDRINUSE) {
		joined = nil
	}
	return errors.Join(
		pc.SetICMPFilter(&only),
		joined,
		pc.SetControlMessage(ipv6.FlagHopLimit, true),
		// RFC 4861, section 4.2: "Hop Limit 255".
		pc.SetHopLimit(ndpHopLimit),
		pc.SetMulticastHopLimit(ndpHopLimit),
		pc.SetMulticastLoopback(false),
		pc.SetMulticastInterface(ifi),
	)
}

func (s *socket) receive(buf []byte) (solicit, error) {
	n, cm, from, err := s.conn.ReadFrom(buf)
	if err != nil {
		return solicit{}, err
	}
	m := solicit{payload: buf[:n]}
	if cm != nil {
		m.hopLimit = cm.HopLimit
	}
	if a, ok := from.(*net.IPAddr); ok {
		src, _ := netip.AddrFromSlice(a.IP)
		m.src = src.WithZone(a.Zone)
	}
	return m, nil
}

func (s *socket) source() (netip.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.src.IsValid() {
		return s.src, nil
	}
	ifi, err := net.InterfaceByName(s.ifname)
	if err != nil {
		return netip.Addr{}, errors.Join(iface.ErrGone, err)
	}
	list, err := ifi.Addrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("listing addresses of %q: %w", s.ifname, err)
	}
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() == nil && n.IP.IsLinkLocalUnicast() {
			s.src, _ = netip.AddrFromSlice(n.IP)
			return s.src, nil
		}
	}
	return netip.Addr{}, errNoLinkLocal
}

// send implements raLink: it waits for nobody. The kernel refuses a source that is tentative or was
// removed; the next call of source looks again.
func (s *socket) send(payload []byte, src, dst netip.Addr) error {
	cm := &ipv6.ControlMessage{Src: src.AsSlice()}
	err := iface.Send(s.raw, payload, cm.Marshal(), &unix.SockaddrInet6{ZoneId: uint32(s.index), Addr: dst.As16()})
	if err == nil {
		return nil
	}
	s.mu.Lock()
	s.src = netip.Addr{}
	s.mu.Unlock()
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: %w", errSourceGone, err)
	}
	return err
}

func (s *socket) interrupt() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) }

func (s *socket) copy() (*os.File, error) { return s.ip.File() }

func (s *socket) close() error { return s.conn.Close() }
