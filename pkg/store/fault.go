package store

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"

	"golang.org/x/sys/unix"
)

// Fault is why a file of the store can't be used. What the file is about goes on.
type Fault struct {
	Stem string // the file's name without what it ends in: a network's name, or a UUID
	Path string
	UUID string // of a definition that can be read so far, in lower case; empty: it is not known
	Err  error
}

func (f *Fault) Error() string { return fmt.Sprintf("reading %q: %v", f.Path, f.Err) }

func (f *Fault) Unwrap() error { return f.Err }

// Passing reports whether an error is of the kind that goes away without anybody
// mending a file: the process, or the host, was short of something.
func Passing(err error) bool {
	for _, errno := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS, unix.EIO, unix.EAGAIN, unix.ESTALE} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

var uuidElement = regexp.MustCompile(`<uuid>\s*([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})\s*</uuid>`)

// uuidIn finds the <uuid> of a definition that is not well-formed, empty for none.
func uuidIn(data []byte) string {
	m := uuidElement.FindSubmatch(data)
	if m == nil {
		return ""
	}
	return string(bytes.ToLower(m[1]))
}
