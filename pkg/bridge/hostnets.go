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
	byLink  map[int][]netip.Prefix
	listed  time.Time
}

// valid reports whether what was listed last is so. The caller holds h.mu.
func (h *hostNets) valid() bool {
	nothing := func(netlink.Message) bool { return false }
	return h.changes.Read(nothing) && time.Since(h.listed) < hostNetsAge
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
	if h.valid() {
		return h.nets, nil
	}
	// Links too: of the routes that go with one the kernel doesn't tell.
	err := h.changes.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEXTHOP,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
	if err == nil {
		h.listed = time.Now()
		h.nets, h.byLink, err = b.conn.listHostNets()
	}
	if err != nil {
		h.changes.Close()
	}
	return h.nets, err
}

// NetsOf is HostNets of the link with that index: where something has changed since all were
// listed it asks about that link alone, however many others there are. The list must not be
// changed.
func (b *Bridges) NetsOf(index int) ([]netip.Prefix, error) {
	h := &b.hostNets
	h.mu.Lock()
	valid, nets := h.valid(), h.byLink[index]
	h.mu.Unlock()
	if valid {
		return nets, nil
	}
	all, err := netsByLink(b.conn, index)
	return all[index], err
}

// netsByLink lists what the host reaches over each link, or over the one with that index where
// it is not 0.
func netsByLink(c *conn, only int) (map[int][]netip.Prefix, error) {
	prefixes := map[int][]netip.Prefix{}
	note := func(index int, p netip.Prefix) {
		if p.Bits() > 0 && (only == 0 || index == only) && !slices.Contains(prefixes[index], p) {
			prefixes[index] = append(prefixes[index], p)
		}
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		routes, err := mainRoutes(c, family, only)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			for _, index := range r.indexes {
				note(index, r.dst)
			}
		}
	}
	addrs, err := c.addresses(only)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		note(a.index, a.prefix.Masked())
	}
	return prefixes, nil
}

func (c *conn) listHostNets() (nets []HostNet, prefixes map[int][]netip.Prefix, err error) {
	prefixes, err = netsByLink(c, 0)
	if err != nil {
		return nil, nil, err
	}
	for index, all := range prefixes {
		name, err := c.linkName(index)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		for _, p := range all {
			nets = append(nets, HostNet{name, p})
		}
	}
	return nets, prefixes, nil
}
