package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
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
	if err := os.MkdirAll(dirs.autostart(), 0o755); err != nil {
		log.Warn("no network can be defined", "error", err)
	}
	for dir, perm := range map[string]os.FileMode{
		dirs.runs():    0o755,
		dirs.ports():   0o755,
		dirs.stopped(): 0o755,
		dirs.uplinks(): 0o755,
		dirs.State:     0o750,
		dirs.lives():   0o750,
	} {
		if err := os.MkdirAll(dir, perm); err != nil {
			return nil, fmt.Errorf("making directory %q: %w", dir, err)
		}
	}
	lock, err := acquire(filepath.Join(dirs.Run, "vnetd.pid"))
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{dirs.Networks, dirs.runs(), dirs.ports(), dirs.stopped(), dirs.uplinks(), dirs.State, dirs.lives()} {
		if err := sweep(dir); err != nil {
			return nil, errors.Join(fmt.Errorf("sweeping %q: %w", dir, err), lock.Close())
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

func (d Dirs) autostart() string { return filepath.Join(d.Networks, "autostart") }
func (d Dirs) runs() string      { return filepath.Join(d.Run, "networks") }
func (d Dirs) ports() string     { return filepath.Join(d.Run, "ports") }
func (d Dirs) stopped() string   { return filepath.Join(d.Run, "stopped") }
func (d Dirs) lives() string     { return filepath.Join(d.State, "live") }

// acquire takes the lock that a living vnetd holds, and writes our pid into the
// file for the one who finds it taken. The kernel drops the lock with the
// process.
func acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
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

// writeFile replaces the file at path by data in one step: a crash leaves the
// old content or the new one.
func writeFile(path string, data []byte, perm os.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, temporary)
	if errors.Is(err, os.ErrNotExist) { // somebody removed it
		if err = os.MkdirAll(dir, 0o755); err == nil {
			f, err = os.CreateTemp(dir, temporary)
		}
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(perm), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// removeFile deletes the file at path for good; an absent one is success.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := syncDir(filepath.Dir(path)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// syncDir makes renames and removals in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// temporary is the pattern of the names of files that writeFile has not
// finished. No definition or run-state ends so.
const temporary = ".vnetd-*.tmp"

// sweep removes what an interrupted writeFile left in dir.
func sweep(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, temporary))
	errs := []error{err}
	for _, path := range left {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}

// readDir calls read with every file of dir whose name ends in suffix, in order
// of name. Faults of single files don't end the walk; the error is that of dir.
func readDir(dir, suffix string, read func(stem string, data []byte) error) (faults []*Fault, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		stem, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || e.IsDir() {
			continue
		}
		data, err := os.ReadFile(path)
		if err == nil {
			err = read(stem, data)
		}
		if err != nil {
			faults = append(faults, &Fault{Stem: stem, Path: path, UUID: uuidIn(data), Err: err})
		}
	}
	return faults, nil
}

// KeepLock takes the lock anew where somebody removed its file, so that no second
// vnetd can start. The error is ErrLocked where one did.
func (s *Store) KeepLock() error {
	path := filepath.Join(s.dirs.Run, "vnetd.pid")
	if is, err := os.Stat(path); err == nil {
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
