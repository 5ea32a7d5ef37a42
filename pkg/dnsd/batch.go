package dnsd

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/dnsd/mmsg"
	"github.com/vnetd/vnetd/pkg/dnsd/upstream"
	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// batchSize is the number of datagrams that one call reads or writes.
const batchSize = 32

// batch reads and writes datagrams of one socket, many with one call, and
// allocates nothing. An answer goes where its query came from, whose address
// stays in the form in which the kernel wrote it.
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

	in  [batchSize]mmsg.Message
	out [batchSize]mmsg.Message

	vectors [2 * batchSize]unix.Iovec
	clients [batchSize]unix.RawSockaddrInet6 // large enough for one of IPv4
	queries [batchSize][wire.PayloadSize]byte
	replies [batchSize][wire.PayloadSize]byte

	questions upstream.Outbox // to be asked on behalf of clients
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
		d.in[i].Header.Name = (*byte)(unsafe.Pointer(&d.clients[i]))
		d.in[i].Header.Namelen = unix.SizeofSockaddrInet6
		d.in[i].Header.Iov = vector
		d.in[i].Header.SetIovlen(1)
		d.out[i].Header.Iov = &d.vectors[batchSize+i]
		d.out[i].Header.SetIovlen(1)
	}
	return d
}

// newBatch prepares to serve a socket.
func newBatch(conn syscall.RawConn) *batch {
	b := &batch{conn: conn}
	b.read = b.receive
	return b
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
		b.in[i].Header.Namelen = unix.SizeofSockaddrInet6
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
	n, errno := mmsg.Receive(fd, b.in[:])
	switch errno {
	case 0:
		b.n = n
	case unix.EAGAIN:
		b.release()
		return false
	default:
		b.err = errno
	}
	return true
}

// query returns the datagram i; what did not fit is cut off.
func (b *batch) query(i int) []byte { return b.queries[i][:min(b.in[i].Length, wire.PayloadSize)] }

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
	out.Header.Name = b.in[i].Header.Name
	out.Header.Namelen = b.in[i].Header.Namelen
	out.Header.Iov.Base = &reply[0]
	out.Header.Iov.SetLen(len(reply))
	b.answers++
}

// flush sends the answers and returns how many could not be sent. It does not
// wait: who gets none asks again.
func (b *batch) flush() (lost int) {
	if b.answers == 0 {
		return 0
	}
	lost = sendAll(b.conn, b.out[:b.answers])
	b.answers = 0
	return lost
}

// sendAll sends answers, none of which must be empty, at once or not at all, and returns how
// many could not be sent: as long as the kernel looks for the neighbour that an answer is for,
// the answer takes room of the socket, and a client that is not there must not have anybody
// wait. A client that gets none asks again.
func sendAll(conn syscall.RawConn, answers []mmsg.Message) (lost int) {
	_ = conn.Control(func(fd uintptr) {
		for len(answers) > 0 {
			n, errno := mmsg.Send(fd, answers)
			if errno != 0 { // of the first
				n = 1
				lost++
			}
			answers = answers[n:]
		}
	})
	return lost + len(answers) // closed
}

// replies are answers to clients that come together and leave together, with one call
// for each socket. They are for one goroutine.
type replies struct {
	counters *counters
	conn     syscall.RawConn // of all of them
	n        int
	out      [batchSize]mmsg.Message
	vectors  [batchSize]unix.Iovec
	clients  [batchSize]unix.RawSockaddrInet6
	data     [batchSize][wire.PayloadSize]byte

	// Room for the answer that is just made, and for what it is made of.
	reply    [wire.PayloadSize]byte
	response wire.Response
}

// idleReplies keeps replies that nobody uses.
var idleReplies = sync.Pool{New: func() any { return newReplies() }}

// newReplies prepares the headers.
func newReplies() *replies {
	r := new(replies)
	for i := range r.out {
		r.out[i].Header.Name = (*byte)(unsafe.Pointer(&r.clients[i]))
		r.out[i].Header.Iov = &r.vectors[i]
		r.out[i].Header.SetIovlen(1)
	}
	return r
}

// replies returns replies that there are none of yet.
func (c *counters) replies() *replies {
	r := idleReplies.Get().(*replies)
	r.counters = c
	return r
}

// sender sends an answer to a client.
type sender interface {
	// send must not block, nor keep reply. together, which may be nil, has the answers that
	// leave together with it.
	send(reply []byte, together *replies)
}

// sendFunc is a sender that is a function.
type sendFunc func(reply []byte, together *replies)

func (f sendFunc) send(reply []byte, together *replies) { f(reply, together) }

// datagram is where a query over UDP came from.
type datagram struct {
	counters *counters
	conn     syscall.RawConn
	client   unix.RawSockaddrInet6
}

// type check
var _ sender = (*datagram)(nil)

func (d *datagram) send(reply []byte, together *replies) {
	if len(reply) == 0 {
		d.counters.dropped.Add(1)
		return
	}
	if together == nil {
		together = d.counters.replies()
		defer together.Flush()
	}
	together.add(d.conn, &d.client, reply)
}

// add has a copy of reply sent to a client by conn.
func (r *replies) add(conn syscall.RawConn, to *unix.RawSockaddrInet6, reply []byte) {
	if r.conn != conn || r.n == batchSize {
		r.send()
	}
	r.conn = conn
	r.clients[r.n] = *to
	r.out[r.n].Header.Namelen = sizeOf(to)
	data := append(r.data[r.n][:0], reply...)
	r.vectors[r.n].Base = &data[0]
	r.vectors[r.n].SetLen(len(data))
	r.n++
}

// send sends what is there.
func (r *replies) send() {
	if r.n > 0 {
		r.counters.dropped.Add(uint64(sendAll(r.conn, r.out[:r.n])))
	}
	r.conn, r.n = nil, 0
}

// Flush sends what is there. r is not to be used any more.
func (r *replies) Flush() {
	r.send()
	idleReplies.Put(r)
}

// sizeOf returns the size of a socket address of either family.
func sizeOf(sa *unix.RawSockaddrInet6) uint32 {
	if sa.Family == unix.AF_INET {
		return unix.SizeofSockaddrInet4
	}
	return unix.SizeofSockaddrInet6
}
