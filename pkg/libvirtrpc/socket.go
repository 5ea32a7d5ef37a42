package libvirtrpc

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is where clients connect.
type Socket struct {
	*net.UnixListener
	ReadOnly bool // nothing can be changed here, and nobody is asked to authenticate
}

// Close closes the socket, also a second time.
func (s Socket) Close() error {
	if err := s.UnixListener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// SocketName is that of libvirt's socket for everything.
const SocketName = "virtnetworkd-sock"

// ReadOnlySuffix ends the name of the socket that is for reading, which is
// otherwise that of the one for everything.
const ReadOnlySuffix = "-ro"

// ErrServed is returned by Listen when another daemon answers at a path.
var ErrServed = errors.New("another daemon answers there")

// Listen makes the two sockets at path and at path with ReadOnlySuffix, as
// libvirt's clients want both. A socket that systemd has made for us is taken
// from inherited instead; one that nobody answers at any more is replaced.
// Everybody may connect to both.
func Listen(path string, inherited map[string]*net.UnixListener) ([]Socket, error) {
	var sockets []Socket
	for _, want := range []struct {
		path     string
		readOnly bool
	}{{path, false}, {path + ReadOnlySuffix, true}} {
		l := inherited[want.path]
		if l == nil {
			var err error
			if l, err = listenAt(want.path); err != nil {
				for _, s := range sockets {
					err = errors.Join(err, s.Close())
				}
				return nil, err
			}
		}
		sockets = append(sockets, Socket{l, want.readOnly})
	}
	return sockets, nil
}

// Sockets are those of inherited that have the names of libvirt's.
func Sockets(inherited map[string]*net.UnixListener) []Socket {
	var sockets []Socket
	for path, l := range inherited {
		if name := filepath.Base(path); name == SocketName || name == SocketName+ReadOnlySuffix {
			sockets = append(sockets, Socket{l, name != SocketName})
		}
	}
	return sockets
}

// everybody may connect: what a client may do is not for its file's permissions to
// say.
const everybody = 0o666

// listenAt makes one socket, and the directory that it is in.
func listenAt(path string) (*net.UnixListener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("%s: %w", path, ErrServed)
	} else if errors.Is(err, unix.ECONNREFUSED) {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("removing a socket that nobody serves: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, everybody); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Inherited takes over the Unix sockets among files, which systemd has made for
// this process (sd_listen_fds(3)), by path, and closes their files. Those of
// another kind are others: they are returned as they are.
func Inherited(files []*os.File) (listeners map[string]*net.UnixListener, others []*os.File, err error) {
	listeners = make(map[string]*net.UnixListener)
	for _, f := range files {
		if !isUnix(f) {
			others = append(others, f)
			continue
		}
		l, err := net.FileListener(f)
		if err != nil {
			return nil, nil, fmt.Errorf("taking over the socket %s from systemd: %w", f.Name(), err)
		}
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // systemd's to remove
			listeners[u.Addr().String()] = u
		}
		_ = f.Close()
	}
	return listeners, others, nil
}

// isUnix reports whether f is a Unix socket.
func isUnix(f *os.File) bool {
	domain := -1
	if conn, err := f.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { domain, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN) })
	}
	return domain == unix.AF_UNIX
}
