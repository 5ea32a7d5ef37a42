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

	"github.com/vnetd/vnetd/internal/udpwait"
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
	udp    *udpwait.Conn
	intake *iface.Intake
	all    []dhcpd.Datagram // what Receive returned last
	index  int              // of the bridge
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
	udp, err := udpwait.New(conn)
	if err != nil {
		return nil, err
	}
	s := &socket{udp: udp, index: ifi.Index}
	if s.intake, err = iface.NewIntake(udp, ifi, true, serverPort, func([]byte) (none dhcpd.HWAddr) { return none }); err != nil {
		return nil, errors.Join(err, udp.Close())
	}
	return s, nil
}

// configure sets the options of the socket.
func configure(fd int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
}

// Receive implements dhcpd.Transport.
func (s *socket) Receive() (all []dhcpd.Datagram, err error) {
	s.all, err = dhcpd.Receive(s.intake, s.all[:0])
	return s.all, err
}

// Collect implements dhcpd.Transport.
func (s *socket) Collect() (many bool) { return s.intake.Collect() }

// Send implements dhcpd.Transport.
func (s *socket) Send(all []*dhcpd.Reply, failed func(*dhcpd.Reply, error)) {
	box := dhcpd.GetOutbox(failed)
	defer box.Put()
	for _, out := range all {
		box.Admit(out, s.udp)
		box.To6(out.Dst, s.index, out.Payload)
	}
	box.Flush(s.udp)
}

// Copy implements dhcpd.Transport.
func (s *socket) Copy() (*os.File, error) { return s.udp.File() }

// Interrupt implements dhcpd.Transport.
func (s *socket) Interrupt() { _ = s.udp.SetReadDeadline(time.Unix(1, 0)) }

// Close implements dhcpd.Transport.
func (s *socket) Close() error { return errors.Join(s.udp.Close(), s.intake.Close()) }
