package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// A definition bears its network's name in its text, in its file's name and in that of its
// autostart link. All three change together: what they shall be is written to one file
// first, and that file is right about the two names, whoever reads them, until they are as
// it says.

// renameFile is where a rename that is not finished stands, beside the definitions.
const renameFile = ".rename.json"

// renameRecord is a rename that is not finished.
type renameRecord struct {
	From       string `json:"from"`
	To         string `json:"to"`
	Autostart  bool   `json:"autostart"`
	Definition string `json:"definition"`
}

// unsettled is what is to be done before definitions are changed.
type unsettled struct {
	mu   sync.Mutex   // held while definitions are changed; guards what
	what func() error // nil: nothing
}

// RenameDefinition makes n, which has another name by now, the definition of the network
// that was called from, and says whether it starts with vnetd. A crash leaves one or the
// other whole, and so does an error. No other network has the name of n.
func (s *Store) RenameDefinition(from string, n *netdef.Network, autostart bool) error {
	return s.unsettled.before(func() error {
		if err := s.rename(from, n, autostart); err != nil {
			return fmt.Errorf("renaming the definition of network %q to %q: %w", from, n.Name, err)
		}
		return nil
	})
}

// rename is RenameDefinition for who holds s.unsettled.mu.
func (s *Store) rename(from string, n *netdef.Network, autostart bool) error {
	data, err := json.Marshal(renameRecord{from, n.Name, autostart, string(n.XML())})
	if err != nil {
		return err
	}
	if err := s.dirs.networks().write(renameFile, data, 0o600); err != nil {
		return errors.Join(err, s.unsettled.settle(s.dirs.dropRename))
	}
	// It is done, for whoever reads the definitions.
	if err := s.unsettled.settle(s.dirs.finishRename); err != nil {
		s.log.Warn("a rename is finished later", "from", from, "to", n.Name, "error", err)
	}
	return nil
}

// before does what was left, and then calls change, which changes definitions.
func (u *unsettled) before(change func() error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.what != nil {
		if err := u.settle(u.what); err != nil {
			return err
		}
	}
	return change()
}

// settle does what is left of a rename, or has it be done before definitions are changed
// next. The caller holds u.mu.
func (u *unsettled) settle(what func() error) error {
	u.what = what
	err := what()
	if err == nil {
		u.what = nil
	}
	return err
}

// renamed is the rename that is not finished, nil for none.
func (d Dirs) renamed() (*renameRecord, error) {
	data, err := d.networks().read(renameFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var r renameRecord
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return nil, &Fault{Stem: renameFile, Path: filepath.Join(d.networks().path(), renameFile), Err: err}
	}
	return &r, nil
}

// finishRename has the files be as the rename says that is not finished, if there is one.
func (d Dirs) finishRename() error {
	r, err := d.renamed()
	if err != nil {
		return err
	}
	if err := ifThere(d.networks().sync()); r == nil || err != nil {
		return err
	}
	n, err := netdef.Parse([]byte(r.Definition))
	if err != nil {
		return fmt.Errorf("finishing the rename of network %q to %q: %w", r.From, r.To, err)
	}
	if err := d.saveDefinition(n); err != nil {
		return err
	}
	if err := d.setAutostart(r.To, r.Autostart); err != nil {
		return err
	}
	if err := d.deleteDefinition(r.From); err != nil {
		return err
	}
	return d.dropRename()
}

// dropRename forgets the rename that is not finished.
func (d Dirs) dropRename() error { return d.networks().remove(renameFile) }
