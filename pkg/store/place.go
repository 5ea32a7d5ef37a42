package store

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// place is a directory of the store's: a base that the configuration names, and a
// directory in it, or none. Whoever may write there, which is the user whom the daemon
// runs as, may put links there, and root comes by with --cleanup: no link leads out
// of the base.
type place struct {
	base, sub string
	disk      disk
}

func (p place) path() string { return filepath.Join(p.base, p.sub) }

// open opens the directory. The caller closes it.
func (p place) open() (*os.Root, error) {
	base, err := os.OpenRoot(p.base)
	if err != nil || p.sub == "" {
		return base, err
	}
	defer func() { _ = base.Close() }()
	return base.OpenRoot(p.sub)
}

// make makes the directory where it is not there, and its base with that mode, for good.
func (p place) make(mode os.FileMode) error {
	if err := p.disk.makeAll(p.base, mode); err != nil || p.sub == "" {
		return err
	}
	return place{base: p.base, disk: p.disk}.change(p.makeSub)
}

// makeSub makes the directory in its base.
func (p place) makeSub(base folder) error {
	if err := base.Mkdir(p.sub, 0o755); err != nil {
		if errors.Is(err, os.ErrExist) {
			err = nil
		}
		return err
	}
	made, err := base.OpenFile(p.sub, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(handOver(base, made), made.Close(), base.Sync())
}

// handOver gives what root has just made in a directory to whose the directory is: the
// daemon has to use what root's vnetd --cleanup leaves there.
func handOver(dir folder, made file) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := dir.Stat(".")
	if err != nil {
		return err
	}
	of, ok := info.Sys().(*syscall.Stat_t)
	if !ok || of.Uid == 0 {
		return nil
	}
	return made.Chown(int(of.Uid), int(of.Gid))
}

// do calls f with the directory, for reading.
func (p place) do(f func(dir *os.Root) error) error {
	dir, err := p.open()
	if err != nil {
		return err
	}
	return errors.Join(f(dir), dir.Close())
}

// change calls f with the directory, for changes.
func (p place) change(f func(dir folder) error) error {
	return p.do(func(dir *os.Root) error { return f(p.disk.folder(p.path(), dir)) })
}

// openFile opens a file that is right in a base, and need not survive a crash. One that
// flag has made is whose the base is.
func openFile(path string, flag int, perm os.FileMode) (f *os.File, err error) {
	base := place{base: filepath.Dir(path)}
	err = base.do(func(dir *os.Root) error {
		opened, err := openIn(kernelFolder{dir}, filepath.Base(path), flag, perm)
		if err == nil {
			f = opened.(kernelFile).File
		}
		return err
	})
	return f, err
}

// openIn opens a file in an open directory. One that flag has made is whose the directory
// is.
func openIn(dir folder, name string, flag int, perm os.FileMode) (file, error) {
	f, err := dir.OpenFile(name, flag&^os.O_CREATE, perm)
	if flag&os.O_CREATE == 0 || !errors.Is(err, os.ErrNotExist) {
		return f, err
	}
	if f, err = dir.OpenFile(name, flag|os.O_EXCL, perm); err != nil {
		return nil, err
	}
	if err := handOver(dir, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// write replaces a file by data in one step: a crash leaves the old content or the
// new one.
func (p place) write(name string, data []byte, perm os.FileMode) error {
	write := func(dir folder) error { return replace(dir, name, data, perm) }
	err := p.change(write)
	if errors.Is(err, os.ErrNotExist) { // somebody removed the directory
		if err = p.make(0o755); err == nil {
			err = p.change(write)
		}
	}
	return err
}

func replace(dir folder, name string, data []byte, perm os.FileMode) error {
	fresh := strings.Replace(temporary, "*", rand.Text(), 1)
	f, err := dir.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, handOver(dir, f), f.Chmod(perm), f.Sync(), f.Close()); err == nil {
		err = dir.Rename(fresh, name)
	}
	if err != nil {
		return errors.Join(err, dir.Remove(fresh))
	}
	return dir.Sync()
}

// remove deletes a file for good; an absent one is success.
func (p place) remove(name string) error {
	err := p.change(func(dir folder) error {
		if err := dir.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return dir.Sync()
	})
	return ifThere(err)
}

// sync makes durable which names there are in the directory, and of which files.
func (p place) sync() error { return p.change(folder.Sync) }

// temporary is the pattern of the names of files that write has not finished. No
// definition or run-state ends so.
const temporary = ".vnetd-*.tmp"

// unfinished reports whether a name is one of those.
func unfinished(name string) bool {
	is, err := path.Match(temporary, name)
	return is && err == nil
}

// sweep removes what an interrupted write left.
func (p place) sweep() error {
	entries, err := p.list()
	if err != nil {
		return ifThere(err)
	}
	return p.change(func(dir folder) error {
		var errs []error
		for _, e := range entries {
			if unfinished(e.Name()) {
				errs = append(errs, dir.Remove(e.Name()))
			}
		}
		return errors.Join(errs...)
	})
}

// list lists what is in the directory, in order of name.
func (p place) list() (entries []os.DirEntry, err error) {
	err = p.do(func(dir *os.Root) error {
		entries, err = fs.ReadDir(dir.FS(), ".")
		return err
	})
	return entries, err
}

// read reads a file; see readLinked.
func (p place) read(name string) (data []byte, err error) {
	err = p.do(func(dir *os.Root) error {
		data, err = p.readLinked(dir, name)
		return err
	})
	return data, err
}

// ifThere is the error of a directory, nil where it is not there: it is made with the
// next file.
func ifThere(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// has reports whether there is a file or a link of that name, as far as can be told,
// and lacks whether there is none for sure.
func (p place) has(name string) bool   { return p.lstat(name) == nil }
func (p place) lacks(name string) bool { return errors.Is(p.lstat(name), os.ErrNotExist) }

func (p place) lstat(name string) error {
	return p.do(func(dir *os.Root) error {
		_, err := dir.Lstat(name)
		return err
	})
}

// readAll calls read with every file whose name ends in suffix, in order of name, but for
// what is removed meanwhile. Faults of single files don't end the walk; the error is that of the directory.
func (p place) readAll(suffix string, read func(stem string, data []byte) error) (faults []*Fault, err error) {
	entries, err := p.list()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		stem, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || e.IsDir() || unfinished(e.Name()) {
			continue
		}
		data, err := p.read(e.Name())
		if err == nil {
			err = read(stem, data)
		}
		if errors.Is(err, os.ErrNotExist) && p.lacks(e.Name()) { // it is not a link to nothing
			continue
		}
		if err != nil {
			faults = append(faults, &Fault{Stem: stem, Path: filepath.Join(p.path(), e.Name()), UUID: uuidIn(data), Err: err})
		}
	}
	return faults, nil
}

// Nodes is the folder of device nodes that vnetd makes where /dev lacks them. It need not be
// there.
func Nodes(s *Store) string { return filepath.Join(s.dirs.State, "nodes") }
