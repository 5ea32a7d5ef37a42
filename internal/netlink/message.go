// Package netlink speaks netlink(7): messages and their attributes, and a socket
// that sends several messages at once and hears the answer to each. Of the
// families of netlink it knows how links are named and the ways out of a route alone;
// whoever uses it writes and reads the bodies.
package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"golang.org/x/sys/unix"
)

// Message is one message of a datagram.
type Message struct {
	Type, Flags uint16
	Seq         uint32
	// Port is the address of the socket whose request made the kernel say this, 0 where
	// that is not told: commonly the id of its process.
	Port uint32
	Body []byte
}

// NewMessage is a message with a header, of which the socket fills in the number.
func NewMessage(kind, flags uint16, body ...[]byte) []byte {
	size := unix.NLMSG_HDRLEN
	for _, part := range body {
		size += len(part)
	}
	return AppendMessage(make([]byte, 0, size), kind, flags, body...)
}

// AppendMessage appends what NewMessage returns.
func AppendMessage(b []byte, kind, flags uint16, body ...[]byte) []byte {
	at := len(b)
	b = append(b, make([]byte, unix.NLMSG_HDRLEN)...)
	binary.NativeEndian.PutUint16(b[at+4:], kind)
	binary.NativeEndian.PutUint16(b[at+6:], flags)
	for _, part := range body {
		b = append(b, part...)
	}
	binary.NativeEndian.PutUint32(b[at:], uint32(len(b)-at))
	return b
}

// Messages yields the messages of a datagram. A message that is not complete ends
// it. Bodies are parts of b.
func Messages(b []byte) iter.Seq[Message] {
	return func(yield func(Message) bool) {
		for len(b) >= unix.NLMSG_HDRLEN {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.NLMSG_HDRLEN || size > len(b) {
				return
			}
			m := Message{
				Type:  binary.NativeEndian.Uint16(b[4:]),
				Flags: binary.NativeEndian.Uint16(b[6:]),
				Seq:   binary.NativeEndian.Uint32(b[8:]),
				Port:  binary.NativeEndian.Uint32(b[12:]),
				Body:  b[unix.NLMSG_HDRLEN:size],
			}
			if !yield(m) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

// align rounds up to the alignment of messages and attributes.
func align(n int) int { return (n + 3) &^ 3 }

// Err is the error that m carries, an NLMSG_ERROR or an NLMSG_DONE: nil for an
// acknowledgement and for a dump that is complete. Its text for people is that of
// the kernel, if it gave one. (NLMSGERR_ATTR_MSG of linux/netlink.h)
func (m Message) Err() error {
	if len(m.Body) < 4 {
		if m.Type == unix.NLMSG_DONE {
			return nil
		}
		return errors.New("short netlink answer")
	}
	code := int32(binary.NativeEndian.Uint32(m.Body))
	if code == 0 {
		return nil
	}
	err := unix.Errno(-code)
	attributes := 4
	if m.Type == unix.NLMSG_ERROR && len(m.Body) >= 8 {
		// Behind the code stands the request that failed, whole.
		attributes += align(int(binary.NativeEndian.Uint32(m.Body[4:])))
	}
	if m.Flags&unix.NLM_F_ACK_TLVS == 0 || attributes > len(m.Body) {
		return err
	}
	for kind, value := range Attributes(m.Body[attributes:]) {
		if text := unix.ByteSliceToString(value); kind == unix.NLMSGERR_ATTR_MSG && text != "" {
			return fmt.Errorf("%w: %s", err, text)
		}
	}
	return err
}

// attributeHeader is the size of a struct nlattr: length with itself, type.
const attributeHeader = 4

// ParseAttributes calls f with the type and the value, a part of b, of each
// attribute; the type is without its flags, which the kernel sets for some
// containers and for others not. The error is f's first or that of an attribute that
// is not complete.
func ParseAttributes(b []byte, f func(kind uint16, value []byte) error) error {
	for len(b) >= attributeHeader {
		size := int(binary.NativeEndian.Uint16(b))
		if size < attributeHeader || size > len(b) {
			return fmt.Errorf("netlink attribute of %d bytes where %d are left", size, len(b))
		}
		kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if err := f(kind, b[attributeHeader:size]); err != nil {
			return err
		}
		b = b[min(align(size), len(b)):]
	}
	return nil
}

// errStop ends an iteration.
var errStop = errors.New("stop")

// Attributes yields what ParseAttributes finds up to an attribute that is not
// complete.
func Attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		_ = ParseAttributes(b, func(kind uint16, value []byte) error {
			if !yield(kind, value) {
				return errStop
			}
			return nil
		})
	}
}

// NextHops yields the ways out of a route (RTA_MULTIPATH): the struct rtnexthop of
// each, of whose 8 bytes the last four are the index of its link, and its attributes;
// both are parts of b. One that is not complete ends it.
func NextHops(b []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(head, attributes []byte) bool) {
		for len(b) >= unix.SizeofRtNexthop {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofRtNexthop || size > len(b) || !yield(b[:unix.SizeofRtNexthop], b[unix.SizeofRtNexthop:size]) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

// Uint32 is the value of an attribute that is a number.
func Uint32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// AppendAttribute appends one attribute with its padding.
func AppendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(attributeHeader+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, align(len(value))-len(value))...)
}
