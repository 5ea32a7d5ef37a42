package dhcpd_test

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// memStore is a LeaseStore in memory that behaves: it keeps what JSON keeps.
type memStore struct {
	mu      sync.Mutex
	records map[netip.Addr][]byte
	commits []int         // records per successful commit
	fail    error         // what Commit returns, nil for success
	gate    chan struct{} // when not nil, each Commit first receives from it
	began   chan struct{} // when not nil, each Commit first sends to it
}

// type check
var _ dhcpd.LeaseStore = (*memStore)(nil)

func newStore(leases ...dhcpd.Lease) *memStore {
	s := &memStore{records: make(map[netip.Addr][]byte)}
	if err := s.Commit(leases, nil); err != nil {
		panic(err)
	}
	s.commits = nil
	return s
}

func (s *memStore) Load() ([]dhcpd.Lease, error) {
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

func (s *memStore) Commit(puts []dhcpd.Lease, deletes []netip.Addr) error {
	if s.began != nil {
		s.began <- struct{}{}
	}
	if s.gate != nil {
		<-s.gate
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
	s.commits = append(s.commits, len(puts)+len(deletes))
	return nil
}

// failWith makes commits fail from now on, or succeed again.
func (s *memStore) failWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// lease is the record of one address.
func (s *memStore) lease(t *testing.T, a netip.Addr) (l dhcpd.Lease, ok bool) {
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

// addrs are the addresses that have a record.
func (s *memStore) addrs() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Keys(s.records), netip.Addr.Compare)
}
