package store

import "github.com/vnetd/vnetd/pkg/dhcpd"

// DecodeLease reads a lease as former versions stored it.
func DecodeLease(data []byte) (dhcpd.Lease, error) { return decodeLease(data) }

// Folder and File are what a test may put between the store and the kernel.
type (
	Folder = folder
	File   = file
)

// Through is these directories, changed through what between puts there: it gets the path of
// an open directory, and the kernel's.
func (d Dirs) Through(between func(path string, dir Folder) Folder) Dirs {
	d.disk.between = between
	return d
}

// Temporary is the pattern of the names of files that are not yet whole.
const Temporary = temporary
