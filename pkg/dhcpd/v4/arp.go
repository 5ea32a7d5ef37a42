package v4

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// etherHeader is how long the header of an Ethernet frame is.
const etherHeader = 14

// arpSize is an ARP packet for IPv4 over Ethernet, without the frame's header
// (RFC 826).
const arpSize = 28

// arpHead begins each of them: Ethernet, IPv4, the lengths of their addresses.
var arpHead = [6]byte{0, 1, 8, 0, dhcpd.HWAddrLen, 4}

// arpProbe returns the frame that asks who has a.
//
// RFC 5227, section 1.1: "an ARP Probe is an ARP Request packet, broadcast on the
// local link, with an all-zero 'sender IP address'." So nobody takes the sender
// for one who has an address.
func arpProbe(from dhcpd.HWAddr, a netip.Addr) []byte {
	f := make([]byte, 0, etherHeader+arpSize)
	f = append(f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	f = append(f, from[:]...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_ARP)
	f = append(f, arpHead[:]...)
	f = append(f, 0, 1) // request
	f = append(f, from[:]...)
	f = append(f, 0, 0, 0, 0)
	f = append(f, make([]byte, dhcpd.HWAddrLen)...)
	return append(f, a.AsSlice()...)
}

// arpSender returns who sent a frame with an ARP packet, and the address that he claims to
// have: requests tell of that as well as replies. False when it says nothing.
func arpSender(frame []byte) (netip.Addr, dhcpd.HWAddr, bool) {
	if len(frame) < etherHeader+arpSize || [6]byte(frame[etherHeader:]) != arpHead {
		return netip.Addr{}, dhcpd.HWAddr{}, false
	}
	p := frame[etherHeader:]
	a := netip.AddrFrom4([4]byte(p[14:]))
	return a, dhcpd.HWAddr(p[8:14]), !a.IsUnspecified()
}

// type check
var _ arpLink = (*sockets)(nil)

// Ask implements arpLink.
func (s *sockets) Ask(a netip.Addr) error {
	frame := arpProbe(s.mac, a)
	to := &unix.SockaddrLinklayer{Ifindex: s.index, Halen: dhcpd.HWAddrLen}
	copy(to.Addr[:], frame[:dhcpd.HWAddrLen])
	return iface.Send(s.asks, frame, nil, to)
}

// Heard implements arpLink.
func (s *sockets) Heard() (netip.Addr, dhcpd.HWAddr, error) {
	buf := make([]byte, 128)
	for {
		n, _, err := s.arp.ReadFrom(buf)
		switch {
		case errors.Is(err, unix.ENETDOWN):
			// The bridge went down; it may come back, and the frames go on then.
			continue
		case err != nil:
			return netip.Addr{}, dhcpd.HWAddr{}, err
		}
		if a, hw, ok := arpSender(buf[:n]); ok {
			return a, hw, nil
		}
	}
}
