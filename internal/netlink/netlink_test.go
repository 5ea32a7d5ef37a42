package netlink_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nstest"
)

// FuzzMessages reads datagrams of any form. What the kernel says is trusted; a
// parser that runs off its end would still take the daemon down.
func FuzzMessages(f *testing.F) {
	refusal := append(binary.NativeEndian.AppendUint32(nil, ^uint32(unix.EPERM)+1), make([]byte, 16)...)
	f.Add(netlink.NewMessage(unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS, refusal, netlink.AppendAttribute(nil, unix.NLMSGERR_ATTR_MSG, []byte("no\x00"))))
	f.Add(append(netlink.NewMessage(unix.NLMSG_DONE, 0, make([]byte, 4)), netlink.NewMessage(unix.NLMSG_NOOP, 0)...))
	f.Add([]byte{16, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9})
	f.Fuzz(func(t *testing.T, datagram []byte) {
		read := 0
		for m := range netlink.Messages(datagram) {
			read += unix.NLMSG_HDRLEN + len(m.Body)
			_ = m.Err()
			var again []byte
			err := netlink.ParseAttributes(m.Body, func(kind uint16, value []byte) error {
				again = netlink.AppendAttribute(again, kind, value)
				return nil
			})
			if err == nil && len(again) > len(m.Body)+3 {
				t.Errorf("attributes of %d bytes are %d", len(m.Body), len(again))
			}
		}
		if read > len(datagram) {
			t.Errorf("%d bytes read of %d", read, len(datagram))
		}
	})
}

// linkRequest asks for, or changes, the loopback device of a namespace: index 1.
func linkRequest(kind uint16, change uint32, attributes ...byte) []byte {
	body := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(body[4:], 1)
	binary.NativeEndian.PutUint32(body[8:], change)
	binary.NativeEndian.PutUint32(body[12:], change)
	return netlink.NewMessage(kind, unix.NLM_F_REQUEST, body, attributes)
}

// Each of several messages in one datagram gets its own answer, and a Subscription
// has heard of what they did by then.
func TestEachMessageIsAnswered(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s, err := netlink.Open(unix.NETLINK_ROUTE)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		var heard netlink.Subscription
		if heard.Read(func(netlink.Message) bool { return true }) {
			t.Error("what isn't subscribed has missed nothing")
		}
		if err := heard.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK); err != nil {
			t.Fatal(err)
		}
		defer heard.Close()
		refused := linkRequest(unix.RTM_NEWLINK, 0, netlink.AppendAttribute(nil, unix.IFLA_MASTER, []byte{99, 0, 0, 0})...)
		mtu := netlink.AppendAttribute(nil, unix.IFLA_MTU, binary.NativeEndian.AppendUint32(nil, 1400))
		errs := s.Do(linkRequest(unix.RTM_NEWLINK, 0, mtu...), refused, linkRequest(unix.RTM_NEWLINK, unix.IFF_UP))
		if len(errs) != 3 || errs[0] != nil || errs[2] != nil || !errors.Is(errs[1], unix.EINVAL) && !errors.Is(errs[1], unix.EOPNOTSUPP) {
			t.Errorf("errors %v, want one of the second", errs)
		}
		told := 0
		all := heard.Read(func(m netlink.Message) bool {
			if m.Type == unix.RTM_NEWLINK {
				told++
			}
			return true
		})
		if !all || told == 0 {
			t.Errorf("all %v, %d messages about the link", all, told)
		}
		body, err := s.Get(linkRequest(unix.RTM_GETLINK, 0), unix.RTM_NEWLINK)
		if err != nil || !bytes.Contains(body, []byte("lo\x00")) {
			t.Errorf("the link is %q, %v", body, err)
		}
	})
}

// Of a closed socket no message is missed, whatever was missed before: who goes on after those
// that were (ENOBUFS) would go on for ever.
func TestClosedAfterOverrun(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s, err := netlink.Open(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
		if err != nil {
			t.Fatal(err)
		}
		s.SetBuffers(0, 1) // the kernel's least
		for i := range 20 {
			nstest.IP(t, fmt.Sprintf("link set lo mtu %d", 1400+i))
		}
		if _, err := s.Receive(); !errors.Is(err, unix.ENOBUFS) {
			t.Fatalf("of a socket that is full: %v, want ENOBUFS", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Receive(); err == nil || errors.Is(err, unix.ENOBUFS) {
			t.Errorf("of a closed socket: %v, want another error", err)
		}
	})
}

// TestIdleSocketsHaveNoBuffers has many sockets that have asked for something once.
func TestIdleSocketsHaveNoBuffers(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const count = 200
		inUse := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.GC() // what is in pools goes with the second one
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := inUse()
		sockets := make([]*netlink.Socket, count)
		for i := range sockets {
			s, err := netlink.OpenRequests(unix.NETLINK_ROUTE)
			if err != nil {
				t.Fatal(err)
			}
			if errs := s.Do(linkRequest(unix.RTM_GETLINK, 0)); errs[0] != nil {
				t.Fatal(errs)
			}
			sockets[i] = s
		}
		if each := (inUse() - before) / count; each > 8<<10 {
			t.Errorf("an idle socket has %d bytes", each)
		}
		for _, s := range sockets {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
