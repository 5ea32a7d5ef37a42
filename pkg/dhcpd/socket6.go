package dhcpd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
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

// listen6 opens the socket on an interface.
func listen6(ifname string) (*socket6, error) {
	ifi, err := interfaceByName(ifname)
	if err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return configure6(c, ifname) }}
	conn, err := lc.ListenPacket(context.Background(), "udp6", fmt.Sprintf("[::]:%d", serverPort6))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("another DHCPv6 server, dnsmasq perhaps, has UDP port %d of the interface: %w", serverPort6, err)
	}
	if err != nil {
		return nil, fmt.Errorf("binding UDP port %d: %w", serverPort6, err)
	}
	pc := ipv6.NewPacketConn(conn)
	for _, group := range []string{allServersAndRelays, allServers} {
		if err := pc.JoinGroup(ifi, &net.UDPAddr{IP: net.ParseIP(group)}); err != nil {
			return nil, errors.Join(fmt.Errorf("joining %s: %w", group, err), conn.Close())
		}
	}
	return &socket6{udp: conn.(*net.UDPConn), oob: make([]byte, oobSize)}, nil
}

// configure6 sets the options of the socket before it is bound, as configure
// does.
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

// Interrupt implements transport.
func (s *socket6) Interrupt() { _ = s.udp.SetReadDeadline(time.Unix(1, 0)) }

// Close implements transport.
func (s *socket6) Close() error { return s.udp.Close() }
