package store_test

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/pkg/store"
)

// errDisk is what a call returns that the disk refuses.
var errDisk = errors.New("the disk refuses")

const sector = 512

// disk is a file system in memory that knows what of it is on disk, beside a folder in which
// programs see all of it: what they read is read there. Nothing is synced but in memory. Of
// what is not on disk a power cut leaves parts: of the changes of names any, in order, and of
// what was written to a file any sectors.
type disk struct {
	t      *testing.T
	path   string
	root   *node
	calls  int
	in     string              // the directory of the last call
	refuse func(call int) bool // nil: nothing is refused
	after  func()              // called when something was changed
}

// node is a directory, a symbolic link or a file. What of it is on disk has a name that ends
// so.
type node struct {
	names, namesOnDisk map[string]*node // of a directory, nil for others
	changes            []change         // of names, that are not on disk

	link string // of a link

	data, dataOnDisk []byte // of a file; the bytes are never changed
	writes           []written
}

// change is the names of a directory that are others, nil for those that go.
type change map[string]*node

type written struct {
	at   int
	data []byte
}

func newDirectory() *node {
	return &node{names: map[string]*node{}, namesOnDisk: map[string]*node{}}
}

// diskWith is a disk that has what root has, and programs see.
func diskWith(t *testing.T, root *node) *disk {
	t.Helper()
	path, err := os.MkdirTemp(memory(), "vnetd-store-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(path) }) // where remove was not called
	d := &disk{t: t, path: path, root: root}
	must(t, root.write(d.path))
	return d
}

// memory is a folder that is in memory, where there is one.
func memory() string {
	const shm = "/dev/shm"
	if info, err := os.Stat(shm); err == nil && info.IsDir() {
		return shm
	}
	return os.TempDir()
}

// remove removes the folder.
func (d *disk) remove() { must(d.t, os.RemoveAll(d.path)) }

// dirs are the directories of a store on the disk.
func (d *disk) dirs() store.Dirs {
	return store.Dirs{
		Networks: filepath.Join(d.path, "etc", "vnetd", "networks"), Run: filepath.Join(d.path, "run", "vnetd"), State: filepath.Join(d.path, "var", "vnetd"),
	}.Through(func(path string, dir store.Folder) store.Folder {
		return folderOf{dir, d, path, d.find(path)}
	})
}

// find is the directory of a path.
func (d *disk) find(path string) *node {
	rel, err := filepath.Rel(d.path, path)
	must(d.t, err)
	n := d.root
	for _, name := range strings.Split(rel, "/") {
		if name != "." {
			n = n.names[name]
		}
	}
	if n == nil || n.names == nil {
		d.t.Fatalf("there is no directory %q", path)
	}
	return n
}

// do makes a change in a directory, unless the disk refuses.
func (d *disk) do(in string, call func() error) error {
	d.calls, d.in = d.calls+1, in
	if d.refuse != nil && d.refuse(d.calls) {
		return errDisk
	}
	if err := call(); err != nil {
		return err
	}
	if d.after != nil {
		d.after()
	}
	return nil
}

// folderOf is an open directory.
type folderOf struct {
	store.Folder
	disk *disk
	path string
	node *node
}

func (f folderOf) alter(c change) {
	c.apply(f.node.names)
	f.node.changes = append(f.node.changes, c)
}

func (c change) apply(names map[string]*node) {
	for name, n := range c {
		if n == nil {
			delete(names, name)
		} else {
			names[name] = n
		}
	}
}

func (f folderOf) OpenFile(name string, flag int, perm os.FileMode) (opened store.File, err error) {
	open := func() error {
		opened, err = f.Folder.OpenFile(name, flag, perm)
		if err == nil && flag&os.O_CREATE != 0 {
			f.alter(change{name: {}})
		}
		return err
	}
	if flag&os.O_CREATE != 0 {
		err = f.disk.do(f.path, open)
	} else {
		err = open()
	}
	if err != nil {
		return nil, err
	}
	return &fileOf{File: opened, disk: f.disk, path: f.path, node: f.node.names[name]}, nil
}

func (f folderOf) Mkdir(name string, perm os.FileMode) error {
	return f.disk.do(f.path, func() error {
		err := f.Folder.Mkdir(name, perm)
		if err == nil {
			f.alter(change{name: newDirectory()})
		}
		return err
	})
}

func (f folderOf) Symlink(to, name string) error {
	return f.disk.do(f.path, func() error {
		err := f.Folder.Symlink(to, name)
		if err == nil {
			f.alter(change{name: {link: to}})
		}
		return err
	})
}

func (f folderOf) Rename(from, to string) error {
	return f.disk.do(f.path, func() error {
		err := f.Folder.Rename(from, to)
		if err == nil {
			f.alter(change{to: f.node.names[from], from: nil})
		}
		return err
	})
}

func (f folderOf) Remove(name string) error {
	return f.disk.do(f.path, func() error {
		err := f.Folder.Remove(name)
		if err == nil {
			f.alter(change{name: nil})
		}
		return err
	})
}

func (f folderOf) Sync() error {
	return f.disk.do(f.path, func() error {
		f.node.namesOnDisk, f.node.changes = maps.Clone(f.node.names), nil
		return nil
	})
}

// fileOf is an open file.
type fileOf struct {
	store.File
	disk *disk
	node *node
	path string // of its directory
	at   int    // where Write goes on
}

func (f *fileOf) Write(b []byte) (int, error) {
	n, err := f.WriteAt(b, int64(f.at))
	f.at += n
	return n, err
}

// WriteAt writes half of b where the disk refuses.
func (f *fileOf) WriteAt(b []byte, at int64) (n int, err error) {
	write := func() error {
		n, err = f.File.WriteAt(b, at)
		f.node.data = overwritten(f.node.data, b[:n], int(at))
		f.node.writes = append(f.node.writes, written{int(at), bytes.Clone(b[:n])})
		return err
	}
	if err := f.disk.do(f.path, write); !errors.Is(err, errDisk) {
		return n, err
	}
	b = b[:len(b)/2]
	return n, errors.Join(write(), errDisk)
}

func (f *fileOf) Sync() error {
	return f.disk.do(f.path, func() error {
		f.node.dataOnDisk, f.node.writes = f.node.data, nil
		return nil
	})
}

func (f *fileOf) Datasync() error { return f.Sync() }

// overwritten is data with b in it.
func overwritten(data, b []byte, at int) []byte {
	data = append(bytes.Clone(data), make([]byte, max(0, at+len(b)-len(data)))...)
	copy(data[at:], b)
	return data
}

// all calls f with every node, those that are not on disk or not there any more as well, in
// an order that is always the same.
func (n *node) all(f func(*node)) {
	seen := map[*node]bool{}
	var visit func(n *node)
	visit = func(n *node) {
		if seen[n] {
			return
		}
		seen[n] = true
		f(n)
		for _, names := range []map[string]*node{n.names, n.namesOnDisk} {
			for _, name := range slices.Sorted(maps.Keys(names)) {
				visit(names[name])
			}
		}
		for _, c := range n.changes {
			for _, name := range slices.Sorted(maps.Keys(c)) {
				if c[name] != nil {
					visit(c[name])
				}
			}
		}
	}
	visit(n)
}

// killed is a copy of what there is when a process was killed: programs see all, and on disk
// is what was.
func (n *node) killed() *node {
	copies := map[*node]*node{nil: nil}
	n.all(func(n *node) { clone := *n; copies[n] = &clone })
	copied := func(names map[string]*node) map[string]*node {
		if names == nil {
			return nil
		}
		c := make(map[string]*node, len(names))
		for name, n := range names {
			c[name] = copies[n]
		}
		return c
	}
	for _, c := range copies {
		if c == nil {
			continue
		}
		c.names, c.namesOnDisk, c.writes = copied(c.names), copied(c.namesOnDisk), slices.Clone(c.writes)
		changes := make([]change, len(c.changes))
		for i := range c.changes {
			changes[i] = copied(c.changes[i])
		}
		c.changes = changes
	}
	return copies[n]
}

// damage is how much of what is not on disk a power cut leaves.
type damage struct {
	changes func(i int) bool // whether that one of all changes of names, nil for none
	sectors func() bool      // whether the next sector of what was written, nil for none
}

// cut is what a power cut leaves.
func (n *node) cut(d damage) *node {
	copies, i := map[*node]*node{}, 0
	n.all(func(n *node) {
		copies[n] = n.alone(d.sectors)
		if n.names == nil {
			return
		}
		left := maps.Clone(n.namesOnDisk)
		for _, c := range n.changes {
			if d.changes != nil && d.changes(i) {
				c.apply(left)
			}
			i++
		}
		copies[n].names = left
	})
	for _, c := range copies {
		for name, n := range c.names {
			c.names[name] = copies[n]
		}
		c.namesOnDisk = maps.Clone(c.names)
	}
	return copies[n]
}

// alone is a node after a power cut without the names that it has.
func (n *node) alone(left func() bool) *node {
	if left == nil || len(n.writes) == 0 {
		return &node{link: n.link, data: n.dataOnDisk, dataOnDisk: n.dataOnDisk}
	}
	data := bytes.Clone(n.dataOnDisk)
	for _, w := range n.writes {
		for rest, at := w.data, w.at; len(rest) > 0; {
			b := rest[:min(sector-at%sector, len(rest))] // a sector of the disk's
			if left() {
				data = append(data, make([]byte, max(0, at+len(b)-len(data)))...)
				copy(data[at:], b)
			}
			rest, at = rest[len(b):], at+len(b)
		}
	}
	return &node{link: n.link, data: data, dataOnDisk: data}
}

// pending is the number of changes of names that are not on disk, and whether something of
// files is not.
func (n *node) pending() (changes int, data bool) {
	n.all(func(n *node) {
		changes += len(n.changes)
		data = data || len(n.writes) > 0
	})
	return changes, data
}

// cuts are what power cuts may leave: with few changes of names every subset of them, or
// else the first ones and some by chance; each of them with all that was written, none of it
// or some, by chance.
func (n *node) cuts(r *rand.Rand) (all []*node) {
	changes, data := n.pending()
	var sets []func(i int) bool
	if changes <= 4 {
		for set := range 1 << changes {
			sets = append(sets, func(i int) bool { return set&(1<<i) != 0 })
		}
	} else {
		for first := range changes + 1 {
			sets = append(sets, func(i int) bool { return i < first })
		}
		for range 4 {
			sets = append(sets, func(int) bool { return r.IntN(2) == 0 })
		}
	}
	for _, set := range sets {
		sectors := []func() bool{nil, func() bool { return true }, func() bool { return r.IntN(3) > 0 }}
		if !data {
			sectors = sectors[:1]
		}
		all = append(all, n.cut(damage{set, sectors[r.IntN(len(sectors))]}))
	}
	return all
}

// write makes a directory's contents at a path.
func (n *node) write(path string) error {
	for name, n := range n.names {
		at := filepath.Join(path, name)
		var err error
		switch {
		case n.names != nil:
			err = errors.Join(os.Mkdir(at, 0o755), n.write(at))
		case n.link != "":
			err = os.Symlink(n.link, at)
		default: // zeros at the end, of which journals have many, take no time
			err = errors.Join(os.WriteFile(at, bytes.TrimRight(n.data, "\x00"), 0o600), os.Truncate(at, int64(len(n.data))))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// read is what is in a directory, all of it on disk.
func read(t *testing.T, path string) *node {
	t.Helper()
	nodes := map[string]*node{path: newDirectory()}
	must(t, filepath.WalkDir(path, func(at string, e fs.DirEntry, err error) error {
		if err != nil || at == path {
			return err
		}
		n := &node{}
		if e.IsDir() {
			n = newDirectory()
		} else if n.data, err = os.ReadFile(at); err != nil {
			return err
		}
		n.dataOnDisk = n.data
		nodes[at] = n
		parent := nodes[filepath.Dir(at)]
		parent.names[e.Name()], parent.namesOnDisk[e.Name()] = n, n
		return nil
	}))
	return nodes[path]
}
