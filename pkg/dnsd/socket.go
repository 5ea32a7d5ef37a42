package dnsd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/handover"
	"github.com/vnetd/vnetd/internal/portowner"
	"github.com/vnetd/vnetd/internal/udpwait"
)

// listenUDP binds a UDP socket to an address and, unless it is empty, a device, or
// takes over the one of left that is bound so.
func listenUDP(at netip.AddrPort, device string, left []*os.File) (*udpwait.Conn, error) {
	lc, bound := listenConfig(device), numbered(at)
	c, err := takeOver(handover.Socket{Type: unix.SOCK_DGRAM, Addr: bound, Device: device}, left, net.FilePacketConn)
	if c == nil && err == nil {
		c, err = lc.ListenPacket(context.Background(), network("udp", at.Addr()), bound.String())
	}
	if err != nil {
		return nil, explain("udp", at, err)
	}
	udp := c.(*net.UDPConn)
	if err := enlarge(udp); err != nil {
		return nil, errors.Join(fmt.Errorf("listening on udp %s: %w", at, err), udp.Close())
	}
	conn, err := udpwait.New(udp)
	if err != nil {
		return nil, fmt.Errorf("listening on udp %s: %w", at, err)
	}
	return conn, nil
}

// Room of a UDP socket, of which the kernel takes the memory only while it is needed.
const (
	// receiveBuffer is for the queries that come while the server waits for a processor,
	// or while vnetd restarts: some seconds at 1,000 per second.
	receiveBuffer = 4 << 20

	// sendBuffer is for answers that wait while the kernel looks for the neighbours that
	// they are for, three seconds for one that is not there. The kernel allows twice that:
	// as much as all the neighbours that it looks for at a time (net.ipv4.neigh.*.gc_thresh3)
	// may have wait at a bridge (unres_qlen_bytes, as pkg/bridge sets it).
	sendBuffer = 8 << 20
)

// enlarge gives c more room than sockets usually have, beyond what the host allows to
// everybody (net.core.rmem_max, wmem_max) where vnetd may.
func enlarge(c *net.UDPConn) error {
	conn, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Control(func(fd uintptr) {
		for _, b := range []struct{ force, option, size int }{
			{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer},
			{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendBuffer},
		} {
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, b.force, b.size) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, b.option, b.size)
			}
		}
	})
}

// listenTCP is listenUDP for TCP.
func listenTCP(at netip.AddrPort, device string, left []*os.File) (*net.TCPListener, error) {
	lc, bound := listenConfig(device), numbered(at)
	l, err := takeOver(handover.Socket{Type: unix.SOCK_STREAM, Addr: bound, Device: device}, left, net.FileListener)
	if l == nil && err == nil {
		l, err = lc.Listen(context.Background(), network("tcp", at.Addr()), bound.String())
	}
	if err != nil {
		return nil, explain("tcp", at, err)
	}
	return l.(*net.TCPListener), nil
}

// takeOver returns a copy of the socket among left that is s, with what waits in
// it; nil if there is none.
func takeOver[T any](s handover.Socket, left []*os.File, open func(*os.File) (T, error)) (taken T, err error) {
	f := s.Find(left)
	if f == nil {
		return taken, nil
	}
	if taken, err = open(f); err != nil {
		return taken, fmt.Errorf("taking over a socket: %w", err)
	}
	return taken, nil
}

// numbered returns at with the number of its interface in place of the name:
// package net remembers for a minute which number a name had, and a bridge that was made
// anew has another.
func numbered(at netip.AddrPort) netip.AddrPort {
	link, err := net.InterfaceByName(at.Addr().Zone())
	if err != nil {
		return at
	}
	return netip.AddrPortFrom(at.Addr().WithZone(strconv.Itoa(link.Index)), at.Port())
}

// network returns the name that package net gives to a protocol over one family.
func network(protocol string, a netip.Addr) string {
	if a.Is4() {
		return protocol + "4"
	}
	return protocol + "6"
}

// listenConfig sets the options that a socket needs before it is bound.
func listenConfig(device string) net.ListenConfig {
	return net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		var err error
		controlErr := c.Control(func(fd uintptr) { err = setOptions(int(fd), network, device) })
		return errors.Join(controlErr, err)
	}}
}

// setOptions prepares a socket. SO_BINDTODEVICE leaves queries that come in by
// another interface to others, though the address is ours (the kernel's weak
// host model). The address need not be there: that of a bridge without carrier
// stays tentative in IPv6 (IP_FREEBIND).
func setOptions(fd int, network, device string) error {
	level, option := unix.IPPROTO_IP, unix.IP_FREEBIND
	if network[len(network)-1] == '6' {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_FREEBIND
	}
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return fmt.Errorf("setting freebind: %w", err)
	}
	if device == "" {
		return nil
	}
	if err := unix.BindToDevice(fd, device); err != nil {
		return fmt.Errorf("binding to device %q: %w", device, err)
	}
	return nil
}

// explain annotates an error of bind with who is in the way.
func explain(protocol string, at netip.AddrPort, err error) error {
	if !errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("listening on %s %s: %w", protocol, at, err)
	}
	who := portowner.Of(protocol, at)
	if who == "" {
		who = "another name server, perhaps one that listens on all addresses"
	}
	return fmt.Errorf("listening on %s %s: %w (taken by %s)", protocol, at, err, who)
}

// takeConnections takes over the connections of left that were accepted at an address.
func takeConnections(at netip.AddrPort, device string, left []*os.File) (all []*net.TCPConn, err error) {
	for _, f := range (handover.Socket{Type: unix.SOCK_STREAM, Addr: numbered(at), Device: device}).Connections(left) {
		c, err := net.FileConn(f)
		if err != nil {
			return all, fmt.Errorf("taking over a connection: %w", err)
		}
		all = append(all, c.(*net.TCPConn))
	}
	return all, nil
}
