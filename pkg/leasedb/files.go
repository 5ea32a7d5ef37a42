package leasedb

import (
	"errors"
	"io"
	"os"
)

// Files is the directory of the database. Names have no slashes.
type Files interface {
	// OpenFile is os.OpenFile's, with mode 0600.
	OpenFile(name string, flag int) (File, error)
	// Rename puts a file in the place of another one, which may be missing.
	Rename(from, to string) error
	// Remove removes a file. The error is os.ErrNotExist where there is none.
	Remove(name string) error
	// Is reports whether the file of that name is f. The error is os.ErrNotExist where there
	// is none.
	Is(name string, f File) (bool, error)
	// Sync makes durable which names there are, and of which files.
	Sync() error
}

// File is an open file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Size is its length in bytes.
	Size() (int64, error)
	// Datasync returns when what was written is on disk, and what it takes to read it:
	// fdatasync(2).
	Datasync() error
}

// readFile reads all of a file; nil where there is none.
func readFile(files Files, name string) ([]byte, error) {
	f, err := files.OpenFile(name, os.O_RDONLY)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	defer func() { _ = f.Close() }()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	data := make([]byte, size)
	n, err := f.ReadAt(data, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return data[:n], err
}
