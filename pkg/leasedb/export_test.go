package leasedb

import "log/slog"

// OpenSized is Open with journals of that many bytes at least, which are tried to be made
// at any time.
func OpenSized(files Files, log *slog.Logger, least int) (*DB, error, error) {
	return open(files, log, least, 0)
}

// Records is how many records are found in a file, and whether it is damaged.
func Records(data []byte) (n int, damage error) {
	c := readGroups(data, journalKind)
	for _, r := range c.records {
		if r.kind() == put {
			if _, err := r.lease(); err != nil {
				continue
			}
		}
		n++
	}
	return n, c.damage
}

// Compact is what happens beside commits when the journal is full.
func (db *DB) Compact() error { return db.compact() }
