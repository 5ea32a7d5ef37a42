package store

import (
	"fmt"
	"sync/atomic"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// What an active network is stands in its run-state, and, while that is not what its
// definition says, a second time beside the leases: run-state can be lost, and with it
// alone a change that is pending would be taken for what the network is.

// Copies are copies of what active networks are.
type Copies struct {
	place  place
	unsure *atomic.Bool
}

// Copies are those that are kept.
func (s *Store) Copies() Copies { return Copies{s.dirs.lives(), &s.copiesUnsure} }

// Save keeps a copy of the document of an active network.
func (c Copies) Save(doc *netdef.Network) error {
	if err := c.place.write(doc.UUID+".xml", doc.XML(), 0o600); err != nil {
		return fmt.Errorf("keeping a copy of what network %q is: %w", doc.Name, err)
	}
	return nil
}

// Drop drops the copy of the network with that UUID, if there is one.
func (c Copies) Drop(uuid string) error {
	if c.place.lacks(uuid+".xml") && !c.unsure.Load() {
		return nil // nothing to make durable
	}
	if err := c.place.remove(uuid + ".xml"); err != nil {
		c.unsure.Store(true)
		return fmt.Errorf("dropping the copy of what network %s was: %w", uuid, err)
	}
	return nil
}

// Read reads the copy of the network with that UUID. The error is os.ErrNotExist where
// there is none.
func (c Copies) Read(uuid string) (*netdef.Network, error) {
	data, err := c.place.read(uuid + ".xml")
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
