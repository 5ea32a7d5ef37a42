package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// notice heads every definition file, as libvirt heads its own: who edits the
// file by hand is told the better way.
const notice = `<!--
This file is written by vnetd, which reads what is changed here by hand when it
is reloaded or started. Better: vnetctl define FILE, or vnetctl update.
-->

`

// Definition is a network as the admin defined it.
type Definition struct {
	Network   *netdef.Network
	Autostart bool // start it when vnetd starts
}

// Definitions reads every definition, and tells of the files that can't be used.
// As with libvirt, a file must bear the name of its network. The error is that of
// the directory.
func (s *Store) Definitions() ([]Definition, []*Fault, error) { return ReadDefinitions(s.dirs) }

// ReadDefinitions is Definitions for one who has no store open and must change
// nothing.
func ReadDefinitions(dirs Dirs) (defs []Definition, faults []*Fault, err error) {
	faults, err = readDir(dirs.Networks, ".xml", func(stem string, data []byte) error {
		n, err := netdef.Parse(data)
		if err != nil {
			return err
		}
		if n.Name != stem {
			return fmt.Errorf("the network in it is called %q: rename one to match the other", n.Name)
		}
		defs = append(defs, Definition{Network: n, Autostart: dirs.autostarts(n.Name)})
		return nil
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	return defs, faults, err
}

// Autostarts reports whether the network of that name is marked for autostart,
// whatever its definition.
func (s *Store) Autostarts(name string) bool { return s.dirs.autostarts(name) }

func (d Dirs) autostarts(name string) bool {
	_, err := os.Lstat(d.autostartLink(name))
	return err == nil
}

// DefinitionPath is the file of the definition of that name.
func (s *Store) DefinitionPath(name string) string { return s.dirs.definition(name) }

// SaveDefinition writes n's definition, replacing the one of that name.
func (s *Store) SaveDefinition(n *netdef.Network) error {
	data := append([]byte(notice), n.XML()...)
	if err := writeFile(s.dirs.definition(n.Name), data, 0o600); err != nil {
		return fmt.Errorf("saving definition of network %q: %w", n.Name, err)
	}
	return nil
}

// DeleteDefinition removes the definition of that name and its autostart link;
// absent ones are success. The link goes first: a link to nothing would be
// taken for the next network of that name.
func (s *Store) DeleteDefinition(name string) error {
	for _, path := range []string{s.dirs.autostartLink(name), s.dirs.definition(name)} {
		if err := removeFile(path); err != nil {
			return fmt.Errorf("deleting definition of network %q: %w", name, err)
		}
	}
	return nil
}

// SetAutostart says whether the network of that name starts with vnetd.
func (s *Store) SetAutostart(name string, on bool) error {
	link := s.dirs.autostartLink(name)
	if !on {
		return removeFile(link)
	}
	err := os.Symlink(s.dirs.definition(name), link)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("marking network %q for autostart: %w", name, err)
	}
	return syncDir(filepath.Dir(link))
}

func (d Dirs) definition(name string) string {
	return filepath.Join(d.Networks, name+".xml")
}

func (d Dirs) autostartLink(name string) string {
	return filepath.Join(d.autostart(), name+".xml")
}
