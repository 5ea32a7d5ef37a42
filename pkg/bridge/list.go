package bridge

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// alias is the attribute that has a link say something of itself.
func alias(text string) *nl.RtAttr { return nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(text)) }

// SetAlias has the link with that index say text of itself. The error is ErrNotFound
// when there is no such link.
func (b *Bridges) SetAlias(index int, text string) error {
	err := b.conn.do(setLink(index, 0, 0, alias(text)))
	if errors.Is(err, unix.ENODEV) {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("setting the alias of link %d: %w", index, err)
	}
	return nil
}

// Aliased lists the links whose alias begins with prefix, of the whole namespace.
func (b *Bridges) Aliased(prefix string) ([]Link, error) {
	links, err := b.conn.links(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(rtextFilterSkipStats)))
	if err != nil {
		return nil, fmt.Errorf("listing the links that say %q of themselves: %w", prefix, err)
	}
	return slices.DeleteFunc(links, func(l Link) bool { return !strings.HasPrefix(l.Alias, prefix) }), nil
}

// Members lists the ports of the bridge with that index.
func (b *Bridges) Members(bridge int) ([]Link, error) {
	// The kernel leaves out what has another master (rtnl_dump_ifinfo), however
	// many links the host has.
	links, err := b.conn.links(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
	if err != nil {
		return nil, fmt.Errorf("listing the ports of bridge %d: %w", bridge, err)
	}
	return slices.DeleteFunc(links, func(l Link) bool { return l.Master != bridge }), nil
}

// links lists the links that the attribute of the request leaves.
func (c *conn) links(filter *nl.RtAttr) ([]Link, error) {
	dump, err := c.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), filter)
	if err != nil {
		return nil, err
	}
	var links []Link
	for _, m := range dump {
		l, err := parseLink(m)
		if err != nil {
			return nil, err
		}
		links = append(links, l.Link)
	}
	return links, nil
}
