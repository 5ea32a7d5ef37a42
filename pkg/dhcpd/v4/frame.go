package v4

import (
	"encoding/binary"
	"net/netip"
)

// UDP ports (RFC 2131, section 4.1).
const (
	serverPort = 67
	clientPort = 68
)

// Parts of an IPv4 packet that carries UDP.
const (
	ipHeader  = 20
	udpHeader = 8
	ipTTL     = 64
	protoUDP  = 17
)

// appendHead appends what is ahead of payload in the packet that carries it from the server's
// port of src to dst. All checksums are in it, so that no offload need fill them in.
func appendHead(f []byte, src netip.Addr, dst netip.AddrPort, payload []byte) []byte {
	udpLen := udpHeader + len(payload)
	be := binary.BigEndian

	// RFC 791, section 3.1.
	at := len(f)
	f = append(f, 4<<4|ipHeader/4, 0)
	f = be.AppendUint16(f, uint16(ipHeader+udpLen))
	f = append(f, 0, 0, 0, 0, ipTTL, protoUDP, 0, 0)
	srcIP, dstIP := src.As4(), dst.Addr().As4()
	f = append(append(f, srcIP[:]...), dstIP[:]...)
	ip := f[at:]
	be.PutUint16(ip[10:], ^fold(sum(ip)))

	// RFC 768.
	pseudo := sum(ip[12:20])
	at = len(f)
	f = be.AppendUint16(f, serverPort)
	f = be.AppendUint16(f, dst.Port())
	f = be.AppendUint16(f, uint16(udpLen))
	f = be.AppendUint16(f, 0)
	check := ^fold(pseudo + sum(f[at:]) + sum(payload) + protoUDP + uint32(udpLen))
	if check == 0 {
		check = 0xffff // "If the computed checksum is zero, it is transmitted as all ones"
	}
	be.PutUint16(f[at+6:], check)
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
