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
)

// Flags of a route (linux/ipv6_route.h, linux/route.h). Netlink shows hardly one
// of them.
const (
	rtfGateway  = 0x2
	rtfDefault  = 0x10000
	rtfAddrConf = 0x40000
)

// AdvertisedRoute is a default route that the kernel made of a router
// advertisement. With each further one it looks for the route by its flags; where
// a route like it is in the way without them, it ignores the advertisement
// (ndisc_router_discovery of net/ipv6/ndisc.c).
type AdvertisedRoute struct {
	Link    string
	Prefix  netip.Prefix
	Gateway netip.Addr
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
		all = append(all, AdvertisedRoute{fields[9], netip.PrefixFrom(dst, int(bits)), gateway})
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
