package iface

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// packetSocket is a socket of packet(7) that nobody waits for, but for a moment. The runtime's
// poller, of which a thread wakes for each frame that comes and for each that has gone, does
// not know it.
type packetSocket struct {
	file *os.File
	raw  syscall.RawConn
}

// openPacket opens one for the frames of an EtherType on the interface with an ifindex. kind is
// SOCK_RAW or SOCK_DGRAM. Of EtherType 0 it gets none. A nil filter lets all pass.
func openPacket(ifindex, kind int, etherType uint16, filter []bpf.RawInstruction) (packetSocket, error) {
	// Protocol 0: it gets nothing before the filter is there, and the interface is set.
	fd, err := unix.Socket(unix.AF_PACKET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return packetSocket{}, fmt.Errorf("opening the packet socket: %w", err)
	}
	s := packetSocket{file: os.NewFile(uintptr(fd), "packet")}
	if filter != nil {
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: (*unix.SockFilter)(unsafe.Pointer(unsafe.SliceData(filter)))}
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	}
	if err == nil {
		var wire [2]byte
		binary.BigEndian.PutUint16(wire[:], etherType)
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(wire[:]), Ifindex: ifindex})
	}
	if err == nil {
		GrowBuffers(fd)
		s.raw, err = s.file.SyscallConn()
	}
	if err != nil {
		return packetSocket{}, errors.Join(fmt.Errorf("opening the packet socket: %w", err), s.file.Close())
	}
	return s, nil
}

// await waits for a frame, no longer than so many milliseconds.
func (s packetSocket) await(fd uintptr, most int) {
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, most)
}

// Cards is a socket that sends frames to cards of a link and gets none. It may be used
// concurrently.
type Cards struct{ packetSocket }

// OpenCards opens the socket on the link with an ifindex.
func OpenCards(ifindex int) (*Cards, error) {
	s, err := openPacket(ifindex, unix.SOCK_RAW, 0, nil)
	if err != nil {
		return nil, err
	}
	return &Cards{s}, nil
}

// Conn is the way to send by it, with an Outbox or Send.
func (c *Cards) Conn() syscall.RawConn { return c.raw }

// Close closes the socket.
func (c *Cards) Close() error { return c.file.Close() }
