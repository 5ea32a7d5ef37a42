package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// State is what whoever has a descriptor of a device may change of it, with no other
// right (drivers/net/tun.c).
type State struct {
	MAC   net.HardwareAddr // SIOCSIFHWADDR
	Owner int64            // TUNSETOWNER; -1: everybody may open the device
	Group int64            // TUNSETGROUP; -1: none
	// Persistent says that the device stays when nobody has it open (TUNSETPERSIST).
	Persistent bool
	Queues     int // those that are open, in use or not (TUNSETIFF, TUNSETQUEUE)
}

// Look reads the State of the device with that index. The error is ErrGone where there
// is none.
func Look(index int) (State, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	replies, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	switch {
	case errors.Is(err, unix.ENODEV):
		return State{}, ErrGone
	case err == nil && (len(replies) != 1 || len(replies[0]) < unix.SizeofIfInfomsg):
		err = errors.New("not one answer")
	}
	s := State{Owner: -1, Group: -1}
	if err == nil {
		err = walk(replies[0][unix.SizeofIfInfomsg:], s.set)
	}
	if err != nil {
		return State{}, fmt.Errorf("looking at device %d: %w", index, err)
	}
	return s, nil
}

// SetMAC gives the device with that index an address.
func SetMAC(index int, mac net.HardwareAddr) error {
	d := &Device{Index: index}
	return d.setAttributes(&Config{MAC: mac})
}

// set takes an attribute of a link.
func (s *State) set(kind uint16, value []byte) error {
	switch kind {
	case unix.IFLA_ADDRESS:
		s.MAC = append(net.HardwareAddr(nil), value...)
	case unix.IFLA_LINKINFO:
		return walk(value, func(kind uint16, value []byte) error {
			if kind != unix.IFLA_INFO_DATA {
				return nil
			}
			return walk(value, s.setTUN)
		})
	}
	return nil
}

// setTUN takes an attribute of a TUN or TAP device.
func (s *State) setTUN(kind uint16, value []byte) error {
	number := func() int64 {
		if len(value) < 4 {
			return -1
		}
		return int64(binary.NativeEndian.Uint32(value))
	}
	switch kind {
	case unix.IFLA_TUN_OWNER:
		s.Owner = number()
	case unix.IFLA_TUN_GROUP:
		s.Group = number()
	case unix.IFLA_TUN_PERSIST:
		s.Persistent = len(value) > 0 && value[0] != 0
	case unix.IFLA_TUN_NUM_QUEUES, unix.IFLA_TUN_NUM_DISABLED_QUEUES:
		s.Queues += int(max(number(), 0))
	}
	return nil
}

// walk calls f with each attribute of b.
func walk(b []byte, f func(kind uint16, value []byte) error) error {
	attrs, err := nl.ParseRouteAttr(b)
	if err != nil {
		return err
	}
	for _, a := range attrs {
		if err := f(a.Attr.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), a.Value); err != nil {
			return err
		}
	}
	return nil
}
