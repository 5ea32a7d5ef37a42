package systemd

import (
	"errors"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What a store takes.
const (
	// StoreMax is how many descriptors the service manager keeps where it does not say
	// so ($FDSTORE, as of systemd 254): FileDescriptorStoreMax= of the unit.
	StoreMax = 8192

	// maxNames is how long the names of all descriptors may be, each with a colon: they
	// are one variable of the environment of the next process (LISTEN_FDNAMES), which may
	// have 128 KiB (MAX_ARG_STRLEN in execve(2)). With more of them it could not be started.
	maxNames = 120 << 10

	maxRights = 200 // of one message: less than SCM_MAX_FD of unix(7)
)

// Store is the service manager's store of file descriptors (FileDescriptorStoreMax= in
// systemd.service(5)): what is in there the next process is started with, however this
// one ends. What is to be stored is sent by a goroutine of its own, in order, so that
// nobody waits for the service manager. Its methods are safe for concurrent use.
type Store struct {
	manager *Manager
	log     *slog.Logger
	max     int // descriptors
	wake    chan struct{}
	ended   chan struct{} // closed when nothing is sent any more

	mu     sync.Mutex
	left   map[string][]*os.File // of the former process, not taken yet
	kept   map[string]*entry
	count  int // descriptors of kept
	names  int // how long their names are, each with a colon
	full   bool
	closed bool
	queue  []order
}

// entry is what the service manager keeps under one name.
type entry struct{ ids []fileID }

// fileID tells open sockets and files from each other, whatever descriptors they have.
type fileID struct{ dev, inode uint64 }

// order is a message to the service manager. files are closed when it was sent.
type order struct {
	message string
	files   []*os.File
	done    chan struct{} // closed when the service manager has dealt with it; nil: nobody waits
}

// NewStore makes the store that the service manager has, with left in it, which the
// former process left there, see Handed. Close ends it.
func NewStore(m *Manager, left []*os.File, log *slog.Logger) *Store {
	s := &Store{
		manager: m, log: log, max: storeMax(), wake: make(chan struct{}, 1), ended: make(chan struct{}),
		left: make(map[string][]*os.File), kept: make(map[string]*entry),
	}
	for _, f := range left {
		s.left[f.Name()] = append(s.left[f.Name()], f)
	}
	for name, files := range s.left {
		s.put(name, &entry{identify(files)})
	}
	go s.send()
	return s
}

// storeMax is how many descriptors the service manager keeps.
func storeMax() int {
	if n, err := strconv.Atoi(os.Getenv("FDSTORE")); err == nil && n >= 0 {
		return n
	}
	return StoreMax
}

// Take returns what the former process has left under a name, once. The caller closes
// it; the service manager has it still, until Keep or Discard says otherwise.
func (s *Store) Take(name string) []*os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer delete(s.left, name)
	return s.left[name]
}

// Keep has files, which become the store's to close, be what the service manager keeps
// under a name: what it has of them already stays there, what else it has there it
// closes. drop, which may be called more than once, has it close them, unless Keep was
// called with the name again, and returns when it has done so or can't be reached. Where
// there is no room left none of files is kept; the log tells so, once.
func (s *Store) Keep(name string, files []*os.File) (drop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.manager.Absent() || s.closed {
		closeAll(files)
		return func() {}
	}
	ids := identify(files)
	was := s.kept[name]
	if was != nil && slices.ContainsFunc(was.ids, func(id fileID) bool { return !slices.Contains(ids, id) }) {
		s.remove(name, nil)
		was = nil
	}
	var fresh, known []*os.File
	for i, f := range files {
		if was != nil && slices.Contains(was.ids, ids[i]) {
			known = append(known, f)
		} else {
			fresh = append(fresh, f)
		}
	}
	closeAll(known)
	if !s.fits(name, len(fresh)) {
		closeAll(fresh)
		if was != nil {
			s.remove(name, nil)
		}
		return func() {}
	}
	now := &entry{ids}
	s.put(name, now)
	for some := range slices.Chunk(fresh, maxRights) {
		// FDPOLL=0: an error that waits in a socket is no reason to close it.
		s.order(order{message: "FDSTORE=1\nFDPOLL=0\nFDNAME=" + name, files: some})
	}
	return func() { s.drop(name, now) }
}

