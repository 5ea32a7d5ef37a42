package store

import (
	"errors"
	"fmt"
	"os"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// Stops are the networks that were stopped since the host booted, and not started
// again.
type Stops struct{ place place }

// Stops returns the networks that were stopped.
func (s *Store) Stops() Stops { return Stops{s.dirs.stopped()} }

// Set says what the network with that UUID was when it was stopped, nil for one that was not.
func (s Stops) Set(uuid string, was *netdef.Network) error {
	var err error
	if was != nil {
		err = s.place.write(uuid, was.XML(), 0o600)
	} else {
		err = s.place.remove(uuid)
	}
	if err != nil {
		return fmt.Errorf("keeping that network %s was stopped: %w", uuid, err)
	}
	return nil
}

// Was is what the network with that UUID was when it was stopped; nil where it was not, or by
// an older version, which did not say.
func (s Stops) Was(uuid string) (*netdef.Network, error) {
	data, err := s.place.read(uuid)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(data) == 0 {
		return nil, nil
	}
	var was *netdef.Network
	if err == nil {
		was, err = netdef.Parse(data)
	}
	if err != nil {
		return nil, fmt.Errorf("reading what network %s was when it was stopped: %w", uuid, err)
	}
	return was, nil
}

// All lists the networks that were stopped, by UUID.
func (s Stops) All() (uuids []string, err error) {
	faults, err := s.place.readAll("", func(uuid string, _ []byte) error {
		uuids = append(uuids, uuid)
		return nil
	})
	for _, f := range faults { // the name says it all
		uuids = append(uuids, f.Stem)
	}
	return uuids, ifThere(err)
}
