// Package vlan is the VLAN tables of bridges: which VLANs the frames of a port may
// belong to, and how the kernel is told and tells of them (RTM_NEWVLAN, RTM_DELVLAN and
// RTM_GETVLAN of linux/if_bridge.h, since Linux 5.6). It is pure: package bridge sends
// what it writes.
package vlan

import (
	"fmt"
	"slices"
	"strings"
)

// The first and the last VLAN that a bridge can have in a table: 0 is no VLAN but a
// priority, 4095 is reserved (IEEE 802.1Q, table 9-2).
const (
	First = 1
	Last  = 4094
)

// Entry is one VLAN of a port.
type Entry struct {
	ID uint16
	// PVID has frames that come without a tag belong to this VLAN. A table has one such
	// entry at most.
	PVID bool
	// Untagged has frames of this VLAN leave without a tag.
	Untagged bool
}

// String is the entry as bridge(8) shows it.
func (e Entry) String() string {
	text := fmt.Sprint(e.ID)
	if e.PVID {
		text += " PVID"
	}
	if e.Untagged {
		text += " Egress Untagged"
	}
	return text
}

// Table is the VLANs of a port, in order of their numbers, each once. A port with an
// empty one carries nothing.
type Table []Entry

// String lists the entries.
func (t Table) String() string {
	var all []string
	for _, e := range t {
		all = append(all, e.String())
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

// Untagged is the table of a port whose frames have no tag, and belong to one VLAN; 0:
// to none, which is the empty table.
func Untagged(id uint16) Table {
	if id == 0 {
		return Table{}
	}
	return Table{{ID: id, PVID: true, Untagged: true}}
}

// Tagged is the table of a port whose frames all have a tag, one of these.
func Tagged(ids ...uint16) Table {
	t := make(Table, 0, len(ids))
	for _, id := range ids {
		t = t.With(Entry{ID: id})
	}
	return t
}

// With is t with an entry more, or another in the place of that of the same VLAN. An
// entry with PVID takes it from the one that had it.
func (t Table) With(e Entry) Table {
	t = slices.Clone(t)
	if e.PVID {
		for i := range t {
			t[i].PVID = false
		}
	}
	at, found := slices.BinarySearchFunc(t, e.ID, compareID)
	if found {
		t[at] = e
		return t
	}
	return slices.Insert(t, at, e)
}

// Joined is t with those VLANs of others that it lacks, tagged.
func (t Table) Joined(others ...Table) Table {
	for _, o := range others {
		for _, e := range o {
			if !t.Has(e.ID) {
				t = t.With(Entry{ID: e.ID})
			}
		}
	}
	return t
}

// Has reports whether t has the VLAN.
func (t Table) Has(id uint16) bool {
	_, found := slices.BinarySearchFunc(t, id, compareID)
	return found
}

// Check refuses what the kernel has no table for.
func (t Table) Check() error {
	pvids := 0
	for i, e := range t {
		switch {
		case e.ID < First || e.ID > Last:
			return fmt.Errorf("VLAN %d: want a number from %d to %d", e.ID, First, Last)
		case i > 0 && t[i-1].ID >= e.ID:
			return fmt.Errorf("VLAN %d: want each once, in order", e.ID)
		case e.PVID:
			pvids++
		}
	}
	if pvids > 1 {
		return fmt.Errorf("VLANs %v: want one PVID at most", t)
	}
	return nil
}

func compareID(e Entry, id uint16) int { return int(e.ID) - int(id) }

// Differ is what makes of a table another: the VLANs to be removed, to be done first,
// and the entries to be set. Meanwhile no frame belongs to a VLAN that is in neither.
func Differ(has, want Table) (remove []uint16, set []Entry) {
	for _, e := range has {
		if !want.Has(e.ID) {
			remove = append(remove, e.ID)
		}
	}
	for _, e := range want {
		if !slices.Contains(has, e) {
			set = append(set, e)
		}
	}
	return remove, set
}
