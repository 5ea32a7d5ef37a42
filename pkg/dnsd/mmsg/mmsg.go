// Package mmsg reads and writes many datagrams with one call: recvmmsg(2) and
// sendmmsg(2).
//
// Its calls never wait, and the runtime is not told of them (RawSyscall6): it would
// take sending 32 answers, some 150 microseconds, for waiting, and have another thread
// watch and take over, for a fifth more of the CPU time of a DNS query.
package mmsg

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Message is struct mmsghdr: a datagram to be read or written, and how much of it was.
type Message struct {
	Header unix.Msghdr
	Length uint32
}

// Segments is room for the control message of Cut.
type Segments struct {
	header unix.Cmsghdr
	size   uint16
	_      [6]byte // as far as CmsgSpace
}

// Cut has m sent as datagrams of size octets, of which the last may be shorter; the kernel
// carries them as one as far as it can (UDP_SEGMENT, see udp(7)). room must stay as it is until
// m was sent.
func (m *Message) Cut(room *Segments, size int) {
	room.header.Level, room.header.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	room.header.SetLen(unix.CmsgLen(2))
	room.size = uint16(size)
	m.Header.Control = (*byte)(unsafe.Pointer(room))
	m.Header.SetControllen(unix.CmsgSpace(2))
}

// Receive reads as many datagrams as wait at the socket fd and returns how many those
// are. EAGAIN: there is none. all must not be empty.
func Receive(fd uintptr, all []Message) (int, syscall.Errno) {
	return call(unix.SYS_RECVMMSG, fd, all)
}

// Send writes datagrams to the socket fd and returns how many; an error is that of the
// first, and none was written then. all must not be empty.
func Send(fd uintptr, all []Message) (int, syscall.Errno) {
	return call(unix.SYS_SENDMMSG, fd, all)
}

// call is one of the two system calls, made again where a signal interrupts it.
func call(trap, fd uintptr, all []Message) (int, syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(&all[0])), uintptr(len(all)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
