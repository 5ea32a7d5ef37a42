package v4

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// sockets are the server's end of one bridge.
//
// The UDP socket receives, and sends to those whose card is not known. The
// packet socket sends frames to the others, for most of whom ARP can't
// ask; it receives nothing. It stays open, since closing a packet socket takes
// the kernel milliseconds. So does the one for ARP, where there is one.
type sockets struct {
	udp     *net.UDPConn
	frames  *packet.Conn
	arp     *packet.Conn // receives ARP; nil unless addresses are probed
	seen    *iface.Frames
	ports   *iface.Ports
	index   int             // of the bridge
	rawUDP  syscall.RawConn // of udp
	raw     syscall.RawConn // of frames
	mac     dhcpd.HWAddr
	server  netip.Addr
	control []byte // makes the kernel send from server
	oob     []byte
}

// type check
var _ dhcpd.Transport = (*sockets)(nil)

// listen opens the sockets of cfg, which is valid.
func listen(cfg *Config) (*sockets, error) {
	ifi, err := iface.ByName(cfg.Interface)
	if err != nil {
		return nil, err
	}
	conn, err := (&iface.Receiver{
		Network: "udp4", Addr: netip.IPv4Unspecified(), Port: serverPort, Interface: cfg.Interface, Configure: configure,
	}).Open(cfg.Left)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("another DHCP server, dnsmasq perhaps, has UDP port %d of the interface: %w", serverPort, err)
	}
	if err != nil {
		return nil, err
	}
	cm := ipv4.ControlMessage{Src: cfg.Server.AsSlice()}
	s := &sockets{
		udp: conn, index: ifi.Index, mac: dhcpd.HWAddr(cfg.MAC), server: cfg.Server,
		control: cm.Marshal(), oob: make([]byte, iface.OOBSize),
	}
	if err := s.open(ifi, cfg.Probe); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// open opens what there is besides the UDP socket. On an error the rest is to be closed.
func (s *sockets) open(ifi *net.Interface, probe bool) (err error) {
	if s.rawUDP, err = s.udp.SyscallConn(); err != nil {
		return err
	}
	// Protocol 0: the kernel queues no frame on this socket.
	if s.frames, err = packet.Listen(ifi, packet.Raw, 0, nil); err != nil {
		return fmt.Errorf("opening the packet socket: %w", err)
	}
	if s.raw, err = s.frames.SyscallConn(); err != nil {
		return err
	}
	if err := s.raw.Control(func(fd uintptr) { iface.GrowBuffers(int(fd)) }); err != nil {
		return err
	}
	if probe {
		if s.arp, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ARP, nil); err != nil {
			return fmt.Errorf("opening the socket for ARP: %w", err)
		}
	}
	if s.seen, err = iface.ListenFrames(ifi, false, serverPort, 0); err != nil {
		return err
	}
	if s.ports, err = iface.OpenPorts(ifi.Index); err != nil {
		return fmt.Errorf("opening the bridge's table of addresses: %w", err)
	}
	return nil
}

// configure sets the options of the UDP socket.
func configure(fd int) error {
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
		// Guests' raw sockets see checksums that a device was meant to fill in.
		// A UDP checksum of zero means none (RFC 768).
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1),
	)
}

// Receive implements dhcpd.Transport.
func (s *sockets) Receive(buf []byte) (dhcpd.Datagram, error) {
	n, oobn, _, src, err := s.udp.ReadMsgUDPAddrPort(buf, s.oob)
	if err != nil {
		return dhcpd.Datagram{}, err
	}
	d := dhcpd.Datagram{Payload: buf[:n], Src: netip.AddrPortFrom(src.Addr().Unmap(), src.Port())}
	var cm ipv4.ControlMessage
	if err := cm.Parse(s.oob[:oobn]); err == nil {
		d.Dst, _ = netip.AddrFromSlice(cm.Dst.To4())
	}
	d.From.HW = s.seen.Source(d.Src, d.Payload)
	d.From.Hidden = d.From.HW == dhcpd.HWAddr{}
	return d, nil
}

// Port implements dhcpd.Transport.
func (s *sockets) Port(hw dhcpd.HWAddr) int { return s.ports.Of(hw) }

// Send implements dhcpd.Transport.
func (s *sockets) Send(out *dhcpd.Reply) error {
	if !out.Framed {
		to := &unix.SockaddrInet4{Port: int(out.Dst.Port()), Addr: out.Dst.Addr().As4()}
		return iface.Send(s.rawUDP, out.Payload, s.control, to)
	}
	return s.sendFrame(udpFrame(s.mac, out.HW, s.server, out.Dst, out.Payload))
}

// sendFrame sends a frame, or fails at once.
func (s *sockets) sendFrame(frame []byte) error {
	to := &unix.SockaddrLinklayer{Ifindex: s.index, Halen: dhcpd.HWAddrLen}
	copy(to.Addr[:], frame[:dhcpd.HWAddrLen])
	return iface.Send(s.raw, frame, nil, to)
}

// Copy implements dhcpd.Transport.
func (s *sockets) Copy() (*os.File, error) { return s.udp.File() }

// Interrupt implements dhcpd.Transport.
func (s *sockets) Interrupt() {
	_ = s.udp.SetReadDeadline(time.Unix(1, 0))
	if s.arp != nil {
		_ = s.arp.SetReadDeadline(time.Unix(1, 0))
	}
}

// Close implements dhcpd.Transport.
func (s *sockets) Close() error {
	errs := []error{s.udp.Close()}
	for _, c := range []*packet.Conn{s.frames, s.arp} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	if s.seen != nil {
		errs = append(errs, s.seen.Close())
	}
	if s.ports != nil {
		errs = append(errs, s.ports.Close())
	}
	return errors.Join(errs...)
}
