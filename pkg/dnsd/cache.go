package dnsd

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// Limits of one network's cache.
const (
	cacheShards  = 16
	cacheEntries = 16 << 10 // of all shards
	cacheBytes   = 8 << 20  // likewise
	cacheSample  = 8        // entries of which the one not used for longest goes
	entryCost    = 256      // octets of an entry that are not its message or its name

	staleRetry = 30 * time.Second // RFC 8767 section 5: before a failing upstream is asked again
)

// cache keeps the answers of upstream servers, positive and negative. Its methods
// are safe for concurrent use.
type cache struct {
	seed       maphash.Seed
	generation atomic.Uint64 // of the servers that the answers are from
	shards     [cacheShards]shard
}

// shard is a part of a cache.
type shard struct {
	mu      sync.RWMutex
	entries map[wire.Question]*entry
	bytes   int
}

// cost returns what an entry counts for, in octets.
func (e *entry) cost(key wire.Question) int { return len(e.Msg) + len(key.Name) + entryCost }

// entry is an answer that is kept.
type entry struct {
	wire.Response
	used  atomic.Int64 // Unix time in nanoseconds of the last use
	retry atomic.Int64 // likewise: when stale, not to be fetched again before
}

// newCache returns an empty cache.
func newCache() *cache { return &cache{seed: maphash.MakeSeed()} }

// shard returns the part that key belongs to.
func (c *cache) shard(key *wire.Question) *shard {
	return &c.shards[maphash.String(c.seed, key.Name)%cacheShards]
}

// get returns what is kept under key, nil if that is nothing of use, and whether
// it may be given without asking again.
func (c *cache) get(key wire.Question, now time.Time) (e *entry, fresh bool) {
	s := c.shard(&key)
	s.mu.RLock()
	e = s.entries[key]
	s.mu.RUnlock()
	if e == nil || !e.Usable(now) {
		return nil, false
	}
	e.used.Store(now.UnixNano())
	return e, e.Fresh(now) || now.UnixNano() < e.retry.Load()
}

// put keeps a copy of r, which has just come, if it may be kept and the servers of generation,
// from which it came, are still asked.
func (c *cache) put(key wire.Question, r *wire.Response, generation uint64, now time.Time) {
	if r.TTL() == 0 {
		return
	}
	e := &entry{Response: r.Clone()}
	cost := e.cost(key)
	if e.used.Store(now.UnixNano()); cost > cacheBytes/cacheShards {
		return
	}
	s := c.shard(&key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.generation.Load() != generation {
		return
	}
	s.remove(key)
	key.Name = strings.Clone(key.Name) // of which more is kept while its question waits
	for len(s.entries) >= cacheEntries/cacheShards || s.bytes+cost > cacheBytes/cacheShards {
		s.evict(now)
	}
	if s.entries == nil {
		s.entries = make(map[wire.Question]*entry)
	}
	s.entries[key] = e
	s.bytes += cost
}

// remove removes an entry. s.mu must be held.
func (s *shard) remove(key wire.Question) {
	if e := s.entries[key]; e != nil {
		delete(s.entries, key)
		s.bytes -= e.cost(key)
	}
}

// evict removes an entry: one that is stale, or the one of a few that was not used
// for longest. There must be one; s.mu must be held.
func (s *shard) evict(now time.Time) {
	var victim wire.Question
	oldest, seen := int64(0), 0
	for key, e := range s.entries { // in random order
		used := e.used.Load()
		if !e.Fresh(now) {
			victim = key
			break
		}
		if seen == 0 || used < oldest {
			victim, oldest = key, used
		}
		if seen++; seen == cacheSample {
			break
		}
	}
	s.remove(victim)
}

// flush removes all entries, and those that are being fetched are not kept.
func (c *cache) flush() {
	c.generation.Add(1)
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.entries, s.bytes = nil, 0
		s.mu.Unlock()
	}
}

// size returns the number of entries and their cost in octets.
func (c *cache) size() (entries, bytes int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		entries += len(s.entries)
		bytes += s.bytes
		s.mu.RUnlock()
	}
	return entries, bytes
}
