package leasedb_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/leasedb"
)

// opened opens the database on a disk, which is sound.
func opened(t testing.TB, d *disk) *leasedb.DB {
	t.Helper()
	db, damage, err := leasedb.OpenSized(d, slog.New(slog.DiscardHandler), small)
	if err != nil || damage != nil {
		t.Fatalf("opening: %v, damage %v", err, damage)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func commit(t testing.TB, db *leasedb.DB, puts ...dhcpd.Lease) {
	t.Helper()
	if err := db.Commit(networks[0], puts, nil); err != nil {
		t.Fatal(err)
	}
}

// Every lease comes back as it was, with all that it can have.
func TestLeasesComeBack(t *testing.T) {
	full := dhcpd.Lease{
		Addr: netip.MustParseAddr("2001:db8::1"), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, ClientID: bytes.Repeat([]byte{1}, 255),
		DUID: bytes.Repeat([]byte{2}, 130), IAID: 0x01020304, From: net.HardwareAddr{2, 0, 0, 0, 0, 2}, Hostname: "guest",
		Expiry: time.Unix(1_800_000_000, 123_456_789).UTC(), State: dhcpd.StateReleased,
	}
	least := dhcpd.Lease{Addr: netip.MustParseAddr("192.0.2.1"), State: dhcpd.StateDeclined}
	d := newDisk()
	db := opened(t, d)
	commit(t, db, full, least)
	for range 2 { // from memory, and from disk
		got, err := db.Load(strings.ToUpper(networks[0]))
		if err != nil {
			t.Fatal(err)
		}
		want := map[netip.Addr]dhcpd.Lease{full.Addr: full, least.Addr: least}
		byAddr := map[netip.Addr]dhcpd.Lease{}
		for _, l := range got {
			byAddr[l.Addr] = l
		}
		if diff := cmp.Diff(want, byAddr, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("leases differ (-want +got):\n%s", diff)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = opened(t, d)
	}
	if got := db.Networks(); !reflect.DeepEqual(got, networks[:1]) {
		t.Errorf("networks are %v, want %v", got, networks[:1])
	}
}

// What can't be written is refused, and nothing of its commit is there.
func TestRefusedLeases(t *testing.T) {
	db := opened(t, newDisk())
	good := leaseOf(1, "good")
	for name, l := range map[string]dhcpd.Lease{
		"no address":       {State: dhcpd.StateBound},
		"no state":         {Addr: good.Addr},
		"a long client ID": {Addr: good.Addr, State: dhcpd.StateBound, ClientID: make([]byte, 256)},
		"a mapped address": {Addr: netip.MustParseAddr("::ffff:192.0.2.1"), State: dhcpd.StateBound},
	} {
		if err := db.Commit(networks[0], []dhcpd.Lease{leaseOf(2, ""), l}, nil); err == nil {
			t.Errorf("a lease with %s is stored", name)
		}
	}
	if err := db.Commit("not a UUID", []dhcpd.Lease{good}, nil); err == nil {
		t.Error("a lease of no network is stored")
	}
	commit(t, db, good)
	if got := has(t, db); !maps.Equal(got, map[string]string{networks[0] + "192.0.2.1": "good"}) {
		t.Errorf("leases are %v", got)
	}
}

// A commit of nothing tells whether the disk would take one, and mends what a former one left.
func TestCommitOfNothing(t *testing.T) {
	d := newDisk()
	db := opened(t, d)
	commit(t, db, leaseOf(1, ""))
	d.refuse = func(string) bool { return true }
	if err := db.Commit(networks[0], []dhcpd.Lease{leaseOf(2, "")}, nil); !errors.Is(err, errDisk) {
		t.Fatalf("a lease on a disk that refuses: %v", err)
	}
	if err := db.Commit(networks[0], nil, nil); !errors.Is(err, errDisk) {
		t.Errorf("nothing on a disk that refuses: %v", err)
	}
	d.refuse = nil
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := db.Commit(networks[0], nil, nil)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing on a disk that takes all: %v", err)
		}
	}
	commit(t, db, leaseOf(2, ""))
}

// Many at once commit, each gets its answer when its own is on disk, and journals turn
// meanwhile.
func TestManyCommitters(t *testing.T) {
	d := newDisk()
	db, _, err := leasedb.OpenSized(d, slog.New(slog.DiscardHandler), small)
	if err != nil {
		t.Fatal(err)
	}
	const committers, each = 16, 60
	var running sync.WaitGroup
	for c := range committers {
		running.Go(func() {
			for i := range each {
				l := leaseOf(0, fmt.Sprintf("c%d-%d", c, i))
				l.Addr = netip.AddrFrom4([4]byte{10, byte(c), byte(i % 7), 1})
				if err := db.Commit(networks[c%2], []dhcpd.Lease{l}, nil); err != nil {
					t.Error(err)
				}
				if c%4 == 0 {
					if err := db.Commit(networks[c%2], nil, []netip.Addr{l.Addr}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	running.Wait()
	before := has(t, db)
	if want := (committers - committers/4) * 7; len(before) != want {
		t.Errorf("%d leases, want %d", len(before), want)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if got := has(t, opened(t, d)); !equal(got, before) {
		t.Errorf("read again there is\n%v\nwant\n%v", got, before)
	}
}

// heldDisk is a disk on which a call waits.
type heldDisk struct {
	*disk
	at       string // the file that is written, or the name that one gets; guarded by disk.mu
	reached  chan struct{}
	released chan struct{}
	once     sync.Once
}

func (h *heldDisk) hold(at string) {
	h.mu.Lock()
	here := at == h.at
	h.mu.Unlock()
	if here {
		h.once.Do(func() { close(h.reached) })
		<-h.released
	}
}

func (h *heldDisk) Rename(from, to string) error {
	h.hold(to)
	return h.disk.Rename(from, to)
}

func (h *heldDisk) Is(name string, f leasedb.File) (bool, error) {
	return h.disk.Is(name, f.(heldFile).File)
}

func (h *heldDisk) OpenFile(name string, flag int) (leasedb.File, error) {
	f, err := h.disk.OpenFile(name, flag)
	return heldFile{f, h, name}, err
}

type heldFile struct {
	leasedb.File
	disk *heldDisk
	name string
}

func (f heldFile) WriteAt(b []byte, at int64) (int, error) {
	f.disk.hold("bytes of " + f.name)
	return f.File.WriteAt(b, at)
}

// However long the disk takes for a snapshot and for the names of files, commits do not wait.
func TestCommitsBesideSnapshot(t *testing.T) {
	for _, at := range []string{"bytes of " + leasedb.SnapshotName + ".new", leasedb.SnapshotName, leasedb.JournalName} {
		d := &heldDisk{disk: newDisk(), reached: make(chan struct{}), released: make(chan struct{})}
		db, _, err := leasedb.OpenSized(d, slog.New(slog.DiscardHandler), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		many := make([]dhcpd.Lease, 3000) // more than is written at a time
		for i := range many {
			many[i] = leaseOf(0, "guest")
			many[i].Addr = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		}
		commit(t, db, many...)
		d.mu.Lock()
		d.at = at
		d.mu.Unlock()
		compacted, committed := make(chan error, 1), make(chan error, 1)
		go func() { compacted <- db.Compact() }()
		<-d.reached
		go func() { committed <- db.Commit(networks[0], []dhcpd.Lease{leaseOf(2, "two")}, nil) }()
		select {
		case err = <-committed:
		case <-time.After(10 * time.Second):
			err = errors.New("a commit waits for it")
		}
		close(d.released)
		if err = errors.Join(err, <-compacted, db.Close()); err != nil {
			t.Errorf("while %s is held: %v", at, err)
			continue
		}
		if got := has(t, opened(t, d.disk)); len(got) != len(many)+1 {
			t.Errorf("%s was held: opened again there are %d leases, want %d", at, len(got), len(many)+1)
		}
	}
}

// Files that somebody removes or replaces are written anew, with all leases, at the next look.
func TestKeep(t *testing.T) {
	for name, harm := range map[string]func(d *disk) error{
		"nothing":     func(*disk) error { return nil },
		"a journal":   func(d *disk) error { return d.Remove(leasedb.JournalName) },
		"a snapshot":  func(d *disk) error { return d.Remove(leasedb.SnapshotName) },
		"both":        func(d *disk) error { return errors.Join(d.Remove(leasedb.JournalName), d.Remove(leasedb.SnapshotName)) },
		"replacement": func(d *disk) error { d.names[leasedb.JournalName] = &inode{}; return nil },
	} {
		d := newDisk()
		db := opened(t, d)
		commit(t, db, leaseOf(1, "one"))
		if err := errors.Join(db.Compact(), harm(d)); err != nil {
			t.Fatal(err)
		}
		commit(t, db, leaseOf(2, "two"))
		before := d.calls
		if err := db.Keep(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if name == "nothing" && d.calls != before {
			t.Error("something was written though nothing is missing")
		}
		commit(t, db, leaseOf(3, "three"))
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if got := has(t, opened(t, d)); len(got) != 3 {
			t.Errorf("%s was removed: opened again there are %v", name, got)
		}
	}
}

// fileOf is what a file on the disk has.
func fileOf(d *disk, name string) []byte { return bytes.Clone(d.names[name].on) }

// withFile is a copy of a disk on which a file has other content.
func withFile(d *disk, name string, data []byte) *disk {
	c := newDisk()
	for n, i := range d.on {
		c.names[n] = &inode{data: bytes.Clone(i.on), on: bytes.Clone(i.on)}
	}
	c.names[name] = &inode{data: data, on: bytes.Clone(data)}
	c.on = maps.Clone(c.names)
	return c
}

// A bit flipped in any byte of a file costs the lease that it is in at most. The damaged
// file is kept and told of.
func TestDamage(t *testing.T) {
	d := newDisk()
	db := opened(t, d)
	want := map[string]string{}
	for i := range 6 {
		l := leaseOf(i, fmt.Sprintf("h%d", i))
		commit(t, db, l)
		want[networks[0]+l.Addr.String()] = l.Hostname
		if i == 2 { // three in the snapshot, three in the journal
			if err := db.Compact(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{leasedb.SnapshotName, leasedb.JournalName} {
		sound := fileOf(d, name)
		end := len(bytes.TrimRight(sound, "\x00"))
		for at := range end {
			spoilt := bytes.Clone(sound)
			spoilt[at] ^= 1 << (at % 8)
			last := at == end-1 && name == leasedb.JournalName // the last group was not ended: nobody was told of it
			if err := checkDamage(t, withFile(d, name, spoilt), name, want, last); err != nil {
				t.Errorf("%s, byte %d: %v", name, at, err)
			}
		}
	}
}

// checkDamage opens a database of which a file is damaged in one place.
func checkDamage(t *testing.T, d *disk, name string, want map[string]string, silent bool) error {
	t.Helper()
	spoilt := fileOf(d, name)
	db, damage, err := leasedb.OpenSized(d, slog.New(slog.DiscardHandler), small)
	if err != nil {
		return err
	}
	got := has(t, db)
	for k, v := range got {
		if want[k] != v {
			return fmt.Errorf("there is %s=%s", k, v)
		}
	}
	if len(got) < len(want)-1 || damage == nil && !silent {
		return fmt.Errorf("%d of %d leases, damage %w", len(got), len(want), damage)
	}
	if damage != nil {
		checkAside(t, d, name, spoilt, damage)
	}
	if err := errors.Join(db.Commit(networks[1], []dhcpd.Lease{leaseOf(9, "new")}, nil), db.Close()); err != nil {
		return err
	}
	if again := has(t, opened(t, d)); len(again) != len(got)+1 {
		return fmt.Errorf("opened again there are %d leases, want %d", len(again), len(got)+1)
	}
	return nil
}

// checkAside fails the test unless the damaged file was kept and damage names it.
func checkAside(t *testing.T, d *disk, name string, spoilt []byte, damage error) {
	t.Helper()
	for kept, i := range d.on {
		if strings.HasPrefix(kept, name+".corrupt-") {
			if !bytes.Equal(i.on, spoilt) || !strings.Contains(damage.Error(), kept) {
				t.Errorf("%s is kept as %s, told of by %v", name, kept, damage)
			}
			return
		}
	}
	t.Errorf("%s is not kept: %v", name, damage)
}

// A journal that ends anywhere has the groups that are whole, and is not damaged.
func TestTornJournal(t *testing.T) {
	d := newDisk()
	db := opened(t, d)
	ends := []int{}
	for i := range 3 {
		commit(t, db, leaseOf(i, fmt.Sprintf("h%d", i)))
		ends = append(ends, len(bytes.TrimRight(fileOf(d, leasedb.JournalName), "\x00")))
	}
	sound := fileOf(d, leasedb.JournalName)
	for at := ends[1]; at <= ends[2]; at++ {
		zeroed := bytes.Clone(sound)
		clear(zeroed[at:])
		for how, data := range map[string][]byte{"short": sound[:at], "zeroed": zeroed} {
			copied := withFile(d, leasedb.JournalName, bytes.Clone(data))
			want := 2
			if at == ends[2] {
				want = 3
			}
			db := opened(t, copied)
			if got := has(t, db); len(got) != want {
				t.Errorf("%s at byte %d: %d leases, want %d", how, at, len(got), want)
			}
			commit(t, db, leaseOf(9, "new"))
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if got := has(t, opened(t, copied)); len(got) != want+1 {
				t.Errorf("%s at byte %d, and one more: %d leases, want %d", how, at, len(got), want+1)
			}
		}
	}
}

// Whatever a file is, it is read without a crash.
func FuzzRecords(f *testing.F) {
	d := newDisk()
	db := opened(f, d)
	commit(f, db, leaseOf(1, "one"), leaseOf(2, "two"))
	commit(f, db, leaseOf(3, "three"))
	journal := bytes.TrimRight(fileOf(d, leasedb.JournalName), "\x00")
	f.Add(journal)
	f.Add(journal[:len(journal)-20])
	f.Add(append(bytes.Clone(journal[:40]), journal[60:]...))
	f.Fuzz(func(t *testing.T, data []byte) {
		if n, _ := leasedb.Records(data); n > len(data)/23+1 {
			t.Errorf("%d records in %d bytes", n, len(data))
		}
	})
}
