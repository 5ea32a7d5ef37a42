package vxlan

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// entry is one of a device's forwarding entries: its own, where a frame is sent, or its
// bridge's, which says that the card is behind the device and has no peer.
type entry struct {
	mac    [6]byte
	peer   netip.Addr
	bridge bool
	told   bool // and not learned
	sticky bool // of a bridge's: no frame that comes from elsewhere moves it
}

// flooding is the address that stands for what floods.
var flooding [6]byte

// listEntries lists the entries of a device and those of its bridge for it.
func listEntries(s *netlink.Socket, index int) (all []entry, err error) {
	head := make([]byte, unix.SizeofNdMsg)
	head[0] = unix.AF_BRIDGE
	binary.NativeEndian.PutUint32(head[4:], uint32(index))
	bodies, err := s.Dump(request(unix.RTM_GETNEIGH, unix.NLM_F_DUMP, head), unix.RTM_NEWNEIGH)
	if err != nil {
		return nil, fmt.Errorf("listing whom the tunnel sends to: %w", err)
	}
	for _, b := range bodies {
		if e, ok := parseEntry(b, index); ok {
			all = append(all, e)
		}
	}
	return all, nil
}

// parseEntry reads an RTM_NEWNEIGH; ok is false for one of another device, or of a device
// itself.
func parseEntry(body []byte, index int) (e entry, ok bool) {
	if len(body) < unix.SizeofNdMsg || body[0] != unix.AF_BRIDGE || binary.NativeEndian.Uint32(body[4:]) != uint32(index) {
		return e, false
	}
	state, flags := binary.NativeEndian.Uint16(body[8:]), body[10]
	e.bridge = flags&unix.NTF_SELF == 0
	e.told = state&(unix.NUD_NOARP|unix.NUD_PERMANENT) != 0
	e.sticky = flags&ntfSticky != 0
	for kind, value := range netlink.Attributes(body[unix.SizeofNdMsg:]) {
		switch {
		case kind == unix.NDA_LLADDR && len(value) == 6:
			e.mac, ok = [6]byte(value), true
		case kind == unix.NDA_DST:
			e.peer, _ = netip.AddrFromSlice(value)
		}
	}
	// A bridge's permanent entry is of the port's own card.
	ok = ok && (e.bridge && state&unix.NUD_PERMANENT == 0 || !e.bridge && e.peer.IsValid())
	return e, ok
}

// ntfSticky is NTF_STICKY of linux/neighbour.h.
const ntfSticky = 0x40

// change is an entry that is not there, or should not be, and the message that mends that.
type change struct {
	entry
	gone    bool
	message []byte
}

// wanted are the entries that shall be there, in order; those of the bridge only where the device
// is a port of one.
func (c *Config) wanted(port bool) (all []entry) {
	for _, p := range c.Peers {
		all = append(all, entry{mac: flooding, peer: p, told: true})
	}
	for _, card := range c.Cards {
		all = append(all, entry{mac: card.MAC, peer: card.Peer, told: true})
		if port && card.Hold != Unsaid {
			all = append(all, entry{mac: card.MAC, bridge: true, told: true, sticky: card.Hold == Fast})
		}
	}
	return all
}

// changes are what brings entries to what they shall be. What the device has learned stays,
// and an entry of a card that is at another peer now is replaced, not deleted.
func (c *Config) changes(l *device, has []entry) (all []change) {
	want := c.wanted(l.master != 0)
	known := make(map[entry]bool, len(has))
	wanted := make(map[entry]bool, len(want))
	replaced := make(map[place]bool, len(want))
	for _, e := range want {
		wanted[e], replaced[e.place()] = true, e.mac != flooding
	}
	there := make(map[place]bool, len(has))
	for _, e := range has {
		known[e], there[e.place()] = true, true
		if e.told && !wanted[e] && !replaced[e.place()] {
			all = append(all, e.change(l.index, true))
		}
	}
	for _, e := range want {
		switch {
		case known[e]:
		case !e.bridge || e.sticky || there[e.place()]:
			all = append(all, e.change(l.index, false))
		case c.Amend == nil: // else the kernel has moved it
			all = append(all, e.first(l.index))
		}
	}
	return all
}

// place is where the entries are of which one takes the place of another.
type place struct {
	mac    [6]byte
	bridge bool
}

func (e entry) place() place { return place{e.mac, e.bridge} }

// first is what makes the entry be there unless the bridge knows of the card already.
func (e entry) first(index int) change {
	return change{e, false, e.request(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_EXCL, index)}
}

// change is what makes the entry be there, or be gone. An entry of a card takes the place of
// another: between a deletion and an addition frames would flood.
func (e entry) change(index int, gone bool) change {
	kind, flags := uint16(unix.RTM_NEWNEIGH), uint16(unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	switch {
	case gone:
		kind, flags = unix.RTM_DELNEIGH, 0
	case e.mac == flooding:
		flags = unix.NLM_F_CREATE | unix.NLM_F_APPEND
	}
	return change{e, gone, e.request(kind, flags, index)}
}

// difference is what differs on a link by that name.
func (c *change) difference(link string) bridge.Difference {
	card := Card{MAC: c.mac}
	d := bridge.Difference{Link: link, Aspect: bridge.AspectPeer, Want: c.peer.String()}
	if c.mac != flooding {
		d.Aspect, d.Want = bridge.AspectFDB, card.String()+" dst "+c.peer.String()
	}
	if c.bridge {
		d.Want = card.String() + " static"
	}
	if c.sticky {
		d.Want += " sticky"
	}
	if c.gone {
		d.Has, d.Want = d.Want, ""
	}
	return d
}

// request is a request about the entry. Those of a device need both states, or vxlan refuses
// them.
func (e entry) request(kind, flags uint16, index int) []byte {
	head := make([]byte, unix.SizeofNdMsg)
	head[0] = unix.AF_BRIDGE
	binary.NativeEndian.PutUint32(head[4:], uint32(index))
	state := uint16(unix.NUD_NOARP | unix.NUD_REACHABLE)
	if e.mac == flooding {
		state = unix.NUD_NOARP | unix.NUD_PERMANENT
	}
	binary.NativeEndian.PutUint16(head[8:], state)
	head[10] = unix.NTF_SELF
	if e.bridge {
		head[10] = unix.NTF_MASTER
	}
	if e.sticky {
		head[10] |= ntfSticky
	}
	attributes := netlink.AppendAttribute(nil, unix.NDA_LLADDR, e.mac[:])
	if e.peer.IsValid() {
		attributes = netlink.AppendAttribute(attributes, unix.NDA_DST, e.peer.AsSlice())
	}
	return request(kind, flags, head, attributes)
}
