package uplink

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// ErrNoVLANs says that the kernel has no devices for the VLANs of others.
var ErrNoVLANs = errors.New("the kernel has no VLAN devices: modprobe 8021q")

// kindVLAN is the kernel's name of such devices, vlanID their attribute (IFLA_VLAN_ID of
// linux/if_link.h).
const (
	kindVLAN = "vlan"
	vlanID   = 1
)

// devices makes and changes devices; changed is called after each change.
type devices struct {
	kernel
	changed func() error
}

// make makes the device of a VLAN of parent, unless it is there. The error is
// bridge.ErrNotFound while parent is away.
func (d devices) make(name, parent string, id int) (made bool, err error) {
	links, err := d.nics()
	if err != nil {
		return false, err
	}
	var lower, there *nic
	for i := range links {
		switch {
		case links[i].Name == name:
			there = &links[i]
		case links[i].called(parent):
			lower = &links[i]
		}
	}
	switch {
	case lower == nil:
		return false, fmt.Errorf("looking up link %q: %w", parent, bridge.ErrNotFound)
	case there != nil && there.lower == lower.Index && there.vlan == id:
		return false, nil
	case there != nil:
		return false, fmt.Errorf("there is a device %q, which is not VLAN %d of %q", name, id, parent)
	}
	if err := d.do(newVLAN(name, lower.Index, id)); err != nil {
		switch {
		case errors.Is(err, unix.EOPNOTSUPP):
			err = ErrNoVLANs
		case errors.Is(err, unix.EEXIST):
			err = fmt.Errorf("%w: VLAN %d has a device of another name, which may be the uplink itself", err, id)
		}
		return false, fmt.Errorf("making VLAN %d of %q: %w", id, parent, err)
	}
	return true, d.changed()
}

// newVLAN is the request that makes the device.
func newVLAN(name string, lower, id int) []byte {
	data := netlink.AppendAttribute(nil, vlanID, binary.NativeEndian.AppendUint16(nil, uint16(id)))
	info := netlink.AppendAttribute(nil, unix.IFLA_INFO_KIND, []byte(kindVLAN))
	info = netlink.AppendAttribute(info, unix.IFLA_INFO_DATA, data)
	m := message{head: head(unix.AF_UNSPEC, unix.SizeofIfInfomsg), attrs: []attr{
		{unix.IFLA_IFNAME, append([]byte(name), 0)}, {unix.IFLA_LINK, netlink.Uint32(uint32(lower))}, {unix.IFLA_LINKINFO, info},
	}}
	return m.request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
}

// unmake deletes a device that was made for the bridge.
func (d devices) unmake(index int) error {
	if index == 0 {
		return nil
	}
	gone := message{head: indexed(unix.AF_UNSPEC, unix.SizeofIfInfomsg, index)}.request(unix.RTM_DELLINK, 0)
	if err := d.do(gone); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("deleting link %d: %w", index, err)
	}
	return d.changed()
}

// setMTU sets the MTU of a link that is there and has another.
func (d devices) setMTU(l bridge.Link, mtu int) error {
	if l.Index == 0 || l.MTU == mtu {
		return nil
	}
	if err := d.do(setLink(l.Index, 0, 0, attr{unix.IFLA_MTU, netlink.Uint32(uint32(mtu))})); err != nil {
		return fmt.Errorf("setting the MTU of %q to %d: %w", l.Name, mtu, err)
	}
	return d.changed()
}

// fit has bridge and uplink have the MTU that the network asks for, if it does: the bridge
// that one, the uplink no less, which it reports to be new.
func (d devices) fit(s *State, up, br bridge.Link, save func(State) error) (raised bool, err error) {
	if s.AskedMTU == 0 {
		return false, nil
	}
	if raised = up.Index != 0 && up.MTU < s.AskedMTU; raised {
		if s.OwnMTU == 0 {
			s.OwnMTU = up.MTU
			if err := save(*s); err != nil {
				return false, fmt.Errorf("saving the state: %w", err)
			}
		}
		err = d.setMTU(up, s.AskedMTU)
	}
	return raised, errors.Join(err, d.setMTU(br, s.AskedMTU))
}

// restoreMTU gives the uplink the MTU back that it had.
func (d devices) restoreMTU(s *State, up bridge.Link) error {
	if s.OwnMTU == 0 {
		return nil
	}
	return d.setMTU(up, s.OwnMTU)
}

// mtu is that of the bridge.
func (s *State) mtu() int { return cmp.Or(s.AskedMTU, s.MTU) }
