package tftp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// The book's memory: a heading, then one record for each transfer that may run. All
// numbers are of this machine's memory alone, in little endian.
const (
	bookHeading = "vnetd tftp 1"
	recordSize  = 1024

	recordUsed    = 0  // 1: there is a transfer; written last
	recordIPv4    = 1  // 1: the address is one of IPv4
	recordLength  = 2  // uint16: of the request
	recordPeer    = 4  // uint16: the guest's port
	recordPort    = 8  // uint32: place.port
	recordHW      = 12 // place.hw
	recordBlock   = 18 // uint16: the size of blocks
	recordAddr    = 24 // 16 bytes: the guest's address
	recordFirst   = 40 // uint64: the first block that is not acknowledged
	recordSum     = 48 // uint64: size of the file
	recordTime    = 56 // int64: when the file was changed
	recordRequest = 64
)

// book has what the next process needs to go on with the transfers that run: it is memory
// that outlives this one with its descriptor, whatever ends it. The methods of a nil book,
// and those of the record -1, do nothing. The caller serializes calls.
type book struct {
	file *os.File
	mem  []byte
	free []int // records without a transfer
}

// record is a transfer of a former process.
type record struct {
	number  int
	peer    netip.AddrPort // without a zone
	at      place
	block   int
	first   uint64
	version fileVersion
	request []byte
}

// fileVersion tells whether a file is as it was.
type fileVersion struct {
	size, changed int64 // changed: in nanoseconds since 1970
}

func versionOf(f *os.File) fileVersion {
	info, err := f.Stat()
	if err != nil {
		return fileVersion{}
	}
	return fileVersion{info.Size(), info.ModTime().UnixNano()}
}

// openBook makes a copy of the book among left, or a new one where there is none.
func openBook(left []*os.File) (*book, error) {
	for _, f := range left {
		if b, err := copyBook(f); err == nil {
			return b, nil
		}
	}
	fd, err := unix.MemfdCreate("vnetd-tftp", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making the book of transfers: %w", err)
	}
	f := os.NewFile(uintptr(fd), "vnetd-tftp")
	if err := f.Truncate(recordSize * (1 + maxTransfers)); err != nil {
		return nil, errors.Join(fmt.Errorf("making the book of transfers: %w", err), f.Close())
	}
	b, err := mapBook(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	copy(b.mem, bookHeading)
	return b, nil
}

// copyBook opens f another time, if that is a book.
func copyBook(f *os.File) (*book, error) {
	again, err := duplicate(f)
	if err != nil {
		return nil, err
	}
	info, err := again.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() != recordSize*(1+maxTransfers)) {
		err = errors.New("no book of transfers")
	}
	if err != nil {
		return nil, errors.Join(err, again.Close())
	}
	b, err := mapBook(again)
	if err == nil && string(b.mem[:len(bookHeading)]) != bookHeading {
		err = errors.Join(errors.New("no book of transfers"), unix.Munmap(b.mem))
	}
	if err != nil {
		return nil, errors.Join(err, again.Close())
	}
	return b, nil
}

// mapBook makes f, which is large enough, the book's.
func mapBook(f *os.File) (*book, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	b := &book{file: f}
	ctlErr := conn.Control(func(fd uintptr) {
		b.mem, err = unix.Mmap(int(fd), 0, recordSize*(1+maxTransfers), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	})
	if err = errors.Join(ctlErr, err); err != nil {
		return nil, fmt.Errorf("mapping the book of transfers: %w", err)
	}
	for n := range maxTransfers {
		if b.at(n)[recordUsed] == 0 {
			b.free = append(b.free, n)
		}
	}
	return b, nil
}

// duplicate returns another descriptor of f.
func duplicate(f *os.File) (*os.File, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	ctlErr := conn.Control(func(of uintptr) { fd, err = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(ctlErr, err); err != nil {
		return nil, fmt.Errorf("copying a descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// at is the memory of a record.
func (b *book) at(n int) []byte { return b.mem[recordSize*(1+n):][:recordSize] }

// records are those that a former process has left.
func (b *book) records() (all []record) {
	if b == nil {
		return nil
	}
	for n := range maxTransfers {
		m := b.at(n)
		length := int(binary.LittleEndian.Uint16(m[recordLength:]))
		if m[recordUsed] == 0 || recordRequest+length > recordSize {
			continue
		}
		addr := netip.AddrFrom16([16]byte(m[recordAddr:]))
		if m[recordIPv4] != 0 {
			addr = addr.Unmap()
		}
		r := record{
			number: n, peer: netip.AddrPortFrom(addr, binary.LittleEndian.Uint16(m[recordPeer:])),
			block:   int(binary.LittleEndian.Uint16(m[recordBlock:])),
			first:   binary.LittleEndian.Uint64(m[recordFirst:]),
			version: fileVersion{int64(binary.LittleEndian.Uint64(m[recordSum:])), int64(binary.LittleEndian.Uint64(m[recordTime:]))},
			request: append([]byte(nil), m[recordRequest:][:length]...),
		}
		r.at.port = int(binary.LittleEndian.Uint32(m[recordPort:]))
		copy(r.at.hw[:], m[recordHW:])
		all = append(all, r)
	}
	return all
}

// enter records a transfer that begins, and returns its number; -1 where it can't be
// recorded.
func (b *book) enter(r record) int {
	if b == nil || len(b.free) == 0 || recordRequest+len(r.request) > recordSize {
		return -1
	}
	n := b.free[0]
	b.free = b.free[1:]
	m, addr := b.at(n), r.peer.Addr().As16()
	m[recordIPv4] = 0
	if r.peer.Addr().Is4() {
		m[recordIPv4] = 1
	}
	binary.LittleEndian.PutUint16(m[recordLength:], uint16(len(r.request)))
	binary.LittleEndian.PutUint16(m[recordPeer:], r.peer.Port())
	binary.LittleEndian.PutUint32(m[recordPort:], uint32(r.at.port))
	copy(m[recordHW:], r.at.hw[:])
	binary.LittleEndian.PutUint16(m[recordBlock:], uint16(r.block))
	copy(m[recordAddr:], addr[:])
	binary.LittleEndian.PutUint64(m[recordFirst:], r.first)
	binary.LittleEndian.PutUint64(m[recordSum:], uint64(r.version.size))
	binary.LittleEndian.PutUint64(m[recordTime:], uint64(r.version.changed))
	copy(m[recordRequest:], r.request)
	m[recordUsed] = 1
	return n
}

// acknowledged records that the guest has all blocks before first.
func (b *book) acknowledged(n int, first uint64) {
	if b != nil && n >= 0 {
		binary.LittleEndian.PutUint64(b.at(n)[recordFirst:], first)
	}
}

// strike removes a record.
func (b *book) strike(n int) {
	if b != nil && n >= 0 {
		b.at(n)[recordUsed] = 0
		b.free = append(b.free, n)
	}
}

// copy is another descriptor of the book.
func (b *book) copy() (*os.File, error) { return duplicate(b.file) }

// close gives up the book: what is in it is the next process's, if that has it.
func (b *book) close() error {
	if b == nil {
		return nil
	}
	return errors.Join(unix.Munmap(b.mem), b.file.Close())
}
