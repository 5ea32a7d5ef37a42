package store

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Sizes in bytes: of the journal's file, which is some 2,500 leases, of what is brought
// into the database at a time while the journal goes on, and of what a disk writes
// whole or not at all.
const (
	journalSize = 512 << 10
	applySize   = 128 << 10
	sectorSize  = 512
)

// journal is where leases are on disk first: to append to it takes one write and one
// fdatasync, where the database takes two and pages here and there. What it has
// goes into the database by and by, beside further commits, and the rest when it is
// full and when the store is closed or opened; then it is wiped. To read all of it
// into the database again changes nothing there.
//
// Its file is text: groups of changes that were committed together, behind them
// zeros, which are there beforehand so that no append changes the file's metadata. A
// group is
//
//	SUM                  CRC-32C of the lines that follow, in eight hex digits
//	UUID ADDRESS RECORD  the lease is stored
//	UUID ADDRESS         the lease is removed
//	UUID                 all leases of the network are removed
//
// and an empty line, without which nobody was told that the group is on disk.
type journal struct {
	db   *database
	file *os.File

	// Of the committer alone: where the next group goes, and whether that can't be
	// told, as after a write that failed. Then nothing is appended before a wipe.
	end     int
	unknown bool
	grown   int        // bytes since apply was called
	applied chan error // capacity 1: how the transaction of apply has ended

	mu sync.Mutex
	// What the journal has and the database may not have: what a transaction of
	// apply brings there, nil if none is under way, and what is newer. Changed by
	// the committer alone.
	applying, pending pending
}

// groupEnd ends the last line of a group, and the group.
var groupEnd = []byte("\n\n")

// openJournal opens the journal at path and brings what it has into db. A damaged
// one is set aside; damage tells of that, and is nil otherwise. A disk that takes
// nothing is no error: what was read is in pending, and the next commit tries again.
func openJournal(path string, db *database, log *slog.Logger) (j *journal, damage, err error) {
	file, err := openFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("opening lease journal: %w", err)
	}
	data, err := io.ReadAll(file)
	if err == nil {
		err = stateOf(path).sync()
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("reading lease journal: %w", err), file.Close())
	}
	changes, fault := readJournal(data)
	if fault != nil {
		aside := path + ".corrupt-" + time.Now().UTC().Format("20060102T150405.000")
		if err := stateOf(aside).write(filepath.Base(aside), data, 0o600); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("setting damaged lease journal aside: %w", err), file.Close())
		}
		log.Error("lease journal is damaged: going on with what could be read", "path", path, "aside", aside,
			"changes", len(changes), "error", fault)
		damage = fmt.Errorf("lease journal was damaged (%w): it is kept as %q, and %d changes could be read", fault, aside, len(changes))
	}
	j = &journal{db: db, file: file, unknown: true, applied: make(chan error, 1), pending: make(pending)}
	j.pending.add(changes)
	if err := j.checkpoint(); err != nil {
		log.Warn("no lease can be stored", "error", err)
	}
	return j, damage, nil
}

// close brings everything into the database, which it leaves open.
func (j *journal) close() error { return errors.Join(j.checkpoint(), j.file.Close()) }

// commit returns when the changes of a batch are on disk. After an error none of
// them holds, and nothing is committed before the journal could be wiped.
func (j *journal) commit(batch []*commit) error {
	j.settle(false)
	changes, group := groupOf(batch)
	if j.unknown || j.end+len(group) > journalSize {
		if err := j.checkpoint(); err != nil {
			return err
		}
	}
	if len(group) > journalSize { // the journal is empty: nothing in it is older than this
		large := make(pending)
		large.add(changes)
		return j.db.update(large.apply)
	}
	if err := j.write(group, j.end); err != nil {
		j.unknown = true
		return fmt.Errorf("writing lease journal: %w", err)
	}
	j.end += len(group)
	j.grown += len(group)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.pending.add(changes)
	if j.grown >= applySize && j.applying == nil {
		j.apply()
	}
	return nil
}

// apply begins to bring what is pending into the database. settle takes note of the
// end, which checkpoint waits for. mu is locked.
func (j *journal) apply() {
	j.grown = 0
	j.applying, j.pending = j.pending, make(pending)
	changes := j.applying
	go func() { j.applied <- j.db.update(changes.apply) }()
}

