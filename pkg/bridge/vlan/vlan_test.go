package vlan

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/netlink"
)

// TestTables holds what tables are, and how they are written.
func TestTables(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		table      Table
	}{
		{"nothing", "none", Untagged(0)},
		{"access", "42 PVID Egress Untagged", Untagged(42)},
		{"trunk", "10, 20, 30", Tagged(30, 10, 20, 10)},
		{"native untagged", "10, 20 PVID Egress Untagged", Tagged(10, 20).With(Entry{20, true, true})},
		{"native tagged", "5 PVID, 10", Tagged(10).With(Entry{ID: 5, PVID: true})},
		{"another PVID", "5, 10 PVID", Tagged(10).With(Entry{ID: 5, PVID: true}).With(Entry{ID: 10, PVID: true})},
		{"an uplink", "1 PVID Egress Untagged, 10, 20", Untagged(1).Joined(Untagged(20), Tagged(10), Untagged(1))},
	} {
		if got := tt.table.String(); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
		if err := tt.table.Check(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	for _, bad := range []Table{{{ID: 0}}, {{ID: 4095}}, {{ID: 2}, {ID: 1}}, {{ID: 1}, {ID: 1}}, {{ID: 1, PVID: true}, {ID: 2, PVID: true}}} {
		if bad.Check() == nil {
			t.Errorf("%v is a table", bad)
		}
	}
}

// TestDiffer holds that what is done to a table makes it the other, and nothing is done
// to one that is right.
func TestDiffer(t *testing.T) {
	tables := []Table{{}, Untagged(1), Untagged(42), Tagged(1, 42), Tagged(10).With(Entry{42, true, true}), Tagged(10, 20).With(Entry{ID: 42, PVID: true})}
	for _, has := range tables {
		for _, want := range tables {
			remove, set := Differ(has, want)
			got := Table{}
			for _, e := range has {
				gone := false
				for _, id := range remove {
					gone = gone || id == e.ID
				}
				if !gone {
					got = got.With(e)
				}
			}
			for _, e := range set {
				got = got.With(e)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%v becoming %v (-want +got):\n%s", has, want, diff)
			}
			if len(remove)+len(set) > 0 && cmp.Equal(has, want) {
				t.Errorf("%v stays: %v are removed, %v set", has, remove, set)
			}
		}
	}
}

// TestRead reads ranges, and nothing of other links.
func TestRead(t *testing.T) {
	info := func(flags, id uint16) []byte {
		return netlink.AppendAttribute(nil, entryInfo, binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, flags), id))
	}
	body := netlink.AppendAttribute(Head(7), attrEntry, info(flagPVID|flagUntagged, 1))
	body = netlink.AppendAttribute(body, attrEntry, netlink.AppendAttribute(info(0, 10), entryRange, binary.NativeEndian.AppendUint16(nil, 12)))
	got, err := Table(nil).Read(body, 7)
	if err != nil || got.String() != "1 PVID Egress Untagged, 10, 11, 12" {
		t.Errorf("%v, %v", got, err)
	}
	if other, err := Table(nil).Read(body, 8); err != nil || len(other) > 0 {
		t.Errorf("of another link: %v, %v", other, err)
	}
}

// FuzzRead reads what the kernel could send.
func FuzzRead(f *testing.F) {
	f.Add(Set(7, Entry{42, true, true}))
	f.Add(Set(7, Entry{ID: 1}))
	f.Add(Remove(7, 4094))
	f.Fuzz(func(t *testing.T, body []byte) {
		table, err := Table(nil).Read(body, 7)
		if err == nil && len(table) > Last {
			t.Errorf("%d entries", len(table))
		}
		for i, e := range table {
			if e.ID < First || e.ID > Last || i > 0 && table[i-1].ID >= e.ID {
				t.Errorf("%v", table)
			}
		}
	})
}
