package dnsd

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"
)

// Columns of /proc/net/{udp,tcp}[6], see proc_pid_net(5).
const (
	columnLocal = 1
	columnUser  = 7
	columnInode = 9
)

// portOwner names the program that has a socket that keeps us from an address:
// "dnsmasq, pid 812", or, since only root sees the files of others, "a program of
// the user dnsmasq". It returns "" when there is none.
func portOwner(protocol string, at netip.AddrPort) string {
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
			return programOf(column[columnUser], at.Port())
		}
	}
	return ""
}

// isInTheWay reports whether a socket bound to local, as /proc/net prints it,
// has at's port on at's address or on all addresses.
func isInTheWay(local string, at netip.AddrPort) bool {
	host, port, ok := strings.Cut(local, ":")
	if !ok || port != fmt.Sprintf("%04X", at.Port()) {
		return false
	}
	return strings.Trim(host, "0") == "" || host == procAddr(at.Addr())
}

// procAddr returns an address as /proc/net prints it: words of 32 bits in the byte
// order of the machine.
func procAddr(a netip.Addr) string {
	var b strings.Builder
	for raw := a.AsSlice(); len(raw) >= 4; raw = raw[4:] {
		fmt.Fprintf(&b, "%08X", binary.NativeEndian.Uint32(raw))
	}
	return b.String()
}

// programOf describes a program of the user with that number, and how root finds
// out which.
func programOf(uid string, port uint16) string {
	who := "the user " + uid
	if u, err := user.LookupId(uid); err == nil {
		who = "the user " + u.Username
	}
	return fmt.Sprintf("a program of %s: as root, `ss -lnp sport = :%d` names it", who, port)
}

// ownerOf names the process that has a socket, "" if none is found.
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