// settle takes note that a transaction of apply has ended, and waits for that if it
// should. What it could not bring into the database is pending again.
func (j *journal) settle(wait bool) {
	if j.applying == nil || !wait && len(j.applied) == 0 {
		return
	}
	err := <-j.applied
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.applying.cover(j.pending)
		j.pending = j.applying
	}
	j.applying = nil
}

// checkpoint brings what is pending into the database, then wipes the journal.
func (j *journal) checkpoint() error {
	j.settle(true)
	j.grown = 0
	if len(j.pending) > 0 {
		if err := j.db.update(j.pending.apply); err != nil {
			return err
		}
		j.mu.Lock()
		j.pending = make(pending)
		j.mu.Unlock()
	}
	if j.end == 0 && !j.unknown {
		return nil
	}
	if err := j.wipe(); err != nil {
		j.unknown = true
		return fmt.Errorf("wiping lease journal: %w", err)
	}
	j.end, j.unknown = 0, false
	return nil
}

// wipe makes the journal empty: its first sector, by which it counts as that, then
// the others. Parts of what it had, without the first, would bring back older leases.
func (j *journal) wipe() error {
	if err := j.file.Truncate(journalSize); err != nil {
		return err
	}
	zeros := make([]byte, journalSize)
	if err := j.write(zeros[:sectorSize], 0); err != nil {
		return err
	}
	return j.write(zeros, 0)
}

// write returns when data is on disk.
func (j *journal) write(data []byte, at int) error {
	if _, err := j.file.WriteAt(data, int64(at)); err != nil {
		return err
	}
	return unix.Fdatasync(int(j.file.Fd()))
}

// view begins to read the database, and has what is pending for the network
// besides. The caller ends the transaction.
func (j *journal) view(network string) (*bbolt.Tx, overlay, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	tx, err := j.db.begin()
	return tx, j.applying[network].under(j.pending[network]), err
}

// networks lists the networks that have leases, or had, by UUID.
func (j *journal) networks() ([]string, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	have := make(map[string]bool)
	err := j.db.view(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(uuid []byte, _ *bbolt.Bucket) error {
			have[string(uuid)] = true
			return nil
		})
	})
	for _, p := range []pending{j.applying, j.pending} {
		for uuid, o := range p {
			have[uuid] = len(o.records) > 0 || have[uuid] && !o.dropped
		}
	}
	maps.DeleteFunc(have, func(_ string, is bool) bool { return !is })
	return slices.Sorted(maps.Keys(have)), err
}

// groupOf is what a batch changes, and that as a group of the journal.
func groupOf(batch []*commit) (changes []change, group []byte) {
	var lines []byte
	for _, c := range batch {
		changes = append(changes, c.changes...)
		lines = append(lines, c.lines...)
	}
	return changes, fmt.Appendf(nil, "%08x\n%s\n", crc32.Checksum(lines[:len(lines)-1], castagnoli), lines)
}

// readJournal reads the groups of a journal. A last one without its end is none. Of
// a group that is damaged, those leases are taken that match their own checksums;
// damage is that of the first one. Behind a first sector of zeros is what a wipe that
// was interrupted has left.
func readJournal(data []byte) (all []change, damage error) {
	if bytes.HasPrefix(data, make([]byte, sectorSize)) {
		return nil, nil
	}
	data = bytes.TrimRight(data, "\x00")
	for number := 1; len(data) > 0; number++ {
		group, rest, whole := bytes.Cut(data, groupEnd)
		changes, err := readGroup(group)
		switch {
		case whole:
			all = append(all, changes...)
		case len(group) <= sumLen || isSum(group[:sumLen]):
			return all, damage
		}
		if err != nil && damage == nil {
			damage = fmt.Errorf("group %d: %w", number, err)
		}
		data = rest
	}
	return all, damage
}

// readGroup reads a group without its end.
func readGroup(group []byte) (changes []change, err error) {
	head, lines, _ := bytes.Cut(group, []byte("\n"))
	sound := string(head) == fmt.Sprintf("%08x", crc32.Checksum(lines, castagnoli))
	if !sound {
		err = errors.New("it does not match its checksum")
	}
	for line := range bytes.SplitSeq(lines, []byte("\n")) {
		c, fault := parseChange(line)
		switch {
		case fault != nil && sound:
			err = cmp.Or(err, fault)
		case fault == nil && (sound || c.proves()):
			changes = append(changes, c)
		}
	}
	return changes, err
}

// isSum reports whether b is a number in hex digits.
func isSum(b []byte) bool {
	_, err := strconv.ParseUint(string(b), 16, 32)
	return err == nil
}
