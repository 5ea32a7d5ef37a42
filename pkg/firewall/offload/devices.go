package offload

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// link is a network device of this host, as far as it matters here.
type link struct {
	name  string
	index int
	// carrier of IP: an Ethernet device that is up and part of no other.
	apart bool
}

// parseLink reads an RTM_NEWLINK; ok is false where it is none.
func parseLink(body []byte) (l link, ok bool) {
	const size = unix.SizeofIfInfomsg
	if len(body) < size {
		return link{}, false
	}
	kind, flags := binary.NativeEndian.Uint16(body[2:]), binary.NativeEndian.Uint32(body[8:])
	l.index = int(int32(binary.NativeEndian.Uint32(body[4:])))
	l.apart = kind == unix.ARPHRD_ETHER && flags&unix.IFF_UP != 0
	for kind, value := range netlink.Attributes(body[size:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(value)
		case unix.IFLA_MASTER:
			l.apart = false
		}
	}
	return l, l.name != "" && len(l.name) < unix.IFNAMSIZ
}

// parseAddr reads of an RTM_NEWADDR on which device an address is that others than
// neighbours know; 0 for none.
func parseAddr(body []byte) (index int) {
	const size = unix.SizeofIfAddrmsg
	if len(body) < size {
		return 0
	}
	for kind, value := range netlink.Attributes(body[size:]) {
		a, ok := netip.AddrFromSlice(value)
		if (kind == unix.IFA_ADDRESS || kind == unix.IFA_LOCAL) && ok && !a.IsLinkLocalUnicast() && !a.IsLoopback() {
			index = int(binary.NativeEndian.Uint32(body[4:]))
		}
	}
	return index
}

// links are the host's devices by name, and those by index that have addresses.
func links(s *netlink.Socket) (all map[string]link, addressed map[int]bool, err error) {
	dump := func(kind uint16, size int) ([][]byte, error) {
		return s.Dump(netlink.NewMessage(kind, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, make([]byte, size)), kind-2) // RTM_GETLINK is answered by RTM_NEWLINK
	}
	bodies, err := dump(unix.RTM_GETLINK, unix.SizeofIfInfomsg)
	if err != nil {
		return nil, nil, err
	}
	all, addressed = map[string]link{}, map[int]bool{}
	for _, body := range bodies {
		if l, ok := parseLink(body); ok {
			all[l.name] = l
		}
	}
	if bodies, err = dump(unix.RTM_GETADDR, unix.SizeofIfAddrmsg); err != nil {
		return nil, nil, err
	}
	for _, body := range bodies {
		addressed[parseAddr(body)] = true
	}
	return all, addressed, nil
}
