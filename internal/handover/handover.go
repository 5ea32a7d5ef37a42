// Package handover recognises, among the sockets that a process has left to the
// next one, those that a server would otherwise bind anew.
package handover

import (
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Socket is what a server's socket is bound to.
type Socket struct {
	Type   int            // unix.SOCK_DGRAM, SOCK_RAW, or SOCK_STREAM of one that listens
	Addr   netip.AddrPort // a zone is the number of an interface
	Device string         // see SO_BINDTODEVICE in socket(7); empty: none
}

// Find returns the first of files that is s, nil if none is. A device that was
// deleted and made anew is another device, whatever its name. The files remain the
// caller's.
func (s Socket) Find(files []*os.File) *os.File {
	if all := s.among(files, s.Type == unix.SOCK_STREAM); len(all) > 0 {
		return all[0]
	}
	return nil
}

// Connections returns those of files that are connections which s, a socket that listens,
// has accepted. The files remain the caller's.
func (s Socket) Connections(files []*os.File) []*os.File { return s.among(files, false) }

// among returns those of files that are bound as s and listen, or do not.
func (s Socket) among(files []*os.File, listens bool) (all []*os.File) {
	for _, f := range files {
		conn, err := f.SyscallConn()
		if err != nil {
			continue
		}
		found := false
		if conn.Control(func(fd uintptr) { found = s.is(int(fd), listens) }) == nil && found {
			all = append(all, f)
		}
	}
	return all
}

// is reports whether fd is such a socket.
func (s Socket) is(fd int, listens bool) bool {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != s.Type {
		return false
	}
	accepts, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || (accepts != 0) != listens {
		return false
	}
	device, err := unix.GetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
	if err != nil || device != s.Device {
		return false // ENODEV: the device is gone
	}
	at, err := unix.Getsockname(fd)
	return err == nil && addrPort(at) == s.Addr
}

// addrPort is the address of an internet socket; of others, none.
func addrPort(at unix.Sockaddr) netip.AddrPort {
	switch at := at.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port))
	case *unix.SockaddrInet6:
		a := netip.AddrFrom16(at.Addr)
		if at.ZoneId != 0 {
			a = a.WithZone(strconv.FormatUint(uint64(at.ZoneId), 10))
		}
		return netip.AddrPortFrom(a, uint16(at.Port))
	}
	return netip.AddrPort{}
}
