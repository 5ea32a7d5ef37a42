package diagnose_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
)

// The hardware addresses of the laboratory.
var (
	bridgeMAC = eval.MAC{0x52, 0x54, 0, 0, 0, 1}
	guestMAC  = eval.MAC{0x52, 0x54, 0, 0, 0, 2}
	secondMAC = eval.MAC{0x52, 0x54, 0, 0, 0, 3}
	uplinkMAC = eval.MAC{0x52, 0x54, 0, 0, 0, 4}
	lanMAC    = eval.MAC{0x52, 0x54, 0, 0, 0, 5}
)

// datagram is the IP packet of p.
func datagram(p eval.Packet) []byte {
	body := transportOf(p)
	src, dst := p.Src.AsSlice(), p.Dst.AsSlice()
	pseudo := binary.BigEndian.AppendUint16(append(append([]byte{}, src...), dst...), uint16(len(body)))
	check := nstest.Checksum(pseudo, []byte{0, p.Protocol}, body)
	at := map[uint8]int{eval.TCP: 16, eval.UDP: 6, eval.ICMPv6: 2}[p.Protocol]
	binary.BigEndian.PutUint16(body[at:], check)
	if p.Frame == eval.FrameIPv6 {
		head := binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(body)))
		head = append(head, p.Protocol, 255)
		return append(append(append(head, src...), dst...), body...)
	}
	head := binary.BigEndian.AppendUint16([]byte{0x45, 0}, uint16(20+len(body)))
	head = append(head, 0, 1, 0, 0, 64, p.Protocol, 0, 0)
	head = append(append(head, src...), dst...)
	binary.BigEndian.PutUint16(head[10:], nstest.Checksum(head))
	return append(head, body...)
}

// transportOf is what IP carries, with a checksum of zero.
func transportOf(p eval.Packet) []byte {
	ports := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, p.SrcPort), p.DstPort)
	switch p.Protocol {
	case eval.TCP:
		b := append(ports, 0, 0, 0, 7, 0, 0, 0, 0, 0x50, p.TCPFlags, 0x10, 0, 0, 0, 0, 0)
		if p.TCPFlags&0x10 != 0 {
			b[11] = 8 // acknowledges the first packet of the other side
		}
		return b
	case eval.UDP:
		return append(ports, 0, 12, 0, 0, 'v', 'n', 'e', 't')
	}
	b := append([]byte{p.Type, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 16)...)
	copy(b[8:], p.Dst.AsSlice())
	if p.Type == 133 {
		b = b[:8]
	}
	return b
}

// frame is the Ethernet frame of p.
func frame(p eval.Packet, src, dst eval.MAC) []byte {
	head := binary.BigEndian.AppendUint16(append(append([]byte{}, dst[:]...), src[:]...), p.Frame)
	if p.Frame != eval.FrameARP {
		return append(head, datagram(p)...)
	}
	b := append(head, 0, 1, 8, 0, 6, 4, 0, byte(p.ARPOperation))
	b = append(append(b, src[:]...), p.Src.AsSlice()...)
	return append(append(b, make([]byte, 6)...), p.Dst.AsSlice()...)
}

// tap is a packet socket on a link of a namespace.
type tap struct{ fd int }

// newTap opens one; an empty namespace is the host's.
func newTap(t *testing.T, ns *nstest.NS, link string) *tap {
	t.Helper()
	s := &tap{}
	open := func() error {
		all := int(uint16(unix.ETH_P_ALL)>>8 | uint16(unix.ETH_P_ALL)<<8)
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, all)
		if err != nil {
			return err
		}
		ifi, err := linkIndex(link)
		if err != nil {
			return err
		}
		s.fd = fd
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: ifi})
	}
	var err error
	if ns == nil {
		err = open()
	} else {
		err = ns.Do(open)
	}
	if err != nil {
		t.Fatalf("opening a packet socket on %s: %v", link, err)
	}
	t.Cleanup(func() { _ = unix.Close(s.fd) })
	return s
}

// linkIndex is the index of a link of the thread's namespace.
func linkIndex(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, err
	}
	return int(req.Uint32()), nil
}

// send sends a frame.
func (s *tap) send(t *testing.T, b []byte) {
	t.Helper()
	if _, err := unix.Write(s.fd, b); err != nil {
		t.Fatalf("sending a frame: %v", err)
	}
}

// received are the packets that came in since the last call.
func (s *tap) received() []eval.Packet {
	var all []eval.Packet
	b := make([]byte, 4096)
	for {
		n, from, err := unix.Recvfrom(s.fd, b, 0)
		if err != nil {
			return all
		}
		if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if p, ok := parseFrame(b[:n]); ok {
			all = append(all, p)
		}
	}
}

// parseFrame reads what the laboratory sends.
func parseFrame(b []byte) (p eval.Packet, ok bool) {
	if len(b) < 34 {
		return p, false
	}
	p.Frame = binary.BigEndian.Uint16(b[12:])
	body := b[14:]
	switch p.Frame {
	case eval.FrameARP:
		p.ARPOperation = binary.BigEndian.Uint16(body[6:])
		if len(body) < 28 {
			return p, false
		}
		p.Src, _ = netip.AddrFromSlice(body[14:18])
		p.Dst, _ = netip.AddrFromSlice(body[24:28])
		return p, true
	case eval.FrameIPv4:
		p.Protocol = body[9]
		p.Src, _ = netip.AddrFromSlice(body[12:16])
		p.Dst, _ = netip.AddrFromSlice(body[16:20])
		body = body[20:]
	case eval.FrameIPv6:
		if len(body) < 44 {
			return p, false
		}
		p.Protocol = body[6]
		p.Src, _ = netip.AddrFromSlice(body[8:24])
		p.Dst, _ = netip.AddrFromSlice(body[24:40])
		body = body[40:]
	default:
		return p, false
	}
	if p.Protocol == eval.ICMPv6 {
		p.Type = body[0]
		return p, true
	}
	p.SrcPort, p.DstPort = binary.BigEndian.Uint16(body), binary.BigEndian.Uint16(body[2:])
	return p, true
}

// raw sends an IP packet of this host's by the bridge, through the hooks of layer 3.
func raw(t *testing.T, p eval.Packet, bridge string) {
	t.Helper()
	family, level, option := unix.AF_INET, unix.IPPROTO_IP, unix.IP_HDRINCL
	if p.Frame == eval.FrameIPv6 {
		const hdrincl = 36 // IPV6_HDRINCL of linux/in6.h
		family, level, option = unix.AF_INET6, unix.IPPROTO_IPV6, hdrincl
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	ifi, err := linkIndex(bridge)
	if err != nil {
		t.Fatal(err)
	}
	var to unix.Sockaddr
	if family == unix.AF_INET {
		to = &unix.SockaddrInet4{Addr: p.Dst.As4()}
	} else {
		to = &unix.SockaddrInet6{Addr: p.Dst.As16(), ZoneId: uint32(ifi)}
	}
	err = errors.Join(unix.SetsockoptInt(fd, level, option, 1), unix.BindToDevice(fd, bridge))
	if err != nil {
		t.Fatal(err)
	}
	// A rule that drops it makes it an error of permission.
	if err := unix.Sendto(fd, datagram(p), 0, to); err != nil && !errors.Is(err, unix.EPERM) {
		t.Fatalf("sending %+v: %v", p, err)
	}
}
