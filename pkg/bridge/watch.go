package bridge

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// LinkEvent is something that happened to a link.
type LinkEvent struct {
	// Resync says that events may have been lost, or that the watch begins:
	// look at every link of interest. The other fields are then empty.
	Resync bool
	// Deleted says that Link is gone; otherwise it is new or changed.
	Deleted bool
	Link
}

// Watch calls f with every event of a link until ctx ends, and then returns nil.
// The first call is a Resync, made when no later event can be missed. f is
// called from one goroutine, the caller's; while it runs, events queue.
//
// The error is that of the first subscription; one that breaks later is renewed.
func (b *Bridges) Watch(ctx context.Context, f func(LinkEvent)) error {
	return netlink.Watch(ctx, unix.NETLINK_ROUTE, []uint{unix.RTNLGRP_LINK}, func() { f(LinkEvent{Resync: true}) }, func(m netlink.Message) {
		if e, ok := parseEvent(m); ok {
			f(e)
		}
	})
}

// parseEvent reads one message; ok is false if it is none of a link. Messages of
// family AF_BRIDGE are about the port of a bridge: its RTM_DELLINK says that a
// link isn't a port any more, not that it is gone.
func parseEvent(m netlink.Message) (e LinkEvent, ok bool) {
	kind := m.Type
	if kind != unix.RTM_NEWLINK && kind != unix.RTM_DELLINK {
		return LinkEvent{}, false
	}
	if len(m.Body) == 0 || m.Body[0] != unix.AF_UNSPEC {
		return LinkEvent{}, false
	}
	l, err := parseLink(m.Body)
	if err != nil {
		return LinkEvent{Resync: true}, true
	}
	return LinkEvent{Deleted: kind == unix.RTM_DELLINK, Link: l.Link}, true
}

// Change tells that something of a link has changed: its attributes as a link or as a
// port, its addresses, routes, forwarding entries, queueing disciplines, or whether the
// host forwards what comes from it.
type Change struct {
	// Resync says that changes may have been missed, or that the watch begins.
	Resync bool
	Index  int
	// MAC is set where it is what the bridge with that Index knows of the address: that
	// changes all the time where the bridge learns addresses.
	MAC net.HardwareAddr
	// Process is the program that did it, empty where that is not known: it must still
	// be there, and the kernel tells of few changes whose they are.
	Process string
}

// changeGroups are those whose messages Changes reads.
var changeGroups = []uint{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_TC, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
}

// Changes is Watch for changes of all kinds.
func (b *Bridges) Changes(ctx context.Context, f func(Change)) error {
	ports := told{maphash.MakeSeed(), make(map[int]uint64)}
	missed := func() {
		clear(ports.last)
		f(Change{Resync: true})
	}
	return netlink.Watch(ctx, unix.NETLINK_ROUTE, changeGroups, missed, func(m netlink.Message) {
		if c := parseChange(m); c.Index > 0 && !ports.again(m, c.Index) {
			c.Process = process(m.Port)
			f(c)
		}
	})
}

// told is what was told last of each port of a bridge.
type told struct {
	seed maphash.Seed
	last map[int]uint64 // by ifindex: a sum
}

// again reports whether a message says of a port what was told of it last, but for timers: two seconds
// after a port came to a bridge with STP the kernel tells of it though nothing has changed.
func (t told) again(m netlink.Message, index int) bool {
	if m.Type == unix.RTM_DELLINK {
		delete(t.last, index)
	}
	if m.Type != unix.RTM_NEWLINK || len(m.Body) < unix.SizeofIfInfomsg || m.Body[0] != unix.AF_BRIDGE {
		return false
	}
	var sum maphash.Hash
	sum.SetSeed(t.seed)
	sum.Write(m.Body[:unix.SizeofIfInfomsg])
	for kind, value := range netlink.Attributes(m.Body[unix.SizeofIfInfomsg:]) {
		maphash.WriteComparable(&sum, kind)
		if kind != unix.IFLA_PROTINFO {
			sum.Write(value)
			continue
		}
		for kind, value := range netlink.Attributes(value) {
			if kind < unix.IFLA_BRPORT_MESSAGE_AGE_TIMER || kind > unix.IFLA_BRPORT_HOLD_TIMER {
				maphash.WriteComparable(&sum, kind)
				sum.Write(value)
			}
		}
	}
	was, there := t.last[index]
	t.last[index] = sum.Sum64()
	return there && was == t.last[index]
}

// parseChange reads one message; its index is 0 for one that is about no single link.
// The messages of most kinds have the index in the same place: struct ifinfomsg,
// ifaddrmsg and tcmsg.
func parseChange(m netlink.Message) (c Change) {
	if len(m.Body) < 8 {
		return Change{}
	}
	switch m.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR, unix.RTM_NEWQDISC, unix.RTM_DELQDISC:
		c.Index = int(binary.NativeEndian.Uint32(m.Body[4:]))
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		if m.Body[0] == unix.AF_BRIDGE && len(m.Body) >= unix.SizeofNdMsg {
			c.Index = indexAttribute(m.Body, unix.SizeofNdMsg, unix.NDA_MASTER)
			c.MAC = attribute(m.Body, unix.SizeofNdMsg, unix.NDA_LLADDR)
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		c.Index = indexAttribute(m.Body, unix.SizeofRtMsg, unix.RTA_OIF)
	case unix.RTM_NEWNETCONF:
		// struct netconfmsg is one byte, padded; NETCONFA_IFINDEX is 1.
		c.Index = indexAttribute(m.Body, 4, 1)
	}
	return c
}

// attribute is the attribute of that kind behind a header of that size; nil where there
// is none.
func attribute(body []byte, header int, kind uint16) []byte {
	if len(body) < header {
		return nil
	}
	for k, value := range netlink.Attributes(body[header:]) {
		if k == kind {
			return bytes.Clone(value)
		}
	}
	return nil
}

// indexAttribute is an attribute that is an ifindex; 0 where there is none. Indexes below
// 0 stand for no link.
func indexAttribute(body []byte, header int, kind uint16) int {
	value := attribute(body, header, kind)
	if len(value) < 4 {
		return 0
	}
	return int(int32(binary.NativeEndian.Uint32(value)))
}

// process is the name of the process with that id, empty for our own, and for one that
// is gone, or never was: a process's second socket has another address.
func process(id uint32) string {
	if id == 0 || id > 1<<22 || int(id) == os.Getpid() {
		return ""
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", id))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}
