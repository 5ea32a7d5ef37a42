package v6

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// Parts of an IPv6 packet that carries UDP (RFC 8200, section 3; RFC 768).
const (
	nextHeaderAt = 6
	sourceAt     = 8
	ipHeader     = 40
	dstPortAt    = ipHeader + 2
	messageAt    = ipHeader + 8
	protoUDP     = 17
)

// frameWait is how long the kernel may take to show the frame of a datagram. It comes
// first to the UDP socket, and to the other within the same interrupt.
const frameWait = 10 * time.Millisecond

// maxFrames is how many frames may wait for their datagrams.
const maxFrames = 1024

// frames tells from which hardware address a datagram came. Guests with stable, opaque
// link-local addresses (RFC 7217) and a DUID that is made of no address tell it nowhere
// else. It sees the frames of the datagrams that the UDP socket gets, in the same
// order. For one goroutine.
type frames struct {
	conn   *packet.Conn
	raw    syscall.RawConn // of conn
	seen   []frame         // not asked for yet, oldest first
	missed bool            // the last one that was asked for did not come
	buf    []byte
}

// frame is where a message came from.
type frame struct {
	src   netip.Addr
	start [header]byte // of the message: type and transaction
	hw    dhcpd.HWAddr
}

// listenFrames opens the socket on an interface.
func listenFrames(ifi *net.Interface) (*frames, error) {
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: nextHeaderAt, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoUDP, SkipTrue: 3},
		bpf.LoadAbsolute{Off: dstPortAt, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: serverPort, SkipTrue: 1},
		bpf.RetConstant{Val: messageAt + header},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, fmt.Errorf("making the filter of frames: %w", err)
	}
	conn, err := packet.Listen(ifi, packet.Datagram, unix.ETH_P_IPV6, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("opening the packet socket: %w", err)
	}
	f := &frames{conn: conn, buf: make([]byte, messageAt+header)}
	f.raw, err = conn.SyscallConn()
	if err == nil {
		err = f.raw.Control(func(fd uintptr) { iface.GrowBuffer(int(fd)) })
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the packet socket: %w", err), conn.Close())
	}
	return f, nil
}

// source returns the hardware address that sent a message, all zero when its frame was
// not seen: it came in fragments, or to a former process.
func (f *frames) source(d *dhcpd.Datagram) dhcpd.HWAddr {
	if len(d.Payload) < header {
		return dhcpd.HWAddr{}
	}
	want := frame{src: d.Src.Addr().WithZone(""), start: [header]byte(d.Payload)}
	_ = f.conn.SetReadDeadline(time.Now().Add(frameWait))
	for n := 0; ; n++ {
		if n == len(f.seen) && !f.receive() {
			f.missed = true
			return dhcpd.HWAddr{}
		}
		if got := f.seen[n]; got.src == want.src && got.start == want.start {
			f.seen = append(f.seen[:0], f.seen[n+1:]...)
			f.missed = false
			return got.hw
		}
	}
}

// receive adds the next frame to those seen. It returns false when there is none until
// the deadline, or none now if the last one did not come: there may be many such.
func (f *frames) receive() bool {
	if len(f.seen) == maxFrames {
		f.seen = f.seen[:0]
		return false
	}
	var n int
	var from unix.Sockaddr
	var err error
	readErr := f.raw.Read(func(fd uintptr) bool {
		n, from, err = unix.Recvfrom(int(fd), f.buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.ENETDOWN) { // the bridge was down, as the kernel says once
			n, from, err = unix.Recvfrom(int(fd), f.buf, unix.MSG_DONTWAIT)
		}
		return f.missed || !errors.Is(err, unix.EAGAIN)
	})
	addr, ok := from.(*unix.SockaddrLinklayer)
	if readErr != nil || err != nil || !ok || n < messageAt+header || addr.Halen != dhcpd.HWAddrLen {
		return false
	}
	src := netip.AddrFrom16([16]byte(f.buf[sourceAt:]))
	f.seen = append(f.seen, frame{src, [header]byte(f.buf[messageAt:]), dhcpd.HWAddr(addr.Addr[:dhcpd.HWAddrLen])})
	return true
}
