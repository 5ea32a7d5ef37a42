// Package ether knows what identifies links and cards: names that the kernel takes,
// MAC addresses, and the UUIDs of what vnetd keeps.
package ether

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
)

// MaxName is the length of the longest name of a link in bytes: IFNAMSIZ of
// linux/if.h less the final NUL.
const MaxName = 15

// ValidName reports whether a link can have that name: dev_valid_name of the kernel
// (net/core/dev.c), and no '%', which would make the name a template.
func ValidName(name string) bool {
	return name != "" && len(name) <= MaxName && name != "." && name != ".." &&
		!strings.ContainsAny(name, "/:% \t\n\v\f\r")
}

// IsCard reports whether a MAC address is one of a single Ethernet device.
func IsCard(mac []byte) bool {
	return len(mac) == 6 && mac[0]&1 == 0 && !bytes.Equal(mac, make([]byte, 6))
}

// AutoAddr is the address that a card makes for itself in a subnet of 64 bits (RFC 4291
// appendix A).
func AutoAddr(mac net.HardwareAddr, subnet netip.Prefix) netip.Addr {
	a := subnet.Masked().Addr().As16()
	copy(a[8:], []byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
	return netip.AddrFrom16(a)
}

// LinkLocal is the address that a card makes for itself on its link (RFC 4862 section 5.3).
func LinkLocal(mac net.HardwareAddr) netip.Addr {
	return AutoAddr(mac, netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfe, 0x80}), 64))
}

// NewMAC returns a MAC address of the range of guests, with three bytes of random.
func NewMAC(random io.Reader) (net.HardwareAddr, error) {
	// 52:54:00 is the locally administered prefix that QEMU and libvirt share.
	mac := net.HardwareAddr{0x52, 0x54, 0x00, 0, 0, 0}
	_, err := io.ReadFull(random, mac[3:])
	return mac, err
}

// UUID is a UUID in the order of its digits.
type UUID [16]byte

// NewUUID returns a UUID of version 4 (RFC 9562 section 5.4), made of random.
func NewUUID(random io.Reader) (u UUID, err error) {
	_, err = io.ReadFull(random, u[:])
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return u, err
}

// RandomUUID returns a new UUID as text.
func RandomUUID() string {
	u, _ := NewUUID(rand.Reader) // which never fails
	return u.String()
}

// NamedUUID is the UUID of version 5 (RFC 9562 section 5.5) of a name in the name space
// of another.
func NamedUUID(space UUID, name string) (u UUID) {
	sum := sha1.Sum(append(space[:], name...))
	copy(u[:], sum[:])
	u[6], u[8] = u[6]&0x0f|0x50, u[8]&0x3f|0x80
	return u
}

// ParseUUID reads a UUID with or without hyphens.
func ParseUUID(s string) (UUID, error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(s), "-", ""))
	if err != nil || len(raw) != 16 {
		return UUID{}, errors.New("not a UUID, want 32 hexadecimal digits like 40b7c068-9791-4466-bfa6-77ca0bedb2e4")
	}
	return UUID(raw), nil
}

// String returns u in canonical form (RFC 9562 section 4).
func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:])
}
