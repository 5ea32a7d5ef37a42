package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// rtaNHID is RTA_NH_ID of linux/rtnetlink.h: the nexthop object of a route.
const rtaNHID = 30

// route is a route of the main table.
type route struct {
	dst      netip.Prefix
	gateway  netip.Addr // of a route with one way out
	metric   uint32
	protocol uint8
	// indexes are the links it leads out of: none for an unreachable one,
	// several for a multipath one.
	indexes []int
	// nexthop says that a nexthop object names them.
	nexthop bool
}

// routes lists the main table of a family: what leads out of one link alone, or
// everything when index is 0.
func (c *conn) routes(family uint8, index int) ([]route, error) {
	all, err := mainRoutes(c, family, index)
	// Also where the kernel didn't filter.
	return slices.DeleteFunc(all, func(r route) bool { return index != 0 && !slices.Equal(r.indexes, []int{index}) }), err
}

// mainRoutes lists the main table of a family: where index is not 0 what leads out of that
// link among others, too, and everything where the kernel doesn't filter.
func mainRoutes(c *conn, family uint8, index int) ([]route, error) {
	ask := []nl.NetlinkRequestData{&nl.RtMsg{RtMsg: unix.RtMsg{Family: family, Table: unix.RT_TABLE_MAIN}}}
	if index != 0 {
		ask = append(ask, nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	}
	msgs, err := c.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, ask...)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // the table is made with its first route
	}
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	var all []route
	for _, m := range msgs {
		r, ok, err := parseMainRoute(m, family)
		if err != nil {
			return nil, err
		}
		if ok {
			all = append(all, r)
		}
	}
	return all, nil
}

// parseMainRoute is parseRoute; ok is false for a route of another family or
// table.
func parseMainRoute(m []byte, family uint8) (r route, ok bool, err error) {
	if len(m) < unix.SizeofRtMsg {
		return route{}, false, errors.New("short route message")
	}
	if msg := nl.DeserializeRtMsg(m); msg.Family != family || msg.Table != unix.RT_TABLE_MAIN {
		return route{}, false, nil
	}
	r, err = parseRoute(m)
	return r, err == nil, err
}

// parseRoute reads the body of an RTM_NEWROUTE message.
func parseRoute(m []byte) (route, error) {
	msg := nl.DeserializeRtMsg(m)
	r := route{protocol: msg.Protocol}
	dst := netip.IPv4Unspecified()
	if msg.Family == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	err := netlink.ParseAttributes(m[unix.SizeofRtMsg:], func(kind uint16, value []byte) error {
		switch kind {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(value)
		case unix.RTA_GATEWAY:
			r.gateway, _ = netip.AddrFromSlice(value)
		case unix.RTA_PRIORITY:
			r.metric = binary.NativeEndian.Uint32(value)
		case unix.RTA_OIF:
			r.indexes = append(r.indexes, int(binary.NativeEndian.Uint32(value)))
		case unix.RTA_MULTIPATH:
			for head := range netlink.NextHops(value) {
				r.indexes = append(r.indexes, int(binary.NativeEndian.Uint32(head[4:])))
			}
		case rtaNHID:
			r.nexthop = true
		}
		return nil
	})
	r.dst = netip.PrefixFrom(dst, int(msg.Dst_len))
	return r, err
}
