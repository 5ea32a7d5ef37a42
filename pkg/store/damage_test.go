package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/store"
)

const pageSize = 4096

// Flags of a page of the database, two bytes behind its number.
const (
	branchPage = 0x01
	leafPage   = 0x02
)

// database is the file of a store with so many leases of one network, and one of
// another, which came in a later transaction.
func database(t testing.TB, leases byte) []byte {
	t.Helper()
	dirs := dirsIn(t.TempDir())
	var many []dhcpd.Lease
	for i := range leases {
		many = append(many, lease(i, "guest"))
	}
	for _, c := range []struct {
		uuid   string
		leases []dhcpd.Lease
	}{{uuid, many}, {otherUUID, many[:1]}} {
		s, err := store.Open(dirs, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Leases(c.uuid).Commit(c.leases, nil), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return readFile(t, filepath.Join(dirs.State, "leases.db"))
}

// zero wipes every page with that flag that holds text.
func zero(data []byte, flag uint16, text string) []byte {
	for at := 0; at < len(data); at += pageSize {
		page := data[at : at+pageSize]
		if binary.NativeEndian.Uint16(page[8:]) == flag && bytes.Contains(page, []byte(text)) {
			clear(page)
		}
	}
	return data
}

// TestDamagedLeases spoils a database in several ways: the store opens all the
// same, with at least so many of its 200 leases, keeps the damaged file and tells.
func TestDamagedLeases(t *testing.T) {
	for name, c := range map[string]struct {
		spoil       func(data []byte) []byte
		least, most int
	}{
		"junk":      {func([]byte) []byte { return []byte(strings.Repeat("not a database ", 1000)) }, 0, 0},
		"one page":  {func(data []byte) []byte { return data[:pageSize] }, 0, 0},
		"two pages": {func(data []byte) []byte { return data[:2*pageSize] }, 0, 0},
		"half":      {func(data []byte) []byte { return data[:len(data)/2] }, 20, 200},
		"no roots":  {func(data []byte) []byte { clear(data[:2*pageSize]); return data }, 200, 200},
		"a letter": {func(data []byte) []byte {
			return bytes.Replace(data, []byte(`"addr":"192.0.2.77"`), []byte(`"addr":"192.0.2.78"`), 1)
		}, 199, 199},
		"no checksum": {func(data []byte) []byte {
			return bytes.ReplaceAll(data, []byte(`{"addr":"192.0.2.77"`), []byte(`}"addr":"192.0.2.77"`))
		}, 199, 199},
		"a leaf is gone":   {func(data []byte) []byte { return zero(data, leafPage, `"192.0.2.77"`) }, 150, 199},
		"a branch is gone": {func(data []byte) []byte { return zero(data, branchPage, "") }, 200, 200},
	} {
		t.Run(name, func(t *testing.T) {
			dirs := dirsIn(t.TempDir())
			path := filepath.Join(dirs.State, "leases.db")
			if err := os.MkdirAll(dirs.State, 0o755); err != nil {
				t.Fatal(err)
			}
			spoilt := c.spoil(database(t, 200))
			if err := os.WriteFile(path, spoilt, 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, dirs)
			wantSetAside(t, s, path, spoilt)
			left := wantRescued(t, s, c.least, c.most)
			if err := s.Leases(uuid).Commit([]dhcpd.Lease{lease(250, "")}, nil); err != nil {
				t.Errorf("the new database takes no lease: %v", err)
			}
			closed(t, s)
			s = open(t, dirs)
			defer closed(t, s)
			if again, err := s.Leases(uuid).Load(); err != nil || len(again) != left+1 || s.LeaseDamage() != nil {
				t.Errorf("at the next start there are %d leases (%v, %v), want %d", len(again), err, s.LeaseDamage(), left+1)
			}
		})
	}
}

// wantSetAside fails the test unless the damaged database was kept and is told of.
func wantSetAside(t *testing.T, s *store.Store, path string, spoilt []byte) {
	t.Helper()
	aside, err := filepath.Glob(path + ".corrupt-*")
	if err != nil || len(aside) != 1 {
		t.Fatalf("set aside: %v (%v), want one file", aside, err)
	}
	if kept, err := os.ReadFile(aside[0]); err != nil || !bytes.Equal(kept, spoilt) {
		t.Errorf("the file set aside is not the damaged one (%v)", err)
	}
	if damage := s.LeaseDamage(); damage == nil || !strings.Contains(damage.Error(), aside[0]) {
		t.Errorf("the damage reported is %v, want it to name %s", damage, aside[0])
	}
}

// wantRescued fails the test unless so many leases are there, each as it was, and
// returns how many.
func wantRescued(t *testing.T, s *store.Store, least, most int) int {
	t.Helper()
	leases, err := s.Leases(uuid).Load()
	if err != nil || len(leases) < least || len(leases) > most {
		t.Errorf("%d leases are left (%v), want %d to %d", len(leases), err, least, most)
	}
	for _, l := range leases {
		want := lease(l.Addr.As4()[3], "guest")
		if diff := cmp.Diff(want, l, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("a lease came back changed (-was +is):\n%s", diff)
		}
	}
	return len(leases)
}

// A lease that was written before there were checksums is read.
func TestLeaseWithoutChecksum(t *testing.T) {
	l, err := store.DecodeRecord(uuid, `{"addr":"192.0.2.10","mac":"00:00:5e:00:53:0a","state":"bound"}`)
	if err != nil || l.Addr != lease(10, "").Addr {
		t.Errorf("got %+v, %v", l, err)
	}
	if l, err := store.DecodeRecord(uuid, `{"mac":"00:00:5e:00:53:0a"}`); err == nil {
		t.Errorf("a record without an address is the lease %+v", l)
	}
}

// Whatever the file is, it is searched without a crash, and nothing is found that
// is no lease.
func FuzzSalvage(f *testing.F) {
	data := database(f, 40)
	f.Add(data)
	f.Add(data[:3*pageSize])
	f.Add(zero(bytes.Clone(data), branchPage, ""))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, addrs := range store.Salvage(data) {
			for _, a := range addrs {
				if !a.IsValid() {
					t.Error("a lease without an address")
				}
			}
		}
	})
}
