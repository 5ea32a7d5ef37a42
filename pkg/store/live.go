package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// What an active network is stands in its run-state, and, while that is not what its
// definition says, a second time beside the leases: run-state can be lost, and with it
// alone a change that is pending would be taken for what the network is.

// SaveLive keeps a copy of the document of an active network.
func (s *Store) SaveLive(doc *netdef.Network) error {
	if err := writeFile(s.dirs.live(doc.UUID), doc.XML(), 0o600); err != nil {
		return fmt.Errorf("keeping a copy of what network %q is: %w", doc.Name, err)
	}
	return nil
}

// DropLive drops the copy of the network with that UUID, if there is one.
func (s *Store) DropLive(uuid string) error {
	path := s.dirs.live(uuid)
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return nil // nothing to make durable
	}
	if err := removeFile(path); err != nil {
		return fmt.Errorf("dropping the copy of what network %s was: %w", uuid, err)
	}
	return nil
}

// Live reads the copy of the network with that UUID. The error is os.ErrNotExist where
// there is none.
func (s *Store) Live(uuid string) (*netdef.Network, error) {
	data, err := os.ReadFile(s.dirs.live(uuid))
	if err != nil {
		return nil, err
	}
	doc, err := netdef.Parse(data)
	if err == nil {
		err = doc.Runnable()
	}
	if err == nil && doc.UUID != uuid {
		err = fmt.Errorf("it is of another network, %q", doc.UUID)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the copy of what network %s is: %w", uuid, err)
	}
	return doc, nil
}

func (d Dirs) live(uuid string) string { return filepath.Join(d.lives(), uuid+".xml") }
