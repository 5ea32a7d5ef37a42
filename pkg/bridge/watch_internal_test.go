package bridge

import (
	"hash/maphash"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// portMessage is what the kernel tells of a port of a bridge.
func portMessage(state, timer byte, name string) netlink.Message {
	head := make([]byte, unix.SizeofIfInfomsg)
	head[0], head[4] = unix.AF_BRIDGE, 7
	port := netlink.AppendAttribute(nil, unix.IFLA_BRPORT_STATE, []byte{state})
	port = netlink.AppendAttribute(port, unix.IFLA_BRPORT_FORWARD_DELAY_TIMER, []byte{timer, 0, 0, 0, 0, 0, 0, 0})
	port = netlink.AppendAttribute(port, unix.IFLA_BRPORT_ISOLATED, []byte{0})
	body := netlink.AppendAttribute(head, unix.IFLA_IFNAME, []byte(name+"\x00"))
	return netlink.Message{Type: unix.RTM_NEWLINK, Body: netlink.AppendAttribute(body, unix.IFLA_PROTINFO|unix.NLA_F_NESTED, port)}
}

// TestToldAgain holds that what the kernel tells of a port counts unless nothing but its timers is
// another than what it told before.
func TestToldAgain(t *testing.T) {
	gone := portMessage(3, 0, "p")
	gone.Type = unix.RTM_DELLINK
	link := portMessage(3, 0, "p")
	link.Body[0] = unix.AF_UNSPEC
	ports := told{maphash.MakeSeed(), make(map[int]uint64)}
	for i, step := range []struct {
		m     netlink.Message
		again bool
	}{
		{portMessage(1, 9, "p"), false},
		{portMessage(3, 8, "p"), false},
		{portMessage(3, 0, "p"), true},
		{portMessage(1, 0, "p"), false},
		{portMessage(3, 0, "p"), false},
		{portMessage(3, 0, "q"), false},
		{portMessage(3, 0, "q"), true},
		{link, false},
		{link, false},
		{portMessage(3, 0, "q"), true},
		{gone, false},
		{portMessage(3, 0, "q"), false},
	} {
		if got := ports.again(step.m, 7); got != step.again {
			t.Errorf("message %d says nothing new: %v, want %v", i, got, step.again)
		}
	}
	if ports.again(portMessage(3, 0, "q"), 8) {
		t.Error("what was told of one port counts as told of another")
	}
}

// FuzzToldAgain reads what the kernel could tell of a port.
func FuzzToldAgain(f *testing.F) {
	f.Add(portMessage(3, 8, "p").Body)
	f.Fuzz(func(t *testing.T, body []byte) {
		ports, m := told{maphash.MakeSeed(), make(map[int]uint64)}, netlink.Message{Type: unix.RTM_NEWLINK, Body: body}
		if ports.again(m, 7) {
			t.Error("the first that is told of a port was told before")
		}
		if !ports.again(m, 7) && len(body) >= unix.SizeofIfInfomsg && body[0] == unix.AF_BRIDGE {
			t.Error("the same once more is new")
		}
	})
}
