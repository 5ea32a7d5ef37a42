package store

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// place is a directory of the store's: a base that the configuration names, and a
// directory in it, or none. Whoever may write there, which is the user whom the daemon
// runs as, may put links there, and root comes by with --cleanup: no link leads out
// of the base.
type place struct{ base, sub string }

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

// make makes the directory where it is not there.
func (p place) make() error {
	if err := os.MkdirAll(p.base, 0o755); err != nil || p.sub == "" {
		return err
	}
	base, err := os.OpenRoot(p.base)
	if err != nil {
		return err
	}
	return errors.Join(base.MkdirAll(p.sub, 0o755), base.Close())
}

// do calls f with the directory.
func (p place) do(f func(dir *os.Root) error) error {
	dir, err := p.open()
	if err != nil {
		return err
	}
	return errors.Join(f(dir), dir.Close())
}

// stateOf is the place of a file that is right in a base.
func stateOf(path string) place { return place{filepath.Dir(path), ""} }

// openFile opens a file that is right in a base.
func openFile(path string, flag int, perm os.FileMode) (f *os.File, err error) {
	err = stateOf(path).do(func(dir *os.Root) error {
		f, err = dir.OpenFile(filepath.Base(path), flag, perm)
		return err
	})
	return f, err
}

// write replaces a file by data in one step: a crash leaves the old content or the
// new one.
func (p place) write(name string, data []byte, perm os.FileMode) error {
	write := func(dir *os.Root) error { return replace(dir, name, data, perm) }
	err := p.do(write)
	if errors.Is(err, os.ErrNotExist) { // somebody removed the directory
		if err = p.make(); err == nil {
			err = p.do(write)
		}
	}
	return err
}

func replace(dir *os.Root, name string, data []byte, perm os.FileMode) (err error) {
	fresh := strings.Replace(temporary, "*", rand.Text(), 1)
	f, err := dir.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dir.Remove(fresh))
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(perm), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := dir.Rename(fresh, name); err != nil {
		return err
	}
	return syncDir(dir)
}

// remove deletes a file for good; an absent one is success.
func (p place) remove(name string) error {
	err := p.do(func(dir *os.Root) error {
		if err := dir.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return syncDir(dir)
	})
	return ifThere(err)
}

// syncDir makes renames and removals in dir durable.
func syncDir(dir *os.Root) error {
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// sync is syncDir of the directory.
func (p place) sync() error { return p.do(syncDir) }

// temporary is the pattern of the names of files that write has not finished. No
// definition or run-state ends so.
const temporary = ".vnetd-*.tmp"

// sweep removes what an interrupted write left.
func (p place) sweep() error {
	err := p.do(func(dir *os.Root) error {
		left, err := fs.Glob(dir.FS(), temporary)
		errs := []error{err}
		for _, name := range left {
			errs = append(errs, dir.Remove(name))
		}
		return errors.Join(errs...)
	})
	return ifThere(err)
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

// readAll calls read with every file whose name ends in suffix, in order of name.
// Faults of single files don't end the walk; the error is that of the directory.
func (p place) readAll(suffix string, read func(stem string, data []byte) error) (faults []*Fault, err error) {
	entries, err := p.list()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		stem, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || e.IsDir() {
			continue
		}
		data, err := p.read(e.Name())
		if err == nil {
			err = read(stem, data)
		}
		if err != nil {
			faults = append(faults, &Fault{Stem: stem, Path: filepath.Join(p.path(), e.Name()), UUID: uuidIn(data), Err: err})
		}
	}
	return faults, nil
}
