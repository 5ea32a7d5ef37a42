package bridge

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/internal/netlink"
)

// ErrNotFound says that no link has the name or the index.
var ErrNotFound = errors.New("no such link")

// Link is a network device as the kernel described it at one moment.
type Link struct {
	Name  string
	Index int
	// Kind is the kernel's name of the device type: "bridge", "tun" (TAP
	// devices too), "veth"; empty for hardware.
	Kind string
	MAC  net.HardwareAddr
	MTU  int
	// Alias is what the link says of itself (ifalias), empty for nothing.
	Alias string
	// Master is the index of the bridge or bond the link is a port of, 0
	// for none.
	Master int
	// Parent is the index of the link that a macvlan, a macvtap or a VLAN is on, 0 for
	// none; of a veth it is the other end.
	Parent int
	// Up is the administrative state (IFF_UP), Carrier whether the other end
	// is there (IFF_LOWER_UP): for a bridge a forwarding port, for a TAP
	// device an open file descriptor.
	Up, Carrier bool
	Loopback    bool
	// Of a bridge: whether it looks at VLAN tags, whether the kernel has that at all, and
	// in which VLAN frames without a tag are by default (default_pvid), 0 for none.
	FiltersVLANs, CanFilterVLANs bool
	DefaultVLAN                  uint16
}

// link is a Link with what this package alone uses.
type link struct {
	Link
	// running is IFF_RUNNING: up, with a carrier that the kernel has dealt with.
	running bool
	// Of a bridge: STP state, forward delay in hundredths of a second, and
	// whether it is its spanning tree's root. The delay of another bridge is
	// the root's, not its own.
	stp   uint32
	delay uint32
	root  bool
	// How often the root sends BPDUs, and for how long one is believed.
	hello, maxAge time.Duration
	// How many addresses the bridge learns at most, and whether the kernel counts them.
	maxLearned    uint32
	countsLearned bool
	// Of a bridge: what it does with multicast, and whether the kernel has that at all.
	snoops, queries, canSnoop bool
	// Of a bridge port.
	state            uint8
	isolated         bool
	noLearn, noFlood bool
}

// Lookup describes the link of that name, which may be an alternative one. The
// error is ErrNotFound when there is none.
func (b *Bridges) Lookup(name string) (Link, error) {
	l, err := b.conn.byName(name)
	return l.Link, err
}

// LookupIndex describes the link with that index. The error is ErrNotFound
// when there is none.
func (b *Bridges) LookupIndex(index int) (Link, error) {
	l, err := b.conn.byIndex(index)
	return l.Link, err
}

func (c *conn) byName(name string) (link, error) {
	if name == "" || len(name) > ether.MaxName {
		return link{}, fmt.Errorf("looking up link %q: %w", name, ErrNotFound)
	}
	l, err := c.getLink(0, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	if err != nil {
		return link{}, fmt.Errorf("looking up link %q: %w", name, err)
	}
	return l, nil
}

func (c *conn) byIndex(index int) (link, error) {
	if index <= 0 {
		return link{}, fmt.Errorf("looking up link %d: %w", index, ErrNotFound)
	}
	l, err := c.getLink(index)
	if err != nil {
		return link{}, fmt.Errorf("looking up link %d: %w", index, err)
	}
	return l, nil
}

func (c *conn) getLink(index int, attrs ...*nl.RtAttr) (link, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	for _, a := range attrs {
		req.AddData(a)
	}
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(netlink.SkipStats)))
	m, err := c.get(req, unix.RTM_NEWLINK)
	switch {
	case errors.Is(err, unix.ENODEV):
		return link{}, ErrNotFound
	case err != nil:
		return link{}, err
	}
	return parseLink(m)
}

// linkName is the name of the link with that index, for a small part of the cost of
// its description. The error is ErrNotFound when there is none.
func (c *conn) linkName(index int) (string, error) {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return "", err
	}
	ifr.SetUint32(uint32(index))
	err = c.Control(func(fd int) error { return unix.IoctlIfreq(fd, unix.SIOCGIFNAME, ifr) })
	if errors.Is(err, unix.ENODEV) {
		err = ErrNotFound
	}
	if err != nil {
		return "", fmt.Errorf("looking up the name of link %d: %w", index, err)
	}
	return ifr.Name(), nil
}

// parseLink reads the body of an RTM_NEWLINK or RTM_DELLINK message.
func parseLink(m []byte) (link, error) {
	if len(m) < unix.SizeofIfInfomsg {
		return link{}, errors.New("short link message")
	}
	msg := nl.DeserializeIfInfomsg(m)
	l := link{Link: Link{
		Index:   int(msg.Index),
		Up:      msg.Flags&unix.IFF_UP != 0,
		Carrier: msg.Flags&unix.IFF_LOWER_UP != 0, Loopback: msg.Flags&unix.IFF_LOOPBACK != 0,
	}, running: msg.Flags&unix.IFF_RUNNING != 0}
	err := netlink.ParseAttributes(m[unix.SizeofIfInfomsg:], l.setAttr)
	return l, err
}

