package store

import (
	"bytes"
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
	renamed, unread := dirs.renamed()
	read := func(stem string, data []byte) error {
		d, err := dirs.parseDefinition(stem, data)
		if err == nil {
			defs = append(defs, d)
		}
		return err
	}
	faults, err = dirs.networks().readAll(".xml", func(stem string, data []byte) error {
		if renamed != nil && (stem == renamed.From || stem == renamed.To) {
			return nil
		}
		return read(stem, data)
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	if renamed != nil {
		unread = read(renamed.To, []byte(renamed.Definition))
	}
	if fault, ok := errors.AsType[*Fault](unread); ok {
		faults = append(faults, fault)
	}
	return defs, faults, err
}

// parseDefinition is the definition in a file of that stem, which says data.
func (d Dirs) parseDefinition(stem string, data []byte) (Definition, error) {
	n, err := netdef.Parse(data)
	if err != nil {
		return Definition{}, err
	}
	if n.Name != stem {
		return Definition{}, fmt.Errorf("the network in it is called %q: rename one to match the other", n.Name)
	}
	return Definition{Network: n, Autostart: d.autostarts(n.Name)}, nil
}

// DefinitionNow reads the definition of that name again, for one who keeps others from
// changing it. The error is os.ErrNotExist where there is none any more.
func DefinitionNow(s *Store, name string) (Definition, error) {
	r, err := s.dirs.renamed() // Definitions tells of one that can't be read
	if err == nil && r != nil && name == r.To {
		return s.dirs.parseDefinition(name, []byte(r.Definition))
	}
	data, err := s.dirs.networks().read(name + ".xml")
	if err != nil {
		return Definition{}, err
	}
	return s.dirs.parseDefinition(name, data)
}

// Autostarts reports whether the network of that name is marked for autostart,
// whatever its definition.
func (s *Store) Autostarts(name string) bool { return s.dirs.autostarts(name) }

func (d Dirs) autostarts(name string) bool {
	if r, err := d.renamed(); err == nil && r != nil && (name == r.From || name == r.To) {
		return name == r.To && r.Autostart
	}
	return d.autostart().has(name + ".xml")
}

// DefinitionPath is the file of the definition of that name.
func (s *Store) DefinitionPath(name string) string { return s.dirs.definition(name) }

// SaveDefinition writes n's definition, replacing the one of that name. What can't be made
// durable is taken back, as far as the disk lets.
func (s *Store) SaveDefinition(n *netdef.Network) error {
	return s.unsettled.before(func() error {
		former, readErr := s.dirs.networks().read(n.Name + ".xml")
		err := s.dirs.saveDefinition(n)
		if err == nil || readErr != nil && !errors.Is(readErr, os.ErrNotExist) {
			return err
		}
		return errors.Join(err, s.dirs.restoreDefinition(n.Name, former))
	})
}

// restoreDefinition has the definition of that name be its former text, nil for none.
func (d Dirs) restoreDefinition(name string, former []byte) error {
	switch now, err := d.networks().read(name + ".xml"); {
	case err == nil && former == nil:
		return d.networks().remove(name + ".xml")
	case err == nil && !bytes.Equal(now, former):
		return d.networks().write(name+".xml", former, 0o600)
	}
	return nil
}

func (d Dirs) saveDefinition(n *netdef.Network) error {
	data := append([]byte(notice), n.XML()...)
	if err := d.networks().write(n.Name+".xml", data, 0o600); err != nil {
		return fmt.Errorf("saving definition of network %q: %w", n.Name, err)
	}
	return nil
}

// DeleteDefinition removes the definition of that name and its autostart link;
// absent ones are success. The link goes first: a link to nothing would be
// taken for the next network of that name. A crash in between leaves the network
// without it. It may be gone where there is an error as well, since that could not be made
// durable.
func (s *Store) DeleteDefinition(name string) (gone bool, err error) {
	err = s.unsettled.before(func() error {
		err := s.dirs.deleteDefinition(name)
		gone = s.dirs.networks().lacks(name + ".xml")
		return err
	})
	return gone, err
}

func (d Dirs) deleteDefinition(name string) error {
	for _, p := range []place{d.autostart(), d.networks()} {
		if err := p.remove(name + ".xml"); err != nil {
			return fmt.Errorf("deleting definition of network %q: %w", name, err)
		}
	}
	return nil
}

// SetAutostart says whether the network of that name starts with vnetd.
func (s *Store) SetAutostart(name string, on bool) error {
	return s.unsettled.before(func() error { return s.dirs.setAutostart(name, on) })
}

func (d Dirs) setAutostart(name string, on bool) error {
	if !on {
		return d.autostart().remove(name + ".xml")
	}
	err := d.autostart().change(func(dir folder) error {
		if err := dir.Symlink(d.definition(name), name+".xml"); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		return dir.Sync()
	})
	if err != nil {
		return fmt.Errorf("marking network %q for autostart: %w", name, err)
	}
	return nil
}

func (d Dirs) definition(name string) string {
	return filepath.Join(d.Networks, name+".xml")
}
