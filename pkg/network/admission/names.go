package admission

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/netdef/policy"
)

// Bounds of what is learnt of names.
const (
	minLifetime = 30 * time.Second // of an address: a guest takes its time to use it
	maxLearned  = 1024             // addresses of one network; who has the least time left makes room
	expireEvery = 5 * time.Second  // addresses that end about together are let go together
)

// Names are the addresses of the names in a network's rules, as upstream servers gave them to
// its guests, until they end. Its methods may be called concurrently.
type Names struct {
	mu      sync.Mutex
	watched []policy.Remote                     // guarded by mu
	learned map[string]map[netip.Addr]time.Time // by the name in the rule; when each ends
	news    uint64                              // counts what changed of learned
}

// Watch says which names are in rules. What was learnt of others is forgotten.
func (l *Names) Watch(names []policy.Remote) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watched = names
	maps.DeleteFunc(l.learned, func(name string, _ map[netip.Addr]time.Time) bool {
		return !slices.Contains(names, policy.Remote{Name: name})
	})
}

// Watches reports whether a name, in lower case and without a dot at its end, is in rules.
func (l *Names) Watches(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.watched, func(r policy.Remote) bool { return r.Matches(name) })
}

// Learn notes that a name has an address for so long. It reports whether that is news for
// rules. Addresses that are nobody's beyond the network are not learnt.
func (l *Names) Learn(name string, a netip.Addr, ttl time.Duration, now time.Time) (news bool) {
	if a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	until := now.Add(max(ttl, minLifetime))
	for _, r := range l.watched {
		if r.Matches(name) {
			news = l.put(r.Name, a, until) || news
		}
	}
	if news {
		l.news++
	}
	return news
}

// put notes until when an address is that of a name in rules, and reports whether it is new. The
// caller holds l.mu.
func (l *Names) put(name string, a netip.Addr, until time.Time) (isNew bool) {
	if was, known := l.learned[name][a]; known {
		if until.After(was) {
			l.learned[name][a] = until
		}
		return false
	}
	if l.count() >= maxLearned {
		l.dropSoonest()
	}
	if l.learned == nil {
		l.learned = make(map[string]map[netip.Addr]time.Time)
	}
	if l.learned[name] == nil {
		l.learned[name] = make(map[netip.Addr]time.Time)
	}
	l.learned[name][a] = until
	return true
}

// count is how many addresses there are. The caller holds l.mu.
func (l *Names) count() (n int) {
	for _, addrs := range l.learned {
		n += len(addrs)
	}
	return n
}

// dropSoonest forgets the address that would end first. The caller holds l.mu.
func (l *Names) dropSoonest() {
	var name string
	var addr netip.Addr
	var first time.Time
	for n, addrs := range l.learned {
		for a, until := range addrs {
			if first.IsZero() || until.Before(first) {
				name, addr, first = n, a, until
			}
		}
	}
	delete(l.learned[name], addr)
}

// Expire forgets addresses that have ended, and reports whether there were any. next is when
// to ask again, zero where there is nothing to wait for: also what is learnt until then ends
// no more than expireEvery earlier.
func (l *Names) Expire(now time.Time) (changed bool, next time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, addrs := range l.learned {
		before := len(addrs)
		maps.DeleteFunc(addrs, func(_ netip.Addr, until time.Time) bool { return !until.After(now) })
		changed = changed || len(addrs) != before
		for _, until := range addrs {
			if next.IsZero() || until.Before(next) {
				next = until
			}
		}
	}
	if changed {
		l.news++
	}
	if next.IsZero() {
		return changed, next
	}
	if floor := now.Add(minLifetime); next.After(floor) {
		next = floor
	}
	return changed, next.Add(expireEvery)
}

// Addrs are the addresses that a name in rules has, in order.
func (l *Names) Addrs(name string) []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Keys(l.learned[name]), netip.Addr.Compare)
}

// News counts the changes of what is learnt.
func (l *Names) News() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.news
}

// Learned is an address of a name in rules.
type Learned struct {
	Name  string     `json:"name"`
	Addr  netip.Addr `json:"address"`
	Until time.Time  `json:"until"`
}

// All lists what is learnt, in order.
func (l *Names) All() (all []Learned) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(l.learned)) {
		for _, a := range slices.SortedFunc(maps.Keys(l.learned[name]), netip.Addr.Compare) {
			all = append(all, Learned{name, a, l.learned[name][a]})
		}
	}
	return all
}

// Restore notes what a former vnetd had learnt.
func (l *Names) Restore(all []Learned) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, one := range all {
		l.put(one.Name, one.Addr, one.Until)
	}
	l.news++
}
