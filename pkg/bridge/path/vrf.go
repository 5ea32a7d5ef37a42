package path

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// VRF is a virtual routing and forwarding domain: what its links receive, and what is bound
// to it, goes by a table of its own (Documentation/networking/vrf.rst).
type VRF struct {
	Name  string
	Index int
}

// VRFs lists the VRFs of this host.
func (a *Asker) VRFs() ([]VRF, error) {
	s, err := a.socket.Open()
	if err != nil {
		return nil, err
	}
	kind := netlink.AppendAttribute(nil, unix.IFLA_INFO_KIND, []byte("vrf\x00"))
	info := netlink.AppendAttribute(nil, unix.IFLA_LINKINFO|unix.NLA_F_NESTED, kind)
	bodies, err := s.Dump(netlink.NewMessage(unix.RTM_GETLINK, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, make([]byte, unix.SizeofIfInfomsg), info), unix.RTM_NEWLINK)
	if err != nil {
		return nil, fmt.Errorf("listing the VRFs: %w", err)
	}
	var all []VRF
	for _, b := range bodies {
		if v, ok := parseVRF(b); ok {
			all = append(all, v)
		}
	}
	return all, nil
}

// parseVRF reads the body of an RTM_NEWLINK message. A kernel that does not know the kind
// lists all links.
func parseVRF(b []byte) (v VRF, ok bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return VRF{}, false
	}
	v.Index = int(binary.NativeEndian.Uint32(b[4:]))
	for kind, value := range netlink.Attributes(b[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			v.Name = unix.ByteSliceToString(value)
		case unix.IFLA_LINKINFO:
			for kind, value := range netlink.Attributes(value) {
				ok = ok || kind == unix.IFLA_INFO_KIND && unix.ByteSliceToString(value) == "vrf"
			}
		}
	}
	return v, ok
}
