package bridge

import (
	"errors"
	"fmt"
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
	ask := message{head: nl.NewIfInfomsg(unix.AF_UNSPEC).Serialize(), attrs: []attr{{unix.IFLA_EXT_MASK, nl.Uint32Attr(rtextFilterSkipStats)}}}
	dump, err := b.conn.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, rawHead(ask.bytes()))
	if err != nil {
		return nil, fmt.Errorf("listing the links that say %q of themselves: %w", prefix, err)
	}
	var links []Link
	for _, m := range dump {
		l, err := parseLink(m)
		if err != nil {
			return nil, fmt.Errorf("listing the links that say %q of themselves: %w", prefix, err)
		}
		if strings.HasPrefix(l.Alias, prefix) {
			links = append(links, l.Link)
		}
	}
	return links, nil
}
