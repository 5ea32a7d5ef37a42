package store

import (
	"net/netip"
	"os"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// Salvage is the addresses of the leases that are found in a damaged database, by
// network.
func Salvage(data []byte) map[string][]netip.Addr {
	all := make(map[string][]netip.Addr)
	for uuid, leases := range salvage(data) {
		for addr := range leases {
			all[uuid] = append(all[uuid], addr)
		}
	}
	return all
}

// DecodeRecord reads a record of the lease database.
func DecodeRecord(uuid, record string) (dhcpd.Lease, error) {
	return decodeRecord([]byte(uuid), []byte(record))
}

// Change is what a line of the journal says.
type Change = change

// ReadJournal reads the file of a journal.
func ReadJournal(data []byte) ([]Change, error) { return readJournal(data) }

// Group is the group of a journal that has these changes.
func Group(changes []Change) []byte {
	c := &commit{changes: changes}
	for _, change := range changes {
		c.lines = change.appendLine(c.lines)
	}
	_, group := groupOf([]*commit{c})
	return group
}

// Settle waits until nothing is on its way from the journal into the database. No
// commit may be under way.
func (s *Store) Settle() { s.journal.settle(true) }

// SwapJournal puts another file in the place of the journal's and returns that. No
// commit may be under way.
func (s *Store) SwapJournal(f *os.File) (old *os.File) {
	old, s.journal.file = s.journal.file, f
	return old
}
