// Package disk keeps what a host knows of its cluster in a file, so that it starts, and
// gives nothing away twice, while the store is away.
package disk

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/vnetd/vnetd/pkg/cluster"
)

// lockWithin is how long is waited for another process that has the file open.
const lockWithin = 5 * time.Second

// The buckets of the file, and the keys of the bucket that has what is there once.
var (
	bucketKeys  = []byte("keys")  // by key: the revisions at which it was created and changed, 8 bytes each, and its value
	bucketState = []byte("state") // below
	keyStore    = []byte("store")
	keyRevision = []byte("revision")
	keyDoubt    = []byte("doubt") // JSON
)

// File is a cluster.Disk.
type File struct{ db *bbolt.DB }

// Open opens the file at path, and makes it if there is none.
func Open(path string) (*File, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWithin})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketKeys)
		_, err2 := tx.CreateBucketIfNotExists(bucketState)
		return errors.Join(err, err2)
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, errors.Join(err, db.Close()))
	}
	return &File{db}, nil
}

// Close closes the file.
func (f *File) Close() error { return f.db.Close() }

// Load returns what was saved.
func (f *File) Load() (cluster.Saved, error) {
	s := cluster.Saved{Keys: make(map[string]cluster.KV)}
	err := f.db.View(func(tx *bbolt.Tx) error {
		state := tx.Bucket(bucketState)
		s.Store, s.Revision = number(state.Get(keyStore)), int64(number(state.Get(keyRevision)))
		if doubt := state.Get(keyDoubt); doubt != nil {
			if err := json.Unmarshal(doubt, &s.Doubt); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketKeys).ForEach(func(k, v []byte) error {
			if len(v) < 16 {
				return fmt.Errorf("key %q has no revisions", k)
			}
			s.Keys[string(k)] = cluster.KV{Key: string(k), Create: int64(number(v[:8])), Mod: int64(number(v[8:16])), Value: append([]byte(nil), v[16:]...)}
			return nil
		})
	})
	if err != nil {
		return cluster.Saved{}, fmt.Errorf("%s: %w", f.db.Path(), err)
	}
	return s, nil
}

// Save implements cluster.Disk: all of it or nothing.
func (f *File) Save(c cluster.Saving) error {
	doubt, err := json.Marshal(c.Doubt)
	if err != nil {
		return err
	}
	err = f.db.Update(func(tx *bbolt.Tx) error {
		if c.All {
			if err := tx.DeleteBucket(bucketKeys); err != nil {
				return err
			}
		}
		keys, err := tx.CreateBucketIfNotExists(bucketKeys)
		if err != nil {
			return err
		}
		for _, e := range c.Events {
			if err := put(keys, e); err != nil {
				return err
			}
		}
		state := tx.Bucket(bucketState)
		return errors.Join(state.Put(keyStore, bytes8(c.Store)), state.Put(keyRevision, bytes8(uint64(c.Revision))), state.Put(keyDoubt, doubt))
	})
	if err != nil {
		return fmt.Errorf("%s: %w", f.db.Path(), err)
	}
	return nil
}

func put(keys *bbolt.Bucket, e cluster.Event) error {
	if e.Deleted {
		return keys.Delete([]byte(e.Key))
	}
	return keys.Put([]byte(e.Key), append(append(bytes8(uint64(e.Create)), bytes8(uint64(e.Mod))...), e.Value...))
}

func bytes8(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// number is what bytes8 wrote, 0 if that is missing.
func number(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
