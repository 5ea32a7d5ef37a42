package store

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// lockWait is how long Open waits for a former vnetd that still holds the lease
// database.
const lockWait = time.Second

// openLeases opens the lease database. One that is damaged is set aside and made
// anew of what can be read of it; damage tells of that, and is nil otherwise.
func openLeases(path string, log *slog.Logger) (db *bbolt.DB, damage, err error) {
	db, err = openWhole(path)
	if err == nil {
		return db, nil, stateOf(path).sync()
	}
	var system *os.PathError
	if errors.Is(err, bolterrors.ErrTimeout) || errors.As(err, &system) {
		return nil, nil, fmt.Errorf("opening lease database %q: %w", path, err)
	}
	image, readErr := stateOf(path).read(filepath.Base(path))
	if readErr != nil {
		return nil, nil, fmt.Errorf("reading damaged lease database: %w", readErr)
	}
	saved := salvage(image)
	aside := path + ".corrupt-" + time.Now().UTC().Format("20060102T150405.000")
	if err := os.Link(path, aside); err != nil {
		return nil, nil, fmt.Errorf("setting damaged lease database aside: %w", err)
	}
	log.Error("lease database is damaged: going on with what could be read", "path", path, "aside", aside,
		"leases", saved.count(), "networks", len(saved), "error", err)
	damage = fmt.Errorf("lease database was damaged (%w): it is kept as %q, and %v could be read", err, aside, saved)
	db, err = rebuild(path, saved)
	return db, damage, err
}

// rebuild puts a new database of saved in the place of the one at path: whole, or
// not at all.
func rebuild(path string, saved rescued) (*bbolt.DB, error) {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	db, err := openWhole(fresh)
	if err != nil {
		return nil, err
	}
	all := make(pending)
	for uuid, leases := range saved {
		var c *commit
		if c, err = newCommit(uuid, slices.Collect(maps.Values(leases)), nil); err != nil {
			break
		}
		all.add(c.changes)
	}
	if err == nil {
		err = db.Update(all.apply)
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err == nil {
		err = stateOf(path).sync()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making a new lease database: %w", err), db.Close())
	}
	return db, nil
}

// openWhole opens the database and reads all of it once. The database maps its
// file: a page beyond the end of a truncated one is a memory fault, which is
// met here, where it is an error, or not at all.
func openWhole(path string) (db *bbolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			db, err = nil, fmt.Errorf("reading a page: %v", r)
		}
	}()
	db, err = bbolt.Open(path, 0o600, options())
	if err != nil {
		return nil, err
	}
	if err := db.View(verify); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// verify reads every record, and then whether each page is used once.
