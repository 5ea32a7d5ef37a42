package iface

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BatchSize is how many datagrams one call reads or writes at most.
const BatchSize = 32

// message is struct mmsghdr of recvmmsg(2) and sendmmsg(2).
type message struct {
	header unix.Msghdr
	length uint32
}

// room is what one call of recvmmsg(2) reads into.
type room struct {
	messages [BatchSize]message
	vectors  [BatchSize]unix.Iovec
	names    [BatchSize]unix.RawSockaddrInet6 // large enough for those of IPv4 and of packet sockets
	control  [BatchSize][OOBSize]byte
	bodies   []byte // of size bytes each
	size     int
}

// rooms keeps those that no socket uses, for the next one that reads: a quiet network has
// none.
type rooms struct {
	pool sync.Pool
	size int
}

// The rooms of all sockets.
var (
	datagramRooms = rooms{size: MaxMessage}
	frameRooms    = rooms{size: maxIPHeader + udpHeader + frameCopied}
)

// get returns a room with nothing in it.
func (r *rooms) get() *room {
	if it, ok := r.pool.Get().(*room); ok {
		return it
	}
	it := &room{bodies: make([]byte, BatchSize*r.size), size: r.size}
	for i := range it.messages {
		h := &it.messages[i].header
		vector := &it.vectors[i]
		vector.Base = &it.bodies[i*r.size]
		vector.SetLen(r.size)
		h.Name = (*byte)(unsafe.Pointer(&it.names[i]))
		h.Iov = vector
		h.SetIovlen(1)
		h.Control = &it.control[i][0]
	}
	return it
}

// receive reads what is there, without waiting. The runtime is not told of the call, which
// would take it for one that waits.
func (r *room) receive(fd uintptr) (n int, errno syscall.Errno) {
	for i := range r.messages {
		h := &r.messages[i].header
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(OOBSize)
	}
	for {
		got, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.messages[0])), BatchSize, unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			return int(got), errno
		}
	}
}

// body returns the message i; what did not fit is cut off.
func (r *room) body(i int) []byte {
	return r.bodies[i*r.size:][:min(int(r.messages[i].length), r.size):r.size]
}

// source returns who sent the datagram i of a UDP socket, without a zone.
func (r *room) source(i int) netip.AddrPort {
	sa := &r.names[i]
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:]) // at the same place in both families
	if sa.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), port)
}

// card returns the hardware address that sent the frame i of a packet socket.
func (r *room) card(i int) (hw HWAddr, ok bool) {
	sa := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&r.names[i]))
	return HWAddr(sa.Addr[:len(hw)]), sa.Family == unix.AF_PACKET && int(sa.Halen) == len(hw)
}

// destination returns to which address the datagram i was sent, as ip(7) and ipv6(7) tell it
// in struct in_pktinfo and in6_pktinfo. The zero Addr when they do not.
func (r *room) destination(i int) netip.Addr {
	const destinationAt4 = 8
	rest := r.control[i][:min(int(r.messages[i].header.Controllen), OOBSize)]
	for len(rest) >= unix.SizeofCmsghdr {
		h, data, next, err := unix.ParseOneSocketControlMessage(rest)
		switch {
		case err != nil:
			return netip.Addr{}
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= destinationAt4+4:
			return netip.AddrFrom4([4]byte(data[destinationAt4:]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= 16:
			return netip.AddrFrom16([16]byte(data))
		}
		rest = next
	}
	return netip.Addr{}
}

// inbox reads the datagrams of a UDP socket, many with one call. It is for one goroutine.
type inbox struct {
	conn  syscall.RawConn
	read  func(fd uintptr) bool // made once, so that a call allocates none
	errno syscall.Errno         // of reading
	n     int                   // how many are there
	*room                       // nil while none are there

	emptied bool // the socket was empty once
	waited  bool // it was not before what is there was read
}

func newInbox(conn syscall.RawConn) *inbox {
	b := &inbox{conn: conn}
	b.read = b.receive
	return b
}

// next waits for datagrams and returns how many there are. What was read before is gone.
func (b *inbox) next() (n int, err error) {
	if err = b.conn.Read(b.read); err == nil && b.errno != 0 {
		err = os.NewSyscallError("recvmmsg", b.errno)
	}
	if err != nil {
		b.release()
		return 0, err
	}
	return b.n, nil
}

// receive reads what is there; false: nothing, and the socket waits without room.
func (b *inbox) receive(fd uintptr) bool {
	if b.room == nil {
		b.room = datagramRooms.get()
	}
	b.waited = !b.emptied
	b.n, b.errno = b.room.receive(fd)
	nothing := b.errno == unix.EAGAIN
	if b.emptied = b.emptied || nothing || b.n < BatchSize; nothing {
		b.release()
	}
	return !nothing
}

// release leaves the room to others.
func (b *inbox) release() {
	if b.room != nil {
		datagramRooms.pool.Put(b.room)
		b.room = nil
	}
}

// maxHead is the room for headers ahead of a message.
const maxHead = 64

// Outbox is messages that are sent with few calls. The zero value is empty.
type Outbox struct {
	n        int // to be sent
	messages [BatchSize]message
	vectors  [BatchSize][2]unix.Iovec
	names    [BatchSize]unix.RawSockaddrInet6
	heads    [BatchSize][maxHead]byte

	send   func(fd uintptr) // made once, so that Flush allocates nothing
	next   int              // to be sent by send
	failed func(at int, err error)
}

// Len returns how many messages it has, at most BatchSize.
func (o *Outbox) Len() int { return o.n }

// To4 adds a message to an IPv4 address, with control messages. Body must stay as it is until
// Flush, as must control.
func (o *Outbox) To4(to netip.AddrPort, control, body []byte) {
	sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&o.names[o.n]))
	*sa = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: to.Addr().As4()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], to.Port())
	o.add(unix.SizeofSockaddrInet4, control, 0, body)
}

