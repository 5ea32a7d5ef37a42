package bridge

import (
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Members lists the ports of the bridge with that index.
func (b *Bridges) Members(bridge int) ([]Link, error) {
	// The kernel leaves out what has another master (rtnl_dump_ifinfo), however
	// many links the host has.
	ask := message{head: nl.NewIfInfomsg(unix.AF_UNSPEC).Serialize(), attrs: []attr{{unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))}}}
	dump, err := b.conn.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, rawHead(ask.bytes()))
	if err != nil {
		return nil, fmt.Errorf("listing the ports of bridge %d: %w", bridge, err)
	}
	var members []Link
	for _, m := range dump {
		l, err := parseLink(m)
		if err != nil {
			return nil, fmt.Errorf("listing the ports of bridge %d: %w", bridge, err)
		}
		if l.Master == bridge {
			members = append(members, l.Link)
		}
	}
	return members, nil
}
