package vxlan

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// listedFor is for how long a list of addresses is kept up by what the kernel tells.
const listedFor = time.Minute

// addresses are those of this host. Many networks ask at once when they start, each of which
// changes them: they are listed once, and then follow what the kernel tells.
type addresses struct {
	mu         sync.Mutex // guards what follows
	changes    netlink.Subscription
	listed     time.Time
	all        map[hostAddress]netip.Addr // with the address for all that was said
	links      map[netip.Addr][]int       // ifindexes of those that have an address
	broadcasts map[netip.Addr]int         // on how many links one is for all
}

// close ends the subscription.
func (l *addresses) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes.Close()
}

// find sets what u says of addresses as it is when find is called, or later, and returns the ifindex of
// the link with the first of addrs that the host has, 0 where it has none.
func (l *addresses) find(s *netlink.Socket, u *Underlay, addrs, question []netip.Addr) (index int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.changes.Read(l.learn) || time.Since(l.listed) >= listedFor {
		if err := l.list(s); err != nil {
			l.changes.Close()
			return 0, err
		}
	}
	for _, a := range question {
		if l.links[a] != nil {
			u.Own = append(u.Own, a)
		}
		if l.broadcasts[a] > 0 {
			u.Broadcasts = append(u.Broadcasts, a)
		}
	}
	for _, a := range addrs {
		if on := l.links[a]; on != nil {
			u.Addr = a
			return slices.Max(on), nil
		}
	}
	return 0, nil
}

// list asks the kernel for all. What changes meanwhile is told and taken in next time.
func (l *addresses) list(s *netlink.Socket) error {
	if err := l.changes.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR); err != nil {
		return err
	}
	l.listed = time.Now()
	bodies, err := s.Dump(request(unix.RTM_GETADDR, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfAddrmsg)), unix.RTM_NEWADDR)
	if err != nil {
		return err
	}
	l.all, l.links, l.broadcasts = make(map[hostAddress]netip.Addr, len(bodies)), make(map[netip.Addr][]int, len(bodies)), make(map[netip.Addr]int)
	for _, b := range bodies {
		l.add(b)
	}
	return nil
}

// learn takes in what the kernel tells.
func (l *addresses) learn(m netlink.Message) bool {
	switch m.Type {
	case unix.RTM_NEWADDR:
		l.add(m.Body)
	case unix.RTM_DELADDR:
		a, _ := parseAddress(m.Body)
		l.remove(a)
	}
	return true
}

// add takes in an RTM_NEWADDR.
func (l *addresses) add(body []byte) {
	a, said := parseAddress(body)
	if !a.local.IsValid() {
		return
	}
	l.remove(a)
	l.all[a] = said
	l.links[a.local] = append(l.links[a.local], a.index)
	for _, b := range a.broadcasts(said) {
		l.broadcasts[b]++
	}
}

// remove forgets an address, if it is known.
func (l *addresses) remove(a hostAddress) {
	said, there := l.all[a]
	if !there {
		return
	}
	delete(l.all, a)
	at := slices.Index(l.links[a.local], a.index)
	if l.links[a.local] = slices.Delete(l.links[a.local], at, at+1); len(l.links[a.local]) == 0 {
		delete(l.links, a.local)
	}
	for _, b := range a.broadcasts(said) {
		if l.broadcasts[b]--; l.broadcasts[b] == 0 {
			delete(l.broadcasts, b)
		}
	}
}

// hostAddress is an address of this host.
type hostAddress struct {
	local netip.Addr
	net   netip.Prefix // the subnet, or the peer, behind the link
	index int          // of its link
}

// parseAddress reads an RTM_NEWADDR. Of a link with a peer IFA_LOCAL is the host's address, and
// IFA_ADDRESS that of the peer.
func parseAddress(body []byte) (a hostAddress, broadcast netip.Addr) {
	if len(body) < unix.SizeofIfAddrmsg {
		return a, broadcast
	}
	var far netip.Addr
	for kind, value := range netlink.Attributes(body[unix.SizeofIfAddrmsg:]) {
		switch kind {
		case unix.IFA_LOCAL:
			a.local, _ = netip.AddrFromSlice(value)
		case unix.IFA_ADDRESS:
			far, _ = netip.AddrFromSlice(value)
		case unix.IFA_BROADCAST:
			broadcast, _ = netip.AddrFromSlice(value)
		}
	}
	if !a.local.IsValid() {
		a.local = far
	}
	a.net, _ = far.Prefix(int(body[1]))
	a.index = int(binary.NativeEndian.Uint32(body[4:]))
	return a, broadcast
}

// broadcasts are the one that was said and the last address of the subnet, which the kernel
// takes for one too (fib_add_ifaddr of net/ipv4/fib_frontend.c).
func (a *hostAddress) broadcasts(said netip.Addr) (all []netip.Addr) {
	if !a.net.IsValid() || !a.net.Addr().Is4() {
		return nil
	}
	if said.IsValid() {
		all = append(all, said)
	}
	if a.net.Bits() < 31 {
		last := a.net.Addr().As4()
		binary.BigEndian.PutUint32(last[:], binary.BigEndian.Uint32(last[:])|(1<<(32-a.net.Bits())-1))
		all = append(all, netip.AddrFrom4(last))
	}
	return all
}
