package dnsd

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
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

// cache keeps upstreams' answers, positive and negative, by the question as an
// upstream sees it.
type cache struct {
	seed       maphash.Seed
	generation atomic.Uint64 // of the servers that the answers are from
	shards     [cacheShards]shard
}

// shard is a part of a cache.
type shard struct {
	mu      sync.RWMutex
	entries map[flightKey]*entry
	bytes   int
}

// entry is an answer that is kept.
type entry struct {
	*response
	cost  int
	used  atomic.Int64 // Unix time in nanoseconds of the last use
	retry atomic.Int64 // likewise: when stale, not to be fetched again before
}

// newCache returns an empty cache.
func newCache() *cache { return &cache{seed: maphash.MakeSeed()} }

// shard is the part that key belongs to.
func (c *cache) shard(key *flightKey) *shard {
	return &c.shards[maphash.String(c.seed, key.name)%cacheShards]
}

// get returns what is kept under key, nil if that is nothing of use. fresh tells
// whether it may be given without asking again.
func (c *cache) get(key flightKey, now time.Time) (e *entry, fresh bool) {
	s := c.shard(&key)
	s.mu.RLock()
	e = s.entries[key]
	s.mu.RUnlock()
	if e == nil || !e.usable(now) {
		return nil, false
	}
	e.used.Store(now.UnixNano())
	return e, e.fresh(now) || now.UnixNano() < e.retry.Load()
}

// put keeps r, if it may be kept and the servers that it is from, those of
// generation, are still asked.
func (c *cache) put(key flightKey, r *response, generation uint64) {
	if r.ttl == 0 {
		return
	}
	e := &entry{response: r, cost: len(r.msg) + len(key.name) + entryCost}
	e.used.Store(r.stored.UnixNano())
	if e.cost > cacheBytes/cacheShards {
		return
	}
	s := c.shard(&key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.generation.Load() != generation {
		return
	}
	s.remove(key)
	for len(s.entries) >= cacheEntries/cacheShards || s.bytes+e.cost > cacheBytes/cacheShards {
		s.evict(r.stored)
	}
	if s.entries == nil {
		s.entries = make(map[flightKey]*entry)
	}
	s.entries[key] = e
	s.bytes += e.cost
}

// remove takes an entry out. s.mu must be held.
func (s *shard) remove(key flightKey) {
	if e := s.entries[key]; e != nil {
		delete(s.entries, key)
		s.bytes -= e.cost
	}
}

// evict takes an entry out: one that is stale, or that not used for longest
// among a few. There must be one; s.mu must be held.
func (s *shard) evict(now time.Time) {
	var victim flightKey
	oldest, seen := int64(0), 0
	for key, e := range s.entries { // in random order
		used := e.used.Load()
		if !e.fresh(now) {
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

// flush forgets everything, and what is being fetched too.
func (c *cache) flush() {
	c.generation.Add(1)
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.entries, s.bytes = nil, 0
		s.mu.Unlock()
	}
}

// size is how much is kept.
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
