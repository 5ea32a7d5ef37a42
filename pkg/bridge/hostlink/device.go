package hostlink

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// vethInfoPeer is VETH_INFO_PEER of linux/veth.h.
const vethInfoPeer = 1

// device is a link as the kernel described it; its index is 0 where there is none.
type device struct {
	name, kind, alias string
	index, peer, mtu  int
	mac               net.HardwareAddr
	up                bool
}

// upHead is netlink.LinkHeader of one that is to be up.
func upHead(index int) []byte {
	head := netlink.LinkHeader(index)
	binary.NativeEndian.PutUint32(head[8:], unix.IFF_UP)
	binary.NativeEndian.PutUint32(head[12:], unix.IFF_UP)
	return head
}

func byName(s *netlink.Socket, name string) (device, error) {
	body, err := s.LinkByName(name)
	return parseDevice(body), err
}

func byIndex(s *netlink.Socket, index int) (device, error) {
	body, err := s.LinkByIndex(index)
	return parseDevice(body), err
}

// parseDevice reads the body of an RTM_NEWLINK; what is too short is left out.
func parseDevice(body []byte) (d device) {
	if len(body) < unix.SizeofIfInfomsg {
		return d
	}
	d.index = int(int32(binary.NativeEndian.Uint32(body[4:])))
	d.up = binary.NativeEndian.Uint32(body[8:])&unix.IFF_UP != 0
	away := false // the other end is in another network namespace
	for kind, value := range netlink.Attributes(body[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			d.name = unix.ByteSliceToString(value)
		case unix.IFLA_IFALIAS:
			d.alias = unix.ByteSliceToString(value)
		case unix.IFLA_ADDRESS:
			d.mac = bytes.Clone(value)
		case unix.IFLA_MTU:
			d.mtu = number(value)
		case unix.IFLA_LINK:
			d.peer = number(value)
		case unix.IFLA_LINK_NETNSID:
			away = true
		case unix.IFLA_LINKINFO:
			for kind, value := range netlink.Attributes(value) {
				if kind == unix.IFLA_INFO_KIND {
					d.kind = unix.ByteSliceToString(value)
				}
			}
		}
	}
	if away {
		d.peer = 0
	}
	return d
}

// number is a number of four bytes, 0 where there are not so many.
func number(value []byte) int {
	if len(value) != 4 {
		return 0
	}
	return int(binary.NativeEndian.Uint32(value))
}

// creation is the message that makes both ends.
func (c *Config) creation() []byte {
	attribute := netlink.AppendAttribute
	end := func(b []byte, name string, mac net.HardwareAddr) []byte {
		b = attribute(b, unix.IFLA_IFNAME, []byte(name+"\x00"))
		b = attribute(b, unix.IFLA_ADDRESS, mac)
		if c.MTU != 0 {
			b = attribute(b, unix.IFLA_MTU, netlink.Uint32(uint32(c.MTU)))
		}
		return b
	}
	info := attribute(nil, unix.IFLA_INFO_KIND, []byte(Kind))
	info = attribute(info, unix.IFLA_INFO_DATA, attribute(nil, vethInfoPeer, end(netlink.LinkHeader(0), c.Port, c.PortMAC)))
	return request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, netlink.LinkHeader(0), end(nil, c.Name, c.MAC), attribute(nil, unix.IFLA_LINKINFO, info))
}

// linkChanges bring both ends to what they shall be, but for what package bridge does of a port.
func (c *Config) linkChanges(own, end *device) (changes []change) {
	for _, one := range []struct {
		d   *device
		mac net.HardwareAddr
	}{{own, c.MAC}, {end, c.PortMAC}} {
		set := func(what bridge.Aspect, has, want string, kind uint16, value []byte) {
			changes = append(changes, change{
				Difference: bridge.Difference{Link: one.d.name, Aspect: what, Has: has, Want: want},
				messages:   [][]byte{request(unix.RTM_NEWLINK, 0, netlink.LinkHeader(one.d.index), netlink.AppendAttribute(nil, kind, value))},
			})
		}
		if one.d.alias != c.Alias {
			set(bridge.AspectAlias, one.d.alias, c.Alias, unix.IFLA_IFALIAS, []byte(c.Alias))
		}
		if !bytes.Equal(one.d.mac, one.mac) {
			set(bridge.AspectMAC, one.d.mac.String(), one.mac.String(), unix.IFLA_ADDRESS, one.mac)
		}
		if one.d == own && c.MTU != 0 && one.d.mtu != c.MTU {
			set(bridge.AspectMTU, fmt.Sprint(one.d.mtu), fmt.Sprint(c.MTU), unix.IFLA_MTU, netlink.Uint32(uint32(c.MTU)))
		}
	}
	return changes
}

// request is a message that asks for something.
func request(kind, flags uint16, body ...[]byte) []byte {
	return netlink.NewMessage(kind, flags|unix.NLM_F_REQUEST, body...)
}

// family is that of an address.
func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
