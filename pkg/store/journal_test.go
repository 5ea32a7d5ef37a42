package store_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/store"
)

const otherUUID = "11111111-2222-3333-4444-555555555555"

func journalIn(dirs store.Dirs) string { return filepath.Join(dirs.State, "leases.journal") }

// commit puts leases of the network into the store, in one group.
func commit(t testing.TB, s *store.Store, puts []dhcpd.Lease, deletes ...netip.Addr) {
	t.Helper()
	if err := s.Leases(uuid).Commit(puts, deletes); err != nil {
		t.Fatal(err)
	}
}

// readFile is the content of a file.
func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// asKilled is the directories of a store as they would be had its process been
// killed now, with a journal that spoil has changed.
func asKilled(t testing.TB, dirs store.Dirs, spoil func(journal []byte) []byte) store.Dirs {
	t.Helper()
	to := dirsIn(t.TempDir())
	if err := os.MkdirAll(to.State, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to.State, "leases.db"), readFile(t, filepath.Join(dirs.State, "leases.db")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(journalIn(to), spoil(readFile(t, journalIn(dirs))), 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

func whole(journal []byte) []byte { return journal }

// names opens the store and has the host names of the network's leases by address.
func names(t *testing.T, dirs store.Dirs) (got map[string]string, damage error) {
	t.Helper()
	s := open(t, dirs)
	defer closed(t, s)
	return namesOf(t, s, uuid), s.LeaseDamage()
}

func namesOf(t *testing.T, s *store.Store, uuid string) map[string]string {
	t.Helper()
	leases, err := s.Leases(uuid).Load()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, l := range leases {
		if _, twice := got[l.Addr.String()]; twice {
			t.Errorf("%v is there twice", l.Addr)
		}
		got[l.Addr.String()] = l.Hostname
	}
	return got
}

func wantNames(t *testing.T, got, want map[string]string) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("leases are %v, want %v", got, want)
	}
}

// threeGroups is a store with three groups of one lease each in its journal, and
// where the second and the third begin and the third ends.
func threeGroups(t testing.TB) (dirs store.Dirs, second, third, end int) {
	t.Helper()
	dirs = dirsIn(t.TempDir())
	s, err := store.Open(dirs, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	var ends []int
	for i := range byte(3) {
		commit(t, s, []dhcpd.Lease{lease(10+i, string('a'+rune(i)))})
		ends = append(ends, len(bytes.TrimRight(readFile(t, journalIn(dirs)), "\x00")))
	}
	return dirs, ends[0], ends[1], ends[2]
}

// TestTornJournal cuts the last group off at every length, as a crash in the middle
// of a write does: nobody was told of it, and it is not there, without a word.
func TestTornJournal(t *testing.T) {
	dirs, _, third, end := threeGroups(t)
	for at := third; at < end; at++ {
		for name, spoil := range map[string]func([]byte) []byte{
			"short":  func(journal []byte) []byte { return journal[:at] },
			"zeroed": func(journal []byte) []byte { clear(journal[at:]); return journal },
		} {
			got, damage := names(t, asKilled(t, dirs, spoil))
			if damage != nil {
				t.Errorf("%s behind %d bytes of the last group: damage is reported: %v", name, at-third, damage)
			}
			wantNames(t, got, map[string]string{"192.0.2.10": "a", "192.0.2.11": "b"})
		}
	}
	got, damage := names(t, asKilled(t, dirs, whole))
	wantNames(t, got, map[string]string{"192.0.2.10": "a", "192.0.2.11": "b", "192.0.2.12": "c"})
	if damage != nil {
		t.Errorf("damage of a sound journal: %v", damage)
	}
}

// TestDamagedJournal flips a bit in each byte of the second of three groups: the
// others are there, the damaged journal is kept, and it is told of.
func TestDamagedJournal(t *testing.T) {
	dirs, second, third, _ := threeGroups(t)
	for at := second; at < third; at++ {
		var spoilt []byte
		dirs := asKilled(t, dirs, func(journal []byte) []byte {
			journal[at] ^= 1 << (at % 7)
			spoilt = bytes.Clone(journal)
			return journal
		})
		s := open(t, dirs)
		got := namesOf(t, s, uuid)
		if got["192.0.2.10"] != "a" || got["192.0.2.12"] != "c" {
			t.Errorf("byte %d flipped: the leases of the sound groups are %v", at-second, got)
		}
		if b, ok := got["192.0.2.11"]; ok && b != "b" || len(got) > 3 {
			t.Errorf("byte %d flipped: leases are %v", at-second, got)
		}
		wantSetAside(t, s, journalIn(dirs), spoilt)
		commit(t, s, []dhcpd.Lease{lease(13, "d")})
		closed(t, s)
		if again, damage := names(t, dirs); len(again) != len(got)+1 || damage != nil {
			t.Errorf("byte %d flipped: at the next start leases are %v (%v)", at-second, again, damage)
		}
	}
}

// TestJunkJournal starts with a file that never was a journal.
func TestJunkJournal(t *testing.T) {
	dirs, _, _, _ := threeGroups(t)
	junk := []byte(strings.Repeat("junk", 4096))
	s := open(t, asKilled(t, dirs, func([]byte) []byte { return junk }))
	defer closed(t, s)
	if s.LeaseDamage() == nil {
		t.Error("no damage is reported")
	}
}

// TestReplay is killed behind the transaction that has what the journal has, before
// the journal is wiped: the same changes again change nothing, and the last one of
// an address counts.
func TestReplay(t *testing.T) {
	dirs := dirsIn(t.TempDir())
	s := open(t, dirs)
	commit(t, s, []dhcpd.Lease{lease(10, "former"), lease(11, "gone"), lease(12, "back")})
	commit(t, s, []dhcpd.Lease{lease(10, "latter")}, lease(11, "").Addr, lease(12, "").Addr)
	commit(t, s, []dhcpd.Lease{lease(12, "again")})
	other := s.Leases(otherUUID)
	for _, err := range []error{
		other.Commit([]dhcpd.Lease{lease(20, "dropped")}, nil), s.DropLeases(otherUUID),
		other.Commit([]dhcpd.Lease{lease(21, "kept")}, nil),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{"192.0.2.10": "latter", "192.0.2.12": "again"}
	wantNames(t, namesOf(t, s, uuid), want) // of the journal alone
	wantNames(t, namesOf(t, s, otherUUID), map[string]string{"192.0.2.21": "kept"})
	journal := readFile(t, journalIn(dirs))
	closed(t, s)
	if left := bytes.Trim(readFile(t, journalIn(dirs)), "\x00"); len(left) > 0 {
		t.Errorf("a closed store has left in its journal:\n%s", left)
	}
	wiped := bytes.Clone(journal) // and killed while it was
	clear(wiped[:512])
	clear(wiped[bytes.Index(wiped, []byte("again")):])
	for _, journal := range [][]byte{journal, journal, wiped} {
		dirs = asKilled(t, dirs, func([]byte) []byte { return journal })
		s := open(t, dirs)
		if s.LeaseDamage() != nil {
			t.Errorf("damage is reported: %v", s.LeaseDamage())
		}
		wantNames(t, namesOf(t, s, uuid), want)
		wantNames(t, namesOf(t, s, otherUUID), map[string]string{"192.0.2.21": "kept"})
		closed(t, s)
	}
}

// TestJournalFills commits more than a journal holds, one by one and then at once: a
// kill loses nothing, and nothing older comes back.
func TestJournalFills(t *testing.T) {
	dirs := dirsIn(t.TempDir())
	s := open(t, dirs)
	defer closed(t, s)
	want := make(map[string]string)
	var all []dhcpd.Lease
	for i := range 1500 {
		l := lease(0, fmt.Sprint(i))
		l.Addr = netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)})
		commit(t, s, []dhcpd.Lease{l})
		want[l.Addr.String()] = l.Hostname
		all = append(all, l)
	}
	s.Settle() // or the copy would be torn
	got, damage := names(t, asKilled(t, dirs, whole))
	if !maps.Equal(got, want) || damage != nil {
		t.Errorf("%d leases are there or others, want %d (%v)", len(got), len(want), damage)
	}
	for i := range all {
		all[i].Hostname = "new"
		want[all[i].Addr.String()] = "new"
	}
	commit(t, s, all)
	s.Settle()
	if got, _ := names(t, asKilled(t, dirs, whole)); !maps.Equal(got, want) {
		t.Error("after a commit larger than the journal there are older leases")
	}
}

