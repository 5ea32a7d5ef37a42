package upstream

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// Guests are on bridges. One of them may know what the host asks of a server beyond, and
// answer it first, under the server's address: what comes in by a bridge is an answer only if
// the question went out there, so that the bridge has the address that it came from.

// arrival reads datagrams and finds out by which interface they came in.
type arrival struct {
	conn    *net.UDPConn
	local   netip.Addr
	control []byte
	trusted int // index of the interface by which answers came in before
}

// controlSize is room for the one control message that is asked for.
const controlSize = 64

// newArrival has the kernel say by which interface datagrams come in.
func newArrival(conn *net.UDPConn) (*arrival, error) {
	a := &arrival{conn: conn, local: conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), control: make([]byte, controlSize)}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	level, option := unix.IPPROTO_IP, unix.IP_PKTINFO
	if a.local.Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	}
	if controlErr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }); controlErr != nil {
		return nil, controlErr
	}
	return a, err
}

// read reads a datagram into buf; ok is false for one that may be a guest's.
func (a *arrival) read(buf []byte) (n int, ok bool, err error) {
	n, size, _, _, err := a.conn.ReadMsgUDPAddrPort(buf, a.control)
	if err != nil {
		return 0, false, err
	}
	index := interfaceOf(a.control[:size])
	if index == 0 || index == a.trusted {
		return n, true, nil
	}
	if !a.isExpected(index) {
		return n, false, nil
	}
	a.trusted = index
	return n, true, nil
}

// interfaceOf returns the index of the interface in a control message, 0 if it has none.
func interfaceOf(control []byte) int {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil || len(messages) == 0 {
		return 0
	}
	switch data := messages[0].Data; {
	case messages[0].Header.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		return int(binary.NativeEndian.Uint32(data))
	case messages[0].Header.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		return int(binary.NativeEndian.Uint32(data[16:]))
	}
	return 0
}

// isExpected reports whether answers may come in by an interface: it is no bridge, or has
// the address that the question came from.
func (a *arrival) isExpected(index int) bool {
	link, err := net.InterfaceByIndex(index)
	if err != nil || !isBridge(a.conn, link.Name) {
		return err == nil
	}
	addrs, err := link.Addrs()
	if err != nil {
		return false
	}
	for _, one := range addrs {
		if p, err := netip.ParsePrefix(one.String()); err == nil && p.Addr().Unmap() == a.local.WithZone("") {
			return true
		}
	}
	return false
}

// isBridge reports whether an interface is a bridge.
func isBridge(conn *net.UDPConn, name string) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var driver string
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.IoctlGetEthtoolDrvinfo(int(fd), name); err == nil {
			driver, _, _ = strings.Cut(string(info.Driver[:]), "\x00")
		}
	})
	return driver == "bridge"
}
