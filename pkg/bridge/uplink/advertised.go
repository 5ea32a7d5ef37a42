package uplink

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flags of a route (linux/ipv6_route.h, linux/route.h). Netlink takes hardly one of
// them.
const (
	rtfUp       = 0x1
	rtfGateway  = 0x2
	rtfDefault  = 0x10000
	rtfAddrConf = 0x40000
	rtfExpires  = 0x400000
	rtfPref     = 27 // where the router's preference (RFC 4191 section 2.1) begins
)

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

// addAdvertised adds a route that a router advertised in such a way that the
// kernel takes it for its own and renews it. That is an ioctl, which marks it with
// protocol boot instead of ra; netlink doesn't take the flags.
func addAdvertised(r route, index int) error {
	msg := in6Rtmsg{metric: r.u32(unix.RTA_PRIORITY), ifindex: int32(index)}
	msg.flags = rtfUp | rtfGateway | rtfDefault | rtfAddrConf
	if pref := r.get(unix.RTA_PREF); len(pref) == 1 {
		msg.flags |= uint32(pref[0]&3) << rtfPref
	}
	copy(msg.gateway[:], r.get(unix.RTA_GATEWAY))
	if r.life != forever {
		msg.flags |= rtfExpires
		msg.info = uintptr(r.life) * 100
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
