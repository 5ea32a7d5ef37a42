package vlan

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// sizeofMsg is the size of struct br_vlan_msg: family, two reserved fields, ifindex.
const sizeofMsg = 8

// Attributes of a message and of an entry (BRIDGE_VLANDB_* of linux/if_bridge.h).
const (
	attrEntry  = 1 // BRIDGE_VLANDB_ENTRY
	entryInfo  = 1 // BRIDGE_VLANDB_ENTRY_INFO: struct bridge_vlan_info
	entryRange = 2 // BRIDGE_VLANDB_ENTRY_RANGE: the last VLAN of those that are alike
)

// Flags of struct bridge_vlan_info (BRIDGE_VLAN_INFO_*).
const (
	flagPVID     = 1 << 1
	flagUntagged = 1 << 2
)

// Head is the body of RTM_GETVLAN, which asks for the table of the bridge or port with
// that index: a dump, whose answers are RTM_NEWVLAN.
func Head(index int) []byte {
	b := make([]byte, sizeofMsg)
	b[0] = unix.AF_BRIDGE
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	return b
}

// Set is the body of RTM_NEWVLAN, which gives the bridge or port with that index an entry.
func Set(index int, e Entry) []byte {
	flags := uint16(0)
	if e.PVID {
		flags |= flagPVID
	}
	if e.Untagged {
		flags |= flagUntagged
	}
	return entry(index, flags, e.ID)
}

// Remove is the body of RTM_DELVLAN.
func Remove(index int, id uint16) []byte { return entry(index, 0, id) }

func entry(index int, flags, id uint16) []byte {
	info := binary.NativeEndian.AppendUint16(nil, flags)
	info = binary.NativeEndian.AppendUint16(info, id)
	return netlink.AppendAttribute(Head(index), attrEntry|unix.NLA_F_NESTED, netlink.AppendAttribute(nil, entryInfo, info))
}

// Read adds to t what the body of an RTM_NEWVLAN says of the device with that index.
func (t Table) Read(body []byte, index int) (Table, error) {
	if len(body) < sizeofMsg {
		return t, errors.New("short VLAN message")
	}
	if int(binary.NativeEndian.Uint32(body[4:])) != index {
		return t, nil
	}
	err := netlink.ParseAttributes(body[sizeofMsg:], func(kind uint16, value []byte) (err error) {
		if kind == attrEntry {
			t, err = t.readEntry(value)
		}
		return err
	})
	return t, err
}

// readEntry adds one BRIDGE_VLANDB_ENTRY, which stands for one VLAN or a range.
func (t Table) readEntry(data []byte) (Table, error) {
	var flags, first, last uint16
	err := netlink.ParseAttributes(data, func(kind uint16, value []byte) error {
		switch {
		case kind == entryInfo && len(value) >= 4:
			flags, first = binary.NativeEndian.Uint16(value), binary.NativeEndian.Uint16(value[2:])
		case kind == entryRange && len(value) >= 2:
			last = binary.NativeEndian.Uint16(value)
		}
		return nil
	})
	if err == nil && (first < First || max(first, last) > Last) {
		err = fmt.Errorf("VLANs %d to %d, want numbers from %d to %d", first, last, First, Last)
	}
	if err != nil {
		return t, err
	}
	for id := first; id <= max(first, last); id++ {
		e := Entry{ID: id, PVID: flags&flagPVID != 0, Untagged: flags&flagUntagged != 0}
		if n := len(t); n == 0 || t[n-1].ID < id { // as the kernel has them
			t = append(t, e)
		} else {
			t = t.With(e)
		}
	}
	return t, nil
}
