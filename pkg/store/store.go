package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/leasedb"
)

// Dirs says where things are kept. All three must be set; missing directories
// are made.
type Dirs struct {
	Networks string // definitions: /etc/vnetd/networks
	Run      string // run-state, empty after a reboot: /run/vnetd
	State    string // leases, and copies of what networks are: /var/lib/vnetd

	disk disk
}

// Store is the open store of a running vnetd. Its methods may be called
// concurrently, except that calls about one network, or one port, must not
// overlap: the caller's lock per network sees to that.
type Store struct {
	dirs Dirs
	log  *slog.Logger
	lock *os.File
	// leases is the lease database, and damage what was wrong with it that Open found, nil
	// for nothing.
	leases *leasedb.DB
	damage error
	// copiesUnsure says that a copy may have been dropped without being so on disk.
	copiesUnsure atomic.Bool
	unsettled    unsettled
}

// ErrLocked is returned by Open when another process has the store open.
var ErrLocked = errors.New("another vnetd is running")

// Open makes the directories, takes the lock and opens the lease database. A
// database that is damaged is set aside under another name, reported in the log and
// by LeaseDamage, and made anew of what can be read: a network without some of its
// leases is better than none. So is a directory of definitions that can't be made, as on a read-only file system:
// what is there can be read, only a define will fail.
func Open(dirs Dirs, log *slog.Logger) (*Store, error) {
	if err := dirs.autostart().make(0o755); err != nil {
		log.Warn("no network can be defined", "error", err)
	}
	if err := dirs.state().make(0o750); err != nil {
		return nil, fmt.Errorf("making directory %q: %w", dirs.State, err)
	}
	for _, p := range []place{dirs.runs(), dirs.ports(), dirs.stopped(), dirs.uplinks(), dirs.lives(), dirs.leases()} {
		if err := p.make(0o755); err != nil {
			return nil, fmt.Errorf("making directory %q: %w", p.path(), err)
		}
	}
	lock, err := acquire(filepath.Join(dirs.Run, "vnetd.pid"))
	if err != nil {
		return nil, err
	}
	if err := dirs.settle(log); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	leases, damage, err := openLeases(dirs, log)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	s := &Store{dirs: dirs, log: log, lock: lock, leases: leases, damage: damage}
	if err := s.unsettled.settle(s.dirs.finishRename); err != nil {
		log.Warn("a rename is finished later", "error", err)
	}
	return s, nil
}

// settle removes what interrupted writes have left, and makes durable what there is: a
// process that was killed may not have come to that, and from now on everybody takes it for
// granted. Where definitions are can be a file system that nothing can be written to.
func (d Dirs) settle(log *slog.Logger) error {
	for _, base := range []string{d.Networks, d.State} {
		_ = d.place(filepath.Dir(base), "").sync() // somebody else's, who may not let us read it
	}
	for _, p := range []place{d.networks(), d.autostart(), d.runs(), d.ports(), d.stopped(), d.uplinks(), d.state(), d.lives(), d.leases()} {
		if err := p.sweep(); err != nil {
			err = fmt.Errorf("sweeping %q: %w", p.path(), err)
			if p.base != d.Networks {
				return err
			}
			log.Warn("no network can be defined", "error", err)
		}
		if err := ifThere(p.sync()); err != nil {
			log.Warn("what was changed last may not survive a power cut", "dir", p.path(), "error", err)
		}
	}
	return nil
}

// openLeases opens the lease database, with what a former version kept.
func openLeases(dirs Dirs, log *slog.Logger) (db *leasedb.DB, damage, err error) {
	at := dirs.leases()
	db, damage, err = leasedb.Open(leaseFiles{at}, log)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the leases in %q: %w", at.path(), err)
	}
	if damage != nil {
		damage = fmt.Errorf("in %s: %w", at.path(), damage)
	}
	former, err := takeFormer(dirs.state(), db, log)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return db, errors.Join(damage, former), nil
}

// Close waits for commits under way and closes everything. No other method may
// be running or called afterwards.
func (s *Store) Close() error {
	return errors.Join(s.leases.Close(), s.lock.Close())
}

// LeaseDamage tells what was wrong with the lease database and its journal when the
// store was opened, where it is now and how much of it could be read. Nil: nothing was.
func (s *Store) LeaseDamage() error { return s.damage }

func (d Dirs) place(base, sub string) place { return place{base, sub, d.disk} }

// passing is a directory of run-state.
func (d Dirs) passing(sub string) place {
	p := d.place(d.Run, sub)
	p.disk.passing = true
	return p
}

func (d Dirs) networks() place  { return d.place(d.Networks, "") }
func (d Dirs) autostart() place { return d.place(d.Networks, "autostart") }
func (d Dirs) state() place     { return d.place(d.State, "") }
func (d Dirs) runs() place      { return d.passing("networks") }
func (d Dirs) ports() place     { return d.passing("ports") }
func (d Dirs) stopped() place   { return d.passing("stopped") }
func (d Dirs) lives() place     { return d.place(d.State, "live") }
func (d Dirs) leases() place    { return d.place(d.State, "leases") }

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
