package uplink

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// rtaNHID is RTA_NH_ID of linux/rtnetlink.h: the nexthop object of a route.
const rtaNHID = 30

// Offsets in struct rtmsg.
const (
	rtmFamily = iota
	rtmDstLen
	rtmSrcLen
	rtmTOS
	rtmTable
	rtmProtocol
	rtmScope
	rtmType
	rtmFlags // 4 bytes
)

// routeFlags are those flags of a route or a nexthop that were asked for; others
// tell about the link.
const routeFlags = unix.RTNH_F_ONLINK | unix.RTNH_F_PERVASIVE

// route is a route of an uplink or its bridge.
type route struct {
	message
	first, advertised bool
	life              uint32 // seconds, or forever
}

func parseRoute(saved Route) (route, error) {
	m, err := parseMessage(saved.Message, unix.SizeofRtMsg)
	if err == nil && m.get(unix.RTA_OIF) == nil && m.get(unix.RTA_MULTIPATH) == nil {
		err = errors.New("route message without a way out")
	}
	for _, number := range []uint16{unix.RTA_OIF, unix.RTA_PRIORITY, unix.RTA_TABLE} {
		if v := m.get(number); err == nil && v != nil && len(v) != 4 {
			err = fmt.Errorf("route attribute %d of %d bytes", number, len(v))
		}
	}
	r := route{message: m, first: saved.First, advertised: saved.Advertised}
	if err == nil {
		r.life = r.lifetime()
	}
	return r, err
}

func (r route) family() byte { return r.head[rtmFamily] }

// dst is where the route leads.
func (r route) dst() netip.Prefix {
	dst := netip.IPv4Unspecified()
	if r.family() == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	if ip, ok := netip.AddrFromSlice(r.get(unix.RTA_DST)); ok {
		dst = ip
	}
	return netip.PrefixFrom(dst, int(r.head[rtmDstLen]))
}

// movable reports whether the route goes along with the addresses: not those that
// each link has by itself (local, broadcast, multicast, IPv6 link-local).
func (r route) movable() bool {
	own := r.head[rtmProtocol] == unix.RTPROT_KERNEL && r.family() == unix.AF_INET6 && r.dst().Addr().IsLinkLocalUnicast()
	return r.head[rtmType] == unix.RTN_UNICAST && r.u32(unix.RTA_TABLE) != unix.RT_TABLE_LOCAL && !own
}

// ofAddress reports whether the route is the one to the network of an address,
// which the kernel adds and removes with the address.
func (r route) ofAddress() bool {
	return r.head[rtmProtocol] == unix.RTPROT_KERNEL && len(r.get(unix.RTA_GATEWAY)) == 0
}

// rank is 0 for a route to neighbours, 1 for one by a gateway, which the kernel
// takes only when it can reach the gateway.
func (r route) rank() int {
	if r.get(unix.RTA_GATEWAY) == nil && r.get(unix.RTA_VIA) == nil && r.get(unix.RTA_MULTIPATH) == nil {
		return 0
	}
	return 1
}

func byRank(a, b route) int { return cmp.Compare(a.rank(), b.rank()) }

// ofClient reports whether a client of DHCP or router advertisements set the route: what
// it is follows from what the LAN said last.
func (r route) ofClient() bool {
	return r.advertised || slices.Contains([]byte{unix.RTPROT_RA, unix.RTPROT_DHCP, unix.RTPROT_REDIRECT}, r.head[rtmProtocol])
}

// lasts reports whether nobody but an admin takes the route away.
func (r route) lasts() bool { return r.life == forever && !r.ofClient() && !r.shared() }

// supersedes reports whether r, which is there now, stands for had, which was.
func (r route) supersedes(had route) bool {
	return had.same(r) || had.ofClient() && r.ofClient() && had.equals() == r.equals()
}

