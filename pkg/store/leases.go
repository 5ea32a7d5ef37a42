package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// lockWait is how long Open waits for a former vnetd that still holds the lease
// database.
const lockWait = time.Second

// openLeases opens the lease database, setting an unreadable one aside.
func openLeases(path string, log *slog.Logger) (*bbolt.DB, error) {
	db, err := openWhole(path)
	if err == nil {
		return db, nil
	}
	var system *os.PathError
	if errors.Is(err, bolterrors.ErrTimeout) || errors.As(err, &system) {
		return nil, fmt.Errorf("opening lease database %q: %w", path, err)
	}
	aside := path + ".corrupt-" + time.Now().UTC().Format("20060102T150405")
	if err := os.Rename(path, aside); err != nil {
		return nil, fmt.Errorf("setting corrupt lease database aside: %w", err)
	}
	log.Error("lease database is corrupt: starting with an empty one", "path", path, "aside", aside, "error", err)
	return openWhole(path)
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
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(_, v []byte) error {
				if len(v) == 0 {
					return errors.New("an empty record")
				}
				return nil
			})
		})
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
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
			err := s.db.Update(func(tx *bbolt.Tx) error { return applyAll(tx, batch) })
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
		data, err := json.Marshal(l)
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
			var lease dhcpd.Lease
			if err := json.Unmarshal(v, &lease); err != nil {
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
	err := s.db.Update(func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte(uuid)) })
	if err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
		return fmt.Errorf("dropping leases of network %s: %w", uuid, err)
	}
	return nil
}
