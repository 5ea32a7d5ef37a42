package leasedb

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// The names of the files.
const (
	SnapshotName = "snapshot"
	JournalName  = "journal"
	nextName     = JournalName + ".next"

	freshSnapshot = SnapshotName + ".new" // files that are not yet whole
	freshJournal  = JournalName + ".new"
)

// DB is an open database. Its methods may be called concurrently, except for Close. Only
// one process may have the files open: the caller sees to that.
type DB struct {
	files Files
	log   *slog.Logger
	least int           // how large a journal is at least, in bytes
	pause time.Duration // between attempts to make one

	compaction sync.Mutex // held by who makes a snapshot; taken before all others

	writer  sync.Mutex // held by who writes to the journal, guards what follows
	journal journal
	failed  time.Time // when no journal could be made last
	why     error     // and why

	mu         sync.Mutex // guards what follows; taken after writer
	next       *batch     // what the next writer writes
	spare      []byte     // memory of a batch that is done
	leases     map[network]map[address]place
	shelf      shelf // has the records of leases
	compacting bool
	halfway    bool      // the journal is nextName, and there is no snapshot that goes with it
	rest       time.Time // until when no snapshot is tried after one that failed
	closing    bool
	background sync.WaitGroup
}

// batch is changes of callers that wait together.
type batch struct {
	group []byte // records, behind the room for their header
	led   bool   // somebody writes it, or is about to
	done  chan struct{}
	err   error // once done is closed
}

// newBatch returns an empty one in memory that was another's.
func newBatch(spare []byte) *batch {
	return &batch{group: beginGroup(spare[:0]), done: make(chan struct{})}
}

// Open reads the database. What is damaged is kept aside under another name, reported in
// the log, and left out; damage tells of that, and is nil otherwise.
func Open(files Files, log *slog.Logger) (db *DB, damage, err error) {
	return open(files, log, leastJournal, restTime)
}

// open is Open with other limits.
func open(files Files, log *slog.Logger, least int, pause time.Duration) (db *DB, damage, err error) {
	db = &DB{files: files, log: log, least: least, pause: pause, next: newBatch(nil), leases: make(map[network]map[address]place)}
	again, damage, err := db.read()
	if err != nil {
		return nil, nil, err
	}
	if again {
		// A disk that takes nothing is no error: the next commit tries again.
		if err := db.ready(); err != nil {
			log.Warn("no lease can be stored", "error", err)
		}
	}
	return db, damage, nil
}

// ErrClosed is what commits return after Close.
var ErrClosed = errors.New("the lease database is closed")

// Close waits for what is under way. No commit may be.
func (db *DB) Close() error {
	db.mu.Lock()
	db.closing = true
	db.mu.Unlock()
	db.background.Wait()
	db.writer.Lock()
	defer db.writer.Unlock()
	return db.journal.close()
}

// Networks lists the networks that have leases, by UUID, in order.
func (db *DB) Networks() []string {
	db.mu.Lock()
	defer db.mu.Unlock()
	var all []string
	for n := range db.leases {
		all = append(all, n.String())
	}
	slices.Sort(all)
	return all
}

