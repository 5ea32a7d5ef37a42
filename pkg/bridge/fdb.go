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

// AddFDB tells the bridge that the address is behind the port with that index:
// a static entry of the forwarding database, which neither ages nor moves with
// what the bridge learns. An entry that is there is success; one that names
// another port of the bridge is moved. It goes when the port leaves the bridge.
func (b *Bridges) AddFDB(port int, mac net.HardwareAddr) error { return b.conn.addFDB(port, mac) }

func (c *conn) addFDB(port int, mac net.HardwareAddr) error {
	err := c.do(fdbRequest(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, port, mac))
	if err != nil {
		return fmt.Errorf("adding the forwarding entry of %v on port %d: %w", mac, port, err)
	}
	return nil
}

// DeleteFDB removes the entry that AddFDB made. No such entry, or no such port,
// is success.
func (b *Bridges) DeleteFDB(port int, mac net.HardwareAddr) error {
	err := b.conn.do(fdbRequest(unix.RTM_DELNEIGH, 0, port, mac))
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing the forwarding entry of %v on port %d: %w", mac, port, err)
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
	static bool // neither ages nor moves
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
	// An address of the bridge itself is on no port.
	if e.port == bridge {
		return fdbEntry{}, nil
	}
	return e, nil
}

// fdbRequest is a request about a static entry of the port's bridge (NTF_MASTER),
// in every VLAN of the port.
func fdbRequest(kind, flags, port int, mac net.HardwareAddr) *nl.NetlinkRequest {
	head := make([]byte, unix.SizeofNdMsg) // struct ndmsg
	head[0] = unix.AF_BRIDGE
	binary.NativeEndian.PutUint32(head[4:], uint32(port))
	binary.NativeEndian.PutUint16(head[8:], unix.NUD_NOARP|unix.NUD_REACHABLE)
	head[10] = unix.NTF_MASTER
	req := nl.NewNetlinkRequest(kind, flags)
	req.AddRawData(netlink.AppendAttribute(head, unix.NDA_LLADDR, mac))
	return req
}