func (l *link) setAttr(kind uint16, value []byte) error {
	switch kind {
	case unix.IFLA_IFNAME:
		l.Name = unix.ByteSliceToString(value)
	case unix.IFLA_ADDRESS:
		l.MAC = bytes.Clone(value)
	case unix.IFLA_MTU:
		l.MTU = int(binary.NativeEndian.Uint32(value))
	case unix.IFLA_IFALIAS:
		l.Alias = unix.ByteSliceToString(value)
	case unix.IFLA_LINK:
		l.Parent = int(binary.NativeEndian.Uint32(value))
	case unix.IFLA_MASTER:
		l.Master = int(binary.NativeEndian.Uint32(value))
	case unix.IFLA_LINKINFO:
		return l.setInfo(value)
	}
	return nil
}

// setInfo reads IFLA_LINKINFO, in which the kind stands before its data.
func (l *link) setInfo(info []byte) error {
	var slaveKind string
	return netlink.ParseAttributes(info, func(kind uint16, value []byte) error {
		switch {
		case kind == unix.IFLA_INFO_KIND:
			l.Kind = unix.ByteSliceToString(value)
		case kind == unix.IFLA_INFO_SLAVE_KIND:
			slaveKind = unix.ByteSliceToString(value)
		case kind == unix.IFLA_INFO_DATA && l.Kind == Kind:
			return l.setBridge(value)
		case kind == unix.IFLA_INFO_SLAVE_DATA && slaveKind == Kind:
			return netlink.ParseAttributes(value, l.setPort)
		}
		return nil
	})
}

func (l *link) setBridge(data []byte) error {
	var own, root []byte
	err := netlink.ParseAttributes(data, func(kind uint16, value []byte) error {
		switch kind {
		case nl.IFLA_BR_STP_STATE:
			l.stp = binary.NativeEndian.Uint32(value)
		case nl.IFLA_BR_FORWARD_DELAY:
			l.delay = binary.NativeEndian.Uint32(value)
		case nl.IFLA_BR_HELLO_TIME:
			l.hello = ticks(value)
		case nl.IFLA_BR_MAX_AGE:
			l.maxAge = ticks(value)
		case nl.IFLA_BR_VLAN_FILTERING:
			l.FiltersVLANs = value[0] != 0
		case nl.IFLA_BR_VLAN_PROTOCOL:
			// Without CONFIG_BRIDGE_VLAN_FILTERING there is none.
			l.CanFilterVLANs = true
		case nl.IFLA_BR_VLAN_DEFAULT_PVID:
			l.DefaultVLAN = binary.NativeEndian.Uint16(value)
		case nl.IFLA_BR_MCAST_SNOOPING:
			l.snoops, l.canSnoop = value[0] != 0, true
		case nl.IFLA_BR_MCAST_QUERIER:
			l.queries = value[0] != 0
		case unix.IFLA_BR_FDB_MAX_LEARNED:
			l.maxLearned, l.countsLearned = binary.NativeEndian.Uint32(value), true
		case nl.IFLA_BR_BRIDGE_ID:
			own = value
		case nl.IFLA_BR_ROOT_ID:
			root = value
		}
		return nil
	})
	l.root = bytes.Equal(own, root)
	return err
}

// ticks reads a time in hundredths of a second.
func ticks(value []byte) time.Duration {
	return hundredths(binary.NativeEndian.Uint32(value))
}

// hundredths is a time that the kernel counts in hundredths of a second.
func hundredths(n uint32) time.Duration { return time.Duration(n) * 10 * time.Millisecond }

func (l *link) setPort(kind uint16, value []byte) error {
	switch kind {
	case nl.IFLA_BRPORT_STATE:
		l.state = value[0]
	case nl.IFLA_BRPORT_ISOLATED:
		l.isolated = value[0] != 0
	case nl.IFLA_BRPORT_LEARNING:
		l.noLearn = value[0] == 0
	case nl.IFLA_BRPORT_UNICAST_FLOOD:
		l.noFlood = value[0] == 0
	}
	return nil
}

// setLink is the request that gives a link attributes and those of the IFF_
// flags that change names.
func setLink(index int, flags, change uint32, attrs ...*nl.RtAttr) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags, msg.Change = int32(index), flags, change
	req.AddData(msg)
	for _, a := range attrs {
		req.AddData(a)
	}
	return req
}

// setUp is the request that sets a link up.
func setUp(index int) *nl.NetlinkRequest { return setLink(index, unix.IFF_UP, unix.IFF_UP) }

// linkInfo is IFLA_LINKINFO for a bridge (kind IFLA_INFO_KIND, data
// IFLA_INFO_DATA) or a port of one (IFLA_INFO_SLAVE_KIND, _DATA).
func linkInfo(kind, data int, attrs ...*nl.RtAttr) *nl.RtAttr {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(kind, nl.NonZeroTerminated(Kind))
	nested := info.AddRtAttr(data, nil)
	for _, a := range attrs {
		nested.AddChild(a)
	}
	return info
}

// setBridge is the request that gives a bridge IFLA_BR_ attributes. Of those in
// one request the kernel applies the forward delay before the STP state.
func setBridge(index int, attrs ...*nl.RtAttr) *nl.NetlinkRequest {
	return setLink(index, 0, 0, linkInfo(unix.IFLA_INFO_KIND, unix.IFLA_INFO_DATA, attrs...))
}

// setPort is the request that gives a bridge's port IFLA_BRPORT_ attributes.
func setPort(index int, attrs ...*nl.RtAttr) *nl.NetlinkRequest {
	return setLink(index, 0, 0, linkInfo(unix.IFLA_INFO_SLAVE_KIND, unix.IFLA_INFO_SLAVE_DATA, attrs...))
}
