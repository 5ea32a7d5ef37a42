package sysbus

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// maxFDs is SCM_MAX_FD of include/net/scm.h, the most that one message of a
// Unix socket carries.
const maxFDs = 253

// fdConn is a connection to the bus that handles the file descriptors of
// messages itself. The bus library must not see them: it panics on an array of
// descriptors, which any peer may send, and it loses those that no argument
// refers to.
//
// The library reads messages one by one and never beyond a message's end, so
// the descriptors that have come when a message is complete are that message's.
// It writes each message with one call.
type fdConn struct {
	*net.UnixConn
	oob    []byte // for Read
	stream stream // what Read has of the message that it is in
	// tooLong answers a call that was skipped; nil: nobody does.
	tooLong func(sender string, serial uint32, size int)

	mu       sync.Mutex
	received []int
	sending  []int // for the next message that says it carries descriptors
}

// newFDConn returns an fdConn on conn.
func newFDConn(conn *net.UnixConn) *fdConn {
	return &fdConn{UnixConn: conn, oob: make([]byte, unix.CmsgSpace(4*maxFDs))}
}

// receive reads bytes and keeps the descriptors that come with them, close-on-exec.
func (c *fdConn) receive(b []byte) (int, error) {
	n, oobn, _, _, err := c.ReadMsgUnix(b, c.oob)
	if oobn > 0 {
		err = errors.Join(err, c.keep(c.oob[:oobn]))
	}
	// ReadMsgUnix gives -1 on an error, an io.Reader must not.
	return max(n, 0), err
}

// keep parses control messages and keeps their descriptors.
func (c *fdConn) keep(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("parsing control messages: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range messages {
		// An error is a message of another type, which carries no descriptor.
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			c.received = append(c.received, fds...)
		}
	}
	return nil
}

// take returns the descriptors that have come since the last call.
func (c *fdConn) take() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	fds := c.received
	c.received = nil
	return fds
}

// Close closes the connection and what nobody took.
func (c *fdConn) Close() error {
	err := c.UnixConn.Close()
	closeFDs(c.take())
	return err
}

// Write writes b, a whole message or a line of the authentication. Before the
// line that ends that it negotiates the passing of descriptors, which the bus
// library does only on its own transport. (D-Bus specification,
// "NEGOTIATE_UNIX_FD command")
func (c *fdConn) Write(b []byte) (int, error) {
	if bytes.Equal(b, []byte("BEGIN\r\n")) {
		if err := c.negotiate(); err != nil {
			return 0, err
		}
		c.stream.messages.Store(true) // from now on
	}
	fds := c.claim(b)
	if fds == nil {
		return c.UnixConn.Write(b)
	}
	n, _, err := c.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return n, err
}

// claim returns the descriptors that the message b carries, nil for none: those
// that wait, if its header says that it has some (UNIX_FDS, field 9 of "Header
// Fields" in the D-Bus specification). Other messages, which other goroutines
// send, must not take them.
func (c *fdConn) claim(b []byte) []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sending == nil {
		return nil
	}
	msg, err := dbus.DecodeMessage(bytes.NewReader(b))
	if err != nil {
		return nil
	}
	if _, carries := msg.Headers[dbus.FieldUnixFDs]; !carries {
		return nil
	}
	fds := c.sending
	c.sending = nil
	return fds
}

// offer has the next message that says it carries descriptors take these, and
// returns what was offered before and not taken.
func (c *fdConn) offer(fds []int) (left []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	left, c.sending = c.sending, fds
	return left
}

// negotiate asks the bus to pass descriptors. The bus sends nothing but the
// answer before BEGIN.
func (c *fdConn) negotiate() error {
	if _, err := c.UnixConn.Write([]byte("NEGOTIATE_UNIX_FD\r\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	if line != "AGREE_UNIX_FD\r\n" {
		return fmt.Errorf("the bus does not pass file descriptors: %q", line)
	}
	return nil
}

// intercept puts a reply's descriptors into its body, in place of their
// indices, and closes all others: nobody here asks for them, and any peer on the
// bus may send some until no more can be opened.
func (c *fdConn) intercept(msg *dbus.Message) {
	fds := c.take()
	if msg.Type == dbus.TypeMethodReply {
		fds = placeFDs(msg.Body, fds)
	}
	closeFDs(fds)
}

// placeFDs replaces arrays of indices at the top of body by the descriptors
// they mean, each once, and returns the descriptors that are left. An array
// with an index that means nothing stays as it is.
func placeFDs(body []any, fds []int) (left []int) {
	used := make([]bool, len(fds))
	for i, value := range body {
		indices, ok := value.([]dbus.UnixFDIndex)
		if !ok {
			continue
		}
		if placed, ok := pickFDs(indices, fds, used); ok {
			body[i] = placed
		}
	}
	for i, fd := range fds {
		if !used[i] {
			left = append(left, fd)
		}
	}
	return left
}

// pickFDs returns the descriptors that the indices mean and marks them used;
// all of them, or none if an index is out of range or used before.
func pickFDs(indices []dbus.UnixFDIndex, fds []int, used []bool) (placed []dbus.UnixFD, ok bool) {
	seen := make(map[dbus.UnixFDIndex]bool)
	for _, index := range indices {
		if int64(index) >= int64(len(fds)) || used[index] || seen[index] {
			return nil, false
		}
		seen[index] = true
		placed = append(placed, dbus.UnixFD(fds[index]))
	}
	for index := range seen {
		used[index] = true
	}
	return placed, true
}

// closeFDs closes the descriptors. Errors are of no use: they are gone anyway.
func closeFDs(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// CloseFDs closes the descriptors that came with a reply and stand in its body.
func CloseFDs(body []any) {
	for _, value := range body {
		fds, _ := value.([]dbus.UnixFD)
		for _, fd := range fds {
			closeFDs([]int{int(fd)})
		}
	}
}
