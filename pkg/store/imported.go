package store

import (
	"fmt"
	"os"
	"path/filepath"
)

// importedMark is the file of the state directory that says it.
const importedMark = "libvirt-imported"

// Imported reports whether SetImported was ever called.
func (s *Store) Imported() bool {
	_, err := os.Lstat(filepath.Join(s.dirs.State, importedMark))
	return err == nil
}

// SetImported records that libvirt's networks were taken over, for good.
func (s *Store) SetImported() error {
	if err := writeFile(filepath.Join(s.dirs.State, importedMark), nil, 0o600); err != nil {
		return fmt.Errorf("keeping that libvirt's networks are imported: %w", err)
	}
	return nil
}
