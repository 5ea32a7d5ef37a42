package leasedb

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// A record is
//
//	2  length of the body in bytes
//	4  CRC-32C of the body
//	   the body:
//	1  what it is, see kind
//	16 UUID of the network
//	   unless all leases of the network go:
//	16 address, one of IPv4 as ::ffff:a.b.c.d
//	   of a lease that is stored:
//	1  state, see states
//	8  when it ends, in nanoseconds since 1970; 0: never
//	   fields of a lease that are not empty: 1 which, see field; 1 length; the bytes
//
// What follows a field that this version does not know is read all the same.
const (
	recordHeader = 6
	uuidLen      = 16
	addrLen      = 16
	leaseHeader  = 1 + uuidLen + addrLen + 1 + 8
	maxField     = 255
	maxBody      = leaseHeader + 16*(2+maxField)
)

// kind is what a record is.
type kind uint8

const (
	put    kind = 1 + iota // the lease is stored, over an older one of the address
	remove                 // the lease of the address is removed
	drop                   // all leases of the network are removed
)

// field is a part of a lease that may be missing.
type field uint8

const (
	fieldMAC field = 1 + iota
	fieldClientID
	fieldDUID
	fieldIAID // four bytes
	fieldFrom
	fieldHostname
)

// states are the states of a lease, by number on disk less one.
var states = [...]dhcpd.State{dhcpd.StateBound, dhcpd.StateReleased, dhcpd.StateDeclined}

// castagnoli is the polynomial of CRC-32C. The table is made once and never changes.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// network is a network's UUID.
type network [uuidLen]byte

// parseNetwork reads a UUID with or without dashes.
func parseNetwork(uuid string) (n network, err error) {
	digits := strings.ReplaceAll(uuid, "-", "")
	if len(digits) != hex.EncodedLen(uuidLen) {
		return n, fmt.Errorf("%q is no UUID", uuid)
	}
	if _, err := hex.Decode(n[:], []byte(digits)); err != nil {
		return n, fmt.Errorf("%q is no UUID: %w", uuid, err)
	}
	return n, nil
}

// String is the UUID in lower case, with dashes.
func (n network) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", n[:4], n[4:6], n[6:8], n[8:10], n[10:])
}

// address is the key of a lease.
type address [addrLen]byte

// record is a record as it stands on disk.
type record []byte

// size is that of the record that r begins with.
func (r record) size() int { return recordHeader + int(binary.LittleEndian.Uint16(r)) }

func (r record) kind() kind       { return kind(r[recordHeader]) }
func (r record) network() network { return network(r[recordHeader+1:]) }
func (r record) address() address { return address(r[recordHeader+1+uuidLen:]) }

// begin appends a record as far as the address, which is not valid in one that drops a
// network, and end what stands ahead of its body.
func begin(b []byte, k kind, n network, a netip.Addr) []byte {
	b = append(b, make([]byte, recordHeader)...)
	b = append(append(b, byte(k)), n[:]...)
	if k == drop {
		return b
	}
	as16 := a.As16()
	return append(b, as16[:]...)
}

func end(b []byte, at int) []byte {
	body := b[at+recordHeader:]
	binary.LittleEndian.PutUint16(b[at:], uint16(len(body)))
	binary.LittleEndian.PutUint32(b[at+2:], crc32.Checksum(body, castagnoli))
	return b
}

