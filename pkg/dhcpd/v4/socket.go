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

	"github.com/vnetd/vnetd/internal/udpwait"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// sockets are the server's end of one bridge.
//
// The UDP socket receives, and sends to those whose card is not known. To the others, for most of
// whom ARP can't ask, the packet socket of the intake sends. It stays open, since closing a packet
// socket takes the kernel milliseconds. So does the one for ARP, where there is one. There are no
// more: the kernel goes through all packet sockets with each change of a link.
type sockets struct {
	udp     *udpwait.Conn
	arp     *packet.Conn // nil unless addresses are probed
	asks    syscall.RawConn
	intake  *iface.Intake
	all     []dhcpd.Datagram // what Receive returned last
	index   int              // of the bridge
	mac     dhcpd.HWAddr
	server  netip.Addr
	control []byte // makes the kernel send from server
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
	udp, err := udpwait.New(conn)
	if err != nil {
		return nil, err
	}
	cm := ipv4.ControlMessage{Src: cfg.Server.AsSlice()}
	s := &sockets{
		udp: udp, index: ifi.Index, mac: dhcpd.HWAddr(cfg.MAC), server: cfg.Server,
		control: cm.Marshal(),
	}
	if err := s.open(ifi, cfg.Probe); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// open opens what there is besides the UDP socket. On an error the rest is to be closed.
func (s *sockets) open(ifi *net.Interface, probe bool) (err error) {
	if probe {
		if s.arp, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ARP, nil); err != nil {
			return fmt.Errorf("opening the socket for ARP: %w", err)
		}
		if s.asks, err = s.arp.SyscallConn(); err != nil {
			return err
		}
		if err = s.asks.Control(func(fd uintptr) { iface.GrowBuffers(int(fd)) }); err != nil { // many may be asked for at once
			return err
		}
	}
	s.intake, err = iface.NewIntake(s.udp, ifi, false, serverPort, cardOf)
	return err
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
func (s *sockets) Receive() (all []dhcpd.Datagram, err error) {
	s.all, err = dhcpd.Receive(s.intake, s.all[:0])
	return s.all, err
}

// cardOf is the hardware address in a message, which need not be one.
func cardOf(b []byte) (hw dhcpd.HWAddr) {
	if len(b) >= chaddrAt+len(hw) {
		hw = dhcpd.HWAddr(b[chaddrAt:])
	}
	return hw
}

// Collect implements dhcpd.Transport.
func (s *sockets) Collect() (many bool) { return s.intake.Collect() }

// Send implements dhcpd.Transport.
func (s *sockets) Send(all []*dhcpd.Reply, failed func(*dhcpd.Reply, error)) {
	s.sendSome(all, false, s.udp, failed)
	s.sendSome(all, true, s.intake.Cards(), failed)
}

// sendSome sends those that are frames, or those that are not, by their socket.
func (s *sockets) sendSome(all []*dhcpd.Reply, framed bool, by syscall.RawConn, failed func(*dhcpd.Reply, error)) {
	box := dhcpd.GetOutbox(failed)
	defer box.Put()
	for _, out := range all {
		if out.Framed != framed {
			continue
		}
		box.Admit(out, by)
		if framed {
			box.ToCard(out.HW, s.index, func(b []byte) []byte { return appendHead(b, s.server, out.Dst, out.Payload) }, out.Payload)
		} else {
			box.To4(out.Dst, s.control, out.Payload)
		}
	}
	box.Flush(by)
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
	if s.arp != nil {
		errs = append(errs, s.arp.Close())
	}
	if s.intake != nil {
		errs = append(errs, s.intake.Close())
	}
	return errors.Join(errs...)
}
