package store

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// disk is how directories are changed: through the kernel, unless a test, which has to know
// what of the changes a crash may leave, puts itself between.
type disk struct {
	between func(path string, dir folder) folder // nil: nothing is
	// passing says that what is there ends with the host's boot: nothing waits for it to be
	// on disk, so that who is told of an error knows that nothing was changed.
	passing bool
}

// folder is an open directory that is changed. Its methods are those of os.Root.
type folder interface {
	OpenFile(name string, flag int, perm os.FileMode) (file, error)
	Mkdir(name string, perm os.FileMode) error
	Symlink(to, name string) error
	Rename(from, to string) error
	Remove(name string) error
	Stat(name string) (os.FileInfo, error)
	// Sync makes durable which names there are, and of which files.
	Sync() error
}

// file is an open file. Its methods are those of os.File.
type file interface {
	io.ReaderAt
	io.Writer
	io.WriterAt
	io.Closer
	Stat() (os.FileInfo, error)
	Chmod(mode os.FileMode) error
	Chown(uid, gid int) error
	Sync() error
	// Datasync is Sync, without what it does not take to read the file.
	Datasync() error
}

// folder is the open directory of that path.
func (d disk) folder(path string, dir *os.Root) (f folder) {
	f = kernelFolder{dir}
	if d.between != nil {
		f = d.between(path, f)
	}
	if d.passing {
		f = passingFolder{f}
	}
	return f
}

// makeAll is os.MkdirAll, for good.
func (d disk) makeAll(path string, mode os.FileMode) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	parent := place{base: filepath.Dir(path), disk: d}
	if parent.base != path {
		if err := d.makeAll(parent.base, mode); err != nil {
			return err
		}
	}
	return parent.change(func(dir folder) error {
		if err := dir.Mkdir(filepath.Base(path), mode); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		return dir.Sync()
	})
}

type kernelFolder struct{ *os.Root }

// OpenFile implements folder.
func (f kernelFolder) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	opened, err := f.Root.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return kernelFile{opened}, nil
}

// Sync implements folder.
func (f kernelFolder) Sync() error {
	d, err := f.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

type kernelFile struct{ *os.File }

// Datasync implements file.
func (f kernelFile) Datasync() error { return unix.Fdatasync(int(f.Fd())) }

// passingFolder is a folder of which nothing need survive the host's boot.
type passingFolder struct{ folder }

// OpenFile implements folder.
func (f passingFolder) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	opened, err := f.folder.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return passingFile{opened}, nil
}

// Sync implements folder.
func (passingFolder) Sync() error { return nil }

type passingFile struct{ file }

// Sync implements file.
func (passingFile) Sync() error { return nil }

// Datasync implements file.
func (passingFile) Datasync() error { return nil }
