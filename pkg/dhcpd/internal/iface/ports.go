package iface

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// Ports tells which port of a bridge a hardware address was last seen at. It may be used
// concurrently.
type Ports struct {
	socket *netlink.Socket
	bridge int
}

// OpenPorts opens the way to the forwarding database of the bridge with an ifindex, in the
// network namespace of the calling thread.
func OpenPorts(bridge int) (*Ports, error) {
	socket, err := netlink.OpenRequests(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	return &Ports{socket, bridge}, nil
}

// defaultVLAN is the one of untagged frames on a bridge that tells VLANs apart.
const defaultVLAN = 1

// Of returns the ifindex of the port of a hardware address. Where the bridge knows none, as
// where it does not learn, that is the bridge's own: all such are one. It is 0 when the
// kernel can't tell.
func (p *Ports) Of(hw HWAddr) int { return p.At([]HWAddr{hw}, nil)[0] }

// At appends to places what Of says of each card, which it asks the kernel for with one call;
// 0 for a card that is all zero.
func (p *Ports) At(cards []HWAddr, places []int) []int {
	var ask []HWAddr // each once
	for _, hw := range cards {
		if hw != (HWAddr{}) && !slices.Contains(ask, hw) {
			ask = append(ask, hw)
		}
	}
	found := make([]int, len(ask))
	for _, vlan := range []uint16{0, defaultVLAN} {
		p.ask(ask, found, vlan)
	}
	for _, hw := range cards {
		at := 0
		if i := slices.Index(ask, hw); i >= 0 {
			at = cmp.Or(found[i], p.bridge)
		}
		places = append(places, max(at, 0))
	}
	return places
}

// untold is the place of a card of which the kernel can't tell one.
const untold = -1

// ask looks up those of cards whose place is 0 (rtnetlink(7), RTM_GETNEIGH of one entry). It
// stays 0 where the bridge knows none.
func (p *Ports) ask(cards []HWAddr, found []int, vlan uint16) {
	var requests [][]byte
	var which []int // of cards
	for i, hw := range cards {
		if found[i] == 0 {
			requests, which = append(requests, p.request(hw, vlan)), append(which, i)
		}
	}
	if len(requests) == 0 {
		return
	}
	left := len(requests)
	err := p.socket.Exchange(requests, func(at int, m netlink.Message) bool {
		switch {
		case m.Type == unix.RTM_NEWNEIGH && len(m.Body) >= unix.SizeofNdMsg:
			found[which[at]] = int(binary.NativeEndian.Uint32(m.Body[4:])) // ndm_ifindex
		case m.Type != unix.NLMSG_ERROR || !errors.Is(m.Err(), unix.ENOENT):
			found[which[at]] = untold
		}
		left--
		return left == 0
	})
	for _, i := range which {
		if err != nil && found[i] == 0 {
			found[i] = untold
		}
	}
}

// request is the question where a card is.
func (p *Ports) request(hw HWAddr, vlan uint16) []byte {
	header := make([]byte, unix.SizeofNdMsg)
	header[0] = unix.AF_BRIDGE
	attrs := netlink.AppendAttribute(nil, unix.NDA_MASTER, netlink.Uint32(uint32(p.bridge)))
	attrs = netlink.AppendAttribute(attrs, unix.NDA_LLADDR, hw[:])
	if vlan != 0 {
		attrs = netlink.AppendAttribute(attrs, unix.NDA_VLAN, binary.NativeEndian.AppendUint16(nil, vlan))
	}
	return netlink.NewMessage(unix.RTM_GETNEIGH, unix.NLM_F_REQUEST, header, attrs)
}

// Close closes the socket.
func (p *Ports) Close() error { return p.socket.Close() }
