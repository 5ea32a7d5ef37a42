package store

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/leasedb"
)

// Leases is the lease store of the network with that UUID. It may be used
// concurrently, until the Store is closed.
func (s *Store) Leases(uuid string) dhcpd.LeaseStore { return &leaseStore{s.leases, uuid} }

type leaseStore struct {
	db   *leasedb.DB
	uuid string
}

// Load implements dhcpd.LeaseStore.
func (l *leaseStore) Load() ([]dhcpd.Lease, error) {
	all, err := l.db.Load(l.uuid)
	if err != nil {
		return nil, fmt.Errorf("loading leases of network %s: %w", l.uuid, err)
	}
	return all, nil
}

// Commit implements dhcpd.LeaseStore: it returns when the changes are on disk,
// or with an error when none of them is.
func (l *leaseStore) Commit(puts []dhcpd.Lease, deletes []netip.Addr) error {
	if err := l.db.Commit(l.uuid, puts, deletes); err != nil {
		return fmt.Errorf("committing leases of network %s: %w", l.uuid, err)
	}
	return nil
}

// SweepLeases forgets the leases of networks that known does not know, by UUID, as
// far as they have ended: a network may come back while its leases run. The servers
// of those networks must not run.
func (s *Store) SweepLeases(known func(uuid string) bool) error {
	var errs []error
	for _, uuid := range s.leases.Networks() {
		if !known(uuid) {
			errs = append(errs, s.sweep(uuid))
		}
	}
	return errors.Join(errs...)
}

// sweep forgets the leases of one network that have ended.
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
	return leases.Commit(nil, ended)
}

// KeepLeases writes the leases anew where somebody has removed their files.
func (s *Store) KeepLeases() error {
	if err := s.leases.Keep(); err != nil {
		return fmt.Errorf("keeping the files of leases: %w", err)
	}
	return nil
}

// DropLeases forgets all leases of the network with that UUID.
func (s *Store) DropLeases(uuid string) error {
	if err := s.leases.Drop(uuid); err != nil {
		return fmt.Errorf("dropping leases of network %s: %w", uuid, err)
	}
	return nil
}

// leaseFiles are the files of leases in the directory of state.
type leaseFiles struct{ place }

// OpenFile implements leasedb.Files.
func (l leaseFiles) OpenFile(name string, flag int) (f leasedb.File, err error) {
	var opened file
	open := func(dir folder) error {
		opened, err = openIn(dir, name, flag, 0o600)
		return err
	}
	if err = l.change(open); errors.Is(err, os.ErrNotExist) && flag&os.O_CREATE != 0 { // somebody removed the directory
		if err = l.make(0o755); err == nil {
			err = l.change(open)
		}
	}
	if err != nil {
		return nil, err
	}
	if flag&(os.O_RDWR|os.O_CREATE) == os.O_RDWR {
		// What a process that was killed has written counts from now on. Where that can't be
		// made durable, neither can what comes next, of which the caller is told.
		_ = opened.Datasync()
	}
	return leaseFile{opened}, nil
}

// Is implements leasedb.Files.
func (l leaseFiles) Is(name string, f leasedb.File) (is bool, err error) {
	own, err := f.(leaseFile).Stat()
	if err != nil {
		return false, err
	}
	err = l.do(func(dir *os.Root) error {
		there, err := dir.Lstat(name)
		is = err == nil && os.SameFile(there, own)
		return err
	})
	return is, err
}

// Rename implements leasedb.Files.
func (l leaseFiles) Rename(from, to string) error {
	return l.change(func(dir folder) error { return dir.Rename(from, to) })
}

// Remove implements leasedb.Files.
func (l leaseFiles) Remove(name string) error {
	return l.change(func(dir folder) error { return dir.Remove(name) })
}

// Sync implements leasedb.Files.
func (l leaseFiles) Sync() error { return l.sync() }

// leaseFile is one of them.
type leaseFile struct{ file }

// Size implements leasedb.File.
func (f leaseFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
