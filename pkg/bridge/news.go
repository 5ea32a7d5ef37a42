package bridge

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// news is a subscription whose messages are read only when somebody asks. The
// kernel has queued the message about a change by the time the call that made it
// returns. The zero news is not subscribed; it is not safe for concurrent use.
type news struct {
	socket *nl.NetlinkSocket
	buffer []byte
}

// subscribe begins to listen to multicast groups, unless it has begun.
func (n *news) subscribe(groups ...uint) error {
	if n.socket != nil {
		return nil
	}
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, groups...)
	if err != nil {
		return fmt.Errorf("subscribing to changes of the host: %w", err)
	}
	n.socket, n.buffer = socket, make([]byte, nl.RECEIVE_BUFFER_SIZE)
	return nil
}

// close ends the subscription.
func (n *news) close() {
	if n.socket != nil {
		n.socket.Close()
	}
	n.socket, n.buffer = nil, nil
}

// read calls f with each datagram that came since it was called last, while f
// returns true. It is true when f saw all; otherwise, when something was missed or
// nothing was subscribed, the subscription is over.
func (n *news) read(f func(datagram []byte) bool) (all bool) {
	if n.socket == nil {
		return false
	}
	for {
		// The socket doesn't block.
		size, _, err := unix.Recvfrom(n.socket.GetFd(), n.buffer, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return true
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || !f(n.buffer[:size]): // ENOBUFS: messages were dropped
			n.close()
			return false
		}
	}
}
