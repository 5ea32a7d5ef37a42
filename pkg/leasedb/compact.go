package leasedb

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// chunk is how large the groups of a snapshot are, in bytes, and how many leases are read
// before others may write.
const (
	chunk      = 64 << 10
	chunkCount = 256
)

// How long no snapshot is tried after one that failed: where commits need it, and where
// the journal goes on without.
const (
	restTime = time.Second
	growTime = 5 * time.Second
)

// compactBeside has the journal that is full followed by another one, beside what goes on.
func (db *DB) compactBeside() {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.compacting || db.closing || time.Now().Before(db.rest) {
		return
	}
	db.compacting = true
	db.background.Go(func() {
		err := db.compact()
		db.mu.Lock()
		defer db.mu.Unlock()
		db.compacting = false
		if err != nil { // the journal grows meanwhile
			db.rest = time.Now().Add(growTime)
			db.log.Warn("the lease journal could not be shortened", "error", err)
		}
	})
}

// compact makes a journal that follows, writes a snapshot that goes with it, and has both
// take the places of their predecessors. A crash, or an error, after any step leaves
// files that have everything.
func (db *DB) compact() error {
	db.compaction.Lock()
	defer db.compaction.Unlock()
	if err := db.turn(); err != nil {
		return fmt.Errorf("making %s: %w", nextName, err)
	}
	return db.finish()
}

// turn has commits go to the next journal from now on, unless they do already.
func (db *DB) turn() error {
	db.mu.Lock()
	halfway, size := db.halfway, db.shelf.live
	db.mu.Unlock()
	if halfway {
		return nil
	}
	db.writer.Lock()
	there, sequence := db.journal.file != nil, db.journal.sequence
	db.writer.Unlock()
	if !there {
		return errors.New("there is no journal yet")
	}
	next, err := makeJournal(db.files, sequence+1, max(db.least, 2*size))
	if err != nil {
		return err
	}
	if err := next.rename(db.files, nextName); err != nil {
		return errors.Join(err, next.close())
	}
	db.writer.Lock()
	defer db.writer.Unlock()
	if err := db.journal.mend(); err != nil { // what nobody was told of would count
		return errors.Join(err, next.close())
	}
	former := db.journal
	db.journal = next
	db.mu.Lock()
	db.halfway = true
	db.mu.Unlock()
	return former.close()
}

// finish writes the snapshot that goes with the journal.
func (db *DB) finish() error {
	db.writer.Lock()
	current := db.journal
	db.writer.Unlock()
	if err := db.writeSnapshot(current.sequence); err != nil {
		return fmt.Errorf("writing %s: %w", SnapshotName, err)
	}
	// Commits go on meanwhile: what the file is called is nothing to them.
	err := current.rename(db.files, JournalName)
	db.writer.Lock()
	db.journal.name = current.name
	db.writer.Unlock()
	if err != nil {
		return err
	}
	db.mu.Lock()
	db.halfway = false
	db.mu.Unlock()
	return nil
}

// Keep writes the files anew where somebody has removed one, or put another in its place: what
// was committed since would be lost with the process, and what is committed from now on.
func (db *DB) Keep() error {
	db.compaction.Lock()
	defer db.compaction.Unlock()
	db.writer.Lock()
	defer db.writer.Unlock()
	if db.journal.file == nil {
		return nil // the next commit makes one
	}
	is, err := db.files.Is(db.journal.name, db.journal.file)
	if err == nil && is && db.journal.sequence > 1 {
		_, err = db.files.Is(SnapshotName, db.journal.file)
	}
	switch {
	case errors.Is(err, os.ErrNotExist), err == nil && !is:
		db.log.Warn("files of leases were removed or replaced: they are written anew", "journal", db.journal.name)
		return db.anew()
	default:
		return err
	}
}

// ready has the journal take commits again, or makes one where there is none.
func (db *DB) ready() error {
	db.compaction.Lock()
	defer db.compaction.Unlock()
	db.writer.Lock()
	defer db.writer.Unlock()
	if db.journal.file != nil && db.journal.mend() == nil {
		return nil
	}
	if time.Since(db.failed) < db.pause {
		return db.why
	}
	if db.why = db.anew(); db.why != nil {
		db.failed = time.Now()
	}
	return db.why
}

// anew makes a snapshot and a journal of what is in memory, whatever is in the files. The
// caller holds compaction and writer.
func (db *DB) anew() error {
	db.mu.Lock()
	size := db.shelf.live
	db.mu.Unlock()
	next, err := makeJournal(db.files, db.journal.sequence+1, max(db.least, 2*size))
	if err != nil {
		return fmt.Errorf("making %s: %w", JournalName, err)
	}
	// With the snapshot no former journal counts any more, and whether it is there can't
	// be told after an error.
	err = db.journal.close()
	db.journal = journal{sequence: next.sequence}
	db.mu.Lock()
	db.halfway = false
	db.mu.Unlock()
	if err == nil {
		err = db.writeSnapshot(next.sequence)
	}
	if err == nil {
		err = next.rename(db.files, JournalName)
	}
	if err == nil {
		err = removeIfThere(db.files, nextName)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", SnapshotName, err), next.close())
	}
	db.journal = next
	return nil
}

// writeSnapshot writes all leases, as they are by and by, and puts the file in its place.
func (db *DB) writeSnapshot(sequence uint64) error {
	if err := removeIfThere(db.files, freshSnapshot); err != nil {
		return err
	}
	f, err := db.files.OpenFile(freshSnapshot, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	w := &snapshotWriter{gently: gently{file: f}, buf: appendHeader(nil, snapshotKind, sequence)}
	w.group = len(w.buf)
	w.buf = beginGroup(w.buf)
	db.writeRecords(w)
	w.flush()
	if w.err == nil {
		w.err = f.Datasync()
	}
	if err := errors.Join(w.err, f.Close()); err != nil {
		return err
	}
	if err := db.files.Rename(freshSnapshot, SnapshotName); err != nil {
		return err
	}
	return db.files.Sync()
}

// writeRecords writes the records of all leases. Between some of them others may change leases:
// what changes meanwhile may be among them or not. The disk is not waited for with the lock.
func (db *DB) writeRecords(w *snapshotWriter) {
	db.mu.Lock()
	defer db.mu.Unlock()
	n := 0
	for _, leases := range db.leases {
		for _, at := range leases {
			w.add(db.shelf.get(at))
			if n++; n%chunkCount == 0 || w.full() {
				db.mu.Unlock()
				if w.full() {
					w.flush()
				}
				db.mu.Lock()
			}
		}
	}
}

// snapshotWriter writes groups of records.
type snapshotWriter struct {
	gently
	at     int64
	number uint64
	buf    []byte
	group  int // where the group begins in buf
	err    error
}

func (w *snapshotWriter) add(r record) { w.buf = append(w.buf, r...) }

// full reports whether there is enough to be written.
func (w *snapshotWriter) full() bool { return len(w.buf) >= chunk }

// flush writes what there is.
func (w *snapshotWriter) flush() {
	if len(w.buf) > w.group+groupHeader {
		w.number++
		w.buf = endGroup(w.buf, w.group, w.number)
	} else {
		w.buf = w.buf[:w.group]
	}
	if w.err == nil {
		w.err = w.write(w.buf, w.at)
		w.at += int64(len(w.buf))
	}
	w.group, w.buf = 0, beginGroup(w.buf[:0])
}
