package store

import "fmt"

// Stops are the networks that were stopped since the host booted, and not started
// again.
type Stops struct{ place place }

// Stops returns the networks that were stopped.
func (s *Store) Stops() Stops { return Stops{s.dirs.stopped()} }

// Set says whether the network with that UUID was stopped.
func (s Stops) Set(uuid string, stopped bool) error {
	var err error
	if stopped {
		err = s.place.write(uuid, nil, 0o600)
	} else {
		err = s.place.remove(uuid)
	}
	if err != nil {
		return fmt.Errorf("keeping that network %s was stopped: %w", uuid, err)
	}
	return nil
}

// All lists the networks for which Set said so, by UUID.
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
