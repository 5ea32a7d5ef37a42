package leasedb_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"

	"github.com/vnetd/vnetd/pkg/leasedb"
)

// errCrashed is what every call returns once the machine has crashed, errDisk what one
// returns that the disk refuses.
var (
	errCrashed = errors.New("the machine has crashed")
	errDisk    = errors.New("the disk refuses")
)

const sector = 512

// disk is a directory in memory that knows what of it is on disk. Of what is not, a crash
// leaves parts: of the changes of names the first ones, as file systems with a journal
// have it, and of what was written to a file any sectors.
type disk struct {
	mu     sync.Mutex
	names  map[string]*inode // as programs see them
	on     map[string]*inode // as they are on disk
	change []func(map[string]*inode)
	calls  int
	crash  int                    // the call at which the machine crashes; 0: none
	refuse func(call string) bool // nil: nothing is refused
}

type inode struct {
	data    []byte // as programs see it
	on      []byte // as it is on disk
	pending []written
}

type written struct {
	at   int64
	data []byte
}

func newDisk() *disk {
	return &disk{names: map[string]*inode{}, on: map[string]*inode{}}
}

// step counts a call that changes something. The caller holds mu.
func (d *disk) step(call string) error {
	d.calls++
	switch {
	case d.crash > 0 && d.calls >= d.crash:
		return errCrashed
	case d.refuse != nil && d.refuse(call):
		return errDisk
	}
	return nil
}

func (d *disk) OpenFile(name string, flag int) (leasedb.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := d.names[name]
	if i == nil {
		if flag&os.O_CREATE == 0 {
			return nil, os.ErrNotExist
		}
		if err := d.step("create"); err != nil {
			return nil, err
		}
		i = &inode{}
		d.alter(func(names map[string]*inode) { names[name] = i })
	}
	return &handle{d, i}, nil
}

// alter changes names, which is on disk after the next Sync.
func (d *disk) alter(change func(map[string]*inode)) {
	change(d.names)
	d.change = append(d.change, change)
}

func (d *disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("rename"); err != nil {
		return err
	}
	if d.names[from] == nil {
		return os.ErrNotExist
	}
	d.alter(func(names map[string]*inode) { names[to] = names[from]; delete(names, from) })
	return nil
}

func (d *disk) Is(name string, f leasedb.File) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] == nil {
		return false, os.ErrNotExist
	}
	return d.names[name] == f.(*handle).i, nil
}

func (d *disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] == nil {
		return os.ErrNotExist
	}
	if err := d.step("remove"); err != nil {
		return err
	}
	d.alter(func(names map[string]*inode) { delete(names, name) })
	return nil
}

func (d *disk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("sync"); err != nil {
		return err
	}
	for _, change := range d.change {
		change(d.on)
	}
	d.change = nil
	return nil
}

// after is what a crash may leave, by chance.
func (d *disk) after(r *rand.Rand) *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, change := range d.change[:r.IntN(len(d.change)+1)] {
		change(d.on)
	}
	left := newDisk()
	copies := map[*inode]*inode{}
	for name, i := range d.on {
		if copies[i] == nil {
			data := i.after(r)
			copies[i] = &inode{data: data, on: append([]byte(nil), data...)}
		}
		left.names[name], left.on[name] = copies[i], copies[i]
	}
	return left
}

// after is the file with some sectors of what was not on disk.
func (i *inode) after(r *rand.Rand) []byte {
	data := append([]byte(nil), i.on...)
	for _, w := range i.pending {
		for at := w.at; at < w.at+int64(len(w.data)); {
			end := min(at-at%sector+sector, w.at+int64(len(w.data)))
			if r.IntN(3) > 0 {
				data = overwrite(data, w.data[at-w.at:end-w.at], at)
			}
			at = end
		}
	}
	return data
}

// overwrite puts b into data, which grows where need be.
func overwrite(data, b []byte, at int64) []byte {
	if n := at + int64(len(b)) - int64(len(data)); n > 0 {
		data = append(data, make([]byte, n)...)
	}
	copy(data[at:], b)
	return data
}

type handle struct {
	d *disk
	i *inode
}

func (h *handle) ReadAt(b []byte, at int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if at >= int64(len(h.i.data)) {
		return 0, io.EOF
	}
	n := copy(b, h.i.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *handle) WriteAt(b []byte, at int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	err := h.d.step("write")
	if errors.Is(err, errCrashed) {
		return 0, err
	}
	if err != nil { // as far as it came
		b = b[:len(b)/2]
	}
	h.i.data = overwrite(h.i.data, b, at)
	h.i.pending = append(h.i.pending, written{at, append([]byte(nil), b...)})
	return len(b), err
}

func (h *handle) Size() (int64, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	return int64(len(h.i.data)), nil
}

func (h *handle) Datasync() error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if err := h.d.step("datasync"); err != nil {
		return err
	}
	for _, w := range h.i.pending {
		h.i.on = overwrite(h.i.on, w.data, w.at)
	}
	h.i.pending = nil
	return nil
}

func (h *handle) Close() error { return nil }
