package eval

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
)

// header is the start of one of a packet's headers: its bytes, and which of them are known.
type header struct {
	bytes [64]byte
	known [64]bool
}

// put puts bytes at an offset.
func (h *header) put(at int, b ...byte) {
	for i, v := range b {
		h.bytes[at+i], h.known[at+i] = v, true
	}
}

// putAddr puts an address that is known.
func (h *header) putAddr(at int, a netip.Addr) {
	if a.IsValid() {
		h.put(at, a.AsSlice()...)
	}
}

// putMAC puts a hardware address that is known.
func (h *header) putMAC(at int, m MAC) {
	if m != (MAC{}) {
		h.put(at, m[:]...)
	}
}

// put16 puts a number of 16 bits that is known.
func (h *header) put16(at int, n uint16) {
	if n != 0 {
		h.put(at, binary.BigEndian.AppendUint16(nil, n)...)
	}
}

// raw are bits of a header by their place: "nh 96 32" are 32 bits, from bit 96 on, of the header
// of the network's layer.
func raw(p *Packet, place string) (ruleset.Value, known) {
	var base string
	var offset, length int
	if _, err := fmt.Sscanf(place, "%s %d %d", &base, &offset, &length); err != nil || offset < 0 || length <= 0 || length > 128 {
		return ruleset.Value{}, unclear
	}
	h := headerOf(p, base)
	if h == nil || offset+length > 8*len(h.bytes) {
		return ruleset.Value{}, unclear
	}
	var n ruleset.Number
	for bit := offset; bit < offset+length; bit++ {
		if !h.known[bit/8] {
			return ruleset.Value{}, unclear
		}
		n = n.Shift(h.bytes[bit/8] >> (7 - bit%8) & 1)
	}
	return ruleset.Value{Number: n}, certain
}

// headerOf is a header of the packet's, nil where nothing is known of it.
func headerOf(p *Packet, base string) *header {
	h := new(header)
	switch {
	case base == "ll":
		h.putMAC(0, p.DstMAC)
		h.putMAC(6, p.SrcMAC)
		h.put16(12, p.Frame)
		h.putNetwork(14, p)
	case base == "nh":
		h.putNetwork(0, p)
	case base == "th" && p.Frame != FrameARP:
		h.putTransport(p)
	default:
		return nil
	}
	return h
}

// putNetwork puts the header of IPv4 or IPv6, or an ARP message (RFC 791, 8200, 826).
func (h *header) putNetwork(at int, p *Packet) {
	switch p.Frame {
	case FrameIPv4:
		h.put(at, 0x45)
		h.put(at+9, p.Protocol)
		h.putAddr(at+12, p.Src)
		h.putAddr(at+16, p.Dst)
	case FrameIPv6:
		h.put(at+6, p.Protocol)
		h.putAddr(at+8, p.Src)
		h.putAddr(at+24, p.Dst)
	case FrameARP:
		h.put(at, 0, 1, 8, 0, 6, 4)
		h.put16(at+6, p.ARPOperation)
		h.putMAC(at+8, p.SrcMAC)
		h.putAddr(at+14, p.Src)
		h.putAddr(at+24, p.Dst)
	}
}

// putTransport puts ports, or type and code.
func (h *header) putTransport(p *Packet) {
	switch p.Protocol {
	case TCP, UDP, SCTP:
		h.put16(0, p.SrcPort)
		h.put16(2, p.DstPort)
	case ICMP, ICMPv6:
		h.put(0, p.Type, 0)
		h.putAddr(8, p.Target)
	}
}
