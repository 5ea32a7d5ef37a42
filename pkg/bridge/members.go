package bridge

import (
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Members lists the ports of the bridge with that index.
func (b *Bridges) Members(bridge int) ([]Link, error) {
	dump, err := b.conn.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_UNSPEC))
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
