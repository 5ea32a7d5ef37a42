// Package arrival has the sockets by which upstream name servers are asked: it reads their
// answers, many with one call, and finds out by which interface they came in.
//
// Guests are on bridges. One of them may know what the host asks of a server beyond, and
// answer it first, under the server's address: what comes in by a bridge is an answer only if
// the question went out there, so that the bridge has the address that it came from.
package arrival

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/dnsd/mmsg"
	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// Socket is a UDP socket that is connected to a server, and so receives from no other. The
// runtime's poller does not know it: that waits for room to send, too, of which the kernel
// tells with each question that has gone, so that a thread would wake to find nothing to do.
// Receive, Datagram and Close are for one goroutine, the other methods for any.
type Socket struct {
	file    *os.File
	raw     syscall.RawConn // of file
	fd      int             // likewise: for who closes it
	memo    *Memo
	trusted way // of answers that came in before
}

// way is how answers come: by an interface, to an address of ours.
type way struct {
	local netip.Addr
	index int // of the interface
}

// Memo has the way by which the answers of a server were last found to come, for all
// sockets that are connected to it. The zero value has none.
type Memo struct{ known atomic.Pointer[found] }

// found is a way that was found to be as it should, at a time.
type found struct {
	way
	since time.Time
}

// remembered is how long others believe what one has found.
const remembered = time.Second

// Inbox are datagrams that one call reads, with room that is used again.
type Inbox struct {
	in      [inboxSize]mmsg.Message
	vectors [inboxSize]unix.Iovec
	control [inboxSize][controlSize]byte
	data    [inboxSize][wire.MaxQuery]byte
}

const (
	inboxSize   = 32 // datagrams
	controlSize = 64 // octets: room for the one control message that is asked for
)

// idleInboxes keeps those that nobody uses.
var idleInboxes = sync.Pool{New: func() any { return newInbox() }}

// newInbox prepares the headers, which point into the buffers.
func newInbox() *Inbox {
	b := new(Inbox)
	for i := range b.in {
		b.vectors[i].Base = &b.data[i][0]
		b.vectors[i].SetLen(len(b.data[i]))
		b.in[i].Header.Iov = &b.vectors[i]
		b.in[i].Header.SetIovlen(1)
		b.in[i].Header.Control = &b.control[i][0]
	}
	return b
}

// NewInbox returns one, to be released.
func NewInbox() *Inbox { return idleInboxes.Get().(*Inbox) }

// Release leaves b to others: who waits for datagrams keeps no room for them.
func (b *Inbox) Release() { idleInboxes.Put(b) }

// Dial opens a socket that is connected to a server, which m is of, from a port of the kernel's
// choice. It has the kernel say by which interface datagrams come in.
func Dial(server netip.AddrPort, m *Memo) (*Socket, error) {
	to, err := socketAddress(server)
	if err != nil {
		return nil, err
	}
	family, level, option := unix.AF_INET, unix.IPPROTO_IP, unix.IP_PKTINFO
	if _, is6 := to.(*unix.SockaddrInet6); is6 {
		family, level, option = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	}
	// It is a socket that waits, of which the runtime's poller wants none: all calls to it say
	// MSG_DONTWAIT.
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := &Socket{file: os.NewFile(uintptr(fd), "udp"), fd: fd, memo: m}
	if err = unix.SetsockoptInt(fd, level, option, 1); err != nil {
		err = os.NewSyscallError("setsockopt", err)
	} else if err = unix.Connect(fd, to); err != nil {
		err = os.NewSyscallError("connect", err)
	} else if s.trusted.local, err = localAddress(fd); err == nil {
		s.raw, err = s.file.SyscallConn()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("asking %s: %w", server, err), s.file.Close())
	}
	return s, nil
}

// socketAddress returns a server's address as the kernel wants it.
func socketAddress(server netip.AddrPort) (unix.Sockaddr, error) {
	a := server.Addr().Unmap()
	if a.Is4() {
		return &unix.SockaddrInet4{Port: int(server.Port()), Addr: a.As4()}, nil
	}
	to := &unix.SockaddrInet6{Port: int(server.Port()), Addr: a.As16()}
	if zone := a.Zone(); zone != "" {
		index, err := strconv.ParseUint(zone, 10, 32)
		if err != nil {
			link, err := net.InterfaceByName(zone)
			if err != nil {
				return nil, fmt.Errorf("asking %s: %w", server, err)
			}
			index = uint64(link.Index)
		}
		to.ZoneId = uint32(index)
	}
	return to, nil
}

