package store

import "fmt"

// importedMark is the file of the state directory that says it.
const importedMark = "libvirt-imported"

// Imported reports whether SetImported was ever called.
func (s *Store) Imported() bool {
	return s.dirs.state().has(importedMark)
}

// SetImported records that libvirt's networks were taken over, for good.
func (s *Store) SetImported() error {
	if err := s.dirs.state().write(importedMark, nil, 0o600); err != nil {
		return fmt.Errorf("keeping that libvirt's networks are imported: %w", err)
	}
	return nil
}
