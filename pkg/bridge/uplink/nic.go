package uplink

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// ErrAway says that the uplink is not there now: unplugged, without a driver, or not
// found yet.
var ErrAway = errors.New("the uplink is away")

// Device is what an uplink is known by when it comes back under another name.
type Device struct {
	Kind string           `json:"kind"` // the kernel's name of the device type, empty for hardware
	MAC  net.HardwareAddr `json:"mac"`
	// Permanent is the MAC address that the card was made with (IFLA_PERM_ADDRESS),
	// nil for devices that have none: veth, VLAN devices, bonds.
	Permanent net.HardwareAddr `json:"permanent,omitempty"`
}

// ownsMAC reports whether a MAC address tells the device from others: devices on top of
// others have theirs from them.
func (d *Device) ownsMAC() bool {
	return !slices.Contains([]string{"vlan", "bond", "team", "macvlan", "macvtap", "ipvlan", bridge.Kind}, d.Kind)
}

// nic is a link as it may be an uplink.
type nic struct {
	bridge.Link
	alternative []string // further names
	permanent   net.HardwareAddr
	lower, vlan int // of a VLAN device: the index of the link below, and the VLAN
}

func (l *nic) device() Device {
	return Device{Kind: l.Kind, MAC: l.MAC, Permanent: l.permanent}
}

// called reports whether name is one of the link's.
func (l *nic) called(name string) bool {
	return l.Name == name || slices.Contains(l.alternative, name)
}

// nics lists the links.
func (k kernel) nics() ([]nic, error) {
	ask := message{head: head(unix.AF_UNSPEC, unix.SizeofIfInfomsg), attrs: []attr{{unix.IFLA_EXT_MASK, netlink.Uint32(netlink.SkipStats)}}}
	bodies, err := k.Dump(ask.request(unix.RTM_GETLINK, 0), unix.RTM_NEWLINK)
	if err != nil {
		return nil, fmt.Errorf("listing links: %w", err)
	}
	var all []nic
	for _, data := range bodies {
		l, err := parseNIC(data)
		if err != nil {
			return nil, fmt.Errorf("listing links: %w", err)
		}
		all = append(all, l)
	}
	return all, nil
}

// parseNIC reads the body of an RTM_NEWLINK message.
func parseNIC(data []byte) (nic, error) {
	m, err := parseMessage(data, unix.SizeofIfInfomsg)
	if err != nil {
		return nic{}, err
	}
	flags := linkFlags(m)
	l := nic{permanent: m.get(unix.IFLA_PERM_ADDRESS), Link: bridge.Link{
		Name: unix.ByteSliceToString(m.get(unix.IFLA_IFNAME)), Index: linkIndex(m),
		MAC: m.get(unix.IFLA_ADDRESS), MTU: int(m.u32(unix.IFLA_MTU)), Master: int(m.u32(unix.IFLA_MASTER)),
		Up: flags&unix.IFF_UP != 0, Carrier: flags&unix.IFF_LOWER_UP != 0, Loopback: flags&unix.IFF_LOOPBACK != 0,
	}}
	for kind, value := range netlink.Attributes(m.get(unix.IFLA_LINKINFO)) {
		switch {
		case kind == unix.IFLA_INFO_KIND:
			l.Kind = unix.ByteSliceToString(value)
		case kind == unix.IFLA_INFO_DATA && l.Kind == kindVLAN:
			l.lower, l.vlan = int(m.u32(unix.IFLA_LINK)), vlanOf(value)
		}
	}
	for kind, value := range netlink.Attributes(m.get(unix.IFLA_PROP_LIST)) {
		if kind == unix.IFLA_ALT_IFNAME {
			l.alternative = append(l.alternative, unix.ByteSliceToString(value))
		}
	}
	return l, nil
}

// vlanOf is the number in the IFLA_INFO_DATA of a VLAN device.
func vlanOf(data []byte) int {
	for kind, value := range netlink.Attributes(data) {
		if kind == vlanID && len(value) >= 2 {
			return int(binary.NativeEndian.Uint16(value))
		}
	}
	return 0
}

// How sure it is that a link is an uplink.
const (
	unlike    = iota
	alike     // its MAC address
	namesake  // its name: the device was replaced
	identical // the card, or what was never away
	certain   // that, by its name
)

// likeness says how sure it is that a link is the uplink of s, whose bridge has the
// index br, 0 for none.
func (s *State) likeness(l *nic, br int) int {
	if l.Loopback || l.Kind == bridge.Kind || len(l.MAC) != 6 || l.Master != 0 && l.Master != br {
		return unlike
	}
	is := s.device()
	switch named := l.called(s.Uplink); {
	case named && (s.same(l) || is.sameMAC(l)):
		return certain
	case s.same(l):
		return identical
	case named:
		return namesake
	case is.sameMAC(l) && len(is.Permanent) == 0 && is.ownsMAC():
		return alike
	}
	return unlike
}

// same reports whether a link is the same card, or one that was never away.
func (s *State) same(l *nic) bool {
	is := s.device()
	samePermanent := bytes.Equal(l.permanent, is.Permanent)
	if samePermanent && len(is.Permanent) > 0 && l.Kind == is.Kind {
		return true
	}
	return l.Index == s.Index && samePermanent && (is.sameMAC(l) || l.Master != 0)
}

// sameMAC reports whether a link of the same kind has the same MAC addresses.
func (d *Device) sameMAC(l *nic) bool {
	return bytes.Equal(l.MAC, d.MAC) && bytes.Equal(l.permanent, d.Permanent) && l.Kind == d.Kind
}

// device is what the uplink is known by; states of old know its MAC address alone.
func (s *State) device() Device {
	if s.Device.MAC == nil {
		return Device{Kind: s.Device.Kind, MAC: s.MAC}
	}
	return s.Device
}

// choose returns that of the links which is most surely the uplink of s, and how
// surely.
func (s *State) choose(links []nic, br int) (found nic, likeness int) {
	for i := range links {
		if sure := s.likeness(&links[i], br); sure > likeness {
			found, likeness = links[i], sure
		}
	}
	return found, likeness
}

// find looks for the uplink. The error is ErrAway when it is not there.
func (u *Uplinks) find(s *State, br int) (nic, error) {
	links, err := u.kernel.nics()
	if err != nil {
		return nic{}, err
	}
	l, likeness := s.choose(links, br)
	if likeness == unlike {
		return nic{}, ErrAway
	}
	return l, nil
}

// Certain is the name that the uplink has now, empty where it is not there. certainly says that
// it is the uplink without doubt: not another device that has its name, or a device with
// another name that udev may be about to change.
func (u *Uplinks) Certain(s State) (name string, certainly bool, err error) {
	br, err := u.bridge(&s)
	if err != nil {
		return "", false, err
	}
	links, err := u.kernel.nics()
	if err != nil {
		return "", false, err
	}
	l, likeness := s.choose(links, br.Index)
	return l.Name, likeness == certain || br.Index != 0 && l.Master == br.Index, nil
}

// bridge is the bridge that Attach made, also under another name or with another MAC
// address; its index is 0 if there is none.
func (u *Uplinks) bridge(s *State) (bridge.Link, error) {
	links, err := u.kernel.nics()
	if err != nil {
		return bridge.Link{}, err
	}
	var found bridge.Link
	for _, l := range links {
		sameMAC, same := bytes.Equal(l.MAC, s.MAC), l.Index == s.BridgeIndex
		switch {
		case l.Kind != bridge.Kind:
		case l.Name == s.Bridge && (sameMAC || same):
			return l.Link, nil
		case sameMAC && same:
			found = l.Link
		}
	}
	return found, nil
}
