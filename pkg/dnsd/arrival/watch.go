package arrival

import (
	"errors"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Watch waits for what comes in at sockets, by an epoll of its own that the runtime's poller
// watches. Next is for one goroutine, the other methods for any.
type Watch struct {
	epoll  *os.File // readable while one of the sockets is
	raw    syscall.RawConn
	wait   func(fd uintptr) bool // made once, so that a call allocates none
	n      int                   // of ready
	err    error                 // of waiting
	events [watched]unix.EpollEvent
	ready  [watched]int
}

// watched is the number of sockets that Next returns at most.
const watched = 32

// NewWatch returns a Watch without sockets, to be closed.
func NewWatch() (*Watch, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	err = unix.SetNonblock(fd, true) // what the runtime knows its poller by
	w := &Watch{epoll: os.NewFile(uintptr(fd), "epoll")}
	w.wait = w.poll
	if err == nil {
		w.raw, err = w.epoll.SyscallConn()
	}
	if err != nil {
		return nil, errors.Join(err, w.epoll.Close())
	}
	return w, nil
}

// Add has Next return s too, until it is closed.
func (w *Watch) Add(s *Socket) error {
	var err error
	controlErr := w.raw.Control(func(fd uintptr) {
		err = unix.EpollCtl(int(fd), unix.EPOLL_CTL_ADD, s.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(s.fd)})
	})
	return errors.Join(controlErr, os.NewSyscallError("epoll_ctl", err))
}

// Next waits until something has come in and returns the descriptors of the sockets where it
// has, valid until the next call. The error is os.ErrDeadlineExceeded after the time of
// SetDeadline, and another one after Close.
func (w *Watch) Next() ([]int, error) {
	w.err = nil
	if err := errors.Join(w.raw.Read(w.wait), w.err); err != nil {
		return nil, err
	}
	for i := range w.n {
		w.ready[i] = int(w.events[i].Fd)
	}
	return w.ready[:w.n], nil
}

// poll looks where something is; false: nowhere. It does not wait, and the runtime is not told
// of the call: where nothing else goes on, that would wake its monitor (sysmon) with each
// answer, which then looks every 20 microseconds whether the call takes long.
func (w *Watch) poll(fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, fd, uintptr(unsafe.Pointer(&w.events[0])), uintptr(len(w.events)), 0, 0, 0)
		switch errno {
		case 0:
			w.n = int(n)
			return n > 0
		case unix.EINTR:
		default:
			w.err = errno
			return true
		}
	}
}

// SetDeadline has Next wait no longer than until t.
func (w *Watch) SetDeadline(t time.Time) error { return w.epoll.SetReadDeadline(t) }

// Close ends Next. The sockets stay open.
func (w *Watch) Close() error { return w.epoll.Close() }
