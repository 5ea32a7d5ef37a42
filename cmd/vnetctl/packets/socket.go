package packets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/api"
)

// maxFrame is the longest frame that a link of Linux carries, as GSO makes them, in bytes.
const maxFrame = 1 << 18

// receiveBuffer is how many bytes wait to be read from one link.
const receiveBuffer = 8 << 20

// Packet is a frame as it passed a link. Data is valid until the next is read.
type Packet struct {
	At       time.Time
	Link     int // the place of the link among those of the Sockets
	Outgoing bool
	Data     []byte // with its tag of a VLAN
}

// Sockets hear several links.
type Sockets struct {
	filter  Filter
	fds     []unix.PollFd
	buffer  []byte
	control []byte
}

// Open hears of links of the caller's network namespace what a filter wants. The error is of the kind Denied without CAP_NET_RAW.
func Open(links []string, filter Filter) (*Sockets, error) {
	s := &Sockets{filter: filter, buffer: make([]byte, maxFrame), control: make([]byte, 256)}
	for _, name := range links {
		fd, err := open(name, filter.kernel)
		if err != nil {
			s.Close()
			return nil, err
		}
		s.fds = append(s.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	return s, nil
}

// open returns a packet socket that hears one link.
func open(name string, filter []bpf.RawInstruction) (fd int, err error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return -1, api.Errorf(api.NotFound, "there is no link %q in this network namespace", name)
	}
	// Protocol 0: nothing is heard until the filter is there and the link known.
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		return -1, api.Errorf(api.Denied, "hearing the packets of a link takes the capability CAP_NET_RAW: run it as root")
	case err != nil:
		return -1, fmt.Errorf("opening a packet socket: %w", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if err := attach(fd, filter); err != nil {
		return -1, fmt.Errorf("the kernel refuses the filter: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	for _, option := range [][2]int{{unix.SOL_PACKET, unix.PACKET_AUXDATA}, {unix.SOL_SOCKET, unix.SO_TIMESTAMPNS}} {
		if err := unix.SetsockoptInt(fd, option[0], option[1], 1); err != nil {
			return -1, fmt.Errorf("setting up a packet socket: %w", err)
		}
	}
	all := uint16(unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}); err != nil {
		return -1, fmt.Errorf("hearing link %q: %w", name, err)
	}
	return fd, nil
}

// attach puts a filter before a socket.
func attach(fd int, filter []bpf.RawInstruction) error {
	if len(filter) == 0 {
		return nil
	}
	code := make([]unix.SockFilter, len(filter))
	for i, in := range filter {
		code[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
}

// Close ends hearing.
func (s *Sockets) Close() {
	for _, fd := range s.fds {
		_ = unix.Close(int(fd.Fd))
	}
	s.fds = nil
}

// Lost returns how many packets came faster than they were read, since it was last asked.
func (s *Sockets) Lost() (lost int) {
	for _, fd := range s.fds {
		if stats, err := unix.GetsockoptTpacketStats(int(fd.Fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			lost += int(stats.Drops)
		}
	}
	return lost
}

// Read calls f with what passes until wait is over or f returns false, and reports whether
// it did. A link that goes away says nothing more.
func (s *Sockets) Read(wait time.Duration, f func(Packet) bool) (ended bool, err error) {
	n, err := unix.Poll(s.fds, int(max(wait, 0).Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return false, os.NewSyscallError("poll", err)
	}
	for i := range s.fds {
		if n <= 0 || s.fds[i].Revents == 0 {
			continue
		}
		if s.drain(i, f) {
			return true, nil
		}
	}
	return false, nil
}

// burst is how many packets of one link are read before the next link's turn.
const burst = 256

// drain reads what waits of a link.
func (s *Sockets) drain(link int, f func(Packet) bool) (ended bool) {
	for range burst {
		p, err := s.receive(link)
		if err != nil { // nothing waits, or the link went down
			return false
		}
		if s.filter.Wants(p.Data) && !f(p) {
			return true
		}
	}
	return false
}

// headroom is left before a frame for its tag, which the kernel tells beside it.
const headroom = 4

// receive reads one packet.
func (s *Sockets) receive(link int) (Packet, error) {
	n, oobn, _, from, err := unix.Recvmsg(int(s.fds[link].Fd), s.buffer[headroom:], s.control, 0)
	if err != nil {
		return Packet{}, err
	}
	p := Packet{At: time.Now(), Link: link, Data: s.buffer[headroom : headroom+n]}
	if ll, ok := from.(*unix.SockaddrLinklayer); ok {
		p.Outgoing = ll.Pkttype == unix.PACKET_OUTGOING
	}
	messages, _ := unix.ParseSocketControlMessage(s.control[:oobn])
	for _, m := range messages {
		s.note(&p, m)
	}
	return p, nil
}

// note reads what the kernel tells beside a packet: when it came (socket(7)), and the tag
// that it took off (packet(7)).
func (s *Sockets) note(p *Packet, m unix.SocketControlMessage) {
	switch {
	case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})):
		ts := (*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
		p.At = time.Unix(int64(ts.Sec), int64(ts.Nsec)) //nolint:unconvert // 32 bits on some machines
	case m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 20:
		status := binary.NativeEndian.Uint32(m.Data)
		tci, tpid := binary.NativeEndian.Uint16(m.Data[16:]), binary.NativeEndian.Uint16(m.Data[18:])
		if status&unix.TP_STATUS_VLAN_VALID == 0 || len(p.Data) < 12 {
			return
		}
		if status&unix.TP_STATUS_VLAN_TPID_VALID == 0 {
			tpid = TypeVLAN
		}
		n := len(p.Data)
		copy(s.buffer, s.buffer[headroom:headroom+12])
		binary.BigEndian.PutUint16(s.buffer[12:], tpid)
		binary.BigEndian.PutUint16(s.buffer[14:], tci)
		p.Data = s.buffer[:n+headroom]
	}
}
