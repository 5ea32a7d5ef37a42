package nstest

import "encoding/binary"

// Checksum is the checksum of the Internet protocols (RFC 1071) over parts, each of even
// length but the last. It is 0 over what has its own checksum in it, if that is right.
func Checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for ; len(b) >= 2; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
