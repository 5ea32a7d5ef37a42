package iface

import (
	"encoding/binary"
	"errors"

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
	socket, err := netlink.Open(unix.NETLINK_ROUTE)
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
func (p *Ports) Of(hw HWAddr) int {
	for _, vlan := range []uint16{0, defaultVLAN} {
		port, err := p.ask(hw, vlan)
		switch {
		case errors.Is(err, unix.ENOENT):
		case err != nil:
			return 0
		default:
			return port
		}
	}
	return p.bridge
}

// ask looks an address up (rtnetlink(7), RTM_GETNEIGH of one entry).
func (p *Ports) ask(hw HWAddr, vlan uint16) (int, error) {
	header := make([]byte, unix.SizeofNdMsg)
	header[0] = unix.AF_BRIDGE
	attrs := netlink.AppendAttribute(nil, unix.NDA_MASTER, netlink.Uint32(uint32(p.bridge)))
	attrs = netlink.AppendAttribute(attrs, unix.NDA_LLADDR, hw[:])
	if vlan != 0 {
		attrs = netlink.AppendAttribute(attrs, unix.NDA_VLAN, binary.NativeEndian.AppendUint16(nil, vlan))
	}
	request := netlink.NewMessage(unix.RTM_GETNEIGH, unix.NLM_F_REQUEST, header, attrs)
	found, err := p.socket.Query(request, unix.RTM_NEWNEIGH)
	switch {
	case err != nil:
		return 0, err
	case len(found) == 0 || len(found[0]) < unix.SizeofNdMsg:
		return 0, unix.ENOENT
	default:
		return int(binary.NativeEndian.Uint32(found[0][4:])), nil // ndm_ifindex
	}
}

// Close closes the socket.
func (p *Ports) Close() error { return p.socket.Close() }
