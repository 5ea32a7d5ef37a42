package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// SkipStats of an IFLA_EXT_MASK leaves the counters, half of what describes a link, out of an answer
// (RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h).
const SkipStats = 1 << 3

// LinkHeader is a struct ifinfomsg of the link with that ifindex, 0 for a link that an attribute
// names.
func LinkHeader(index int) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	return b
}

// LinkByName returns the body of the RTM_NEWLINK that describes a link of any kind, without its
// counters; nil where there is none.
func (s *Socket) LinkByName(name string) ([]byte, error) {
	return s.link(LinkHeader(0), AppendAttribute(nil, unix.IFLA_IFNAME, []byte(name+"\x00")))
}

// LinkByIndex is LinkByName by the ifindex.
func (s *Socket) LinkByIndex(index int) ([]byte, error) { return s.link(LinkHeader(index), nil) }

func (s *Socket) link(head, name []byte) ([]byte, error) {
	mask := AppendAttribute(nil, unix.IFLA_EXT_MASK, Uint32(SkipStats))
	body, err := s.Get(NewMessage(unix.RTM_GETLINK, unix.NLM_F_REQUEST, head, name, mask), unix.RTM_NEWLINK)
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("looking up a link: %w", err)
	}
	return body, nil
}

// RemoveLink deletes a link. One that is gone, and the ifindex 0, are success.
func (s *Socket) RemoveLink(index int) error {
	if index == 0 {
		return nil
	}
	err := errors.Join(s.Do(NewMessage(unix.RTM_DELLINK, unix.NLM_F_REQUEST, LinkHeader(index)))...)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}
