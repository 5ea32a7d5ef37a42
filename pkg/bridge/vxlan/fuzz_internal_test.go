package vxlan

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// FuzzParse reads what the kernel says of links, entries and addresses.
func FuzzParse(f *testing.F) {
	neigh := make([]byte, unix.SizeofNdMsg)
	neigh[0], neigh[10] = unix.AF_BRIDGE, unix.NTF_SELF
	binary.NativeEndian.PutUint32(neigh[4:], 7)
	neigh = netlink.AppendAttribute(neigh, unix.NDA_LLADDR, make([]byte, 6))
	f.Add(netlink.AppendAttribute(neigh, unix.NDA_DST, []byte{203, 0, 113, 2}))
	f.Add(netlink.AppendAttribute(netlink.LinkHeader(7), unix.IFLA_LINKINFO, []byte("\x0a\x00\x01\x00vxlan\x00\x00\x00\x0c\x00\x02\x00\x08\x00\x01\x00\x07\x00\x00\x00")))
	f.Add(netlink.AppendAttribute(make([]byte, unix.SizeofIfAddrmsg), unix.IFA_LOCAL, []byte{203, 0, 113, 1}))
	f.Fuzz(func(t *testing.T, body []byte) {
		if e, ok := parseEntry(body, 7); ok && !e.bridge && !e.peer.IsValid() {
			t.Errorf("an entry that leads nowhere: %+v", e)
		}
		if d := parseDevice(body); d.kind != Kind && d.vni != 0 {
			t.Errorf("a VNI of a link of kind %q", d.kind)
		}
		_, _ = parseAddress(body)
	})
}
