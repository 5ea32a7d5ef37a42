package dhcpdtest

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// Store is a LeaseStore in memory that behaves: it keeps what JSON keeps.
type Store struct {
	mu      sync.Mutex
	records map[netip.Addr][]byte
	Commits []int         // records per successful commit
	fail    error         // what Commit returns, nil for success
	Gate    chan struct{} // when not nil, each Commit first receives from it
	Began   chan struct{} // when not nil, each Commit first sends to it
}

// type check
var _ dhcpd.LeaseStore = (*Store)(nil)

// NewStore makes a store with records.
func NewStore(leases ...dhcpd.Lease) *Store {
	s := &Store{records: make(map[netip.Addr][]byte)}
	if err := s.Commit(leases, nil); err != nil {
		panic(err)
	}
	s.Commits = nil
	return s
}

// Load implements dhcpd.LeaseStore.
func (s *Store) Load() ([]dhcpd.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []dhcpd.Lease
	for _, data := range s.records {
		var l dhcpd.Lease
		if err := json.Unmarshal(data, &l); err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

// Commit implements dhcpd.LeaseStore.
func (s *Store) Commit(puts []dhcpd.Lease, deletes []netip.Addr) error {
	if s.Began != nil {
		s.Began <- struct{}{}
	}
	if s.Gate != nil {
		<-s.Gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	for _, l := range puts {
		data, err := json.Marshal(l)
		if err != nil {
			return err
		}
		s.records[l.Addr] = data
	}
	for _, a := range deletes {
		delete(s.records, a)
	}
	s.Commits = append(s.Commits, len(puts)+len(deletes))
	return nil
}

// FailWith makes commits fail from now on, or succeed again.
func (s *Store) FailWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// Lease returns the record of one address.
func (s *Store) Lease(t *testing.T, a netip.Addr) (l dhcpd.Lease, ok bool) {
	t.Helper()
	all, err := s.Load()
	if err != nil {
		t.Fatalf("loading: %v", err)
	}
	i := slices.IndexFunc(all, func(l dhcpd.Lease) bool { return l.Addr == a })
	if i < 0 {
		return dhcpd.Lease{}, false
	}
	return all[i], true
}

// Addrs returns the addresses that have a record.
func (s *Store) Addrs() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Keys(s.records), netip.Addr.Compare)
}
