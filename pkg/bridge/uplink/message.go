package uplink

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// message is the body of an rtnetlink message about an address, a route or a
// neighbour: a fixed head and attributes. It carries also what this package
// doesn't know, so that what is moved from link to link keeps it.
type message struct {
	head  []byte
	attrs []attr
}

// attr is one attribute.
type attr struct {
	kind  uint16
	value []byte
}

// parseMessage reads a body whose head has that size.
func parseMessage(data []byte, head int) (message, error) {
	if len(data) < head {
		return message{}, errors.New("short netlink message")
	}
	m := message{head: bytes.Clone(data[:head])}
	err := netlink.ParseAttributes(data[head:], func(kind uint16, value []byte) error {
		m.attrs = append(m.attrs, attr{kind, bytes.Clone(value)})
		return nil
	})
	slices.SortStableFunc(m.attrs, func(a, b attr) int { return cmp.Compare(a.kind, b.kind) })
	return m, err
}

// bytes is the body as the kernel takes it.
func (m message) bytes() []byte {
	data := bytes.Clone(m.head)
	for _, a := range m.attrs {
		data = netlink.AppendAttribute(data, a.kind, a.value)
	}
	return data
}

// request is a request with m as its body.
func (m message) request(kind, flags uint16) []byte {
	return netlink.NewMessage(kind, unix.NLM_F_REQUEST|flags, m.bytes())
}

// get is the value of an attribute, nil if there is none.
func (m message) get(kind uint16) []byte {
	for _, a := range m.attrs {
		if a.kind == kind {
			return a.value
		}
	}
	return nil
}

// with is m with another value of an attribute.
func (m message) with(kind uint16, value []byte) message {
	m = m.without(kind)
	at, _ := slices.BinarySearchFunc(m.attrs, kind, func(a attr, k uint16) int { return cmp.Compare(a.kind, k) })
	m.attrs = slices.Insert(m.attrs, at, attr{kind, value})
	return m
}

// without is m without attributes of these kinds.
func (m message) without(kinds ...uint16) message {
	return m.filter(func(kind uint16) bool { return !slices.Contains(kinds, kind) })
}

// only is m with attributes of these kinds alone.
func (m message) only(kinds ...uint16) message {
	return m.filter(func(kind uint16) bool { return slices.Contains(kinds, kind) })
}

// filter is a copy of m with the attributes for which keep is true.
func (m message) filter(keep func(kind uint16) bool) message {
	kept := message{head: bytes.Clone(m.head)}
	for _, a := range m.attrs {
		if keep(a.kind) {
			kept.attrs = append(kept.attrs, a)
		}
	}
	return kept
}

// u32 is the value of an attribute that is a number, 0 if there is none.
func (m message) u32(kind uint16) uint32 {
	if v := m.get(kind); len(v) >= 4 {
		return binary.NativeEndian.Uint32(v)
	}
	return 0
}

// head is the head of a message, of that size, that begins with an address family.
func head(family uint8, size int) []byte {
	h := make([]byte, size)
	h[0] = family
	return h
}

// indexed is head for the messages in which the index of a link stands at offset 4:
// struct ifinfomsg, ifaddrmsg and ndmsg.
func indexed(family uint8, size, index int) []byte {
	h := head(family, size)
	binary.NativeEndian.PutUint32(h[4:], uint32(index))
	return h
}

// setLink is the request that gives a link those of the IFF_ flags that change
// names, and attributes.
func setLink(index int, flags, change uint32, attrs ...attr) []byte {
	h := indexed(unix.AF_UNSPEC, unix.SizeofIfInfomsg, index)
	binary.NativeEndian.PutUint32(h[8:], flags)
	binary.NativeEndian.PutUint32(h[12:], change)
	return message{head: h, attrs: attrs}.request(unix.RTM_NEWLINK, 0)
}

// setMaster is the request that makes a link a port of a bridge, 0 for none.
func setMaster(index, bridge int) []byte {
	return setLink(index, 0, 0, attr{unix.IFLA_MASTER, netlink.Uint32(uint32(bridge))})
}

// kernel is a socket for requests about links, with what the kernel knows of them.
type kernel struct{ *netlink.Socket }

// do sends one request.
func (k kernel) do(req []byte) error { return errors.Join(k.Do(req)...) }

// dump asks for all objects of type kind that the message with that head doesn't
// filter out.
func (k kernel) dump(ask, kind uint16, head []byte) ([][]byte, error) {
	return k.Dump(message{head: head}.request(ask, 0), kind)
}

// linkIndex and linkFlags are ifi_index and ifi_flags of the head of a message about a
// link, struct ifinfomsg.
func linkIndex(m message) int    { return int(binary.NativeEndian.Uint32(m.head[4:])) }
func linkFlags(m message) uint32 { return binary.NativeEndian.Uint32(m.head[8:]) }

// change is one request, what it is for, and the error that is as good as
// success.
type change struct {
	req  []byte
	what string
	fine error
}
