package store

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// database is the lease database, which is opened again when it broke: where the
// kernel refuses to map a file that has grown, bbolt has none of it any more and
// refuses everything from then on. Nothing is lost by that: what could not be brought
// into it is in the journal.
type database struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	db   *bbolt.DB // nil: it broke and could not be opened yet
	said time.Time // when the log was told last
	rest time.Time // until when nothing is tried, after it broke twice
	why  error     // why it broke last
}

// How often the log is told of a database that broke, and how long one that broke
// again is left alone.
const (
	sayPause = time.Minute
	restTime = time.Second
)

// options are how the database is opened.
func options() *bbolt.Options {
	return &bbolt.Options{Timeout: lockWait, FreelistType: bbolt.FreelistMapType, OpenFile: openFile}
}

// begin begins to read. The caller ends the transaction.
func (d *database) begin() (*bbolt.Tx, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.db != nil {
		tx, err := d.db.Begin(false)
		if !errors.Is(err, bolterrors.ErrInvalidMapping) {
			return tx, err
		}
	}
	if err := d.reopen(); err != nil {
		return nil, err
	}
	return d.db.Begin(false)
}

// view calls fn with what the database has.
func (d *database) view(fn func(tx *bbolt.Tx) error) error {
	tx, err := d.begin()
	if err != nil {
		return err
	}
	return errors.Join(fn(tx), tx.Rollback())
}

// update runs a transaction, and once more where the database broke at the first. One
// that broke again has a rest before it is tried once more: the host is short of
// memory, and each attempt takes some.
func (d *database) update(fn func(tx *bbolt.Tx) error) error {
	if err := d.resting(); err != nil {
		return err
	}
	err := d.updateOnce(fn)
	if err != nil && d.broken() {
		err = d.updateOnce(fn)
	}
	if err != nil && d.broken() {
		d.mu.Lock()
		d.rest, d.why = time.Now().Add(restTime), err
		d.mu.Unlock()
	}
	return err
}

// resting is why the database broke, where that was a moment ago.
func (d *database) resting() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Now().Before(d.rest) {
		return d.why
	}
	return nil
}

func (d *database) updateOnce(fn func(tx *bbolt.Tx) error) error {
	tx, err := d.begin() // opens it where need be
	if err == nil {
		err = tx.Rollback()
	}
	if err != nil {
		return err
	}
	d.mu.Lock()
	db := d.db
	d.mu.Unlock()
	return update(db, fn)
}

// broken reports whether the database has lost its mapping.
func (d *database) broken() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.db == nil {
		return true
	}
	tx, err := d.db.Begin(false)
	if err == nil {
		_ = tx.Rollback() // of what was only read
	}
	return errors.Is(err, bolterrors.ErrInvalidMapping)
}

// reopen closes a database that is not mapped, which nobody can be reading then, and
// opens it anew. d.mu is locked.
func (d *database) reopen() (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("opening lease database %q again: %v", d.path, r)
		}
	}()
	if d.db != nil {
		broken := d.db
		d.db = nil
		if err := broken.Close(); err != nil {
			d.log.Warn("closing the lease database that broke", "path", d.path, "error", err)
		}
	}
	db, err := bbolt.Open(d.path, 0o600, options())
	if err != nil {
		return fmt.Errorf("opening lease database %q again: %w", d.path, err)
	}
	d.db = db
	if time.Since(d.said) > sayPause { // it may break with each commit, until there is memory
		d.said = time.Now()
		d.log.Warn("the lease database broke and was opened again", "path", d.path)
	}
	return nil
}

func (d *database) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.db == nil {
		return nil
	}
	return d.db.Close()
}