// To6 adds a message to an IPv6 address of the link with an ifindex. Body must stay as it is
// until Flush.
func (o *Outbox) To6(to netip.AddrPort, ifindex int, body []byte) {
	sa := &o.names[o.n]
	*sa = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: to.Addr().As16(), Scope_id: uint32(ifindex)}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], to.Port())
	o.add(unix.SizeofSockaddrInet6, nil, 0, body)
}

// ToCard adds an IPv4 packet to a hardware address of the link with an ifindex. It is what
// appendHead appends, at most 64 bytes, and body, which must stay as it is until Flush.
func (o *Outbox) ToCard(hw HWAddr, ifindex int, appendHead func([]byte) []byte, body []byte) {
	sa := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&o.names[o.n]))
	*sa = unix.RawSockaddrLinklayer{Family: unix.AF_PACKET, Protocol: onWire(unix.ETH_P_IP), Ifindex: int32(ifindex), Halen: uint8(len(hw))}
	copy(sa.Addr[:], hw[:])
	o.add(unix.SizeofSockaddrLinklayer, nil, len(appendHead(o.heads[o.n][:0])), body)
}

// add adds the message whose receiver and head stand at its place.
func (o *Outbox) add(nameLen uint32, control []byte, head int, body []byte) {
	h, vectors := &o.messages[o.n].header, &o.vectors[o.n]
	h.Name = (*byte)(unsafe.Pointer(&o.names[o.n]))
	h.Namelen = nameLen
	h.Control = unsafe.SliceData(control)
	h.SetControllen(len(control))
	vectors[0].Base, vectors[1].Base = &o.heads[o.n][0], unsafe.SliceData(body)
	vectors[0].SetLen(head)
	vectors[1].SetLen(len(body))
	h.Iov = &vectors[0]
	h.SetIovlen(len(vectors))
	o.n++
}

// Flush sends the messages, each at once or not at all: whoever answers many must not wait
// for one whose answers don't get away. It tells failed of those that the kernel did not
// take, by their place, with an error as that of Send. The outbox is empty then.
func (o *Outbox) Flush(conn syscall.RawConn, failed func(at int, err error)) {
	if o.send == nil {
		o.send = o.sendAll
	}
	o.next, o.failed = 0, failed
	err := conn.Control(o.send)
	for ; o.next < o.n; o.next++ { // closed
		failed(o.next, err)
	}
	for i := range o.n {
		o.messages[i].header.Control, o.vectors[i][1].Base = nil, nil
	}
	o.n, o.failed = 0, nil
}

// sendAll sends them by a socket.
func (o *Outbox) sendAll(fd uintptr) {
	wasDown := false
	for o.next < o.n {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&o.messages[o.next])), uintptr(o.n-o.next), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == 0:
			o.next += int(n)
		case errno == unix.EINTR:
		case errno == unix.ENETDOWN && !wasDown: // as a packet socket says once, who sends or receives
			wasDown = true
		default: // of the first
			o.failed(o.next, sendError(errno))
			o.next++
		}
	}
}

// sendError is the error of sending: it wraps ErrGone where that is final.
func sendError(err error) error {
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return errors.Join(ErrGone, err)
	}
	return err
}
