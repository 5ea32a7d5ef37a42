package uplink

import (
	"bytes"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// arrivals hears of the routes that are added while those of an uplink move: the kernel
// takes them away with the last IPv4 address of their link, and tells nobody
// (fib_disable_ip of net/ipv4/fib_frontend.c).
type arrivals struct{ told netlink.Subscription }

// listen begins to hear of routes.
func (a *arrivals) listen() error {
	return a.told.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
}

// close ends it.
func (a *arrivals) close() { a.told.Close() }

// late are the routes that the move's old link got since listen and the move lacks.
func (a *arrivals) late(mv *move) (routes []route) {
	a.told.Read(func(m netlink.Message) bool {
		if m.Type != unix.RTM_NEWROUTE {
			return true
		}
		r, err := parseRoute(Route{Message: bytes.Clone(m.Body)})
		if err != nil || !r.movable() || r.ofAddress() || r.ofClient() || r.get(rtaNHID) != nil || !r.leads(mv.from.Index) {
			return true
		}
		r = r.withoutLink(mv.to.Index)
		if !slices.ContainsFunc(slices.Concat(mv.routes, routes), r.leadsAs) {
			routes = append(routes, r)
		}
		return true
	})
	return routes
}

// leadsAs reports whether both routes lead to the same destination by the same gateway.
func (r route) leadsAs(other route) bool {
	return r.equals() == other.equals() && bytes.Equal(r.get(unix.RTA_GATEWAY), other.get(unix.RTA_GATEWAY))
}

// adopt adds the late routes to the move and to the state, which save stores.
func (a *arrivals) adopt(s *State, up *nic, mv *move, save func(State) error) error {
	own := belongings{routes: a.late(mv)}
	if len(own.routes) == 0 {
		return nil
	}
	next := *s
	if _, err := next.absorb(&own, up); err != nil {
		return err
	}
	mv.routes = append(mv.routes, own.routes...)
	slices.SortStableFunc(mv.routes, byRank)
	*s = next
	return save(next)
}