// equals is what routes among which the kernel prefers the first have in common.
func (r route) equals() string {
	same := r.only(unix.RTA_DST, unix.RTA_SRC, unix.RTA_TABLE, unix.RTA_PRIORITY)
	same.head = []byte{r.family(), r.head[rtmDstLen], r.head[rtmSrcLen], r.head[rtmTOS]}
	return string(same.bytes())
}

// leads reports whether a way of the route is out of the link.
func (r route) leads(index int) bool {
	for head := range netlink.NextHops(r.get(unix.RTA_MULTIPATH)) {
		if binary.NativeEndian.Uint32(head[4:]) == uint32(index) {
			return true
		}
	}
	return r.u32(unix.RTA_OIF) == uint32(index)
}

// shared reports whether the route has several ways out.
func (r route) shared() bool { return r.get(unix.RTA_MULTIPATH) != nil }

// on is the route out of link to instead of from, without the signs of the
// moment: as it is asked for, and for comparison.
func (r route) on(from, to int) route {
	r.message = r.without(unix.RTA_CACHEINFO)
	flags := binary.NativeEndian.Uint32(r.head[rtmFlags:]) & routeFlags
	binary.NativeEndian.PutUint32(r.head[rtmFlags:], flags)
	if r.get(unix.RTA_OIF) != nil && r.u32(unix.RTA_OIF) == uint32(from) {
		r.message = r.with(unix.RTA_OIF, netlink.Uint32(uint32(to)))
	}
	if r.shared() {
		hops := bytes.Clone(r.get(unix.RTA_MULTIPATH))
		for head := range netlink.NextHops(hops) {
			head[2] &= routeFlags // rtnh_flags
			if binary.NativeEndian.Uint32(head[4:]) == uint32(from) {
				binary.NativeEndian.PutUint32(head[4:], uint32(to))
			}
		}
		r.message = r.with(unix.RTA_MULTIPATH, hops)
	}
	return r
}

// withoutLink is the route without its ways out of the link with that index: where two links
// had equal IPv6 routes, the kernel has made one of them.
func (r route) withoutLink(index int) route {
	var hops [][2][]byte
	for head, attrs := range netlink.NextHops(r.get(unix.RTA_MULTIPATH)) {
		if binary.NativeEndian.Uint32(head[4:]) != uint32(index) {
			hops = append(hops, [2][]byte{head, attrs})
		}
	}
	var all []byte
	for _, h := range hops {
		all = append(append(all, h[0]...), h[1]...)
	}
	if len(all) == len(r.get(unix.RTA_MULTIPATH)) || len(hops) == 0 {
		return r
	}
	if len(hops) > 1 {
		r.message = r.with(unix.RTA_MULTIPATH, all)
		return r
	}
	r.message = r.message.without(unix.RTA_MULTIPATH)
	r.message = r.with(unix.RTA_OIF, bytes.Clone(hops[0][0][4:8]))
	for kind, value := range netlink.Attributes(hops[0][1]) {
		r.message = r.with(kind, bytes.Clone(value))
	}
	return r
}

// same reports whether both, after on, are the same route to the kernel. Of those
// that routers advertise, protocol and metrics change when addAdvertised puts them
// somewhere else and with the next advertisement.
func (r route) same(other route) bool {
	if r.advertised || other.advertised {
		return r.equals() == other.equals() && bytes.Equal(r.get(unix.RTA_GATEWAY), other.get(unix.RTA_GATEWAY)) &&
			r.u32(unix.RTA_OIF) == other.u32(unix.RTA_OIF)
	}
	return bytes.Equal(r.bytes(), other.bytes())
}

// routeIndex finds routes that are on one link.
type routeIndex map[string][]route

// indexRoutes puts routes of link from onto link to.
func indexRoutes(routes []route, from, to int) routeIndex {
	x := make(routeIndex)
	for _, r := range routes {
		r = r.on(from, to)
		x[r.equals()] = append(x[r.equals()], r)
	}
	return x
}

