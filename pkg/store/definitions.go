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
	faults, err = dirs.networks().readAll(".xml", func(stem string, data []byte) error {
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

func (d Dirs) autostarts(name string) bool { return d.autostart().has(name + ".xml") }

// DefinitionPath is the file of the definition of that name.
func (s *Store) DefinitionPath(name string) string { return s.dirs.definition(name) }

// SaveDefinition writes n's definition, replacing the one of that name.
func (s *Store) SaveDefinition(n *netdef.Network) error {
	data := append([]byte(notice), n.XML()...)
	if err := s.dirs.networks().write(n.Name+".xml", data, 0o600); err != nil {
		return fmt.Errorf("saving definition of network %q: %w", n.Name, err)
	}
	return nil
}

// DeleteDefinition removes the definition of that name and its autostart link;
// absent ones are success. The link goes first: a link to nothing would be
// taken for the next network of that name.
func (s *Store) DeleteDefinition(name string) error {
	for _, p := range []place{s.dirs.autostart(), s.dirs.networks()} {
		if err := p.remove(name + ".xml"); err != nil {
			return fmt.Errorf("deleting definition of network %q: %w", name, err)
		}
	}
	return nil
}

// SetAutostart says whether the network of that name starts with vnetd.
func (s *Store) SetAutostart(name string, on bool) error {
	if !on {
		return s.dirs.autostart().remove(name + ".xml")
	}
	err := s.dirs.autostart().do(func(dir *os.Root) error {
		if err := dir.Symlink(s.dirs.definition(name), name+".xml"); err != nil {
			return err
		}
		return syncDir(dir)
	})
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("marking network %q for autostart: %w", name, err)
	}
	return nil
}

func (d Dirs) definition(name string) string {
	return filepath.Join(d.Networks, name+".xml")
}