// Load returns the leases of a network, in any order.
func (db *DB) Load(uuid string) ([]dhcpd.Lease, error) {
	n, err := parseNetwork(uuid)
	if err != nil {
		return nil, err
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	all := make([]dhcpd.Lease, 0, len(db.leases[n]))
	for _, at := range db.leases[n] {
		l, err := db.shelf.get(at).lease()
		if err != nil { // a later version's
			db.log.Error("leaving out a lease that can't be read", "network_uuid", uuid, "error", err)
			continue
		}
		all = append(all, l)
	}
	return all, nil
}

// Commit stores puts, each over an older lease of its address, and removes the leases of
// deletes. It returns when all of it is on disk, or with an error when nothing is.
func (db *DB) Commit(uuid string, puts []dhcpd.Lease, deletes []netip.Addr) error {
	n, err := parseNetwork(uuid)
	if err != nil {
		return err
	}
	return db.submit(func(b []byte) ([]byte, error) {
		for i := range puts {
			if b, err = appendLease(b, n, &puts[i]); err != nil {
				return nil, err
			}
		}
		for _, a := range deletes {
			if !a.IsValid() {
				return nil, errors.New("removing a lease without an address")
			}
			b = appendRemoval(b, n, a)
		}
		return b, nil
	})
}

// Drop removes all leases of a network.
func (db *DB) Drop(uuid string) error {
	n, err := parseNetwork(uuid)
	if err != nil {
		return err
	}
	return db.submit(func(b []byte) ([]byte, error) { return appendRemoval(b, n, netip.Addr{}), nil })
}

// submit has the records that encode appends written, together with those of others that
// wait, and returns when they are on disk. One of those who wait writes for all.
func (db *DB) submit(encode func([]byte) ([]byte, error)) error {
	b, leads, err := db.join(encode)
	switch {
	case err != nil:
		return err
	case leads:
		db.lead(b)
	default:
		<-b.done
	}
	return b.err
}

// join adds records to the next batch. leads says that the caller is to write it.
func (db *DB) join(encode func([]byte) ([]byte, error)) (b *batch, leads bool, err error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closing {
		return nil, false, ErrClosed
	}
	b = db.next
	at := len(b.group)
	group, err := encode(b.group)
	if err != nil {
		b.group = b.group[:at]
		return nil, false, err
	}
	b.group = group
	leads, b.led = !b.led, true
	return b, leads, nil
}

// lead writes a batch as soon as nobody else writes. Until then others may join it.
func (db *DB) lead(b *batch) {
	db.writer.Lock()
	if !db.journal.ready() {
		db.writer.Unlock()
		b.err = db.ready()
		db.writer.Lock()
	}
	db.mu.Lock()
	db.next, db.spare = newBatch(db.spare), nil
	db.mu.Unlock()
	if b.err == nil && len(b.group) > groupHeader {
		b.err = db.write(b)
	}
	full := db.journal.full()
	db.writer.Unlock()
	close(b.done)
	if full {
		db.compactBeside()
	}
}

// write writes a batch and takes note of it. The caller holds writer.
func (db *DB) write(b *batch) error {
	if err := db.journal.append(b.group); err != nil {
		return fmt.Errorf("writing %s: %w", db.journal.name, err)
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	for rest := record(b.group[groupHeader:]); len(rest) > 0; {
		size := rest.size()
		db.apply(rest[:size])
		rest = rest[size:]
	}
	if cap(b.group) <= chunk { // not what once was a lot
		db.spare = b.group
	}
	return nil
}

// apply makes what a record says true in memory. The caller holds mu.
func (db *DB) apply(r record) {
	n := r.network()
	of := db.leases[n]
	switch r.kind() {
	case put:
		if of == nil {
			of = make(map[address]place)
			db.leases[n] = of
		}
		a := r.address()
		db.shelf.drop(of[a])
		of[a] = db.shelf.add(r)
	case remove:
		a := r.address()
		db.shelf.drop(of[a])
		delete(of, a)
	case drop:
		for _, at := range of {
			db.shelf.drop(at)
		}
		clear(of)
	}
	if len(of) == 0 {
		delete(db.leases, n)
	}
	if db.shelf.untidy() {
		db.tidy()
	}
}

// tidy gives back the memory of records that were dropped. The caller holds mu.
func (db *DB) tidy() {
	var fresh shelf
	for _, of := range db.leases {
		for a, at := range of {
			of[a] = fresh.add(db.shelf.get(at))
		}
	}
	db.shelf = fresh
}

// read reads the files. again says that they are to be written anew.
func (db *DB) read() (again bool, damage, err error) {
	first, again, damage, err := db.readSnapshot()
	if err != nil {
		return false, nil, err
	}
	db.journal.sequence = first
	var logs []log
	for i, name := range []string{JournalName, nextName} {
		l, fault, err := db.readLog(name, first+uint64(i))
		if err != nil {
			return false, nil, err
		}
		damage = errors.Join(damage, fault)
		again = again || fault != nil || l != nil && name == nextName
		if l != nil && l.sequence >= first {
			logs = append(logs, *l)
		}
	}
	slices.SortFunc(logs, func(a, b log) int { return cmp.Compare(a.sequence, b.sequence) })
	for _, l := range logs {
		db.takeAll(l.records)
		db.journal = journal{name: l.name, sequence: l.sequence, end: int64(l.end), number: l.last, unknown: !l.clean}
	}
	if again || len(logs) == 0 {
		return true, damage, nil
	}
	return false, damage, db.journal.open(db.files)
}

// readSnapshot reads the snapshot, where there is one. first is the number of the first
// journal that goes with it.
func (db *DB) readSnapshot() (first uint64, again bool, damage, err error) {
	data, err := readFile(db.files, SnapshotName)
	if err != nil {
		return 0, false, nil, fmt.Errorf("reading %s: %w", SnapshotName, err)
	}
	if data == nil {
		return 1, false, nil, nil
	}
	first, fault := readHeader(data, snapshotKind)
	c := readGroups(data, snapshotKind)
	db.takeAll(c.records)
	if fault = errors.Join(fault, c.damage); fault != nil {
		damage = db.setAside(SnapshotName, data, len(c.records), fault)
	}
	return max(first, 1), damage != nil, damage, nil
}

// log is a journal that was read.
type log struct {
	name     string
	sequence uint64
	contents
}

// readLog reads a journal; nil where there is none. Its number is assumed where it can't
// be read.
func (db *DB) readLog(name string, assumed uint64) (l *log, damage, err error) {
	data, err := readFile(db.files, name)
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(data) == 0 {
		return nil, nil, nil
	}
	sequence, fault := readHeader(data, journalKind)
	if fault != nil {
		sequence = assumed
	}
	c := readGroups(data, journalKind)
	if fault = errors.Join(fault, c.damage); fault != nil {
		damage = db.setAside(name, data, len(c.records), fault)
	}
	return &log{name, sequence, c}, damage, nil
}

// takeAll makes what records say true in memory.
func (db *DB) takeAll(records []record) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, r := range records {
		db.apply(r)
	}
}

// setAside keeps a copy of a damaged file, and returns what there is to say of it.
func (db *DB) setAside(name string, data []byte, found int, fault error) error {
	aside := name + ".corrupt-" + time.Now().UTC().Format("20060102T150405.000")
	f, err := db.files.OpenFile(aside, os.O_RDWR|os.O_CREATE)
	if err == nil {
		_, err = f.WriteAt(data, 0)
		err = errors.Join(err, f.Datasync(), f.Close(), db.files.Sync())
	}
	db.log.Error("leases are damaged on disk: going on with what could be read", "file", name, "aside", aside, "records", found, "error", fault)
	if err != nil {
		return fmt.Errorf("%s was damaged (%w), %d records of it could be read, and it could not be kept: %w", name, fault, found, err)
	}
	return fmt.Errorf("%s was damaged (%w): it is kept as %s, and %d records of it could be read", name, fault, aside, found)
}
