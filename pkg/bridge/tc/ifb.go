package tc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// ifbName is the name of the IFB device through which what comes in from the device with
// that ifindex goes.
func ifbName(of int) string { return ifbPrefix + strconv.Itoa(of) }

const ifbPrefix = "ifb-"

// ifbMark is the ifalias of IFB devices of ours, by which they are known.
const ifbMark = "vnetd bandwidth of device "

// link is a message about the link with that name.
func link(kind, flags uint16, up uint32, name string, attributes []byte) []byte {
	head := make([]byte, 8, unix.SizeofIfInfomsg)
	head = binary.NativeEndian.AppendUint32(head, up) // flags, and
	head = binary.NativeEndian.AppendUint32(head, up) // which of them change
	return netlink.NewMessage(kind, unix.NLM_F_REQUEST|flags, head, text(nil, unix.IFLA_IFNAME, name), attributes)
}

// newIFB are the messages that make the IFB device of a device, and set it up.
func newIFB(of int) [][]byte {
	info := nested(nil, unix.IFLA_LINKINFO, text(nil, unix.IFLA_INFO_KIND, "ifb"))
	mark := netlink.AppendAttribute(nil, unix.IFLA_IFALIAS, []byte(ifbMark+strconv.Itoa(of)))
	return [][]byte{
		link(unix.RTM_NEWLINK, anew, 0, ifbName(of), info),
		link(unix.RTM_NEWLINK, 0, unix.IFF_UP, ifbName(of), mark),
	}
}

func deleteIFB(of int) []byte { return link(unix.RTM_DELLINK, 0, 0, ifbName(of), nil) }

// ifb is an IFB device.
type ifb struct {
	index int // 0 where there is none
	up    bool
	of    int // the device that its mark names, 0 for none
}

// parseLink reads an answer about a link, of whatever kind.
func parseLink(body []byte) (l ifb, name string, err error) {
	if len(body) < unix.SizeofIfInfomsg {
		return ifb{}, "", errors.New("short answer about a link")
	}
	l.index = int(binary.NativeEndian.Uint32(body[4:]))
	l.up = binary.NativeEndian.Uint32(body[8:])&unix.IFF_UP != 0
	for kind, value := range netlink.Attributes(body[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			name = unix.ByteSliceToString(value)
		case unix.IFLA_IFALIAS:
			if of, ok := strings.CutPrefix(unix.ByteSliceToString(value), ifbMark); ok {
				l.of, _ = strconv.Atoi(of)
			}
		}
	}
	return l, name, nil
}

// lookIFB looks for the IFB device of a device. The error is that of a link that has its
// name and is none of ours.
func (s *Shaper) lookIFB(of int) (ifb, error) {
	body, err := s.route.Get(link(unix.RTM_GETLINK, 0, 0, ifbName(of), nil), unix.RTM_NEWLINK)
	if errors.Is(err, unix.ENODEV) {
		return ifb{}, nil
	}
	if err != nil {
		return ifb{}, fmt.Errorf("looking up link %q: %w", ifbName(of), err)
	}
	l, _, err := parseLink(body)
	if err == nil && l.of != of {
		err = fmt.Errorf("link %q is somebody else's: its name is needed for an IFB device", ifbName(of))
	}
	return l, err
}

// left lists the devices of which there are IFB devices or chains, and whether each is
// still there.
func (s *Shaper) left() (map[int]bool, error) {
	head := make([]byte, unix.SizeofIfInfomsg)
	dump, err := s.route.Dump(netlink.NewMessage(unix.RTM_GETLINK, unix.NLM_F_REQUEST, head), unix.RTM_NEWLINK)
	if err != nil {
		return nil, fmt.Errorf("listing links: %w", err)
	}
	left, all := make(map[int]bool), make(map[int]bool)
	for _, body := range dump {
		l, name, err := parseLink(body)
		if err != nil {
			return nil, err
		}
		all[l.index] = true
		if l.of != 0 && name == ifbName(l.of) {
			left[l.of] = false
		}
	}
	if s.netfilter != nil {
		dump, err := s.netfilter.Dump(dumpChains(), unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWCHAIN)
		if err != nil {
			return nil, fmt.Errorf("listing chains: %w", err)
		}
		for _, body := range dump {
			if of, ok := parseChain(body); ok {
				left[of] = false
			}
		}
	}
	for of := range left {
		left[of] = all[of]
	}
	return left, nil
}
