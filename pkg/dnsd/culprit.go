package dnsd

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Columns of /proc/net/{udp,tcp}[6], see proc_pid_net(5).
const (
	columnLocal = 1
	columnInode = 9
)

// findListener says who has a socket that keeps us from an address:
// "dnsmasq, pid 812". It returns "" when it can't tell.
func findListener(protocol string, at netip.AddrPort) string {
	for _, file := range []string{protocol, protocol + "6"} {
		table, err := os.ReadFile("/proc/self/net/" + file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(table)) {
			column := strings.Fields(line)
			if len(column) <= columnInode || !isInTheWay(column[columnLocal], at) {
				continue
			}
			if who := ownerOf(column[columnInode]); who != "" {
				return who
			}
		}
	}
	return ""
}

// isInTheWay tells whether a socket bound to local, as /proc/net prints it,
// has at's port on at's address or on all addresses.
func isInTheWay(local string, at netip.AddrPort) bool {
	host, port, ok := strings.Cut(local, ":")
	if !ok || port != fmt.Sprintf("%04X", at.Port()) {
		return false
	}
	return strings.Trim(host, "0") == "" || host == procAddr(at.Addr())
}

// procAddr is an address as /proc/net prints it: words of 32 bits in the byte
// order of the machine.
func procAddr(a netip.Addr) string {
	var b strings.Builder
	for raw := a.AsSlice(); len(raw) >= 4; raw = raw[4:] {
		fmt.Fprintf(&b, "%08X", binary.NativeEndian.Uint32(raw))
	}
	return b.String()
}

// ownerOf is the process that has a socket, "" if none is found.
func ownerOf(inode string) string {
	fds, err := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	if err != nil {
		return ""
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err != nil || target != "socket:["+inode+"]" {
			continue
		}
		process := filepath.Dir(filepath.Dir(fd))
		name, err := os.ReadFile(filepath.Join(process, "comm"))
		if err != nil {
			return ""
		}
		return fmt.Sprintf("%s, pid %s", strings.TrimSpace(string(name)), filepath.Base(process))
	}
	return ""
}
