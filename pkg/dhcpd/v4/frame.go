package v4

import (
	"encoding/binary"
	"net/netip"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// UDP ports (RFC 2131, section 4.1).
const (
	serverPort = 67
	clientPort = 68
)

// Parts of an Ethernet frame that carries UDP.
const (
	etherHeader   = 14
	etherTypeIPv4 = 0x0800
	ipHeader      = 20
	udpHeader     = 8
	ipTTL         = 64
	protoUDP      = 17
)

// udpFrame returns the Ethernet frame that carries payload from the server's port of
// src to dst. All checksums are in it, so that no offload need fill them in.
func udpFrame(from, to dhcpd.HWAddr, src netip.Addr, dst netip.AddrPort, payload []byte) []byte {
	udpLen := udpHeader + len(payload)
	f := make([]byte, etherHeader+ipHeader, etherHeader+ipHeader+udpLen)
	copy(f, to[:])
	copy(f[dhcpd.HWAddrLen:], from[:])
	be := binary.BigEndian
	be.PutUint16(f[2*dhcpd.HWAddrLen:], etherTypeIPv4)

	// RFC 791, section 3.1.
	ip := f[etherHeader:]
	ip[0] = 4<<4 | ipHeader/4
	be.PutUint16(ip[2:], uint16(ipHeader+udpLen))
	ip[8], ip[9] = ipTTL, protoUDP
	srcIP, dstIP := src.As4(), dst.Addr().As4()
	copy(ip[12:], srcIP[:])
	copy(ip[16:], dstIP[:])
	be.PutUint16(ip[10:], ^fold(sum(ip)))

	// RFC 768.
	f = be.AppendUint16(f, serverPort)
	f = be.AppendUint16(f, dst.Port())
	f = be.AppendUint16(f, uint16(udpLen))
	f = be.AppendUint16(f, 0)
	f = append(f, payload...)
	udp := f[etherHeader+ipHeader:]
	check := ^fold(sum(ip[12:20]) + sum(udp) + protoUDP + uint32(udpLen))
	if check == 0 {
		check = 0xffff // "If the computed checksum is zero, it is transmitted as all ones"
	}
	be.PutUint16(udp[6:], check)
	return f
}

// sum adds up the 16-bit words of b, the last one padded with zero (RFC 1071).
// It does not overflow for a packet's length.
func sum(b []byte) uint32 {
	var s uint32
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

// fold makes the one's complement sum of 16 bits from s.
func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
