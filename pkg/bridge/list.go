package bridge

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
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
	links, err := b.conn.links(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(netlink.SkipStats)))
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

// Counters are what the kernel counts of a link, from the host's point of view:
// what the host received over a TAP device is what its guest sent.
type Counters struct {
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Swapped is c as the other end of the link counts.
func (c Counters) Swapped() Counters {
	return Counters{
		RxBytes: c.TxBytes, RxPackets: c.TxPackets, RxErrors: c.TxErrors, RxDropped: c.TxDropped,
		TxBytes: c.RxBytes, TxPackets: c.RxPackets, TxErrors: c.RxErrors, TxDropped: c.RxDropped,
	}
}

// Counters reads the counters of all links, by name, in one go. A link that comes
// or goes meanwhile may be missing.
func (b *Bridges) Counters() (map[string]Counters, error) {
	text, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		return nil, fmt.Errorf("reading the counters of links: %w", err)
	}
	return parseCounters(string(text)), nil
}

// parseCounters reads /proc/net/dev: two lines of header, then for each link its
// name, a colon, eight counters of what was received and eight of what was sent.
// (proc_pid_net(5))
func parseCounters(text string) map[string]Counters {
	all := make(map[string]Counters)
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		var n [16]uint64
		fields := strings.Fields(rest)
		if !ok || len(fields) < len(n) {
			continue
		}
		for i := range n {
			n[i], _ = strconv.ParseUint(fields[i], 10, 64)
		}
		all[strings.TrimSpace(name)] = Counters{
			RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3],
			TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11],
		}
	}
	return all
}