// localAddress returns the address that a socket sends from, without a zone.
func localAddress(fd int) (netip.Addr, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.Addr{}, os.NewSyscallError("getsockname", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr), nil
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr), nil
	}
	return netip.Addr{}, unix.EAFNOSUPPORT
}

// Send sends msg, which must not be empty. It does not wait: what the socket has no room for is
// lost, as what is lost on the way.
func (s *Socket) Send(msg []byte) error {
	var err error
	controlErr := s.raw.Control(func(fd uintptr) {
		for err = unix.EINTR; err == unix.EINTR; {
			err = unix.Send(int(fd), msg, unix.MSG_DONTWAIT)
		}
	})
	if err == unix.EAGAIN || err == unix.ENOBUFS {
		err = nil
	}
	return errors.Join(controlErr, os.NewSyscallError("send", err))
}

// SendAll sends datagrams, of which there must be one, as Send does, with one call if possible.
// It calls failed with the index of each that could not be sent and the reason.
func (s *Socket) SendAll(all []mmsg.Message, failed func(i int, err error)) {
	sent := 0
	err := s.raw.Control(func(fd uintptr) {
		for sent < len(all) {
			n, errno := mmsg.Send(fd, all[sent:])
			switch errno {
			case 0:
				sent += n
			case unix.EAGAIN, unix.ENOBUFS:
				sent++
			default: // of the first
				failed(sent, os.NewSyscallError("sendmmsg", errno))
				sent++
			}
		}
	})
	for ; err != nil && sent < len(all); sent++ {
		failed(sent, err)
	}
}

// Receive reads datagrams that are there into b and returns how many those are: none if
// there are none.
func (s *Socket) Receive(b *Inbox) (int, error) {
	for i := range b.in {
		b.in[i].Header.SetControllen(controlSize)
	}
	n, errno := mmsg.Receive(uintptr(s.fd), b.in[:])
	switch errno {
	case 0:
		return n, nil
	case unix.EAGAIN:
		return 0, nil
	}
	return 0, os.NewSyscallError("recvmmsg", errno)
}

// Descriptor is what Watch.Next calls s by.
func (s *Socket) Descriptor() int { return s.fd }

// Close closes the socket.
func (s *Socket) Close() error { return s.file.Close() }

// Datagram returns the i-th datagram, which s has received; ok is false for one that may be a
// guest's.
func (s *Socket) Datagram(b *Inbox, i int) (msg []byte, ok bool) {
	msg = b.data[i][:min(b.in[i].Length, wire.MaxQuery)]
	index := interfaceOf(b.control[i][:min(b.in[i].Header.Controllen, controlSize)])
	return msg, index == 0 || index == s.trusted.index || s.trusts(index)
}

// trusts reports whether answers may come in by an interface, which is asked of the kernel
// unless another socket of the same server has done so in a moment: it lists all interfaces.
func (s *Socket) trusts(index int) bool {
	through, now := way{s.trusted.local, index}, time.Now()
	if known := s.memo.known.Load(); known == nil || known.way != through || now.Sub(known.since) > remembered {
		if !s.isExpected(index) {
			return false
		}
		s.memo.known.Store(&found{through, now})
	}
	s.trusted = through
	return true
}

// interfaceOf returns the index of the interface in a control message, 0 if it has none.
func interfaceOf(control []byte) int {
	header, data, _, err := unix.ParseOneSocketControlMessage(control)
	switch {
	case err != nil:
	case header.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		return int(binary.NativeEndian.Uint32(data))
	case header.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		return int(binary.NativeEndian.Uint32(data[16:]))
	}
	return 0
}

// isExpected reports whether answers may come in by an interface: it is no bridge, or has
// the address that the question came from.
func (s *Socket) isExpected(index int) bool {
	link, err := net.InterfaceByIndex(index)
	if err != nil || !isBridge(s.fd, link.Name) {
		return err == nil
	}
	addrs, err := link.Addrs()
	if err != nil {
		return false
	}
	for _, one := range addrs {
		if p, err := netip.ParsePrefix(one.String()); err == nil && p.Addr().Unmap() == s.trusted.local {
			return true
		}
	}
	return false
}

// isBridge reports whether an interface is a bridge; fd is any socket.
func isBridge(fd int, name string) bool {
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err != nil {
		return false
	}
	driver, _, _ := strings.Cut(string(info.Driver[:]), "\x00")
	return driver == "bridge"
}
