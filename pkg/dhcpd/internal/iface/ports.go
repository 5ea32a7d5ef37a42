package iface

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// Ports tells which port of a bridge a hardware address was last seen at. It may be used
// concurrently.
type Ports struct {
	socket *netlink.Socket
	bridge int
	answer func(at int, m netlink.Message) (last bool) // made once, so that to ask allocates nothing

	mu       sync.Mutex // guards what follows
	ask      []HWAddr   // each once
	found    []int      // the place of each
	requests [][]byte
	which    []int // of ask, of each request
	left     int   // requests without an answer
}

// OpenPorts opens the way to the forwarding database of the bridge with an ifindex, in the
// network namespace of the calling thread.
func OpenPorts(bridge int) (*Ports, error) {
	socket, err := netlink.OpenRequests(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	p := &Ports{socket: socket, bridge: bridge}
	p.answer = p.take
	return p, nil
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
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ask, p.found = p.ask[:0], p.found[:0]
	for _, hw := range cards {
		if hw != (HWAddr{}) && !slices.Contains(p.ask, hw) {
			p.ask, p.found = append(p.ask, hw), append(p.found, 0)
		}
	}
	for _, vlan := range []uint16{0, defaultVLAN} {
		p.find(vlan)
	}
	for _, hw := range cards {
		at := 0
		if i := slices.Index(p.ask, hw); i >= 0 {
			at = cmp.Or(p.found[i], p.bridge)
		}
		places = append(places, max(at, 0))
	}
	return places
}

// untold is the place of a card of which the kernel can't tell one.
const untold = -1

// find looks up those whose place is 0 (rtnetlink(7), RTM_GETNEIGH of one entry). It stays 0
// where the bridge knows none.
func (p *Ports) find(vlan uint16) {
	p.which = p.which[:0]
	for i, hw := range p.ask {
		if p.found[i] != 0 {
			continue
		}
		n := len(p.which)
		p.which = append(p.which, i)
		if n == len(p.requests) {
			p.requests = append(p.requests, nil)
		}
		p.requests[n] = p.appendRequest(p.requests[n][:0], hw, vlan)
	}
	if p.left = len(p.which); p.left == 0 {
		return
	}
	err := p.socket.ExchangeOften(p.requests[:p.left], p.answer)
	for _, i := range p.which {
		if err != nil && p.found[i] == 0 {
			p.found[i] = untold
		}
	}
}

// take takes in the answer to a request.
func (p *Ports) take(at int, m netlink.Message) (last bool) {
	found := &p.found[p.which[at]]
	switch {
	case m.Type == unix.RTM_NEWNEIGH && len(m.Body) >= unix.SizeofNdMsg:
		*found = int(binary.NativeEndian.Uint32(m.Body[4:])) // ndm_ifindex
	case m.Type != unix.NLMSG_ERROR || !errors.Is(m.Err(), unix.ENOENT):
		*found = untold
	}
	p.left--
	return p.left == 0
}

// appendRequest appends the question where a card is.
func (p *Ports) appendRequest(to []byte, hw HWAddr, vlan uint16) []byte {
	var room [64]byte
	body := append(room[:0], make([]byte, unix.SizeofNdMsg)...)
	body[0] = unix.AF_BRIDGE
	body = netlink.AppendAttribute(body, unix.NDA_MASTER, binary.NativeEndian.AppendUint32(nil, uint32(p.bridge)))
	body = netlink.AppendAttribute(body, unix.NDA_LLADDR, hw[:])
	if vlan != 0 {
		body = netlink.AppendAttribute(body, unix.NDA_VLAN, binary.NativeEndian.AppendUint16(nil, vlan))
	}
	return netlink.AppendMessage(to, unix.RTM_GETNEIGH, unix.NLM_F_REQUEST, body)
}

// Close closes the socket.
func (p *Ports) Close() error { return p.socket.Close() }
