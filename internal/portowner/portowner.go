// Package portowner tells which program has a port of this host.
package portowner

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// Columns of /proc/net/{udp,tcp}[6], see proc_pid_net(5).
const (
	columnLocal = 1
	columnState = 3
	columnUser  = 7
	columnInode = 9
)

// waiting is the state of a socket that takes what anybody sends to its port, by
// protocol: TCP_LISTEN and TCP_CLOSE of linux/net/tcp_states.h.
var waiting = map[string]string{"tcp": "0A", "udp": "07"}

// Of names the program that has a socket that keeps us from an address:
// "dnsmasq, pid 812", or, since only root sees the files of others, "a program of
// the user dnsmasq". It returns "" when there is none.
func Of(protocol string, at netip.AddrPort) string {
	who, _ := find(protocol, func(column []string) bool { return isInTheWay(column[columnLocal], at) })
	return who
}

// Listener names the program that takes what is sent to one of some ports of this host, as
// Of does, and tells at which address and port it does. at is the one address that
// matters; invalid: all of a family, or of both. It is false where there is none.
func Listener(protocol string, at netip.Addr, first, last uint16) (who string, where netip.AddrPort, found bool) {
	who, local := find(protocol, func(column []string) bool {
		if column[columnState] != waiting[protocol] {
			return false
		}
		is, ok := parseLocal(column[columnLocal])
		return ok && is.Port() >= first && is.Port() <= last &&
			(!at.IsValid() || at == is.Addr() || is.Addr().IsUnspecified() && (is.Addr().Is6() || at.Is4()) || at.IsUnspecified() && at.Is4() == is.Addr().Is4())
	})
	where, found = parseLocal(local)
	return who, where, found
}

// find names the program with the first socket that matches, and the socket's local
// address as the file has it; "" where there is none.
func find(protocol string, matches func(column []string) bool) (who, local string) {
	for _, file := range []string{protocol, protocol + "6"} {
		table, err := os.ReadFile("/proc/self/net/" + file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(table)) {
			column := strings.Fields(line)
			if len(column) <= columnInode || !strings.Contains(column[columnLocal], ":") || !matches(column) {
				continue
			}
			local = column[columnLocal]
			if who := ownerOf(column[columnInode]); who != "" {
				return who, local
			}
			at, _ := parseLocal(local)
			return programOf(column[columnUser], at.Port()), local
		}
	}
	return "", ""
}

// parseLocal reads an address and a port as /proc/net prints them. One of IPv4 in IPv6
// is that of IPv4.
func parseLocal(local string) (at netip.AddrPort, ok bool) {
	host, port, _ := strings.Cut(local, ":")
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return at, false
	}
	raw := make([]byte, 0, 16)
	for ; len(host) >= 8; host = host[8:] {
		word, err := strconv.ParseUint(host[:8], 16, 32)
		if err != nil {
			return at, false
		}
		raw = binary.NativeEndian.AppendUint32(raw, uint32(word))
	}
	a, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(number)), ok
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