// appendLease appends the record that stores l.
func appendLease(b []byte, n network, l *dhcpd.Lease) ([]byte, error) {
	state := byte(0)
	for i, s := range states {
		if s == l.State {
			state = byte(i + 1)
		}
	}
	if state == 0 {
		return b, fmt.Errorf("lease of %v: unknown state %q", l.Addr, l.State)
	}
	if !l.Addr.IsValid() || l.Addr.Zone() != "" || l.Addr.Is4In6() {
		return b, fmt.Errorf("a lease of the address %q", l.Addr)
	}
	if most := max(len(l.MAC), len(l.ClientID), len(l.DUID), len(l.From), len(l.Hostname)); most > maxField {
		return b, fmt.Errorf("lease of %v: %d bytes of what its client says of itself, want at most %d", l.Addr, most, maxField)
	}
	at := len(b)
	b = append(begin(b, put, n, l.Addr), state)
	expiry := int64(0)
	if !l.Expiry.IsZero() {
		expiry = l.Expiry.UnixNano()
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(expiry))
	b = appendField(b, fieldMAC, l.MAC)
	b = appendField(b, fieldClientID, l.ClientID)
	b = appendField(b, fieldDUID, l.DUID)
	if l.IAID != 0 {
		b = binary.LittleEndian.AppendUint32(append(b, byte(fieldIAID), 4), l.IAID)
	}
	b = appendField(b, fieldFrom, l.From)
	b = appendField(b, fieldHostname, l.Hostname)
	return end(b, at), nil
}

// appendField appends a field, of at most maxField bytes, unless it is empty.
func appendField[T []byte | net.HardwareAddr | string](b []byte, f field, value T) []byte {
	if len(value) == 0 {
		return b
	}
	return append(append(b, byte(f), byte(len(value))), value...)
}

// appendRemoval appends the record that removes a lease, or with an invalid address all
// of the network.
func appendRemoval(b []byte, n network, a netip.Addr) []byte {
	k := remove
	if !a.IsValid() {
		k = drop
	}
	return end(begin(b, k, n, a), len(b))
}

// cutRecord returns the record that b begins with, and the rest.
func cutRecord(b []byte) (r record, rest []byte, err error) {
	if len(b) < recordHeader {
		return nil, nil, errors.New("a record is cut off")
	}
	size := int(binary.LittleEndian.Uint16(b))
	if size < 1+uuidLen || size > maxBody || recordHeader+size > len(b) {
		return nil, nil, fmt.Errorf("a record of %d bytes", size)
	}
	r, rest = b[:recordHeader+size], b[recordHeader+size:]
	if crc32.Checksum(r[recordHeader:], castagnoli) != binary.LittleEndian.Uint32(b[2:]) {
		return nil, nil, errors.New("a record does not match its checksum")
	}
	least := leastBody(r.kind())
	if least == 0 || size < least {
		return nil, nil, fmt.Errorf("a record of %d bytes is of kind %d", size, r.kind())
	}
	return r, rest, nil
}

// leastBody is how long a record's body is at least, 0 for a kind that is not known.
func leastBody(k kind) int {
	switch k {
	case put:
		return leaseHeader
	case remove:
		return 1 + uuidLen + addrLen
	case drop:
		return 1 + uuidLen
	default:
		return 0
	}
}

// lease reads a record that stores one. The result shares no memory with it.
func (r record) lease() (l dhcpd.Lease, err error) {
	body := r[recordHeader:]
	l.Addr = netip.AddrFrom16(r.address()).Unmap()
	state := body[leaseHeader-9]
	if state == 0 || int(state) > len(states) {
		return l, fmt.Errorf("lease of %v: unknown state %d", l.Addr, state)
	}
	l.State = states[state-1]
	if ns := int64(binary.LittleEndian.Uint64(body[leaseHeader-8:])); ns != 0 {
		l.Expiry = time.Unix(0, ns).UTC()
	}
	for rest := body[leaseHeader:]; len(rest) > 0; {
		if len(rest) < 2 || len(rest) < 2+int(rest[1]) {
			return l, fmt.Errorf("lease of %v: a field is cut off", l.Addr)
		}
		value := rest[2 : 2+int(rest[1])]
		switch field(rest[0]) {
		case fieldMAC:
			l.MAC = bytes.Clone(value)
		case fieldClientID:
			l.ClientID = bytes.Clone(value)
		case fieldDUID:
			l.DUID = bytes.Clone(value)
		case fieldIAID:
			if len(value) == 4 {
				l.IAID = binary.LittleEndian.Uint32(value)
			}
		case fieldFrom:
			l.From = bytes.Clone(value)
		case fieldHostname:
			l.Hostname = string(value)
		}
		rest = rest[2+len(value):]
	}
	return l, nil
}
