package store

import (
	"net/netip"

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
