package bridge

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// HostNet is a network that this host reaches over a link: by a route of the
// main table, or because it has an address in it.
type HostNet struct {
	Link   string
	Prefix netip.Prefix // without host bits
}

// hostNetsAge is how old a list may become without a message: the kernel tells of a
// link that goes down a moment before its routes are gone.
const hostNetsAge = time.Minute

// hostNets is what HostNets listed last, good for as long as nothing comes that
// may change it.
type hostNets struct {
	mu      sync.Mutex
	changes netlink.Subscription
	nets    []HostNet
	listed  time.Time
}

// close ends the subscription.
func (h *hostNets) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changes.Close()
}

// HostNets lists the networks of both families that the host reaches, each once
// for a link, without default routes. It costs next to nothing while no link,
// address or route changes. The list must not be changed.
func (b *Bridges) HostNets() ([]HostNet, error) {
	h := &b.hostNets
	h.mu.Lock()
	defer h.mu.Unlock()
	nothing := func(netlink.Message) bool { return false }
	if h.changes.Read(nothing) && time.Since(h.listed) < hostNetsAge {
		return h.nets, nil
	}
	// Links too: of the routes that go with one the kernel doesn't tell.
	err := h.changes.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEXTHOP,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
	if err == nil {
		h.listed = time.Now()
		h.nets, err = b.conn.listHostNets()
	}
	if err != nil {
		h.changes.Close()
	}
	return h.nets, err
}

func (c *conn) listHostNets() ([]HostNet, error) {
	prefixes := map[int][]netip.Prefix{}
	note := func(index int, p netip.Prefix) {
		if p.Bits() > 0 && !slices.Contains(prefixes[index], p) {
			prefixes[index] = append(prefixes[index], p)
		}
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		routes, err := c.routes(family, 0)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			for _, index := range r.indexes {
				note(index, r.dst)
			}
		}
	}
	addrs, err := c.addresses(0)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		note(a.index, a.prefix.Masked())
	}
	var nets []HostNet
	for index, all := range prefixes {
		name, err := c.linkName(index)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, p := range all {
			nets = append(nets, HostNet{name, p})
		}
	}
	return nets, nil
}
