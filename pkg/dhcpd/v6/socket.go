package v6

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// The groups to which clients and relays send (RFC 8415, section 7.1).
const (
	allServersAndRelays = "ff02::1:2"
	allServers          = "ff05::1:3"
)

// socket is the Server's end of one bridge. Every client has a link-local
// address, so the kernel finds it.
type socket struct {
	udp    *net.UDPConn
	raw    syscall.RawConn // of udp
	frames *iface.Frames
	ports  *iface.Ports
	index  int // of the bridge
	oob    []byte
}

// type check
var _ dhcpd.Transport = (*socket)(nil)

// listen opens the socket on an interface, or takes over one of left.
func listen(ifname string, left []*os.File) (*socket, error) {
	ifi, err := iface.ByName(ifname)
	if err != nil {
		return nil, err
	}
	conn, err := (&iface.Receiver{
		Network: "udp6", Addr: netip.IPv6Unspecified(), Port: serverPort, Interface: ifname, Configure: configure,
	}).Open(left)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("another DHCPv6 server, dnsmasq perhaps, has UDP port %d of the interface: %w", serverPort, err)
	}
	if err != nil {
		return nil, err
	}
	pc := ipv6.NewPacketConn(conn)
	for _, group := range []string{allServersAndRelays, allServers} {
		// EADDRINUSE: the socket was taken over and is in the group.
		if err := pc.JoinGroup(ifi, &net.UDPAddr{IP: net.ParseIP(group)}); err != nil && !errors.Is(err, syscall.EADDRINUSE) {
			return nil, errors.Join(fmt.Errorf("joining %s: %w", group, err), conn.Close())
		}
	}
	s := &socket{udp: conn, index: ifi.Index, oob: make([]byte, iface.OOBSize)}
	if s.raw, err = conn.SyscallConn(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if s.frames, err = iface.ListenFrames(ifi, true, serverPort, 0); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if s.ports, err = iface.OpenPorts(ifi.Index); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the bridge's table of addresses: %w", err), s.frames.Close(), conn.Close())
	}
	return s, nil
}

// configure sets the options of the socket.
func configure(fd int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
}

// Receive implements dhcpd.Transport.
func (s *socket) Receive(buf []byte) (dhcpd.Datagram, error) {
	n, oobn, _, src, err := s.udp.ReadMsgUDPAddrPort(buf, s.oob)
	if err != nil {
		return dhcpd.Datagram{}, err
	}
	d := dhcpd.Datagram{Payload: buf[:n], Src: src}
	var cm ipv6.ControlMessage
	if err := cm.Parse(s.oob[:oobn]); err == nil {
		d.Dst, _ = netip.AddrFromSlice(cm.Dst)
	}
	d.From.HW = s.frames.Source(d.Src, d.Payload)
	d.From.Hidden = d.From.HW == dhcpd.HWAddr{}
	return d, nil
}

// Port implements dhcpd.Transport.
func (s *socket) Port(hw dhcpd.HWAddr) int { return s.ports.Of(hw) }

// Send implements dhcpd.Transport.
func (s *socket) Send(out *dhcpd.Reply) error {
	to := &unix.SockaddrInet6{Port: int(out.Dst.Port()), ZoneId: uint32(s.index), Addr: out.Dst.Addr().As16()}
	return iface.Send(s.raw, out.Payload, nil, to)
}

// Copy implements dhcpd.Transport.
func (s *socket) Copy() (*os.File, error) { return s.udp.File() }

// Interrupt implements dhcpd.Transport.
func (s *socket) Interrupt() { _ = s.udp.SetReadDeadline(time.Unix(1, 0)) }

// Close implements dhcpd.Transport.
func (s *socket) Close() error { return errors.Join(s.udp.Close(), s.frames.Close(), s.ports.Close()) }
