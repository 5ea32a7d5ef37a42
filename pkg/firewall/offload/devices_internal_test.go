package offload

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// linkBody is the body of an RTM_NEWLINK.
func linkBody(kind uint16, flags uint32, attributes ...[]byte) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint16(b[2:], kind)
	binary.NativeEndian.PutUint32(b[4:], 7)
	binary.NativeEndian.PutUint32(b[8:], flags)
	b = netlink.AppendAttribute(b, unix.IFLA_IFNAME, []byte("eno1\x00"))
	for _, a := range attributes {
		b = append(b, a...)
	}
	return b
}

// addrBody is the body of an RTM_NEWADDR.
func addrBody(a string) []byte {
	b := make([]byte, unix.SizeofIfAddrmsg)
	binary.NativeEndian.PutUint32(b[4:], 7)
	return netlink.AppendAttribute(b, unix.IFA_ADDRESS, netip.MustParseAddr(a).AsSlice())
}

// TestDevicesThatLeadElsewhere tells which devices may be in the flowtable.
func TestDevicesThatLeadElsewhere(t *testing.T) {
	master := netlink.AppendAttribute(nil, unix.IFLA_MASTER, netlink.Uint32(3))
	for _, tt := range []struct {
		what string
		body []byte
		want bool
	}{
		{"an Ethernet device", linkBody(unix.ARPHRD_ETHER, unix.IFF_UP), true},
		{"one that is down", linkBody(unix.ARPHRD_ETHER, 0), false},
		{"one in a bridge", linkBody(unix.ARPHRD_ETHER, unix.IFF_UP, master), false},
		{"a tunnel", linkBody(unix.ARPHRD_NONE, unix.IFF_UP), false},
	} {
		if l, ok := parseLink(tt.body); !ok || l.name != "eno1" || l.index != 7 || l.apart != tt.want {
			t.Errorf("%s is read %+v, %v", tt.what, l, ok)
		}
	}
	for address, want := range map[string]int{"192.0.2.1": 7, "2001:db8::1": 7, "fe80::1": 0, "169.254.1.1": 0, "127.0.0.1": 0, "::1": 0} {
		if got := parseAddr(addrBody(address)); got != want {
			t.Errorf("with %s the index is %d, want %d", address, got, want)
		}
	}
}

// FuzzDevices reads what the kernel might say.
func FuzzDevices(f *testing.F) {
	f.Add(linkBody(unix.ARPHRD_ETHER, unix.IFF_UP))
	f.Add(addrBody("192.0.2.1"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if l, ok := parseLink(body); ok && (l.name == "" || len(elements([]string{l.name})[0].Key) != nameSize) {
			t.Errorf("a device without a name that can be: %+v", l)
		}
		parseAddr(body)
	})
}
