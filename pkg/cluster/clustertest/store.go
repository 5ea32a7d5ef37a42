// Package clustertest has a store for tests of what hosts share, which lives in memory
// and does what etcd does, and the test that every store must pass. Tests only.
package clustertest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/cluster"
)

// Store is a cluster.Store in memory. Its zero value is empty.
type Store struct {
	mu        sync.Mutex
	revision  int64
	compacted int64
	keys      map[string]stored
	log       []cluster.Event // by revision
	leases    map[int64]chan struct{}
	lastLease int64
	changed   chan struct{} // closed at the next change
}

// stored is what stands at a key.
type stored struct {
	kv    cluster.KV
	lease int64
}

// New makes an empty store.
func New() *Store {
	return &Store{revision: 1, keys: make(map[string]stored), leases: make(map[int64]chan struct{}), changed: make(chan struct{})}
}

// Txn implements cluster.Store.
func (s *Store) Txn(ctx context.Context, txn cluster.Txn) (cluster.Result, error) {
	if err := ctx.Err(); err != nil {
		return cluster.Result{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(txn.If) > cluster.MaxOps || len(txn.Then) > cluster.MaxOps {
		return cluster.Result{}, fmt.Errorf("too many operations: %d comparisons, %d operations", len(txn.If), len(txn.Then))
	}
	if err := s.check(txn.Then); err != nil {
		return cluster.Result{}, err
	}
	for _, c := range txn.If {
		if !s.holds(c) {
			return cluster.Result{Revision: s.revision}, nil
		}
	}
	s.apply(txn.Then)
	return cluster.Result{OK: true, Revision: s.revision}, nil
}

// check finds what etcd refuses: a key that is put twice, and a lease that is none.
func (s *Store) check(ops []cluster.Op) error {
	seen := make(map[string]bool, len(ops))
	for _, op := range ops {
		if op.Value == nil {
			continue
		}
		if seen[op.Key] {
			return fmt.Errorf("key %q is put twice", op.Key)
		}
		seen[op.Key] = true
		if op.Lease != 0 && s.leases[op.Lease] == nil {
			return fmt.Errorf("there is no lease %d", op.Lease)
		}
	}
	return nil
}

func (s *Store) holds(c cluster.Compare) bool {
	if c.To == "" {
		return s.keys[c.Key].kv.Mod == c.Mod
	}
	for key := range s.keys {
		if c.Key <= key && key < c.To {
			return false
		}
	}
	return true
}

// apply carries out operations at a revision of their own.
func (s *Store) apply(ops []cluster.Op) {
	next := s.revision + 1
	var events []cluster.Event
	for _, op := range ops {
		switch {
		case op.Value != nil:
			kv := cluster.KV{Key: op.Key, Value: bytes.Clone(op.Value), Create: next, Mod: next}
			if old, there := s.keys[op.Key]; there {
				kv.Create = old.kv.Create
			}
			s.keys[op.Key] = stored{kv, op.Lease}
			events = append(events, cluster.Event{KV: kv})
		case op.Prefix:
			for _, key := range slices.Sorted(maps.Keys(s.keys)) {
				if strings.HasPrefix(key, op.Key) {
					events = s.drop(key, next, events)
				}
			}
		default:
			events = s.drop(op.Key, next, events)
		}
	}
	if len(events) == 0 {
		return
	}
	s.revision = next
	s.log = append(s.log, events...)
	close(s.changed)
	s.changed = make(chan struct{})
}

// drop deletes a key, if it is there, and adds the event of it.
func (s *Store) drop(key string, revision int64, events []cluster.Event) []cluster.Event {
	if _, there := s.keys[key]; !there {
		return events
	}
	delete(s.keys, key)
	return append(events, cluster.Event{KV: cluster.KV{Key: key, Mod: revision}, Deleted: true})
}

// Reach implements cluster.Store.
func (s *Store) Reach(ctx context.Context, key string) error {
	_, err := s.List(ctx, key, 0)
	return err
}

// List implements cluster.Store. Of the past it knows only what the log still tells.
func (s *Store) List(ctx context.Context, prefix string, revision int64) (cluster.Listing, error) {
	if err := ctx.Err(); err != nil {
		return cluster.Listing{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := cluster.Listing{Revision: s.revision, Store: 1}
	if revision == 0 || revision == s.revision {
		for _, key := range slices.Sorted(maps.Keys(s.keys)) {
			if strings.HasPrefix(key, prefix) {
				l.KVs = append(l.KVs, s.keys[key].kv)
			}
		}
		return l, nil
	}
	if revision < s.compacted || s.compacted > 0 {
		return cluster.Listing{}, cluster.ErrCompacted
	}
	l.KVs = s.past(prefix, revision)
	return l, nil
}

// past replays the log up to a revision.
func (s *Store) past(prefix string, revision int64) (kvs []cluster.KV) {
	keys := make(map[string]cluster.KV)
	for _, e := range s.log {
		switch {
		case e.Mod > revision || !strings.HasPrefix(e.Key, prefix):
		case e.Deleted:
			delete(keys, e.Key)
		default:
			keys[e.Key] = e.KV
		}
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		kvs = append(kvs, keys[key])
	}
	return kvs
}

// Since returns what happened to keys that begin with prefix from a revision on, and the
// revision up to which that is all.
func (s *Store) Since(prefix string, from int64) (cluster.Batch, error) {
	b, _, err := s.since(prefix, from)
	return b, err
}

func (s *Store) since(prefix string, from int64) (b cluster.Batch, changed <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if from <= s.compacted {
		return cluster.Batch{}, s.changed, cluster.ErrCompacted
	}
	first, _ := slices.BinarySearchFunc(s.log, from, func(e cluster.Event, from int64) int { return int(e.Mod - from) })
	for _, e := range s.log[first:] {
		if strings.HasPrefix(e.Key, prefix) {
			b.Events = append(b.Events, e)
		}
	}
	b.Revision = s.revision
	return b, s.changed, nil
}

// Watch implements cluster.Store.
func (s *Store) Watch(ctx context.Context, prefix string, from int64) <-chan cluster.Batch {
	out := make(chan cluster.Batch)
	go func() {
		defer close(out)
		for {
			b, changed, err := s.since(prefix, from)
			b.Err = err
			if len(b.Events) > 0 || err != nil {
				select {
				case out <- b:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
			from = max(from, b.Revision+1)
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// Session implements cluster.Store. A session lasts until ctx ends, or Expire is called:
// this store has no clock.
func (s *Store) Session(ctx context.Context, _ time.Duration) (cluster.Session, error) {
	if err := ctx.Err(); err != nil {
		return cluster.Session{}, err
	}
	lease := s.Grant()
	s.mu.Lock()
	done := s.leases[lease]
	s.mu.Unlock()
	context.AfterFunc(ctx, func() { s.Expire(lease) })
	return cluster.Session{Lease: lease, Done: done}, nil
}

// Grant makes a lease.
func (s *Store) Grant() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastLease++
	s.leases[s.lastLease] = make(chan struct{})
	return s.lastLease
}

// Expire ends a lease, and deletes the keys that were put with it.
func (s *Store) Expire(lease int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	done := s.leases[lease]
	if done == nil {
		return
	}
	delete(s.leases, lease)
	close(done)
	var ops []cluster.Op
	for _, key := range slices.Sorted(maps.Keys(s.keys)) {
		if s.keys[key].lease == lease {
			ops = append(ops, cluster.Op{Key: key})
		}
	}
	s.apply(ops)
}

// Compact forgets what happened up to a revision.
func (s *Store) Compact(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compacted = max(s.compacted, revision)
	s.log = slices.DeleteFunc(s.log, func(e cluster.Event) bool { return e.Mod <= revision })
}

// Wipe deletes everything, the revision too, as if the store were started anew.
func (s *Store) Wipe() { s.Restore(New().Save()) }

// Saved is a store as it was.
type Saved struct {
	revision int64
	keys     map[string]stored
}

// Save takes the store as it is.
func (s *Store) Save() Saved {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Saved{s.revision, maps.Clone(s.keys)}
}

// Restore makes the store what it was when it was saved, as a backup does; leases end,
// and watches are told of nothing.
func (s *Store) Restore(old Saved) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, done := range s.leases {
		close(done)
	}
	clear(s.leases)
	s.revision, s.keys, s.log, s.compacted = old.revision, maps.Clone(old.keys), nil, old.revision
	for key, v := range s.keys {
		if v.lease != 0 {
			delete(s.keys, key)
		}
	}
}

// Close implements cluster.Store.
func (s *Store) Close() error { return nil }

// Lives reports whether a lease has not ended.
func (s *Store) Lives(lease int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leases[lease] != nil
}

// Revision is the one at which the store was saved.
func (s Saved) Revision() int64 { return s.revision }
