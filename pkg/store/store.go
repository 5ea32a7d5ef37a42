package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Dirs says where things are kept. All three must be set; missing directories
// are made.
type Dirs struct {
	Networks string // definitions: /etc/vnetd/networks
	Run      string // run-state, empty after a reboot: /run/vnetd
	State    string // leases, and copies of what networks are: /var/lib/vnetd
}

// Store is the open store of a running vnetd. Its methods may be called
// concurrently, except that calls about one network, or one port, must not
// overlap: the caller's lock per network sees to that.
type Store struct {
	dirs Dirs
	log  *slog.Logger
	lock *os.File
	db   *database
	// damage is what was wrong with the lease database and its journal that Open
	// found, nil for nothing.
	damage error

	journal *journal
	commits chan *commit // to the committer
	closing chan struct{}
	done    sync.WaitGroup
}

// ErrLocked is returned by Open when another process has the store open.
var ErrLocked = errors.New("another vnetd is running")

// Open makes the directories, takes the lock and opens the lease database. A
// database that is damaged is set aside under another name, reported in the log and
// by LeaseDamage, and made anew of what can be read: a network without some of its
// leases is better than none. So is a directory of definitions that can't be made, as on a read-only file system:
// what is there can be read, only a define will fail.
func Open(dirs Dirs, log *slog.Logger) (*Store, error) {
	if err := dirs.autostart().make(); err != nil {
		log.Warn("no network can be defined", "error", err)
	}
	if err := os.MkdirAll(dirs.State, 0o750); err != nil {
		return nil, fmt.Errorf("making directory %q: %w", dirs.State, err)
	}
	for _, p := range []place{dirs.runs(), dirs.ports(), dirs.stopped(), dirs.uplinks(), dirs.lives()} {
		if err := p.make(); err != nil {
			return nil, fmt.Errorf("making directory %q: %w", p.path(), err)
		}
	}
	lock, err := acquire(filepath.Join(dirs.Run, "vnetd.pid"))
	if err != nil {
		return nil, err
	}
	for _, p := range []place{dirs.networks(), dirs.runs(), dirs.ports(), dirs.stopped(), dirs.uplinks(), dirs.state(), dirs.lives()} {
		if err := p.sweep(); err != nil {
			return nil, errors.Join(fmt.Errorf("sweeping %q: %w", p.path(), err), lock.Close())
		}
	}
	path := filepath.Join(dirs.State, "leases.db")
	opened, damage, err := openLeases(path, log)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	db := &database{path: path, log: log, db: opened}
	journal, lost, err := openJournal(filepath.Join(dirs.State, "leases.journal"), db, log)
	if err != nil {
		return nil, errors.Join(err, db.close(), lock.Close())
	}
	s := &Store{
		dirs: dirs, log: log, lock: lock, db: db, damage: errors.Join(damage, lost), journal: journal,
		commits: make(chan *commit), closing: make(chan struct{}),
	}
	s.done.Go(s.commitLoop)
	return s, nil
}

// Close waits for commits under way and closes everything. No other method may
// be running or called afterwards.
func (s *Store) Close() error {
	close(s.closing)
	s.done.Wait()
	return errors.Join(s.journal.close(), s.db.close(), s.lock.Close())
}

// LeaseDamage tells what was wrong with the lease database and its journal when the
// store was opened, where it is now and how much of it could be read. Nil: nothing was.
func (s *Store) LeaseDamage() error { return s.damage }

func (d Dirs) networks() place  { return place{d.Networks, ""} }
func (d Dirs) autostart() place { return place{d.Networks, "autostart"} }
func (d Dirs) state() place     { return place{d.State, ""} }
func (d Dirs) runs() place      { return place{d.Run, "networks"} }
func (d Dirs) ports() place     { return place{d.Run, "ports"} }
func (d Dirs) stopped() place   { return place{d.Run, "stopped"} }
func (d Dirs) lives() place     { return place{d.State, "live"} }

// acquire takes the lock that a living vnetd holds, and writes our pid into the
// file for the one who finds it taken. The kernel drops the lock with the
// process.
func acquire(path string) (*os.File, error) {
	f, err := openFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening lock file: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid, _ := io.ReadAll(io.LimitReader(f, 32))
		_ = f.Close()
		return nil, fmt.Errorf("%w as pid %s (%s is locked)", ErrLocked, bytes.TrimSpace(pid), path)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("writing lock file: %w", err), f.Close())
	}
	return f, nil
}

// KeepLock takes the lock anew where somebody removed its file, so that no second
// vnetd can start. The error is ErrLocked where one did.
func (s *Store) KeepLock() error {
	path := filepath.Join(s.dirs.Run, "vnetd.pid")
	if is, err := os.Lstat(path); err == nil {
		if held, err := s.lock.Stat(); err != nil || os.SameFile(is, held) {
			return err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	lock, err := acquire(path)
	if err != nil {
		return err
	}
	former := s.lock
	s.lock = lock
	return former.Close()
}
