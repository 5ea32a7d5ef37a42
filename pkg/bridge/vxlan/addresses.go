package vxlan

import (
	"encoding/binary"
	"net/netip"
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
	mu      sync.Mutex // guards what follows
	changes netlink.Subscription
	listed  time.Time
	all     map[hostAddress]netip.Addr // with the address for all that was said
	shown   *shown                     // of all; nil: not yet
}

// shown are addresses of a host. They are not altered.
type shown struct {
	own, broadcasts []netip.Addr
	links           map[netip.Addr]int // ifindexes, of own
}

// close ends the subscription.
func (l *addresses) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes.Close()
}

// now are those that the host has when it is called, or later.
func (l *addresses) now(s *netlink.Socket) (*shown, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.changes.Read(l.learn) || time.Since(l.listed) >= listedFor {
		if err := l.list(s); err != nil {
			l.changes.Close()
			return nil, err
		}
	}
	if l.shown == nil {
		l.show()
	}
	return l.shown, nil
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
	l.all, l.shown = make(map[hostAddress]netip.Addr, len(bodies)), nil
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
		delete(l.all, a)
	}
	l.shown = nil
	return true
}

// add takes in an RTM_NEWADDR.
func (l *addresses) add(body []byte) {
	if a, broadcast := parseAddress(body); a.local.IsValid() {
		l.all[a] = broadcast
	}
}

// show makes what is asked for of all.
func (l *addresses) show() {
	l.shown = &shown{own: make([]netip.Addr, 0, len(l.all)), links: make(map[netip.Addr]int, len(l.all))}
	for a, broadcast := range l.all {
		index, again := l.shown.links[a.local]
		if !again {
			l.shown.own = append(l.shown.own, a.local)
		}
		l.shown.links[a.local] = max(index, a.index)
		l.shown.broadcasts = append(l.shown.broadcasts, a.broadcasts(broadcast)...)
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
