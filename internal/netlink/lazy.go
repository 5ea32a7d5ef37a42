package netlink

import (
	"sync"

	"golang.org/x/sys/unix"
)

// Lazy is a socket of rtnetlink(7) that is opened when somebody first asks for it, in the
// network namespace of the thread that does. The zero Lazy is not open. Its methods may be
// called concurrently.
type Lazy struct {
	mu     sync.Mutex
	socket *Socket // guarded by mu
}

// Open returns the socket.
func (l *Lazy) Open() (*Socket, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.socket == nil {
		socket, err := Open(unix.NETLINK_ROUTE)
		if err != nil {
			return nil, err
		}
		l.socket = socket
	}
	return l.socket, nil
}

// Close closes the socket, if it is open. It is opened again for who asks after that.
func (l *Lazy) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.socket != nil {
		_ = l.socket.Close()
		l.socket = nil
	}
}
