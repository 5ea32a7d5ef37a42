package dhcpd

import (
	"context"
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

	"github.com/vnetd/vnetd/internal/handover"
)

// receiveBuffer holds what arrives while the server is busy: some thousand
// messages.
const receiveBuffer = 4 << 20

// oobSize is room for the control messages of one datagram.
const oobSize = 64

// sockets are the server's end of one bridge.
//
// The UDP socket receives, and sends to those whose address works already. The
// packet socket sends frames to those who have none yet, for whom ARP can't
// ask; it receives nothing. It stays open, since closing a packet socket takes
// the kernel milliseconds. So does the one for ARP, where there is one.
type sockets struct {
	udp     *net.UDPConn
	frames  *packet.Conn
	arp     *packet.Conn // receives ARP; nil unless addresses are probed
	mac     hwAddr
	server  netip.Addr
	control []byte // makes the kernel send from server
	oob     []byte
}

// type checks
var (
	_ transport = (*sockets)(nil)
	_ arpLink   = (*sockets)(nil)
)

// listen opens the sockets of cfg, which is valid.
func listen(cfg *Config) (*sockets, error) {
	ifi, err := interfaceByName(cfg.Interface)
	if err != nil {
		return nil, err
	}
	conn, err := receiver{"udp4", netip.IPv4Unspecified(), serverPort, cfg.Interface, configure}.open(cfg.Left)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("another DHCP server, dnsmasq perhaps, has UDP port %d of the interface: %w", serverPort, err)
	}
	if err != nil {
		return nil, err
	}
	// Protocol 0: the kernel queues no frame on this socket.
	frames, err := packet.Listen(ifi, packet.Raw, 0, nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the packet socket: %w", err), conn.Close())
	}
	var arp *packet.Conn
	if cfg.Probe {
		if arp, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ARP, nil); err != nil {
			return nil, errors.Join(fmt.Errorf("opening the socket for ARP: %w", err), conn.Close(), frames.Close())
		}
	}
	cm := ipv4.ControlMessage{Src: cfg.Server.AsSlice()}
	return &sockets{
		udp:     conn,
		frames:  frames,
		arp:     arp,
		mac:     hwAddr(cfg.MAC),
		server:  cfg.Server,
		control: cm.Marshal(),
		oob:     make([]byte, oobSize),
	}, nil
}

// receiver is a UDP socket for what clients send.
type receiver struct {
	network   string
	addr      netip.Addr // unspecified
	port      uint16
	ifname    string
	configure func(c syscall.RawConn, ifname string) error
}

// open binds the socket, or takes over the one of left that is bound as it would
// be. Its error wraps EADDRINUSE where another program has the port.
func (r receiver) open(left []*os.File) (*net.UDPConn, error) {
	at := netip.AddrPortFrom(r.addr, r.port)
	if f := (handover.Socket{Type: unix.SOCK_DGRAM, Addr: at, Device: r.ifname}).Find(left); f != nil {
		return r.takeOver(f)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return r.configure(c, r.ifname) }}
	conn, err := lc.ListenPacket(context.Background(), r.network, at.String())
	if err != nil {
		return nil, fmt.Errorf("binding UDP port %d: %w", r.port, err)
	}
	udp := conn.(*net.UDPConn)
	if err := admitOthers(udp); err != nil {
		return nil, errors.Join(fmt.Errorf("binding UDP port %d: %w", r.port, err), udp.Close())
	}
	return udp, nil
}

// admitOthers lets a server of another interface start that binds the port of all
// before it says which is its own, as libvirt's dnsmasq does. It comes after our own
// bind, which without SO_REUSEADDR fails where somebody serves this interface.
func admitOthers(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	ctlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	})
	return errors.Join(ctlErr, err)
}

// takeOver makes a copy of the bound socket f ours, with what waits in it. The
// process that bound it may have been of another version, with other options.
func (r receiver) takeOver(f *os.File) (*net.UDPConn, error) {
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("taking over UDP port %d: %w", r.port, err)
	}
	udp := conn.(*net.UDPConn)
	raw, err := udp.SyscallConn()
	if err == nil {
		err = r.configure(raw, r.ifname)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("taking over UDP port %d: %w", r.port, err), udp.Close())
	}
	return udp, nil
}

// growBuffer lets many messages wait in a socket. It is best effort; FORCE needs
// CAP_NET_ADMIN.
func growBuffer(fd int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
}

// configure sets the options of the UDP socket before it is bound. SO_REUSEADDR and
// SO_REUSEPORT stay off until then: a server on the interface must be noticed.
func configure(c syscall.RawConn, ifname string) error {
	var err error
	ctlErr := c.Control(func(fd uintptr) {
		s := int(fd)
		growBuffer(s)
		err = errors.Join(
			unix.BindToDevice(s, ifname),
			unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
			// Guests' raw sockets see checksums that a device was meant to fill in.
			// A UDP checksum of zero means none (RFC 768).
			unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1),
			unix.SetsockoptInt(s, unix.IPPROTO_IP, unix.IP_PKTINFO, 1),
		)
	})
	return errors.Join(ctlErr, err)
}

// Receive implements transport.
func (s *sockets) Receive(buf []byte) (datagram, error) {
	n, oobn, _, src, err := s.udp.ReadMsgUDPAddrPort(buf, s.oob)
	if err != nil {
		return datagram{}, err
	}
	d := datagram{payload: buf[:n], src: netip.AddrPortFrom(src.Addr().Unmap(), src.Port())}
	var cm ipv4.ControlMessage
	if err := cm.Parse(s.oob[:oobn]); err == nil {
		d.dst, _ = netip.AddrFromSlice(cm.Dst.To4())
	}
	return d, nil
}

// Send implements transport.
func (s *sockets) Send(out *outgoing) error {
	var err error
	if out.framed {
		frame := frame4(s.mac, out.hw, s.server, out.dst, out.payload)
		_, err = s.frames.WriteTo(frame, &packet.Addr{HardwareAddr: out.hw[:]})
	} else {
		_, _, err = s.udp.WriteMsgUDPAddrPort(out.payload, s.control, out.dst)
	}
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return errors.Join(errLinkGone, err)
	}
	return err
}

// Copy implements transport.
func (s *sockets) Copy() (*os.File, error) { return s.udp.File() }

// Interrupt implements transport.
func (s *sockets) Interrupt() {
	_ = s.udp.SetReadDeadline(time.Unix(1, 0))
	if s.arp != nil {
		_ = s.arp.SetReadDeadline(time.Unix(1, 0))
	}
}

// Close implements transport.
func (s *sockets) Close() error {
	err := errors.Join(s.udp.Close(), s.frames.Close())
	if s.arp != nil {
		err = errors.Join(err, s.arp.Close())
	}
	return err
}
