package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// ntfSticky is NTF_STICKY of linux/neighbour.h (Linux 4.20).
const ntfSticky = 0x40

// addFDB tells the bridge that the address is behind the port with that index: a static
// entry of the forwarding database, which does not age. A frame that comes by another port,
// where that learns, moves it all the same (br_fdb_update of net/bridge/br_fdb.c), unless it
// is sticky. An entry that is there is success; one that names another port of the bridge is
// moved. It goes when the port leaves the bridge.
func (c *conn) addFDB(port int, mac net.HardwareAddr, sticky bool) error {
	flags := byte(unix.NTF_MASTER)
	if sticky {
		flags |= ntfSticky
	}
	err := c.do(fdbRequest(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, port, mac, flags))
	if err != nil {
		return fmt.Errorf("adding the forwarding entry of %v on port %d: %w", mac, port, err)
	}
	return nil
}

// FDBPort is the ifindex of the port behind which the bridge with that ifindex
// last heard of the address, or was told that it is; 0 where it knows of none.
func (b *Bridges) FDBPort(bridge int, mac net.HardwareAddr) (port int, err error) {
	e, err := b.conn.fdb(bridge, mac)
	return e.port, err
}

// fdbEntry is what a bridge knows of an address.
type fdbEntry struct {
	port   int  // its ifindex; 0 where the bridge knows of none
	static bool // neither ages nor moves for what the port's own side sends
	sticky bool // nor for what comes by other ports
}

// fdb asks a bridge for what it knows of an address.
func (c *conn) fdb(bridge int, mac net.HardwareAddr) (e fdbEntry, err error) {
	head := make([]byte, unix.SizeofNdMsg) // struct ndmsg: all else must be zero here (valid_fdb_get_strict)
	head[0] = unix.AF_BRIDGE
	req := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	req.AddRawData(head)
	req.AddRawData(netlink.AppendAttribute(nil, unix.NDA_LLADDR, mac))
	req.AddRawData(netlink.AppendAttribute(nil, unix.NDA_MASTER, nl.Uint32Attr(uint32(bridge))))
	body, err := c.get(req, unix.RTM_NEWNEIGH)
	if errors.Is(err, unix.ENOENT) {
		return fdbEntry{}, nil
	}
	if err == nil && len(body) < unix.SizeofNdMsg {
		err = fmt.Errorf("an answer of %d bytes, want at least %d", len(body), unix.SizeofNdMsg)
	}
	if err != nil {
		return fdbEntry{}, fmt.Errorf("looking for the port of %v on bridge %d: %w", mac, bridge, err)
	}
	e.port = int(binary.NativeEndian.Uint32(body[4:]))
	e.static = binary.NativeEndian.Uint16(body[8:])&(unix.NUD_NOARP|unix.NUD_PERMANENT) != 0
	e.sticky = body[10]&ntfSticky != 0
	// An address of the bridge itself is on no port.
	if e.port == bridge {
		return fdbEntry{}, nil
	}
	return e, nil
}

// fdbRequest is a request about a static entry of the port's bridge (NTF_MASTER),
// in every VLAN of the port.
func fdbRequest(kind, flags, port int, mac net.HardwareAddr, ntf byte) *nl.NetlinkRequest {
	head := make([]byte, unix.SizeofNdMsg) // struct ndmsg
	head[0] = unix.AF_BRIDGE
	binary.NativeEndian.PutUint32(head[4:], uint32(port))
	binary.NativeEndian.PutUint16(head[8:], unix.NUD_NOARP|unix.NUD_REACHABLE)
	head[10] = ntf
	req := nl.NewNetlinkRequest(kind, flags)
	req.AddRawData(netlink.AppendAttribute(head, unix.NDA_LLADDR, mac))
	return req
}
