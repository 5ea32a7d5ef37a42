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

// packetSocket is a socket of packet(7) that nobody waits for. The runtime's
// poller, of which a thread wakes for each frame that comes and for each that has gone, does
// not know it.
type packetSocket struct {
	file *os.File
	raw  syscall.RawConn
}

// openPacket opens one for the packets that come by the interface with an ifindex and pass a filter.
// It is one of all EtherTypes: those get a packet before its protocol does, the others after it,
// and the protocol has to copy each packet for them.
func openPacket(ifindex int, filter []bpf.RawInstruction) (packetSocket, error) {
	// Protocol 0: it gets nothing before the filter is there, and the interface is set.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return packetSocket{}, fmt.Errorf("opening the packet socket: %w", err)
	}
	s := packetSocket{file: os.NewFile(uintptr(fd), "packet")}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: (*unix.SockFilter)(unsafe.Pointer(unsafe.SliceData(filter)))}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: onWire(unix.ETH_P_ALL), Ifindex: ifindex})
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

// onWire is an EtherType as addresses of packet(7) have it.
func onWire(etherType uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, etherType))
}