// fits reports whether there is room for n more under a name. s.mu must be held.
func (s *Store) fits(name string, n int) bool {
	if s.count+n <= s.max && s.names+n*(len(name)+1) <= maxNames {
		return true
	}
	if !s.full {
		s.log.Warn("the service manager's store is full: sockets beyond it do not outlive this process", "name", name, "stored", s.count, "max", s.max)
	}
	s.full = true
	return false
}

// put notes what is kept under a name; nil: nothing. s.mu must be held.
func (s *Store) put(name string, e *entry) {
	if was := s.kept[name]; was != nil {
		s.count -= len(was.ids)
		s.names -= len(was.ids) * (len(name) + 1)
	}
	delete(s.kept, name)
	if e != nil && len(e.ids) > 0 {
		s.kept[name] = e
		s.count += len(e.ids)
		s.names += len(e.ids) * (len(name) + 1)
	}
}

// remove has the service manager close what it keeps under a name. s.mu must be held.
func (s *Store) remove(name string, done chan struct{}) {
	s.put(name, nil)
	s.full = false
	s.order(order{message: "FDSTOREREMOVE=1\nFDNAME=" + name, done: done})
}

// drop is remove, unless something else is kept under the name by now.
func (s *Store) drop(name string, e *entry) {
	done := make(chan struct{})
	s.mu.Lock()
	ours := s.kept[name] == e && !s.closed
	if ours {
		s.remove(name, done)
	}
	s.mu.Unlock()
	if !ours {
		return
	}
	select {
	case <-done:
	case <-time.After(managerLimit):
	}
}

// Discard closes what nobody has taken of what the former process has left.
func (s *Store) Discard() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, files := range s.left {
		closeAll(files)
		s.remove(name, nil)
	}
	clear(s.left)
}

// order has o sent after all before it. s.mu must be held.
func (s *Store) order(o order) {
	s.queue = append(s.queue, o)
	select {
	case s.wake <- struct{}{}:
	default: // it wakes anyway
	}
}

// send sends what was ordered until the store is closed.
func (s *Store) send() {
	defer close(s.ended)
	for closed := false; !closed; {
		<-s.wake
		s.mu.Lock()
		orders := s.queue
		s.queue, closed = nil, s.closed
		s.mu.Unlock()
		if err := s.carryOut(orders, closed); err != nil {
			s.log.Warn("the next vnetd may not get all sockets", "error", err)
		}
	}
}

// carryOut sends orders, and waits until they are dealt with where that matters.
func (s *Store) carryOut(orders []order, last bool) error {
	var errs []error
	awaited := last
	for _, o := range orders {
		errs = append(errs, s.manager.Tell(o.message, o.files...))
		closeAll(o.files)
		awaited = awaited || o.done != nil
	}
	if awaited {
		errs = append(errs, s.manager.Barrier())
	}
	for _, o := range orders {
		if o.done != nil {
			close(o.done)
		}
	}
	return errors.Join(errs...)
}

// Close returns once the service manager has what it is to keep: it takes nothing from
// a process that has ended. What is kept stays there.
func (s *Store) Close() {
	s.mu.Lock()
	s.closed = true
	for _, files := range s.left {
		closeAll(files)
	}
	clear(s.left)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	s.mu.Unlock()
	<-s.ended
}

// identify returns the identity of each file.
func identify(files []*os.File) []fileID {
	ids := make([]fileID, len(files))
	for i, f := range files {
		conn, err := f.SyscallConn()
		if err != nil {
			continue
		}
		_ = conn.Control(func(fd uintptr) {
			var st unix.Stat_t
			if unix.Fstat(int(fd), &st) == nil {
				ids[i] = fileID{st.Dev, st.Ino}
			}
		})
	}
	return ids
}

// closeAll closes copies of descriptors.
func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
