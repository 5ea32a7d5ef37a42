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
// The UDP socket receives, and sends to those whose address works already. The
// packet socket sends frames to those who have none yet, for whom ARP can't
// ask; it receives nothing. It stays open, since closing a packet socket takes
// the kernel milliseconds. So does the one for ARP, where there is one.
type sockets struct {
	udp     *net.UDPConn
	frames  *packet.Conn
	arp     *packet.Conn // receives ARP; nil unless addresses are probed
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
		mac:     dhcpd.HWAddr(cfg.MAC),
		server:  cfg.Server,
		control: cm.Marshal(),
		oob:     make([]byte, iface.OOBSize),
	}, nil
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
	return d, nil
}

// Send implements dhcpd.Transport.
func (s *sockets) Send(out *dhcpd.Reply) error {
	var err error
	if out.Framed {
		frame := udpFrame(s.mac, out.HW, s.server, out.Dst, out.Payload)
		_, err = s.frames.WriteTo(frame, &packet.Addr{HardwareAddr: out.HW[:]})
	} else {
		_, _, err = s.udp.WriteMsgUDPAddrPort(out.Payload, s.control, out.Dst)
	}
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return errors.Join(iface.ErrGone, err)
	}
	return err
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
	err := errors.Join(s.udp.Close(), s.frames.Close())
	if s.arp != nil {
		err = errors.Join(err, s.arp.Close())
	}
	return err
}
