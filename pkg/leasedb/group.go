package leasedb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A file begins with a header:
//
//	16 its kind: snapshotKind or journalKind
//	8  its sequence number, from 1
//	4  CRC-32C of both
const (
	headerLen    = 28
	snapshotKind = "vnetd leases 1\n\x00"
	journalKind  = "vnetd journal 1\n"
)

// A group is
//
//	4 length of its records in bytes, not 0
//	4 CRC-32C of its number and its records
//	8 its number, one more than that of the group before, from 1 in each file
//	  the records
//	1 groupEnd
//
// and behind the last one there are zeros, or nothing.
const (
	groupHeader = 16
	groupEnd    = 0xff
	maxGroup    = 64 << 20
)

// sectorSize is how many bytes a disk writes whole or not at all.
const sectorSize = 512

// appendHeader appends the header of a file.
func appendHeader(b []byte, kind string, sequence uint64) []byte {
	at := len(b)
	b = binary.LittleEndian.AppendUint64(append(b, kind...), sequence)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

// readHeader returns the sequence number of a file of a kind.
func readHeader(data []byte, kind string) (sequence uint64, err error) {
	switch {
	case len(data) < headerLen:
		return 0, errors.New("it is cut off")
	case string(data[:len(kind)]) != kind:
		return 0, errors.New("it is of another kind")
	case crc32.Checksum(data[:headerLen-4], castagnoli) != binary.LittleEndian.Uint32(data[headerLen-4:]):
		return 0, errors.New("its header does not match its checksum")
	}
	return binary.LittleEndian.Uint64(data[len(kind):]), nil
}

// groupSum is the checksum of a group.
func groupSum(number uint64, records []byte) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], number)
	return crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, records)
}

// beginGroup appends the room of a group's header, and endGroup makes a group of what
// stands behind it since at.
func beginGroup(b []byte) []byte { return append(b, make([]byte, groupHeader)...) }

func endGroup(b []byte, at int, number uint64) []byte {
	records := b[at+groupHeader:]
	binary.LittleEndian.PutUint32(b[at:], uint32(len(records)))
	binary.LittleEndian.PutUint32(b[at+4:], groupSum(number, records))
	binary.LittleEndian.PutUint64(b[at+8:], number)
	return append(b, groupEnd)
}

// cutGroup returns the records of the group of that number that b begins with, and the
// rest.
func cutGroup(b []byte, number uint64) (records, rest []byte, ok bool) {
	if len(b) < groupHeader || binary.LittleEndian.Uint64(b[8:]) != number {
		return nil, nil, false
	}
	size := int(binary.LittleEndian.Uint32(b))
	if size == 0 || size > maxGroup || groupHeader+size >= len(b) {
		return nil, nil, false
	}
	records, rest = b[groupHeader:groupHeader+size], b[groupHeader+size+1:]
	if b[groupHeader+size] != groupEnd || groupSum(number, records) != binary.LittleEndian.Uint32(b[4:]) {
		return nil, nil, false
	}
	return records, rest, true
}

// contents is what stands in a file behind its header.
type contents struct {
	records []record // in order
	end     int      // where the last whole group ends, from the file's begin
	last    uint64   // its number; 0: there is none
	clean   bool     // there are zeros, or nothing, behind it
	damage  error    // what was found to be damaged first; nil: nothing
}

// readGroups reads a file. A last group of a journal that was not written whole is none:
// nobody was told that it is on disk. Of a damaged one the records that are whole are taken.
// It keeps parts of data.
func readGroups(data []byte, kind string) contents {
	c := contents{end: min(headerLen, len(data)), clean: true}
	for at := headerLen; at < len(data); {
		records, rest, ok := cutGroup(data[at:], c.last+1)
		if ok {
			c.take(records)
			c.last++
			at = len(data) - len(rest)
			c.end = at
			continue
		}
		if allZero(data[at:]) {
			break
		}
		next, number := nextGroup(data, at, c.last+1)
		if next == len(data) && kind == journalKind && torn(data[at:], at, c.last+1) {
			c.clean = false
			break
		}
		if c.damage == nil {
			c.damage = fmt.Errorf("group %d, at byte %d", c.last+1, at)
		}
		c.salvage(data[at:next])
		if next == len(data) {
			c.clean = false
			break
		}
		at, c.last = next, number-1
	}
	return c
}

// take keeps the records of a group that is whole.
func (c *contents) take(records []byte) {
	for len(records) > 0 {
		r, rest, err := cutRecord(records)
		if err != nil { // written so
			c.damage = errors.Join(c.damage, err)
			return
		}
		c.records = append(c.records, r)
		records = rest
	}
}

// salvage keeps the records that are whole, wherever they begin.
func (c *contents) salvage(b []byte) {
	for len(b) >= recordHeader {
		r, rest, err := cutRecord(b)
		if err != nil {
			b = b[1:]
			continue
		}
		c.records = append(c.records, r)
		b = rest
	}
}

// nextGroup finds the next group behind at that is whole, and its number, which is higher
// than number; len(data) where there is none.
func nextGroup(data []byte, at int, number uint64) (next int, its uint64) {
	for next = at + 1; next+groupHeader < len(data); next++ {
		its = binary.LittleEndian.Uint64(data[next+8:])
		if its <= number || its-number > uint64(len(data)) {
			continue
		}
		if _, _, ok := cutGroup(data[next:], its); ok {
			return next, its
		}
	}
	return len(data), 0
}

// torn reports whether b, which stands at a place of its file, is what a write that was
// cut short has left of the group of that number: a part is missing, or still as it was
// before, which is zeros.
func torn(b []byte, at int, number uint64) bool {
	b = bytes.TrimRight(b, "\x00")
	for begin := 0; begin < len(b); {
		sector := min(begin+sectorSize-(at+begin)%sectorSize, len(b))
		if allZero(b[begin:sector]) {
			return true
		}
		begin = sector
	}
	if entire(b) {
		return false
	}
	if len(b) < groupHeader {
		return true
	}
	size := int(binary.LittleEndian.Uint32(b))
	return binary.LittleEndian.Uint64(b[8:]) == number && (size >= len(b)-groupHeader || b[groupHeader+size] != groupEnd)
}

// entire reports whether b has a group's records to its end, whatever its header says.
func entire(b []byte) bool {
	if len(b) <= groupHeader || b[len(b)-1] != groupEnd {
		return false
	}
	var err error
	for rest := b[groupHeader : len(b)-1]; len(rest) > 0 && err == nil; {
		_, rest, err = cutRecord(rest)
	}
	return err == nil
}

// allZero reports whether b has nothing but zeros.
func allZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }
