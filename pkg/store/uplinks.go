package store

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Uplinks is what is to be given back to uplinks of the host, by the name of the bridge
// that has it meanwhile: JSON that its writer understands. Calls about one bridge must
// not overlap.
type Uplinks struct{ place place }

// Uplinks returns what is to be given back to uplinks.
func (s *Store) Uplinks() Uplinks { return Uplinks{s.dirs.uplinks()} }

// Save writes what is owed to the uplink of a bridge, replacing what stood there. The
// next vnetd finds it when Save has returned.
func (u Uplinks) Save(bridge string, data json.RawMessage) error {
	if err := u.place.write(bridge+".json", data, 0o600); err != nil {
		return fmt.Errorf("saving what the uplink of %q is owed: %w", bridge, err)
	}
	return nil
}

// Delete forgets what was owed to the uplink of a bridge.
func (u Uplinks) Delete(bridge string) error {
	if err := u.place.remove(bridge + ".json"); err != nil {
		return fmt.Errorf("deleting what the uplink of %q is owed: %w", bridge, err)
	}
	return nil
}

// All reads what is owed, and tells of the files that can't be used, which are left where
// they are. The error is that of the directory.
func (u Uplinks) All() (owed map[string]json.RawMessage, faults []*Fault, err error) {
	owed = make(map[string]json.RawMessage)
	faults, err = u.place.readAll(".json", func(bridge string, data []byte) error {
		if !json.Valid(data) {
			return errors.New("it is no JSON")
		}
		owed[bridge] = data
		return nil
	})
	return owed, faults, ifThere(err)
}

// Recorded lists the bridges of which something is on disk, readable or not.
func (u Uplinks) Recorded() (map[string]bool, error) { return stems(u.place) }

func (d Dirs) uplinks() place { return d.passing("uplinks") }
