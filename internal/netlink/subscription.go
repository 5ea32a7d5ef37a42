package netlink

import (
	"fmt"
)

// Subscription is one to multicast groups whose messages are read only when
// somebody asks. The kernel has queued the message about a change by the time the
// call that made it returns. The zero value is not subscribed; it is not safe for
// concurrent use.
type Subscription struct {
	// Buffer is how many bytes of messages may wait, 0 for as many as by default.
	Buffer int

	socket *Socket
}

// Subscribe begins to listen to groups of a protocol, unless it has begun.
func (s *Subscription) Subscribe(protocol int, groups ...uint) error {
	if s.socket != nil {
		return nil
	}
	socket, err := Open(protocol, groups...)
	if err != nil {
		return fmt.Errorf("subscribing to changes of the host: %w", err)
	}
	if s.Buffer > 0 {
		socket.SetBuffers(0, s.Buffer)
	}
	s.socket = socket
	return nil
}

// Close ends the subscription.
func (s *Subscription) Close() {
	if s.socket != nil {
		_ = s.socket.Close()
	}
	s.socket = nil
}

// Read calls f with each message that came since it was called last, while f
// returns true. It is true when f saw all; otherwise, when something was missed or
// nothing was subscribed, the subscription is over.
func (s *Subscription) Read(f func(Message) bool) (all bool) {
	if s.socket == nil {
		return false
	}
	for {
		datagram, err := s.socket.Poll()
		if err == nil && datagram == nil {
			return true
		}
		for m := range Messages(datagram) {
			if !f(m) {
				err = errStop
				break
			}
		}
		if err != nil { // ENOBUFS: messages were dropped
			s.Close()
			return false
		}
	}
}
