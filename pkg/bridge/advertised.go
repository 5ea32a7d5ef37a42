package bridge

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flags of a route (linux/ipv6_route.h, linux/route.h). Netlink neither shows nor
// takes most of them.
const (
	rtfUp       = 0x1
	rtfGateway  = 0x2
	rtfDefault  = 0x10000
	rtfAddrConf = 0x40000
	rtfExpires  = 0x400000
	rtfPref     = 27 // where the router's preference (RFC 4191 section 2.1) begins
)

// Forever is a lifetime that doesn't end (INFINITY_LIFE_TIME of net/addrconf.h).
const Forever = 1<<32 - 1

// AdvertisedRoute is a default route that the kernel made of a router
// advertisement. With each further one it looks for the route by its flags; where
// a route like it is in the way without them, it ignores the advertisement
// (ndisc_router_discovery of net/ipv6/ndisc.c).
type AdvertisedRoute struct {
	Link    string
	Prefix  netip.Prefix
	Gateway netip.Addr
	// For Add alone: metric, the router's preference in its two bits, and seconds
	// until the route expires, or Forever.
	Metric, Preference, Life uint32
}

// AdvertisedRoutes lists them for all links, none on a kernel without IPv6.
// /proc/net would be about the namespace of the process's first thread.
func AdvertisedRoutes() ([]AdvertisedRoute, error) {
	f, err := os.Open("/proc/thread-self/net/ipv6_route")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	all, err := parseAdvertised(f)
	if err != nil {
		return nil, fmt.Errorf("reading IPv6 routes: %w", err)
	}
	return all, nil
}

// parseAdvertised reads /proc/net/ipv6_route: destination, its prefix length,
// source, its prefix length, gateway, metric, two counters, flags (all in
// hexadecimal) and link.
func parseAdvertised(r io.Reader) ([]AdvertisedRoute, error) {
	const wanted = rtfGateway | rtfDefault | rtfAddrConf
	var all []AdvertisedRoute
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 10 {
			return nil, fmt.Errorf("%d fields in a line", len(fields))
		}
		flags, err := strconv.ParseUint(fields[8], 16, 32)
		if err != nil {
			return nil, err
		}
		if flags&wanted != wanted {
			continue
		}
		dst, dstErr := parseHexAddr(fields[0])
		gateway, gwErr := parseHexAddr(fields[4])
		bits, bitsErr := strconv.ParseUint(fields[1], 16, 8)
		if err := errors.Join(dstErr, gwErr, bitsErr); err != nil {
			return nil, err
		}
		all = append(all, AdvertisedRoute{Link: fields[9], Prefix: netip.PrefixFrom(dst, int(bits)), Gateway: gateway})
	}
	return all, lines.Err()
}

// parseHexAddr reads an IPv6 address of 32 hexadecimal digits.
func parseHexAddr(s string) (netip.Addr, error) {
	data, err := hex.DecodeString(s)
	if err != nil || len(data) != 16 {
		return netip.Addr{}, fmt.Errorf("address %q: %w", s, errors.Join(err, errors.ErrUnsupported))
	}
	return netip.AddrFrom16([16]byte(data)), nil
}

// in6Rtmsg is struct in6_rtmsg of linux/ipv6_route.h.
type in6Rtmsg struct {
	dst, src, gateway [16]byte
	kind              uint32
	dstLen, srcLen    uint16
	metric            uint32
	info              uintptr // hundredths of a second until it expires
	flags             uint32
	ifindex           int32
}

// Add adds the default route out of the link with that index in such a way that the
// kernel takes it for its own and renews it. That is an ioctl, which marks it with
// protocol boot instead of ra; netlink doesn't take the flags.
func (r AdvertisedRoute) Add(index int) error {
	msg := in6Rtmsg{metric: r.Metric, ifindex: int32(index)}
	msg.flags = rtfUp | rtfGateway | rtfDefault | rtfAddrConf | r.Preference&3<<rtfPref
	copy(msg.gateway[:], r.Gateway.AsSlice())
	if r.Life != Forever {
		msg.flags |= rtfExpires
		msg.info = uintptr(r.Life) * 100
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCADDRT, uintptr(unsafe.Pointer(&msg)))
	if errno != 0 && errno != unix.EEXIST {
		return errno
	}
	return nil
}