// find returns the route that is the same as r, itself on the index's link.
func (x routeIndex) find(r route) (found route, ok bool) {
	all := x[r.equals()]
	n := slices.IndexFunc(all, r.same)
	if n < 0 {
		return route{}, false
	}
	return all[n], true
}

// gateways are those of the route by link index.
func (r route) gateways(index int) []netip.Addr {
	var all []netip.Addr
	add := func(m message) {
		gw := m.get(unix.RTA_GATEWAY)
		if via := m.get(unix.RTA_VIA); len(via) > 2 {
			gw = via[2:] // struct rtvia: family, address
		}
		if ip, ok := netip.AddrFromSlice(gw); ok {
			all = append(all, ip)
		}
	}
	if r.u32(unix.RTA_OIF) == uint32(index) {
		add(r.message)
	}
	for head, attrs := range netlink.NextHops(r.get(unix.RTA_MULTIPATH)) {
		hop, err := parseMessage(attrs, 0)
		if err == nil && binary.NativeEndian.Uint32(head[4:]) == uint32(index) {
			add(hop)
		}
	}
	return all
}

// lifetime is the rest of the route's life in seconds, or forever: rta_expires of
// struct rta_cacheinfo, hundredths of a second at offset 8, 0 if it doesn't end.
func (r route) lifetime() uint32 {
	c := r.get(unix.RTA_CACHEINFO)
	if r.family() != unix.AF_INET6 || len(c) < 12 {
		return forever
	}
	left := int32(binary.NativeEndian.Uint32(c[8:]))
	if left == 0 {
		return forever
	}
	return uint32(max(left, 0)+99) / 100
}

// saved is the route as it stands in a state: with the rest of its life as the kernel
// would tell it.
func (r route) saved() Route {
	m := r.without(unix.RTA_CACHEINFO)
	if r.life != forever {
		info := make([]byte, 32) // struct rta_cacheinfo
		binary.NativeEndian.PutUint32(info[8:], r.life*100)
		m = m.with(unix.RTA_CACHEINFO, info)
	}
	return Route{First: r.first, Advertised: r.advertised, Message: m.bytes()}
}

// aged is the route after that time.
func (r route) aged(by time.Duration) route {
	r.life = aged(r.life, by)
	return r
}

// uplinkRoutes lists the movable routes of a link, of both families and all
// tables, those first by which the gateways of others are reached.
func (k kernel) routes(l *bridge.Link) ([]route, error) {
	advertised, err := bridge.AdvertisedRoutes()
	if err != nil {
		return nil, err
	}
	var all []route
	seen := make(map[string]bool)
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		msgs, err := k.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, head(family, unix.SizeofRtMsg))
		if err != nil {
			return nil, fmt.Errorf("listing routes: %w", err)
		}
		for _, m := range msgs {
			r, err := parseRoute(Route{Message: m})
			if err != nil || r.family() != family || !r.movable() {
				continue
			}
			key := r.equals()
			r.first = !seen[key]
			seen[key] = true
			if r.leads(l.Index) {
				gw, _ := netip.AddrFromSlice(r.get(unix.RTA_GATEWAY))
				r.advertised = slices.Contains(advertised, bridge.AdvertisedRoute{Link: l.Name, Prefix: r.dst(), Gateway: gw})
				all = append(all, r)
			}
		}
	}
	slices.SortStableFunc(all, byRank)
	return all, nil
}

// advertisement is the route, one that a router advertised, as it is added.
func (r route) advertisement() bridge.AdvertisedRoute {
	a := bridge.AdvertisedRoute{Metric: r.u32(unix.RTA_PRIORITY), Life: r.life}
	a.Gateway, _ = netip.AddrFromSlice(r.get(unix.RTA_GATEWAY))
	if pref := r.get(unix.RTA_PREF); len(pref) == 1 {
		a.Preference = uint32(pref[0])
	}
	return a
}
