package dnsd

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// batchSize is the number of datagrams that one call reads or writes.
const batchSize = 32

// message is struct mmsghdr of recvmmsg(2).
type message struct {
	header unix.Msghdr
	length uint32
}

// batch reads and writes datagrams of one socket, many with one call, and
// allocates nothing. An answer goes where its query came from, whose address
// stays in the form in which the kernel wrote it.
//
// Its system calls never wait, and the runtime is not told of them (RawSyscall6):
// it would take sending 32 answers, some 150 microseconds, for waiting, and have
// another thread watch and take over, for a fifth more of the CPU time of a query.
type batch struct {
	conn syscall.RawConn
	read func(fd uintptr) bool // made once, so that a call allocates none
	err  error                 // of reading

	*datagrams // nil while none are there: a quiet network keeps no buffers
}

// datagrams are what one call reads and what is sent back, in memory that all
// sockets share.
type datagrams struct {
	n       int // read
	answers int // of out, to be sent

	in  [batchSize]message
	out [batchSize]message

	vectors [2 * batchSize]unix.Iovec
	clients [batchSize]unix.RawSockaddrInet6 // large enough for one of IPv4
	queries [batchSize][wire.PayloadSize]byte
	replies [batchSize][wire.PayloadSize]byte
}

// spare keeps datagrams that no socket uses, for the next one that reads.
var spare = sync.Pool{New: func() any { return newDatagrams() }}

// newDatagrams prepares the headers, which point into the buffers.
func newDatagrams() *datagrams {
	d := new(datagrams)
	for i := range d.in {
		vector := &d.vectors[i]
		vector.Base = &d.queries[i][0]
		vector.SetLen(wire.PayloadSize)
		d.in[i].header.Name = (*byte)(unsafe.Pointer(&d.clients[i]))
		d.in[i].header.Namelen = unix.SizeofSockaddrInet6
		d.in[i].header.Iov = vector
		d.in[i].header.SetIovlen(1)
		d.out[i].header.Iov = &d.vectors[batchSize+i]
		d.out[i].header.SetIovlen(1)
	}
	return d
}

// newBatch prepares to serve c.
func newBatch(c *net.UDPConn) (*batch, error) {
	conn, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	b := &batch{conn: conn}
	b.read = b.receive
	return b, nil
}

// next waits for datagrams and returns how many there are, at least one without
// an error. What was read before is gone.
func (b *batch) next() (int, error) {
	b.err = nil
	err := errors.Join(b.conn.Read(b.read), b.err)
	if err != nil {
		b.release()
		return 0, err
	}
	return b.n, nil
}

// acquire makes room for datagrams.
func (b *batch) acquire() {
	if b.datagrams == nil {
		b.datagrams = spare.Get().(*datagrams)
	}
	for i := range b.in[:b.n] {
		b.in[i].header.Namelen = unix.SizeofSockaddrInet6
	}
	b.n = 0
}

// release leaves the room to others.
func (b *batch) release() {
	if b.datagrams != nil {
		spare.Put(b.datagrams)
		b.datagrams = nil
	}
}

// receive reads what is there; false: nothing, and the socket waits without
// buffers.
func (b *batch) receive(fd uintptr) bool {
	b.acquire()
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.in[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			b.n = int(n)
			return true
		case unix.EAGAIN:
			b.release()
			return false
		case unix.EINTR:
		default:
			b.err = errno
			return true
		}
	}
}

// query returns the datagram i; what did not fit is cut off.
func (b *batch) query(i int) []byte { return b.queries[i][:min(b.in[i].length, wire.PayloadSize)] }

// port returns the port of who sent the datagram i: in the byte order of the network, at
// the same place in both families.
func (b *batch) port(i int) uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&b.clients[i].Port))[:])
}

// client returns who sent the datagram i.
func (b *batch) client(i int) netip.AddrPort {
	sa := &b.clients[i]
	if sa.Family == unix.AF_INET {
		sa4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(sa4.Addr), b.port(i))
	}
	a := netip.AddrFrom16(sa.Addr)
	if sa.Scope_id != 0 {
		a = a.WithZone(strconv.FormatUint(uint64(sa.Scope_id), 10))
	}
	return netip.AddrPortFrom(a, b.port(i))
}

// answer has reply, which must stay as it is until flush, sent to who sent the
// datagram i.
func (b *batch) answer(i int, reply []byte) {
	out := &b.out[b.answers]
	out.header.Name = b.in[i].header.Name
	out.header.Namelen = b.in[i].header.Namelen
	out.header.Iov.Base = &reply[0]
	out.header.Iov.SetLen(len(reply))
	b.answers++
}

// flush sends the answers and returns how many could not be sent. It does not
// wait: who gets none asks again.
func (b *batch) flush() (lost int) {
	next := 0
	_ = b.conn.Control(func(fd uintptr) {
		for next < b.answers {
			n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.out[next])), uintptr(b.answers-next), unix.MSG_DONTWAIT, 0, 0)
			switch errno {
			case 0:
				next += int(n)
			case unix.EINTR:
			default: // of the first
				next++
				lost++
			}
		}
	})
	lost += b.answers - next // closed
	b.answers = 0
	return lost
}

// errEmpty is the error of an answer that is none.
var errEmpty = errors.New("there is no answer")

// sendUDP sends b to a client, at once or not at all: as long as the kernel looks for the
// neighbour that an answer is for, the answer takes room of the socket, and a client that is
// not there must not have anybody wait. A client that gets none asks again.
func sendUDP(conn syscall.RawConn, to unix.RawSockaddrInet6, b []byte) error {
	if len(b) == 0 {
		return errEmpty
	}
	var errno syscall.Errno
	err := conn.Control(func(fd uintptr) {
		for {
			_, _, errno = unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&to)), sizeOf(&to))
			if errno != unix.EINTR {
				return
			}
		}
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return err
}

// sizeOf returns the size of a socket address of either family.
func sizeOf(sa *unix.RawSockaddrInet6) uintptr {
	if sa.Family == unix.AF_INET {
		return unix.SizeofSockaddrInet4
	}
	return unix.SizeofSockaddrInet6
}
