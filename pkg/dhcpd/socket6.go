package dhcpd

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
)

// The groups to which clients and relays send (RFC 8415, section 7.1).
const (
	allServersAndRelays = "ff02::1:2"
	allServers          = "ff05::1:3"
)

// socket6 is the Server6's end of one bridge. Every client has a link-local
// address, so the kernel finds it.
type socket6 struct {
	udp *net.UDPConn
	oob []byte
}

// type check
var _ transport = (*socket6)(nil)

// listen6 opens the socket on an interface, or takes over one of left.
func listen6(ifname string, left []*os.File) (*socket6, error) {
	ifi, err := interfaceByName(ifname)
	if err != nil {
		return nil, err
	}
	conn, err := receiver{"udp6", netip.IPv6Unspecified(), serverPort6, ifname, configure6}.open(left)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("another DHCPv6 server, dnsmasq perhaps, has UDP port %d of the interface: %w", serverPort6, err)
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
	return &socket6{udp: conn, oob: make([]byte, oobSize)}, nil
}

// configure6 sets the options of the socket, as configure does.
func configure6(c syscall.RawConn, ifname string) error {
	var err error
	ctlErr := c.Control(func(fd uintptr) {
		s := int(fd)
		growBuffer(s)
		err = errors.Join(
			unix.BindToDevice(s, ifname),
			unix.SetsockoptInt(s, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1),
		)
	})
	return errors.Join(ctlErr, err)
}

// Receive implements transport.
func (s *socket6) Receive(buf []byte) (datagram, error) {
	n, oobn, _, src, err := s.udp.ReadMsgUDPAddrPort(buf, s.oob)
	if err != nil {
		return datagram{}, err
	}
	d := datagram{payload: buf[:n], src: src}
	var cm ipv6.ControlMessage
	if err := cm.Parse(s.oob[:oobn]); err == nil {
		d.dst, _ = netip.AddrFromSlice(cm.Dst)
	}
	return d, nil
}

// Send implements transport.
func (s *socket6) Send(out *outgoing) error {
	_, err := s.udp.WriteToUDPAddrPort(out.payload, out.dst)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return errors.Join(errLinkGone, err)
	}
	return err
}

// Copy implements transport.
func (s *socket6) Copy() (*os.File, error) { return s.udp.File() }

// Interrupt implements transport.
func (s *socket6) Interrupt() { _ = s.udp.SetReadDeadline(time.Unix(1, 0)) }

// Close implements transport.
func (s *socket6) Close() error { return s.udp.Close() }
