package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// readLinked reads a file of the directory, or the one that a link of that name leads to,
// wherever that is, if it is root's: what root has put there to be read. Root itself
// follows root's links alone; to the user whom the daemon runs as no link gives more
// than he may read anyway, and the service makes all links his (configs/vnetd.tmpfiles). A link is
// asked whose it is by the descriptor that it is read by.
func (p place) readLinked(dir *os.Root, name string) ([]byte, error) {
	at, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer func() { _ = at.Close() }()
	link, err := unix.Openat(int(at.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer func() { _ = unix.Close(link) }()
	var is unix.Stat_t
	if err := unix.Fstat(link, &is); err != nil {
		return nil, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	kind := is.Mode & unix.S_IFMT
	if kind != unix.S_IFLNK && kind != unix.S_IFREG {
		return nil, fmt.Errorf("%s is no file to read, want a regular one or a link to one", name) // a pipe would be waited for
	}
	if kind != unix.S_IFLNK || is.Uid != 0 && os.Geteuid() == 0 {
		return dir.ReadFile(name)
	}
	to := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(link, "", to)
	if err != nil {
		return nil, &os.PathError{Op: "readlink", Path: name, Err: err}
	}
	path := string(to[:n])
	if !filepath.IsAbs(path) {
		path = filepath.Join(p.path(), path)
	}
	return readOfRoot(path)
}

// readOfRoot reads a regular file that is root's.
func readOfRoot(path string) (data []byte, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var is unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &is); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if is.Mode&unix.S_IFMT != unix.S_IFREG || is.Uid != 0 {
		return nil, fmt.Errorf("the link leads to %s, want a regular file that is root's", path)
	}
	return io.ReadAll(f)
}
