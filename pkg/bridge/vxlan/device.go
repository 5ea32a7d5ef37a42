package vxlan

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// What a bridge's port may be to frames for groups (MDB_RTR_TYPE_…), and that the kernel does
// not say.
const (
	routerAlways  = 2
	routerUnknown = -1
)

// device is a link as the kernel described it; its index is 0 where there is none.
type device struct {
	name, kind, alias string
	index, mtu        int
	master            int
	vni               int
	local             netip.Addr
	port              uint16
	learning          bool
	up                bool // so that it has its port
	router            int  // of a bridge's port
	fresh             bool // it was just made, and has no entries
}

// tunnel is what can't change of a device.
type tunnel struct {
	vni      int
	local    netip.Addr
	port     uint16
	learning bool
}

func (d *device) tunnel() tunnel { return tunnel{d.vni, d.local, d.port, d.learning} }

// String is the tunnel as ip-link(8) says it.
func (d *device) String() string {
	learning := "nolearning"
	if d.learning {
		learning = "learning"
	}
	return fmt.Sprintf("vxlan id %d local %v dstport %d %s", d.vni, d.local, d.port, learning)
}

// byName finds a link, which may be of any kind.
func byName(s *netlink.Socket, name string) (device, error) {
	body, err := s.LinkByName(name)
	return parseDevice(body), err
}

// byIndex is byName by the ifindex.
func byIndex(s *netlink.Socket, index int) (device, error) {
	body, err := s.LinkByIndex(index)
	return parseDevice(body), err
}

// parseDevice reads the body of an RTM_NEWLINK; what is too short is left out.
func parseDevice(body []byte) (d device) {
	if len(body) < unix.SizeofIfInfomsg {
		return d
	}
	d.index, d.router = int(int32(binary.NativeEndian.Uint32(body[4:]))), routerUnknown
	d.up = binary.NativeEndian.Uint32(body[8:])&unix.IFF_UP != 0
	for kind, value := range netlink.Attributes(body[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			d.name = unix.ByteSliceToString(value)
		case unix.IFLA_IFALIAS:
			d.alias = unix.ByteSliceToString(value)
		case unix.IFLA_MTU:
			d.mtu = number(value)
		case unix.IFLA_MASTER:
			d.master = number(value)
		case unix.IFLA_LINKINFO:
			d.setInfo(value)
		}
	}
	return d
}

// setInfo reads IFLA_LINKINFO, in which kinds stand before their data.
func (d *device) setInfo(info []byte) {
	var port string
	for kind, value := range netlink.Attributes(info) {
		switch {
		case kind == unix.IFLA_INFO_KIND:
			d.kind = unix.ByteSliceToString(value)
		case kind == unix.IFLA_INFO_SLAVE_KIND:
			port = unix.ByteSliceToString(value)
		case kind == unix.IFLA_INFO_DATA && d.kind == Kind:
			d.setTunnel(value)
		case kind == unix.IFLA_INFO_SLAVE_DATA && port == "bridge":
			d.setPort(value)
		}
	}
}

func (d *device) setTunnel(data []byte) {
	for kind, value := range netlink.Attributes(data) {
		switch kind {
		case unix.IFLA_VXLAN_ID:
			d.vni = number(value)
		case unix.IFLA_VXLAN_LOCAL, unix.IFLA_VXLAN_LOCAL6:
			d.local, _ = netip.AddrFromSlice(value)
		case unix.IFLA_VXLAN_PORT:
			if len(value) == 2 {
				d.port = binary.BigEndian.Uint16(value)
			}
		case unix.IFLA_VXLAN_LEARNING:
			d.learning = len(value) == 1 && value[0] != 0
		}
	}
}

func (d *device) setPort(data []byte) {
	for kind, value := range netlink.Attributes(data) {
		if kind == unix.IFLA_BRPORT_MULTICAST_ROUTER && len(value) == 1 {
			d.router = int(value[0])
		}
	}
}

// number is a number of four bytes, 0 where there are not so many.
func number(value []byte) int {
	if len(value) != 4 {
		return 0
	}
	return int(binary.NativeEndian.Uint32(value))
}

// creation is the message that makes the device.
func (c *Config) creation() []byte {
	attribute := netlink.AppendAttribute
	learning := byte(0)
	if c.Learning {
		learning = 1
	}
	local := uint16(unix.IFLA_VXLAN_LOCAL)
	if c.Local.Is6() {
		local = unix.IFLA_VXLAN_LOCAL6
	}
	data := attribute(nil, unix.IFLA_VXLAN_ID, netlink.Uint32(uint32(c.VNI)))
	data = attribute(data, local, c.Local.AsSlice())
	data = attribute(data, unix.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, c.Port))
	data = attribute(data, unix.IFLA_VXLAN_LEARNING, []byte{learning})
	data = attribute(data, unix.IFLA_VXLAN_LIMIT, netlink.Uint32(maxLearned))
	info := attribute(nil, unix.IFLA_INFO_KIND, []byte(Kind))
	info = attribute(info, unix.IFLA_INFO_DATA, data)
	attributes := attribute(nil, unix.IFLA_IFNAME, []byte(c.Name+"\x00"))
	attributes = attribute(attributes, unix.IFLA_LINKINFO, info)
	return request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, netlink.LinkHeader(0), attributes)
}

// setAlias is the message that has the device say of itself whose it is: the kernel takes that
// of one that is there alone.
func setAlias(index int, alias string) []byte {
	return request(unix.RTM_NEWLINK, 0, netlink.LinkHeader(index), netlink.AppendAttribute(nil, unix.IFLA_IFALIAS, []byte(alias)))
}

// setRouter is the message that has a bridge's port get all that is for groups.
func setRouter(port int) []byte {
	data := netlink.AppendAttribute(nil, unix.IFLA_BRPORT_MULTICAST_ROUTER, []byte{routerAlways})
	info := netlink.AppendAttribute(nil, unix.IFLA_INFO_SLAVE_KIND, []byte("bridge"))
	info = netlink.AppendAttribute(info, unix.IFLA_INFO_SLAVE_DATA, data)
	return request(unix.RTM_NEWLINK, 0, netlink.LinkHeader(port), netlink.AppendAttribute(nil, unix.IFLA_LINKINFO, info))
}

// request is a message that asks for something.
func request(kind, flags uint16, body ...[]byte) []byte {
	return netlink.NewMessage(kind, flags|unix.NLM_F_REQUEST, body...)
}
