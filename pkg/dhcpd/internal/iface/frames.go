package iface

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// HWAddr is an Ethernet address that can be compared.
type HWAddr [6]byte

func (h HWAddr) String() string { return net.HardwareAddr(h[:]).String() }

// Parts of IP packets that carry UDP (RFC 791, section 3.1; RFC 8200, section 3; RFC 768).
const (
	protocolAt4   = 9
	fragmentAt4   = 6
	sourceAt4     = 12
	nextHeaderAt6 = 6
	sourceAt6     = 8
	ipHeader6     = 40
	udpHeader     = 8
	maxIPHeader   = 60
)

// frameWait is how long the kernel may take to show the frame of a datagram. It comes
// first to the UDP socket, and to the other within the same interrupt.
const frameWait = 10 * time.Millisecond

// How many frames may wait for their datagrams, for how long, and how much of a message is
// compared.
const (
	maxFrames   = 1024
	frameAge    = 2 * time.Second
	frameCopied = 512
)

// Frames tells from which hardware address a datagram came: what a message says of its
// sender, the sender has written. It sees the frames of the datagrams that a UDP socket
// gets, in the same order. For one goroutine.
type Frames struct {
	socket packetSocket
	ip6    bool
	seen   []frame // not asked for yet, oldest first
	missed bool    // the last one that was asked for did not come
	seed   maphash.Seed

	read  func(fd uintptr) // made once, so that a call allocates none
	in    *room            // what it reads into; nil otherwise
	n     int              // what it has read
	errno syscall.Errno    // or why it did not
}

// frame is where a message came from.
type frame struct {
	src  netip.AddrPort
	sum  uint64 // of the message's beginning; nobody outside knows the seed
	hw   HWAddr
	came time.Time
}

// ListenFrames opens the socket on an interface, for datagrams to a UDP port of one family;
// if first is not 0, for those alone whose message begins with it.
func ListenFrames(ifi *net.Interface, ip6 bool, port, first uint16) (*Frames, error) {
	filter, err := bpf.Assemble(frameFilter(ip6, port, first))
	if err != nil {
		return nil, fmt.Errorf("making the filter of frames: %w", err)
	}
	etherType := uint16(unix.ETH_P_IP)
	if ip6 {
		etherType = unix.ETH_P_IPV6
	}
	socket, err := openPacket(ifi.Index, etherType, filter)
	if err != nil {
		return nil, err
	}
	f := &Frames{socket: socket, ip6: ip6, seed: maphash.MakeSeed()}
	f.read = f.readSome
	return f, nil
}

// frameFilter lets the beginning of datagrams to a port pass, and nothing else. Of
// fragments the first has the port; it is less than the datagram and fits none.
func frameFilter(ip6 bool, port, first uint16) []bpf.Instruction {
	filter := []bpf.Instruction{
		bpf.LoadAbsolute{Off: protocolAt4, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP},
		bpf.LoadAbsolute{Off: fragmentAt4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff},
		bpf.LoadMemShift{Off: 0},
	}
	if ip6 {
		filter = []bpf.Instruction{
			bpf.LoadAbsolute{Off: nextHeaderAt6, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP},
			bpf.LoadConstant{Dst: bpf.RegX, Val: ipHeader6},
		}
	}
	filter = append(filter, bpf.LoadIndirect{Off: 2, Size: 2}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(port)})
	if first != 0 {
		filter = append(filter, bpf.LoadIndirect{Off: udpHeader, Size: 2}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(first)})
	}
	filter = append(filter, bpf.RetConstant{Val: maxIPHeader + udpHeader + frameCopied}, bpf.RetConstant{Val: 0})
	for i, step := range filter {
		if jump, ok := step.(bpf.JumpIf); ok { // to the last
			jump.SkipTrue = uint8(len(filter) - i - 2)
			filter[i] = jump
		}
	}
	return filter
}

// Source returns the hardware address that sent a message, all zero when its frame was
// not seen: it came in fragments, or to a former process.
func (f *Frames) Source(src netip.AddrPort, message []byte) HWAddr {
	src = netip.AddrPortFrom(src.Addr().WithZone("").Unmap(), src.Port())
	sum := maphash.Bytes(f.seed, message[:min(len(message), frameCopied)])
	now := time.Now()
	f.forget(now.Add(-frameAge))
	for n := 0; ; n++ {
		if n == len(f.seen) && !f.receive(now) {
			f.missed = true
			return HWAddr{}
		}
		if got := &f.seen[n]; got.src == src && got.sum == sum {
			hw := got.hw
			f.seen = append(f.seen[:n], f.seen[n+1:]...)
			f.missed = false
			return hw
		}
	}
}

// forget gives up frames that came before a time: their datagrams were lost.
func (f *Frames) forget(before time.Time) {
	n := 0
	for n < len(f.seen) && f.seen[n].came.Before(before) {
		n++
	}
	f.seen = append(f.seen[:0], f.seen[n:]...)
}

// receive adds the frames that are there to those seen. It waits a moment for one where there
// is none, unless the last one did not come: there may be many such. False: there is none.
func (f *Frames) receive(now time.Time) bool {
	if len(f.seen) >= maxFrames {
		f.seen = f.seen[:0]
		return false
	}
	f.in = frameRooms.get()
	defer func() { frameRooms.pool.Put(f.in); f.in = nil }()
	if err := f.socket.raw.Control(f.read); err != nil || f.errno != 0 {
		return false
	}
	for i := range f.n {
		got, whole := f.parse(f.in.body(i))
		hw, ok := f.in.card(i)
		if got.hw, got.came = hw, now; !ok || !whole {
			got = frame{came: now} // fits no datagram
		}
		f.seen = append(f.seen, got)
	}
	return f.n > 0
}

// readSome reads the frames that are there, as receive has it.
func (f *Frames) readSome(fd uintptr) {
	if f.n, f.errno = f.in.receive(fd); f.errno == unix.EAGAIN && !f.missed {
		f.socket.await(fd, int(frameWait.Milliseconds()))
		f.n, f.errno = f.in.receive(fd)
	}
	if f.errno == unix.ENETDOWN { // the bridge was down, as the kernel says once
		f.n, f.errno = f.in.receive(fd)
	}
}

// parse returns where a packet came from, and its message as far as it was copied. False
// when it is cut off.
func (f *Frames) parse(b []byte) (frame, bool) {
	var got frame
	var src netip.Addr
	head := ipHeader6
	switch {
	case f.ip6 && len(b) >= ipHeader6:
		src = netip.AddrFrom16([16]byte(b[sourceAt6:]))
	case !f.ip6 && len(b) >= sourceAt4+4:
		head = int(b[0]&15) * 4
		src = netip.AddrFrom4([4]byte(b[sourceAt4:]))
	default:
		return frame{}, false
	}
	if len(b) < head+udpHeader {
		return frame{}, false
	}
	udp := b[head:]
	got.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(udp))
	size := int(binary.BigEndian.Uint16(udp[4:])) - udpHeader
	if size < 0 || min(size, frameCopied) > len(udp)-udpHeader {
		return frame{}, false
	}
	got.sum = maphash.Bytes(f.seed, udp[udpHeader:udpHeader+min(size, frameCopied)])
	return got, true
}

// Close closes the socket.
func (f *Frames) Close() error { return f.socket.file.Close() }
