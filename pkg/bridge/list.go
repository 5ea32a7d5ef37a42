package bridge

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

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

// Members lists the ports of the bridge with that index, by index.
func (b *Bridges) Members(bridge int) ([]Link, error) {
	links, err := membersOf(b.conn, bridge)
	if err != nil {
		return nil, fmt.Errorf("listing the ports of bridge %d: %w", bridge, err)
	}
	links = slices.DeleteFunc(links, func(l Link) bool { return l.Master != bridge })
	slices.SortFunc(links, func(a, b Link) int { return cmp.Compare(a.Index, b.Index) })
	return links, nil
}

// membersOf lists the ports of a bridge, maybe among others.
func membersOf(c *conn, bridge int) (all []Link, err error) {
	l, err := c.byIndex(bridge)
	if errors.Is(err, ErrNotFound) || err == nil && l.Kind != "bridge" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ports, err := portsOf(c, l.Name)
	if err != nil { // the bridge has another name now, or an old kernel does not take the question from a 32-bit program
		// The kernel leaves out what has another master (rtnl_dump_ifinfo), but looks at all links
		// of the host for it.
		return c.links(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
	}
	for _, index := range ports {
		l, err := c.byIndex(index)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, l.Link)
	}
	return all, nil
}

// What asks a bridge for its ports (linux/if_bridge.h).
const (
	getPortList = 7    // BRCTL_GET_PORT_LIST
	mostPorts   = 1024 // BR_MAX_PORTS
)

// portsOf are the ifindexes of the ports of the bridge of that name, by a question that does not have
// the kernel look at every link of the host. To links of other kinds it is another question, of which
// some write what they know to where it points: hence the room there.
func portsOf(c *conn, name string) (ports []int, err error) {
	indexes := make([]int32, mostPorts) // by the number of the port
	args := make([]uintptr, 64)
	var pinned runtime.Pinner
	defer pinned.Unpin()
	pinned.Pin(&indexes[0])
	pinned.Pin(&args[0])
	args[0], args[1], args[2] = getPortList, uintptr(unsafe.Pointer(&indexes[0])), mostPorts
	var request struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:len(request.name)-1], name)
	request.data = unsafe.Pointer(&args[0])
	err = c.Control(func(fd int) error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCDEVPRIVATE, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return errno
		}
		return nil
	})
	for _, index := range indexes {
		if index != 0 {
			ports = append(ports, int(index))
		}
	}
	return ports, err
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