func verify(tx *bbolt.Tx) error {
	err := tx.ForEach(func(uuid []byte, b *bbolt.Bucket) error {
		return b.ForEach(func(k, v []byte) error {
			l, err := decodeRecord(uuid, v)
			if err == nil && !bytes.Equal(k, l.Addr.AsSlice()) {
				err = errors.New("the record is of another address")
			}
			if err != nil {
				return fmt.Errorf("lease %x of network %s: %w", k, uuid, err)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	for fault := range tx.Check() {
		err = cmp.Or(err, fault)
	}
	return err
}

// commit is one caller's changes on their way to the disk, also as lines of the
// journal.
type commit struct {
	changes []change
	lines   []byte
	done    chan error
}

func newCommit(uuid string, puts []dhcpd.Lease, deletes []netip.Addr) (*commit, error) {
	c := &commit{done: make(chan error, 1)}
	for _, l := range puts {
		record, err := encodeRecord([]byte(uuid), &l)
		if err != nil {
			return nil, err
		}
		c.changes = append(c.changes, change{uuid, l.Addr, record})
	}
	for _, addr := range deletes {
		c.changes = append(c.changes, change{uuid, addr, nil})
	}
	for _, change := range c.changes {
		if !change.addr.IsValid() {
			return nil, errors.New("a lease without an address")
		}
		c.lines = change.appendLine(c.lines)
	}
	return c, nil
}

// commitLoop writes what callers hand in: all that arrived while the last group was
// on its way to the disk goes into the next one, so that many networks and clients
// share one fsync.
func (s *Store) commitLoop() {
	for {
		select {
		case c := <-s.commits:
			batch := s.gather([]*commit{c})
			err := s.journal.commit(batch)
			for _, c := range batch {
				c.done <- err
			}
		case <-s.closing:
			return
		}
	}
}

// gather adds what other callers have ready to batch.
func (s *Store) gather(batch []*commit) []*commit {
	for {
		select {
		case c := <-s.commits:
			batch = append(batch, c)
		default:
			return batch
		}
	}
}

// update runs a transaction. What the database does about a page that it can't
// make sense of, or can't read, is a panic; here it is an error.
func update(db *bbolt.DB, fn func(tx *bbolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("reading a page: %v", r)
		}
	}()
	return db.Update(fn)
}

// submit hands c to the committer and waits until it is on disk.
func (s *Store) submit(c *commit) error {
	select {
	case s.commits <- c:
		return <-c.done
	case <-s.closing:
		return errors.New("the store is closed")
	}
}

// Leases is the lease store of the network with that UUID. It may be used
// concurrently, until the Store is closed.
func (s *Store) Leases(uuid string) dhcpd.LeaseStore { return &leaseStore{s, uuid} }

type leaseStore struct {
	s    *Store
	uuid string
}

// Load implements dhcpd.LeaseStore. Records that can't be read are logged and
// left out.
func (l *leaseStore) Load() ([]dhcpd.Lease, error) {
	tx, newer, err := l.s.journal.view(l.uuid)
	if err != nil {
		return nil, fmt.Errorf("loading leases of network %s: %w", l.uuid, err)
	}
	defer func() { _ = tx.Rollback() }() // of what was only read
	var leases []dhcpd.Lease
	take := func(k, record []byte) {
		lease, err := decodeRecord([]byte(l.uuid), record)
		if err != nil {
			l.s.log.Error("leaving out a corrupt lease", "network_uuid", l.uuid, "key", k, "error", err)
			return
		}
		leases = append(leases, lease)
	}
	if b := tx.Bucket([]byte(l.uuid)); b != nil && !newer.dropped {
		err = b.ForEach(func(k, record []byte) error {
			if _, changed := newer.records[string(k)]; !changed {
				take(k, record)
			}
			return nil
		})
	}
	for k, record := range newer.records {
		if record != nil {
			take([]byte(k), record)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("loading leases of network %s: %w", l.uuid, err)
	}
	return leases, nil
}

// Commit implements dhcpd.LeaseStore: it returns when the changes are on disk,
// or with an error when none of them is.
func (l *leaseStore) Commit(puts []dhcpd.Lease, deletes []netip.Addr) error {
	if len(puts)+len(deletes) == 0 {
		return nil
	}
	c, err := newCommit(l.uuid, puts, deletes)
	if err == nil {
		err = l.s.submit(c)
	}
	if err != nil {
		return fmt.Errorf("committing leases of network %s: %w", l.uuid, err)
	}
	return nil
}

// SweepLeases forgets the leases of networks that known does not know, by UUID, as
// far as they have ended: a network may come back while its leases run. The servers
// of those networks must not run.
func (s *Store) SweepLeases(known func(uuid string) bool) error {
	uuids, err := s.journal.networks()
	if err != nil {
		return fmt.Errorf("looking for leases of former networks: %w", err)
	}
	var errs []error
	for _, uuid := range uuids {
		if !known(uuid) {
			errs = append(errs, s.sweep(uuid))
		}
	}
	return errors.Join(errs...)
}

// sweep forgets the leases of one network that have ended, and the network when it
// has no others.
func (s *Store) sweep(uuid string) error {
	leases := s.Leases(uuid)
	all, err := leases.Load()
	if err != nil {
		return err
	}
	now := time.Now()
	var ended []netip.Addr
	for _, l := range all {
		if !l.BoundAt(now) {
			ended = append(ended, l.Addr)
		}
	}
	if len(ended) == len(all) {
		return s.DropLeases(uuid)
	}
	return leases.Commit(nil, ended)
}

// DropLeases forgets all leases of the network with that UUID.
func (s *Store) DropLeases(uuid string) error {
	drop := change{network: uuid}
	c := &commit{changes: []change{drop}, lines: drop.appendLine(nil), done: make(chan error, 1)}
	if err := s.submit(c); err != nil {
		return fmt.Errorf("dropping leases of network %s: %w", uuid, err)
	}
	return nil
}
