package store_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/bbolt"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/store"
)

const otherUUID = "11111111-2222-3333-4444-555555555555"

// formerRecord is a lease as former versions stored it.
func formerRecord(uuid string, last int, name string) []byte {
	data := fmt.Appendf(nil, `{"addr":"192.0.2.%d","mac":"00:00:5e:00:53:%02x","client_id":"0102","hostname":"%s","expiry":"2030-01-01T00:00:00.5Z","state":"bound"}`, last, last, name)
	table := crc32.MakeTable(crc32.Castagnoli)
	return append(fmt.Appendf(nil, "%08x", crc32.Update(crc32.Checksum([]byte(uuid), table), table, data)), data...)
}

// writeFormer makes the state directory that a former version has left: leases in its
// database, and changes in its journal.
func writeFormer(t testing.TB, dirs store.Dirs) {
	t.Helper()
	if err := os.MkdirAll(dirs.State, 0o755); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(filepath.Join(dirs.State, "leases.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, u := range []string{uuid, otherUUID} {
			b, err := tx.CreateBucket([]byte(u))
			if err != nil {
				return err
			}
			for i := range 200 {
				if err := b.Put(lease(byte(i), "").Addr.AsSlice(), formerRecord(u, i, "old")); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	var journal bytes.Buffer
	group := func(lines ...string) {
		text := strings.Join(lines, "\n")
		fmt.Fprintf(&journal, "%08x\n%s\n\n", crc32.Checksum([]byte(text), crc32.MakeTable(crc32.Castagnoli)), text)
	}
	group(fmt.Sprintf("%s 192.0.2.10 %s", uuid, formerRecord(uuid, 10, "new")), uuid+" 192.0.2.11")
	group(otherUUID, fmt.Sprintf("%s 192.0.2.7 %s", otherUUID, formerRecord(otherUUID, 7, "last")))
	journal.Write(make([]byte, 4096))
	if err := os.WriteFile(filepath.Join(dirs.State, "leases.journal"), journal.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// namesOf has the host names of a network's leases by address.
func namesOf(t *testing.T, s *store.Store, uuid string) map[string]string {
	t.Helper()
	leases, err := s.Leases(uuid).Load()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, l := range leases {
		got[l.Addr.String()] = l.Hostname
	}
	return got
}

// formerNames is what writeFormer leaves of the first network.
func formerNames() map[string]string {
	want := make(map[string]string)
	for i := range 200 {
		want[lease(byte(i), "").Addr.String()] = "old"
	}
	want["192.0.2.10"] = "new"
	delete(want, "192.0.2.11")
	return want
}

// The leases of a former version are there after the upgrade, and at every start after it,
// and the files of the former version are not.
func TestFormerLeases(t *testing.T) {
	dirs := dirsIn(t.TempDir())
	writeFormer(t, dirs)
	for range 2 {
		s := open(t, dirs)
		if err := s.LeaseDamage(); err != nil {
			t.Errorf("damage: %v", err)
		}
		if got := namesOf(t, s, uuid); !maps.Equal(got, formerNames()) {
			t.Errorf("leases are %v", got)
		}
		if got := namesOf(t, s, otherUUID); !maps.Equal(got, map[string]string{"192.0.2.7": "last"}) {
			t.Errorf("leases of the network that was dropped and came back are %v", got)
		}
		all, err := s.Leases(otherUUID).Load()
		want := lease(7, "last")
		if err != nil || len(all) != 1 || all[0].MAC.String() != want.MAC.String() || string(all[0].ClientID) != "\x01\x02" || all[0].Expiry.Year() != 2030 || all[0].State != dhcpd.StateBound {
			t.Errorf("the lease is %+v (%v)", all, err)
		}
		closed(t, s)
	}
	left, err := filepath.Glob(filepath.Join(dirs.State, "leases.*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v (%v)", left, err)
	}
}

// A damaged database of a former version is kept, and told of; what its journal has is there.
func TestDamagedFormerLeases(t *testing.T) {
	dirs := dirsIn(t.TempDir())
	writeFormer(t, dirs)
	path := filepath.Join(dirs.State, "leases.db")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(data[2*os.Getpagesize():])
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dirs)
	kept, err := filepath.Glob(path + ".corrupt-*")
	if err != nil || len(kept) != 1 || s.LeaseDamage() == nil || !strings.Contains(s.LeaseDamage().Error(), filepath.Base(kept[0])) {
		t.Errorf("damage is %v, kept are %v (%v)", s.LeaseDamage(), kept, err)
	}
	if got := namesOf(t, s, uuid)["192.0.2.10"]; got != "new" {
		t.Errorf("the lease in the journal is of %q", got)
	}
	closed(t, s)
}

// A database that is none is kept, and told of, and leases are stored.
func TestJunkLeases(t *testing.T) {
	for _, place := range []string{"leases.db", "leases/snapshot", "leases/journal"} {
		t.Run(place, func(t *testing.T) { testJunk(t, place) })
	}
}

func testJunk(t *testing.T, place string) {
	dirs := dirsIn(t.TempDir())
	path := filepath.Join(dirs.State, place)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dirs)
	kept, err := filepath.Glob(path + ".corrupt-*")
	if err != nil || len(kept) != 1 || s.LeaseDamage() == nil || !strings.Contains(s.LeaseDamage().Error(), filepath.Base(kept[0])) {
		t.Errorf("damage is %v, kept are %v (%v)", s.LeaseDamage(), kept, err)
	}
	if err := s.Leases(uuid).Commit([]dhcpd.Lease{lease(1, "guest")}, nil); err != nil {
		t.Error(err)
	}
	closed(t, s)
	s = open(t, dirs)
	defer closed(t, s)
	if got := namesOf(t, s, uuid); len(got) != 1 || s.LeaseDamage() != nil {
		t.Errorf("at the next start there are %v, damage %v", got, s.LeaseDamage())
	}
}

// Leases of former versions are read as they were meant, and nothing else is.
func TestFormerLease(t *testing.T) {
	golden, err := os.ReadFile(filepath.Join("testdata", "former.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all []json.RawMessage
	if err := json.Unmarshal(golden, &all); err != nil {
		t.Fatal(err)
	}
	ends := time.Date(2031, 1, 2, 3, 4, 5, 0, time.UTC)
	mac := func(last byte) net.HardwareAddr { return net.HardwareAddr{0, 0, 0x5e, 0, 0x53, last} }
	want := []dhcpd.Lease{
		{Addr: netip.MustParseAddr("192.0.2.100"), MAC: mac(2), ClientID: []byte{255, 0, 1}, Hostname: "guest", Expiry: ends, State: dhcpd.StateBound},
		{Addr: netip.MustParseAddr("192.0.2.101"), MAC: mac(3), State: dhcpd.StateReleased},
		{Addr: netip.MustParseAddr("2001:db8:1::100"), MAC: mac(4), DUID: []byte{0, 3, 0, 1, 0, 0, 0x5e, 0, 0x53, 4}, IAID: 7, Hostname: "six", Expiry: ends, State: dhcpd.StateBound},
		{Addr: netip.MustParseAddr("2001:db8:1::101"), DUID: []byte{0, 2, 1}, State: dhcpd.StateDeclined},
	}
	if len(all) != len(want) {
		t.Fatalf("%d leases, want %d", len(all), len(want))
	}
	for i, data := range all {
		got, err := store.DecodeLease(data)
		if diff := cmp.Diff(want[i], got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
			t.Errorf("lease %d (%v; -want +got):\n%s", i, err, diff)
		}
	}
	for _, bad := range []string{`{"addr":"192.0.2.1","mac":"x","state":"bound"}`, `{"mac":"00:00:5e:00:53:01","state":"bound"}`} {
		if l, err := store.DecodeLease([]byte(bad)); err == nil {
			t.Errorf("%s is read as %+v", bad, l)
		}
	}
}