// TestJournalApplied changes the leases of a network at random, and forgets them now
// and then, while the journal is brought into the database: at any time what is read
// is what was committed, and a kill loses nothing.
func TestJournalApplied(t *testing.T) {
	dirs := dirsIn(t.TempDir())
	s := open(t, dirs)
	defer closed(t, s)
	random := rand.New(rand.NewPCG(1, 2))
	want := make(map[string]string)
	for i := range 6000 {
		l := lease(byte(random.IntN(200)), fmt.Sprint(i))
		switch random.IntN(40) {
		case 0:
			if err := s.DropLeases(uuid); err != nil {
				t.Fatal(err)
			}
			clear(want)
		case 1, 2, 3, 4, 5:
			commit(t, s, nil, l.Addr)
			delete(want, l.Addr.String())
		default:
			commit(t, s, []dhcpd.Lease{l})
			want[l.Addr.String()] = l.Hostname
		}
		if i%20 == 0 {
			wantNames(t, namesOf(t, s, uuid), want)
		}
		if i%1000 == 999 {
			s.Settle()
			got, damage := names(t, asKilled(t, dirs, whole))
			if damage != nil {
				t.Error(damage)
			}
			wantNames(t, got, want)
		}
	}
}

// TestFailedSyncOfJournal has a group written that could not be synced: it is
// refused, and what is committed when the disk is well again stands in a journal
// without it.
func TestFailedSyncOfJournal(t *testing.T) {
	dirs := dirsIn(t.TempDir())
	s := open(t, dirs)
	defer closed(t, s)
	commit(t, s, []dhcpd.Lease{lease(10, "before")})
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0) // takes everything and syncs nothing
	if err != nil {
		t.Fatal(err)
	}
	journal := s.SwapJournal(null)
	for range 2 {
		if err := s.Leases(uuid).Commit([]dhcpd.Lease{lease(10, "refused"), lease(11, "refused")}, nil); err == nil {
			t.Fatal("a group that is not on disk was acknowledged")
		}
	}
	want := map[string]string{"192.0.2.10": "before"}
	wantNames(t, namesOf(t, s, uuid), want)
	end := len(bytes.TrimRight(readFile(t, journalIn(dirs)), "\x00"))
	refused := "0123abcd\n" + strings.Repeat(uuid+" 192.0.2.10 refused\n", 20) + "\n"
	if _, err := journal.WriteAt([]byte(refused), int64(end)); err != nil {
		t.Fatal(err)
	}
	if err := s.SwapJournal(journal).Close(); err != nil {
		t.Fatal(err)
	}
	commit(t, s, []dhcpd.Lease{lease(12, "after")})
	want["192.0.2.12"] = "after"
	got, damage := names(t, asKilled(t, dirs, whole))
	if damage != nil {
		t.Errorf("what was refused is left in the journal: %v", damage)
	}
	wantNames(t, got, want)
}

// Whatever the file is, it is read without a crash, and what is read from it is
// read again from a journal made of that.
func FuzzJournal(f *testing.F) {
	dirs, second, third, end := threeGroups(f)
	journal := readFile(f, journalIn(dirs))
	f.Add(journal[:end])
	f.Add(journal[:end-5])
	f.Add(append(bytes.Clone(journal[:second]), journal[third:end]...))
	f.Add(append(journal[:second:second], "00000000\n"+otherUUID+" 192.0.2.1\n"+otherUUID+"\n\n"...))
	f.Fuzz(func(t *testing.T, data []byte) {
		changes, _ := store.ReadJournal(data)
		if len(changes) == 0 {
			return
		}
		again, err := store.ReadJournal(store.Group(changes))
		if err != nil || !reflect.DeepEqual(again, changes) {
			t.Errorf("read again (%v):\n%v\nwant\n%v", err, again, changes)
		}
	})
}
