// Package udpwait has UDP sockets of which nothing wakes anybody but what comes in.
//
// The runtime's poller waits for all that may happen to a socket: for room to send, too, which
// the kernel tells of each time that a datagram has gone. Of a server's socket, which sends
// as much as it gets and waits for no room, a thread wakes for each answer, to find nothing to
// do. A Conn is watched by an epoll of its own, for what comes in alone, and the runtime's
// poller watches that.
package udpwait

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is a UDP socket. Read is for one goroutine, the other methods for any.
type Conn struct {
	socket *os.File // unknown to the runtime's poller
	raw    syscall.RawConn
	fd     uintptr // of socket: for Read, which Close waits for

	epoll  *os.File // readable while socket is
	wait   syscall.RawConn
	closed atomic.Bool

	read func(fd uintptr) bool // what Read was called with
	try  func(uintptr) bool    // made once, so that Read allocates nothing
}

// type check
var _ syscall.RawConn = (*Conn)(nil)

// New takes c over, which is closed in any case. Calls to the socket must not wait
// (MSG_DONTWAIT).
func New(c *net.UDPConn) (*Conn, error) {
	defer func() { _ = c.Close() }()
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	w := new(Conn)
	w.try = func(uintptr) bool { return w.read(w.fd) }
	if w.socket, err = duplicate(raw, true); err == nil {
		w.fd = w.socket.Fd()
		w.raw, err = w.socket.SyscallConn()
	}
	if err == nil {
		err = w.watch()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watching a UDP socket: %w", err), w.Close())
	}
	return w, nil
}

// watch makes the epoll.
func (c *Conn) watch() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	err = unix.SetNonblock(fd, true) // what the runtime knows its poller by
	c.epoll = os.NewFile(uintptr(fd), "epoll")
	if err == nil {
		err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, int(c.fd), &unix.EpollEvent{Events: unix.EPOLLIN})
	}
	if err == nil {
		c.wait, err = c.epoll.SyscallConn()
	}
	return err
}

// duplicate returns another descriptor of a socket. With blocking, all descriptors of it are
// such that the runtime's poller wants none of them.
func duplicate(raw syscall.RawConn, blocking bool) (f *os.File, err error) {
	controlErr := raw.Control(func(fd uintptr) {
		var next int
		if next, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return
		}
		if blocking {
			err = unix.SetNonblock(next, false)
		}
		f = os.NewFile(uintptr(next), "udp")
	})
	return f, errors.Join(controlErr, err)
}

// Read implements syscall.RawConn: it calls f until that is done, and waits for what comes in
// before it does again. The error is net.ErrClosed after Close, and os.ErrDeadlineExceeded
// after the time of SetReadDeadline.
func (c *Conn) Read(f func(fd uintptr) (done bool)) error {
	c.read = f
	err := c.wait.Read(c.try)
	if err != nil && c.closed.Load() {
		return net.ErrClosed
	}
	return err
}

// Write implements syscall.RawConn. It does not wait: f is done after the first call.
func (c *Conn) Write(f func(fd uintptr) (done bool)) error {
	return c.Control(func(fd uintptr) { f(fd) })
}

// Control implements syscall.RawConn.
func (c *Conn) Control(f func(fd uintptr)) error { return c.raw.Control(f) }

// SetReadDeadline has Read wait no longer than until t; the zero time: for ever.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.epoll.SetReadDeadline(t) }

// File returns a copy of the socket, which the caller closes.
func (c *Conn) File() (*os.File, error) { return duplicate(c.raw, false) }

// Close closes the socket. It returns when no Read uses it.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	var errs []error
	for _, f := range []*os.File{c.epoll, c.socket} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
