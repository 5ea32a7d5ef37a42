package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// route is a route of the main table.
type route struct {
	dst      netip.Prefix
	gateway  netip.Addr // of a route with one way out
	metric   uint32
	protocol uint8
	// indexes are the links it leads out of: none for an unreachable one,
	// several for a multipath one.
	indexes []int
}

// AddressOwner names a link other than except that uses the network of p
// already: by a route of the main table to exactly that network, or by an
// address in a network of exactly that prefix. It is empty when there is none.
//
// This is the check that libvirt makes before it starts a network: a network
// that contains p or lies inside it is no conflict, and IPv6 is never one.
func (b *Bridges) AddressOwner(p netip.Prefix, except string) (owner string, err error) {
	if !p.IsValid() || !p.Addr().Is4() {
		return "", nil
	}
	indexes, err := b.users(p.Masked())
	if err != nil {
		return "", fmt.Errorf("looking for other users of %v: %w", p.Masked(), err)
	}
	for _, index := range indexes {
		l, err := b.byIndex(index)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return "", err
		}
		if l.Name != except {
			return l.Name, nil
		}
	}
	return "", nil
}

// users are the indexes of the links with a route to p or an address in it.
func (b *Bridges) users(p netip.Prefix) ([]int, error) {
	routes, err := b.routes(unix.AF_INET)
	if err != nil {
		return nil, err
	}
	var indexes []int
	for _, r := range routes {
		if r.dst == p {
			indexes = append(indexes, r.indexes...)
		}
	}
	addrs, err := b.addresses(0)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if a.prefix.Masked() == p {
			indexes = append(indexes, a.index)
		}
	}
	return indexes, nil
}

// HostNet is a network that this host reaches over a link: by a route of the
// main table, or because it has an address in it.
type HostNet struct {
	Link   string
	Prefix netip.Prefix // without host bits
}

// HostNets lists the networks of both families that the host reaches, each once
// for a link, without default routes.
func (b *Bridges) HostNets() ([]HostNet, error) {
	prefixes := map[int][]netip.Prefix{}
	note := func(index int, p netip.Prefix) {
		if p.Bits() > 0 && !slices.Contains(prefixes[index], p) {
			prefixes[index] = append(prefixes[index], p)
		}
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		routes, err := b.routes(family)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			for _, index := range r.indexes {
				note(index, r.dst)
			}
		}
	}
	addrs, err := b.addresses(0)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		note(a.index, a.prefix.Masked())
	}
	var nets []HostNet
	for index, all := range prefixes {
		l, err := b.byIndex(index)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, p := range all {
			nets = append(nets, HostNet{l.Name, p})
		}
	}
	return nets, nil
}

// routes lists the main table of a family.
func (b *Bridges) routes(family uint8) ([]route, error) {
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: family, Table: unix.RT_TABLE_MAIN}}
	msgs, err := b.conn.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, msg)
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	var all []route
	for _, m := range msgs {
		if len(m) < unix.SizeofRtMsg {
			return nil, errors.New("short route message")
		}
		// Also where the kernel didn't filter.
		if head := nl.DeserializeRtMsg(m); head.Family != family || head.Table != unix.RT_TABLE_MAIN {
			continue
		}
		r, err := parseRoute(m)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// parseRoute reads the body of an RTM_NEWROUTE message.
func parseRoute(m []byte) (route, error) {
	msg := nl.DeserializeRtMsg(m)
	r := route{protocol: msg.Protocol}
	dst := netip.IPv4Unspecified()
	if msg.Family == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	err := attributes(m[unix.SizeofRtMsg:], func(kind uint16, value []byte) error {
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
			r.indexes = append(r.indexes, nextHops(value)...)
		}
		return nil
	})
	r.dst = netip.PrefixFrom(dst, int(msg.Dst_len))
	return r, err
}

// nextHops are the links of RTA_MULTIPATH.
func nextHops(value []byte) []int {
	var indexes []int
	eachHop(value, func(head, _ []byte) {
		indexes = append(indexes, int(binary.NativeEndian.Uint32(head[4:])))
	})
	return indexes
}

// eachHop calls f with every way out in RTA_MULTIPATH: a struct rtnexthop, with its
// length in the first two bytes and its link in the last four, and its attributes.
func eachHop(value []byte, f func(head, attrs []byte)) {
	for len(value) >= unix.SizeofRtNexthop {
		size := int(binary.NativeEndian.Uint16(value))
		if size < unix.SizeofRtNexthop || size > len(value) {
			return
		}
		f(value[:unix.SizeofRtNexthop], value[unix.SizeofRtNexthop:size])
		value = value[min((size+3)&^3, len(value)):]
	}
}
