package iface

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"slices"
	"sync"
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
	ipHeader4     = 20
	ipHeader6     = 40
	udpHeader     = 8
	maxIPHeader   = 60
)

// How many frames may wait for their datagrams, more than a socket holds of either, for how
// long, and how much of a message is compared.
const (
	maxFrames   = 16384
	frameAge    = 10 * time.Second
	frameSlack  = 256 // how far they may be out of order, where several processors receive
	frameCopied = 512
)

// More frames than manyFrames at a time are a flood, or a host full of guests that boot. A
// list of more than roomFrames is not kept once it is empty.
const (
	manyFrames = 2 * BatchSize
	roomFrames = 1024
)

// Frames tells from which hardware address a datagram came: what a message says of its
// sender, the sender has written. It sees the frames of the datagrams that a UDP socket
// gets, each before its datagram is there, and others that the UDP socket does not get:
// those to somebody else's address, and those whose checksum is wrong. It may be used
// concurrently.
type Frames struct {
	socket packetSocket
	ip6    bool
	seed   maphash.Seed
	began  time.Time

	mu    sync.Mutex       // guards what follows
	seen  []frame          // not asked for yet, oldest first, besides those that were taken
	taken int              // the newest of seen that was
	read  func(fd uintptr) // made once, so that a call allocates none
	in    *room            // what it reads into; nil otherwise
	n     int              // what it has read
	errno syscall.Errno    // or why it did not
}

// frame is where a message came from.
type frame struct {
	sum  uint64        // see Frames.sum; 0 once it was taken
	came time.Duration // since Frames.began
	hw   HWAddr
}

// ListenFrames opens the socket on an interface, for datagrams to a UDP port of one family;
// if first is not 0, for those alone whose message begins with it.
func ListenFrames(ifi *net.Interface, ip6 bool, port, first uint16) (*Frames, error) {
	filter, err := bpf.Assemble(frameFilter(ip6, port, first))
	if err != nil {
		return nil, fmt.Errorf("making the filter of frames: %w", err)
	}
	socket, err := openPacket(ifi.Index, filter)
	if err != nil {
		return nil, err
	}
	f := &Frames{socket: socket, ip6: ip6, seed: maphash.MakeSeed(), began: time.Now()}
	f.read = f.readSome
	return f, nil
}

// frameFilter lets the beginning of datagrams to a port pass, and nothing else: nothing of
// frames to other cards, which a promiscuous bridge shows, and of those that the host sends. Of fragments the first has the port; it is less than the datagram and fits none.
func frameFilter(ip6 bool, port, first uint16) []bpf.Instruction {
	// Not of a VLAN's tag: before Linux 6.2 one is shown that a bridge has taken off.
	etherType, header := uint32(unix.ETH_P_IP), []bpf.Instruction{
		bpf.LoadAbsolute{Off: protocolAt4, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP},
		bpf.LoadAbsolute{Off: fragmentAt4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff},
		bpf.LoadMemShift{Off: 0},
	}
	if ip6 {
		etherType, header = unix.ETH_P_IPV6, []bpf.Instruction{
			bpf.LoadAbsolute{Off: nextHeaderAt6, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP},
			bpf.LoadConstant{Dst: bpf.RegX, Val: ipHeader6},
		}
	}
	filter := append([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtProto},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: etherType},
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: unix.PACKET_OTHERHOST},
	}, header...)
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

// Source returns the hardware address that sent a message from src to dst, which is to be
// called after Collect. It is all zero when its frame was not seen, because it came in fragments or
// to a former process, and when nobody can tell whose of several cards it is: anybody may send
// the same bytes as somebody else. Of these it is the one that the message says is its
// sender's, which is zero where it does not say.
func (f *Frames) Source(src netip.AddrPort, dst netip.Addr, message []byte, says HWAddr) (hw HWAddr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	sum := f.sum(src, dst, message)
	only, several := -1, false
	for i := range f.seen {
		got := &f.seen[i]
		switch {
		case got.sum != sum:
		case got.hw == says:
			got.sum, f.taken = 0, max(f.taken, i)
			return says
		case only < 0:
			only = i
		case got.hw != f.seen[only].hw:
			several = true
		}
	}
	switch {
	case only < 0:
	case several:
		f.drop(sum)
	default:
		hw, f.seen[only].sum, f.taken = f.seen[only].hw, 0, max(f.taken, only)
	}
	return hw
}

