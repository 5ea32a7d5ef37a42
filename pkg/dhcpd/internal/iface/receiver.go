package iface

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/handover"
)

// MaxMessage bounds a message that is read; what is longer is malformed.
const MaxMessage = 4096

// receiveBuffer holds what arrives while the server is busy: some thousand
// messages.
const receiveBuffer = 4 << 20

// sendBuffer holds what waits for neighbours that the kernel looks for, which takes three
// seconds if they are not there: what may wait for one of them (unres_qlen_bytes, as
// pkg/bridge sets it) times some hundred.
const sendBuffer = 8 << 20

// OOBSize is room for the control messages of one datagram.
const OOBSize = 64

// ErrGone says that the interface does not exist any more.
var ErrGone = errors.New("the interface is gone")

// Receiver is the UDP socket of a server: what clients send to a port of one interface.
type Receiver struct {
	Network   string
	Addr      netip.Addr // unspecified
	Port      uint16
	Interface string
	// Configure sets the options of the socket before it is bound, besides those that
	// all receivers have.
	Configure func(fd int) error
}

// Open binds the socket, or takes over the one of left that is bound as it would
// be. Its error wraps EADDRINUSE where another program has the port.
func (r *Receiver) Open(left []*os.File) (*net.UDPConn, error) {
	at := netip.AddrPortFrom(r.Addr, r.Port)
	if f := (handover.Socket{Type: unix.SOCK_DGRAM, Addr: at, Device: r.Interface}).Find(left); f != nil {
		return r.takeOver(f)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return r.control(c) }}
	conn, err := lc.ListenPacket(context.Background(), r.Network, at.String())
	if err != nil {
		return nil, fmt.Errorf("binding UDP port %d: %w", r.Port, err)
	}
	udp := conn.(*net.UDPConn)
	if err := admitOthers(udp); err != nil {
		return nil, errors.Join(fmt.Errorf("binding UDP port %d: %w", r.Port, err), udp.Close())
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
func (r *Receiver) takeOver(f *os.File) (*net.UDPConn, error) {
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("taking over UDP port %d: %w", r.Port, err)
	}
	udp := conn.(*net.UDPConn)
	raw, err := udp.SyscallConn()
	if err == nil {
		err = r.control(raw)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("taking over UDP port %d: %w", r.Port, err), udp.Close())
	}
	return udp, nil
}

// control sets the options of the socket. SO_REUSEADDR and SO_REUSEPORT stay off until
// it is bound: a server on the interface must be noticed.
func (r *Receiver) control(c syscall.RawConn) error {
	var err error
	ctlErr := c.Control(func(fd uintptr) {
		GrowBuffers(int(fd))
		err = errors.Join(unix.BindToDevice(int(fd), r.Interface), r.Configure(int(fd)))
	})
	return errors.Join(ctlErr, err)
}

// GrowBuffers lets many messages wait in a socket, in each direction. It is best effort;
// FORCE needs CAP_NET_ADMIN.
func GrowBuffers(fd int) {
	for _, b := range []struct{ force, option, size int }{
		{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer},
		{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendBuffer},
	} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, b.force, b.size) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, b.option, b.size)
		}
	}
}

// Send sends a message, with control messages oob, or fails: with EAGAIN where the kernel
// can't take it now. Whoever answers many must not wait for one whose answers don't get away.
func Send(c syscall.RawConn, b, oob []byte, to unix.Sockaddr) error {
	var err error
	writeErr := c.Write(func(fd uintptr) bool {
		_, err = unix.SendmsgN(int(fd), b, oob, to, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.ENETDOWN) { // as in Outbox.sendAll
			_, err = unix.SendmsgN(int(fd), b, oob, to, unix.MSG_DONTWAIT)
		}
		return true
	})
	if err == nil {
		err = writeErr
	}
	return sendError(err)
}
