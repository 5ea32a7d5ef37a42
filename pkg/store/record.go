package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// A record of the lease database is a lease in JSON behind eight hex digits: the
// CRC-32C of the network's UUID and of the JSON. The database itself has a checksum of
// its root alone. The UUID is in it so that a record that is found outside of its
// bucket tells whose it is, see salvage.
const sumLen = 8

// castagnoli is the polynomial of CRC-32C. The table is made once and never
// changes.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeRecord is the record of l in the network with that UUID.
func encodeRecord(uuid []byte, l *dhcpd.Lease) ([]byte, error) {
	data, err := l.MarshalJSON() // json.Marshal would read its text once more
	if err != nil {
		return nil, err
	}
	record := make([]byte, 0, sumLen+len(data))
	return append(fmt.Appendf(record, "%08x", recordSum(uuid, data)), data...), nil
}

// decodeRecord reads what encodeRecord made. Records without a checksum, as they
// once were written, are taken as they are.
func decodeRecord(uuid, record []byte) (l dhcpd.Lease, err error) {
	data := record
	if len(record) == 0 || record[0] != '{' {
		if len(record) < sumLen {
			return l, errors.New("the record is cut off")
		}
		data = record[sumLen:]
		sum, err := strconv.ParseUint(string(record[:sumLen]), 16, 32)
		if err != nil || uint32(sum) != recordSum(uuid, data) {
			return l, errors.New("the record does not match its checksum")
		}
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return l, err
	}
	if !l.Addr.IsValid() {
		return l, errors.New("the record has no address")
	}
	return l, nil
}

func recordSum(uuid, data []byte) uint32 {
	return crc32.Update(crc32.Checksum(uuid, castagnoli), castagnoli, data)
}