// drop takes all frames of a message.
func (f *Frames) drop(sum uint64) {
	for i := range f.seen {
		if f.seen[i].sum == sum {
			f.seen[i].sum = 0
		}
	}
}

// sum is that of a message's beginning and of its ends. Nobody outside knows the seed.
func (f *Frames) sum(src netip.AddrPort, dst netip.Addr, message []byte) uint64 {
	from, to := src.Addr().As16(), dst.As16()
	var ends [2*16 + 2]byte
	copy(ends[:], from[:])
	copy(ends[16:], to[:])
	binary.BigEndian.PutUint16(ends[2*16:], src.Port())
	return maphash.Bytes(f.seed, ends[:]) + maphash.Bytes(f.seed, message[:min(len(message), frameCopied)])
}

// Collect takes in the frames that are there: those of all datagrams that the UDP socket has
// are among them. It is to be called now and then also where no datagram comes, since the
// kernel has no room for the next ones otherwise, and soon again where many came.
func (f *Frames) Collect() (many bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Since(f.began)
	f.forget(now - frameAge)
	f.in = frameRooms.get()
	defer func() { frameRooms.pool.Put(f.in); f.in = nil }()
	total := 0
	for full := true; full && total < maxFrames; total += f.n {
		if err := f.socket.raw.Control(f.read); err != nil || f.errno != 0 {
			break
		}
		full = f.n == BatchSize
		f.take(now)
	}
	return total > manyFrames
}

// take adds what was read to the frames seen. Where there are too many the oldest go: it is the
// newest that are asked for.
func (f *Frames) take(now time.Duration) {
	if len(f.seen)+f.n > maxFrames {
		f.seen = append(f.seen[:0], f.seen[maxFrames/2:]...)
	}
	for i := range f.n {
		sum, whole := f.parse(f.in.body(i))
		if hw, ok := f.in.card(i); ok && whole {
			f.seen = append(f.seen, frame{sum: sum, came: now, hw: hw})
		}
	}
}

// forget gives up frames that were taken, and those whose datagrams were lost: that came before a time,
// or well ahead of one that was taken.
func (f *Frames) forget(before time.Duration) {
	f.seen, f.taken = slices.Delete(f.seen, 0, max(0, f.taken-frameSlack)), 0
	f.seen = slices.DeleteFunc(f.seen, func(got frame) bool { return got.sum == 0 || got.came < before })
	if len(f.seen) == 0 && cap(f.seen) > roomFrames {
		f.seen = nil
	}
}

// readSome reads the frames that are there, as Collect has it.
func (f *Frames) readSome(fd uintptr) {
	f.n, f.errno = f.in.receive(fd)
	if f.errno == unix.ENETDOWN { // the bridge was down, as the kernel says once
		f.n, f.errno = f.in.receive(fd)
	}
	if f.errno != 0 {
		f.n = 0
	}
}

// parse returns the sum of a packet, as far as it was copied. False when it is cut off.
func (f *Frames) parse(b []byte) (sum uint64, whole bool) {
	var src, dst netip.Addr
	head := ipHeader6
	switch {
	case f.ip6 && len(b) >= ipHeader6:
		src, dst = netip.AddrFrom16([16]byte(b[sourceAt6:])), netip.AddrFrom16([16]byte(b[sourceAt6+16:]))
	case !f.ip6 && len(b) >= ipHeader4:
		head = int(b[0]&15) * 4
		src, dst = netip.AddrFrom4([4]byte(b[sourceAt4:])), netip.AddrFrom4([4]byte(b[sourceAt4+4:]))
	default:
		return 0, false
	}
	if len(b) < head+udpHeader {
		return 0, false
	}
	udp := b[head:]
	size := int(binary.BigEndian.Uint16(udp[4:])) - udpHeader
	if size < 0 || min(size, frameCopied) > len(udp)-udpHeader {
		return 0, false
	}
	return f.sum(netip.AddrPortFrom(src, binary.BigEndian.Uint16(udp)), dst, udp[udpHeader:udpHeader+min(size, frameCopied)]), true
}

// Close closes the socket.
func (f *Frames) Close() error { return f.socket.file.Close() }
