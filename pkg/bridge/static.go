package bridge

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// routeProtocol marks the routes that Ensure adds (`ip route show proto 66`).
// linux/rtnetlink.h: the kernel doesn't interpret values from RTPROT_STATIC on,
// and no routing daemon in /etc/iproute2/rt_protos has this one. Routes with
// another protocol are never removed.
const routeProtocol = 66

// defaultMetric is that of a route that names none, as in libvirt.
const defaultMetric = 1

// Route is a static route through a bridge, to a network behind one of its
// guests.
type Route struct {
	// Prefix is where the route leads; bits after the prefix don't count.
	Prefix netip.Prefix
	// Gateway is the guest that has the network behind it. It is in the
	// network of one of the bridge's addresses.
	Gateway netip.Addr
	// Metric is smaller the more a route is preferred, 0 for 1.
	Metric uint32
}

func (r Route) String() string { return fmt.Sprintf("%v via %v", r.Prefix, r.Gateway) }

func (r Route) validate() error {
	p, gw := r.Prefix, r.Gateway
	if !p.IsValid() || p.Addr().Is4In6() || !gw.IsValid() || gw.Is4() != p.Addr().Is4() || gw.Zone() != "" {
		return fmt.Errorf("invalid route %v", r)
	}
	return nil
}

// normal is r as the kernel will show it.
func (r Route) normal() Route {
	r.Prefix = r.Prefix.Masked()
	if r.Metric == 0 {
		r.Metric = defaultMetric
	}
	return r
}

// setRoutes gives the link the wanted routes and takes others of ours away. One
// that can't be added fails, unlike in libvirt, which starts the network without.
func (c *conn) setRoutes(l *link, cfg *Config) error {
	index := l.Index
	have, connected, err := c.ourRoutes(index)
	if err != nil {
		return err
	}
	var missing, changes []change
	if l.Master == 0 { // else an admin has it in a VRF, whose table has them
		if missing, err = c.disconnected(index, cfg, connected); err != nil {
			return err
		}
	}
	for _, r := range cfg.Routes {
		n := slices.Index(have, r.normal())
		if n < 0 {
			missing = append(missing, change{
				Difference: Difference{cfg.Name, AspectRoute, "", r.String()},
				do:         func() error { return c.addRoutes(index, []Route{r}) },
			})
			continue
		}
		have = slices.Delete(have, n, n+1)
	}
	for _, r := range have {
		changes = append(changes, change{Difference: Difference{cfg.Name, AspectRoute, r.String(), ""}, do: func() error {
			err := c.do(routeRequest(unix.RTM_DELROUTE, 0, index, r))
			// ESRCH: it went with an address or a neighbour meanwhile.
			if errors.Is(err, unix.ESRCH) {
				err = nil
			}
			return err
		}})
	}
	return c.carryOut(append(changes, missing...), cfg.Amend)
}

func (c *conn) addRoutes(index int, missing []Route) error {
	for _, r := range missing {
		r = r.normal()
		err := c.do(routeRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, index, r))
		if err != nil {
			return fmt.Errorf("adding route %v: %w", r, err)
		}
	}
	return nil
}

// disconnected are the changes that bring back the routes to the networks of addresses,
// which the kernel makes with an address, and not again. Those of addresses that are not
// there come with them.
func (c *conn) disconnected(index int, cfg *Config, connected []netip.Prefix) (changes []change, err error) {
	var lost []netip.Prefix
	for _, p := range cfg.Addrs {
		if !p.IsSingleIP() && !slices.Contains(connected, p.Masked()) {
			lost = append(lost, p)
			connected = append(connected, p.Masked())
		}
	}
	if len(lost) == 0 {
		return nil, nil
	}
	have, err := c.addresses(index)
	if err != nil {
		return nil, err
	}
	for _, p := range lost {
		if slices.ContainsFunc(have, func(a address) bool { return a.prefix == p }) {
			changes = append(changes, change{
				Difference: Difference{cfg.Name, AspectRoute, "", p.Masked().String()},
				do:         func() error { return c.do(connectedRoute(index, p)) },
			})
		}
	}
	return changes, nil
}

// ourRoutes lists the routes of a link that Ensure added, and the networks that it is
// connected to.
func (c *conn) ourRoutes(index int) (ours []Route, connected []netip.Prefix, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		routes, err := c.routes(family, index)
		if err != nil {
			return nil, nil, err
		}
		for _, r := range routes {
			switch {
			case r.protocol == routeProtocol:
				ours = append(ours, Route{Prefix: r.dst, Gateway: r.gateway, Metric: r.metric})
			case !r.gateway.IsValid():
				connected = append(connected, r.dst)
			}
		}
	}
	return ours, connected, nil
}

