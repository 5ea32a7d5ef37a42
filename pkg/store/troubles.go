package store

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Trouble is why something can't be kept in a directory.
type Trouble struct {
	Dir      string
	Reason   string // "read-only file system", "no space left" or what statfs(2) failed with
	ReadOnly bool
	Free     uint64 // bytes
	State    bool   // the directory is of state that a running vnetd writes, not of definitions
}

// leastFree is the free space, in bytes, below which a file system is full: a
// lease database that grows needs as much at once.
const leastFree = 1 << 20

// Troubles lists the directories of the store that can't be written.
func (s *Store) Troubles() []Trouble {
	var all []Trouble
	for _, dir := range []string{s.dirs.Networks, s.dirs.Run, s.dirs.State} {
		if t, ok := trouble(dir); ok {
			t.State = dir != s.dirs.Networks
			all = append(all, t)
		}
	}
	return all
}

// trouble looks at one directory.
func trouble(dir string) (t Trouble, found bool) {
	t.Dir = dir
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Reason = err.Error()
		return t, true
	}
	t.Free = fs.Bavail * uint64(fs.Bsize)
	t.ReadOnly = fs.Flags&unix.ST_RDONLY != 0
	switch {
	case t.ReadOnly:
		t.Reason = unix.EROFS.Error()
	case t.Free < leastFree:
		t.Reason = fmt.Sprintf("%v: %d KiB are free", unix.ENOSPC, t.Free>>10)
	case fs.Files > 0 && fs.Ffree == 0:
		t.Reason = fmt.Sprintf("%v: no inode is free", unix.ENOSPC)
	default:
		return t, false
	}
	return t, true
}
