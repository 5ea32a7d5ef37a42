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
		return db, nil, syncDir(filepath.Dir(path))
	}
	var system *os.PathError
	if errors.Is(err, bolterrors.ErrTimeout) || errors.As(err, &system) {
		return nil, nil, fmt.Errorf("opening lease database %q: %w", path, err)
	}
	image, readErr := os.ReadFile(path)
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
	err = db.Update(func(tx *bbolt.Tx) error {
		for uuid, leases := range saved {
			c := commit{bucket: []byte(uuid), puts: slices.Collect(maps.Values(leases))}
			if err := c.apply(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
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
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait, FreelistType: bbolt.FreelistMapType})
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

// commit is one caller's changes on their way to the disk.
type commit struct {
	bucket  []byte
	puts    []dhcpd.Lease
	deletes []netip.Addr
	done    chan error
}

// commitLoop writes what callers hand in: all that arrived while the last
// transaction was on its way to the disk goes into the next one, so that many
// networks and clients share one fsync.
func (s *Store) commitLoop() {
	for {
		select {
		case c := <-s.commits:
			batch := s.gather([]*commit{c})
			err := s.update(func(tx *bbolt.Tx) error { return applyAll(tx, batch) })
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
func (s *Store) update(fn func(tx *bbolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("reading a page: %v", r)
		}
	}()
	return s.db.Update(fn)
}

func applyAll(tx *bbolt.Tx, batch []*commit) error {
	for _, c := range batch {
		if err := c.apply(tx); err != nil {
			return err
		}
	}
	return nil
}

// apply makes the changes of one caller inside a transaction.
func (c *commit) apply(tx *bbolt.Tx) error {
	b, err := tx.CreateBucketIfNotExists(c.bucket)
	if err != nil {
		return err
	}
	for _, l := range c.puts {
		data, err := encodeRecord(c.bucket, &l)
		if err != nil {
			return err
		}
		if err := b.Put(l.Addr.AsSlice(), data); err != nil {
			return err
		}
	}
	for _, addr := range c.deletes {
		if err := b.Delete(addr.AsSlice()); err != nil {
			return err
		}
	}
	return nil
}

// Leases is the lease store of the network with that UUID. It may be used
// concurrently, until the Store is closed.
func (s *Store) Leases(uuid string) dhcpd.LeaseStore { return &leaseStore{s, []byte(uuid)} }

type leaseStore struct {
	s      *Store
	bucket []byte
}

// Load implements dhcpd.LeaseStore. Records that can't be read are logged and
// left out.
func (l *leaseStore) Load() ([]dhcpd.Lease, error) {
	var leases []dhcpd.Lease
	err := l.s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(l.bucket)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			lease, err := decodeRecord(l.bucket, v)
			if err != nil {
				l.s.log.Error("leaving out a corrupt lease", "network_uuid", string(l.bucket), "key", k, "error", err)
				return nil
			}
			leases = append(leases, lease)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("loading leases of network %s: %w", l.bucket, err)
	}
	return leases, nil
}

// Commit implements dhcpd.LeaseStore: it returns when the changes are on disk,
// or with an error when none of them is.
func (l *leaseStore) Commit(puts []dhcpd.Lease, deletes []netip.Addr) error {
	c := &commit{bucket: l.bucket, puts: puts, deletes: deletes, done: make(chan error, 1)}
	select {
	case l.s.commits <- c:
	case <-l.s.closing:
		return errors.New("committing leases: the store is closed")
	}
	if err := <-c.done; err != nil {
		return fmt.Errorf("committing leases of network %s: %w", l.bucket, err)
	}
	return nil
}

// DropLeases forgets all leases of the network with that UUID.
func (s *Store) DropLeases(uuid string) error {
	err := s.update(func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte(uuid)) })
	if err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
		return fmt.Errorf("dropping leases of network %s: %w", uuid, err)
	}
	return nil
}
