package sysbus

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/godbus/dbus/v5"
)

// MaxCall is the longest body of a call that is read, in bytes. The bus itself takes
// 32 MiB, which the bus library decodes before anybody can ask whose they are.
const MaxCall = 8 << 20

// maxHeader bounds the header fields of a message, in bytes: the bus's own bounds of
// names and signatures add up to less than 2,000.
const maxHeader = 64 << 10

// stream follows the messages of a connection as they are read. Its methods are
// for the one goroutine that reads.
type stream struct {
	messages atomic.Bool // the authentication is over
	head     []byte      // of a message, to be read before more of its body
	body     int         // bytes of it that are to come
	size     int         // of the body of the last message
}

// Read reads bytes of messages, of each message no more than there is. The body of a
// call that is longer than MaxCall never arrives: the call is answered and skipped.
func (c *fdConn) Read(b []byte) (int, error) {
	s := &c.stream
	if !s.messages.Load() {
		return c.receive(b)
	}
	for len(s.head) == 0 && s.body == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	if len(s.head) > 0 {
		n := copy(b, s.head)
		s.head = s.head[n:]
		return n, nil
	}
	n, err := c.receive(b[:min(len(b), s.body)])
	s.body -= n
	return n, err
}

// next reads the header of a message (D-Bus specification, "Message Format").
func (c *fdConn) next() error {
	fixed := make([]byte, fixedHeader)
	if _, err := io.ReadFull(receiver{c}, fixed); err != nil {
		return err
	}
	var order binary.ByteOrder = binary.LittleEndian
	if fixed[0] == 'B' {
		order = binary.BigEndian
	}
	body, fields := int(order.Uint32(fixed[bodyLength:])), int(order.Uint32(fixed[fixedHeader-4:]))
	if fields > maxHeader {
		return fmt.Errorf("a message of the bus has %d bytes of header fields, more than %d", fields, maxHeader)
	}
	head := make([]byte, fixedHeader+(fields+7)&^7)
	copy(head, fixed)
	if _, err := io.ReadFull(receiver{c}, head[fixedHeader:]); err != nil {
		return err
	}
	if dbus.Type(fixed[1]) == dbus.TypeMethodCall && body > MaxCall {
		return c.skip(head[:fixedHeader+fields], order, body)
	}
	c.stream.head, c.stream.body, c.stream.size = head, body, body
	return nil
}

// skip reads past the body of a call that is too long, closes its descriptors, and
// answers it with an error.
func (c *fdConn) skip(head []byte, order binary.ByteOrder, body int) error {
	if _, err := io.CopyN(io.Discard, receiver{c}, int64(body)); err != nil {
		return err
	}
	closeFDs(c.take())
	sender := textField(head, order, dbus.FieldSender)
	if sender == "" || dbus.Flags(head[2])&dbus.FlagNoReplyExpected != 0 || c.tooLong == nil {
		return nil
	}
	c.tooLong(sender, order.Uint32(head[serialAt:]), body)
	return nil
}

// textField returns a header field that is a string, empty where it can't be found.
func textField(head []byte, order binary.ByteOrder, want dbus.HeaderField) string {
	for at := fixedHeader; at+4 <= len(head); at = (at + 7) &^ 7 {
		code, kind := dbus.HeaderField(head[at]), head[at+2]
		if head[at+1] != 1 { // a signature of more than one type
			return ""
		}
		at += 4
		size := 4
		switch kind {
		case 'u':
		case 's', 'o':
			if at+4 > len(head) {
				return ""
			}
			size = 4 + int(order.Uint32(head[at:])) + 1
		case 'g':
			if at >= len(head) {
				return ""
			}
			size = 1 + int(head[at]) + 1
		default:
			return ""
		}
		if size < 0 || at+size > len(head) {
			return ""
		}
		if code == want && kind == 's' {
			return string(head[at+4 : at+size-1])
		}
		at += size
	}
	return ""
}

// receiver reads from a connection what comes, messages or not.
type receiver struct{ c *fdConn }

func (r receiver) Read(b []byte) (int, error) { return r.c.receive(b) }
