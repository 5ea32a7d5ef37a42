package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
)

// SaveUplink writes what is to be given back to the uplink of the bridge of that name:
// JSON that its writer understands, replacing what stood there. It is on disk when
// SaveUplink returns.
func (s *Store) SaveUplink(bridge string, data json.RawMessage) error {
	if err := writeFile(s.dirs.uplink(bridge), data, 0o600); err != nil {
		return fmt.Errorf("saving what the uplink of %q is owed: %w", bridge, err)
	}
	return nil
}

// DeleteUplink forgets what was to be given back to the uplink of the bridge.
func (s *Store) DeleteUplink(bridge string) error {
	if err := removeFile(s.dirs.uplink(bridge)); err != nil {
		return fmt.Errorf("deleting what the uplink of %q is owed: %w", bridge, err)
	}
	return nil
}

// Uplinks reads what is to be given back to uplinks, by the name of the bridge, and tells
// of the files that can't be used, which are left where they are. The error is that of
// the directory.
func (s *Store) Uplinks() (owed map[string]json.RawMessage, faults []*Fault, err error) {
	owed = make(map[string]json.RawMessage)
	faults, err = readDir(s.dirs.uplinks(), ".json", func(bridge string, data []byte) error {
		if !json.Valid(data) {
			return errors.New("it is no JSON")
		}
		owed[bridge] = data
		return nil
	})
	return owed, faults, ifThere(err)
}

// RecordedUplinks lists the bridges of which something is on disk, readable or not.
func (s *Store) RecordedUplinks() (map[string]bool, error) { return stems(s.dirs.uplinks()) }

func (d Dirs) uplinks() string { return filepath.Join(d.Run, "uplinks") }

func (d Dirs) uplink(bridge string) string { return filepath.Join(d.uplinks(), bridge+".json") }