// kernelMetric is that of the kernel's own IPv6 routes (IP6_RT_PRIO_ADDRCONF).
const kernelMetric = 256

// connectedRoute is the request that adds the route to the network of an address, as
// the kernel itself does, which takes it away with the address.
func connectedRoute(index int, p netip.Prefix) *nl.NetlinkRequest {
	msg := nl.NewRtMsg()
	msg.Family, msg.Dst_len, msg.Protocol, msg.Scope = unix.AF_INET, uint8(p.Bits()), unix.RTPROT_KERNEL, unix.RT_SCOPE_LINK
	req := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_DST, p.Masked().Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	if p.Addr().Is4() {
		req.AddData(nl.NewRtAttr(unix.RTA_PREFSRC, p.Addr().AsSlice()))
		return req
	}
	msg.Family = unix.AF_INET6
	req.AddData(nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(kernelMetric)))
	return req
}

// routeRequest is the request that adds or removes a route of the main table.
func routeRequest(kind, flags, index int, r Route) *nl.NetlinkRequest {
	msg := nl.NewRtMsg()
	msg.Family, msg.Dst_len, msg.Protocol = unix.AF_INET, uint8(r.Prefix.Bits()), routeProtocol
	if r.Prefix.Addr().Is6() {
		msg.Family = unix.AF_INET6
	}
	req := nl.NewNetlinkRequest(kind, flags)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_DST, r.Prefix.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, r.Gateway.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	req.AddData(nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(r.Metric)))
	return req
}

// A packet that this host sends from a loopback address leaves by a bridge where it is led
// to a guest and gets another source. Its answer gets the loopback address back before it
// is routed, and the kernel then takes it for forged unless it is told otherwise: in IPv4
// by route_localnet of the bridge (Documentation/networking/ip-sysctl.rst); in IPv6, where
// a route to ::1 must be by the device that a packet came in by (rt6_need_strict of
// net/ipv6/route.c), by such a route. What comes off a wire to ::1 the kernel drops first
// (ip6_rcv_core); what comes so to 127.0.0.0/8 are the firewall's to stop.

// loopbackMetric is, with the link's index added to it, that of the route to ::1 by a bridge:
// behind that by the loopback device, which is this host's own, and unlike that by any other
// bridge, since the kernel has one route for each destination and metric.
const loopbackMetric = 4096

// loopback6 is ::1 as a destination.
func loopback6() netip.Prefix { return netip.PrefixFrom(netip.IPv6Loopback(), 128) }

// setLoopback makes the route to ::1 by the link what cfg says.
func setLoopback(c *conn, index int, cfg *Config) error {
	want := cfg.Loopback6 && cfg.hasIPv6()
	if !want && !cfg.FormerLoopback6 {
		return nil
	}
	there, err := hasLoopbackRoute(c, index)
	if err != nil || there == want {
		return err
	}
	kind, flags, metric, d := unix.RTM_DELROUTE, 0, 0, Difference{cfg.Name, AspectRoute, "local ::1", ""}
	if want {
		kind, flags, metric, d.Has, d.Want = unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, loopbackMetric+index, "", "local ::1"
	}
	return c.carryOut([]change{{Difference: d, do: func() error {
		err := c.do(loopbackRoute(kind, flags, index, metric))
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EEXIST) {
			return nil // somebody was quicker
		}
		return err
	}}}, cfg.Amend)
}

// hasLoopbackRoute reports whether ::1 is reached by the link.
func hasLoopbackRoute(c *conn, index int) (bool, error) {
	msgs, err := c.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE,
		&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET6, Table: unix.RT_TABLE_LOCAL}},
		nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	if err != nil {
		return false, fmt.Errorf("listing local routes: %w", err)
	}
	for _, m := range msgs {
		if len(m) < unix.SizeofRtMsg || nl.DeserializeRtMsg(m).Table != unix.RT_TABLE_LOCAL {
			continue
		}
		r, err := parseRoute(m)
		if err != nil {
			return false, err
		}
		if r.dst == loopback6() && len(r.indexes) == 1 && r.indexes[0] == index {
			return true, nil
		}
	}
	return false, nil
}

// loopbackRoute is the request that adds or removes the route to ::1 by a link, of any metric
// where that is 0.
func loopbackRoute(kind, flags, index, metric int) *nl.NetlinkRequest {
	msg := nl.NewRtMsg()
	msg.Family, msg.Dst_len, msg.Protocol = unix.AF_INET6, 128, routeProtocol
	msg.Table, msg.Type = unix.RT_TABLE_LOCAL, unix.RTN_LOCAL
	req := nl.NewNetlinkRequest(kind, flags)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_DST, netip.IPv6Loopback().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	req.AddData(nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(uint32(metric))))
	return req
}
