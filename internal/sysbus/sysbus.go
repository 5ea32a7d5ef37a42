// Package sysbus is vnetd's end of the system bus, for the daemon and for its
// clients: a connection on which file descriptors are safe. What peers send
// uninvited is closed, and what we send goes with its message and no other.
package sysbus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/godbus/dbus/v5"
)

// Conn is a connection to the system bus. The methods of the embedded
// connection may be used, too, but for sending file descriptors. Of the
// messages that come in, only replies keep descriptors, those in arrays at the
// top of their body (type ah): they are the receiver's, CloseFDs closes them.
type Conn struct {
	*dbus.Conn
	fds *fdConn

	sending sync.Mutex // one message with descriptors at a time
}

// Connect joins the system bus, at DBUS_SYSTEM_BUS_ADDRESS where that is set.
// The connection lives until it is closed or ctx ends.
func Connect(ctx context.Context, opts ...dbus.ConnOption) (*Conn, error) {
	return Serve(ctx, func(*dbus.Message, int) {}, opts...)
}

// Serve is Connect for who answers calls. arrive hears of each in the order in which
// they arrive, with the length of its arguments in bytes, before the bus library does
// anything with it; what it returns late holds up all that arrives.
func Serve(ctx context.Context, arrive func(call *dbus.Message, size int), opts ...dbus.ConnOption) (*Conn, error) {
	socket, err := dialFirst(ctx, busAddress())
	if err != nil {
		return nil, err
	}
	fds := newFDConn(socket)
	opts = append(opts, dbus.WithContext(ctx), dbus.WithIncomingInterceptor(func(msg *dbus.Message) {
		fds.intercept(msg)
		if msg.Type == dbus.TypeMethodCall {
			arrive(msg, fds.stream.size)
		}
	}))
	conn, err := dbus.NewConn(fds, opts...)
	if err != nil {
		return nil, errors.Join(err, fds.Close())
	}
	fds.tooLong = func(sender string, serial uint32, size int) {
		conn.Send(tooLongReply(sender, serial, size), nil)
	}
	if err := conn.Auth(nil); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := conn.Hello(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &Conn{Conn: conn, fds: fds}, nil
}

// tooLongReply refuses a call that was not read.
func tooLongReply(sender string, serial uint32, size int) *dbus.Message {
	text := fmt.Sprintf("the call has %d bytes of arguments, want at most %d", size, MaxCall)
	return &dbus.Message{Type: dbus.TypeError, Body: []any{text}, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldErrorName:   dbus.MakeVariant("org.freedesktop.DBus.Error.LimitsExceeded"),
		dbus.FieldDestination: dbus.MakeVariant(sender),
		dbus.FieldReplySerial: dbus.MakeVariant(serial),
		dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf(text)),
	}}
}

// Files stands in the body of a message for the open files that go with it; it
// has the type ah. SendFiles sends such a message.
func Files(files []*os.File) []dbus.UnixFDIndex {
	indices := make([]dbus.UnixFDIndex, len(files))
	for i := range indices {
		indices[i] = dbus.UnixFDIndex(i)
	}
	return indices
}

// SendFiles sends msg, whose body has Files(files) in it, with the files, which
// stay the caller's: when it returns, they may be closed.
func (c *Conn) SendFiles(msg *dbus.Message, files []*os.File) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	if msg.Headers == nil {
		msg.Headers = make(map[dbus.HeaderField]dbus.Variant)
	}
	msg.Headers[dbus.FieldUnixFDs] = dbus.MakeVariant(uint32(len(fds)))
	c.fds.offer(fds)
	c.Send(msg, nil)
	if left := c.fds.offer(nil); left != nil {
		return errors.New("the message could not be sent")
	}
	return nil
}
