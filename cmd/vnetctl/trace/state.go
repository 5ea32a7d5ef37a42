package trace

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// link is what sysfs says of a link.
type link struct {
	name     string
	index    int
	there    bool
	up       bool // IFF_UP
	carrier  bool
	mtu      int // bytes
	bridge   string
	state    string // of the bridge port: forwarding, blocking, …; empty for none
	isolated bool
}

// portStates are the names of a bridge port's states (linux/if_bridge.h).
var portStates = []string{"disabled", "listening", "learning", "forwarding", "blocking"}

// readLink reads a link's state.
func readLink(name string) link {
	l := link{name: name}
	found, err := net.InterfaceByName(name)
	if err != nil {
		return l
	}
	l.there, l.index, l.mtu = true, found.Index, found.MTU
	l.up = found.Flags&net.FlagUp != 0
	l.carrier = sysfs(name, "carrier") == "1"
	if master, err := os.Readlink(filepath.Join(sysClassNet, name, "master")); err == nil {
		l.bridge = filepath.Base(master)
	}
	if state, err := strconv.Atoi(sysfs(name, "brport/state")); err == nil && state < len(portStates) {
		l.state = portStates[state]
	}
	l.isolated = sysfs(name, "brport/isolated") == "1"
	return l
}

// otherEnd is the other end of a veth, if that is on this host.
func (l link) otherEnd() link {
	index, _ := strconv.Atoi(sysfs(l.name, "iflink"))
	found, err := net.InterfaceByIndex(index)
	if err != nil || index == l.index || sysfs(found.Name, "iflink") != strconv.Itoa(l.index) {
		return link{}
	}
	return readLink(found.Name)
}

// has reports whether an address of this host's is on the link.
func (l link) has(a netip.Addr) bool {
	found, err := net.InterfaceByIndex(l.index)
	if err != nil {
		return false
	}
	all, _ := found.Addrs()
	return slices.ContainsFunc(all, func(of net.Addr) bool {
		p, err := netip.ParsePrefix(of.String())
		return err == nil && p.Addr() == a
	})
}

const sysClassNet = "/sys/class/net"

// sysfs reads a file of a link, empty where there is none.
func sysfs(link, name string) string {
	b, err := os.ReadFile(filepath.Join(sysClassNet, link, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// sysctl reads a number of /proc/sys/net, and whether there is one.
func sysctl(name string) (int, bool) {
	b, err := os.ReadFile(filepath.Join("/proc/sys/net", name))
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	return n, err == nil
}

// counters are the kernel's counts of what was dropped, by name.
type counters map[string]uint64

// The names of counters.
const (
	countReverse   = "IPReversePathFilter" // TcpExt
	countHeader    = "InHdrErrors"         // Ip, Ip6: TTL among them
	countFragment  = "FragFails"           // Ip
	countTooBig    = "InTooBigErrors"      // Ip6
	countTracking  = "conntrack drop"
	countQueueMark = "queue "
)

// readCounters reads the counters, with those of the links' queues.
func readCounters(links []string) counters {
	c := make(counters)
	for _, name := range []string{"snmp", "netstat"} {
		c.addPairs(readFile("/proc/self/net/" + name))
	}
	for line := range strings.Lines(readFile("/proc/self/net/snmp6")) {
		if fields := strings.Fields(line); len(fields) == 2 {
			c.add(strings.TrimPrefix(fields[0], "Ip6"), fields[1], 10)
		}
	}
	c.addTracking(readFile("/proc/self/net/stat/nf_conntrack"))
	for _, name := range links {
		c.add(countQueueMark+name, sysfs(name, "statistics/tx_dropped"), 10)
	}
	for index, drops := range queueDrops() {
		for _, name := range links {
			if l, err := net.InterfaceByName(name); err == nil && l.Index == index {
				c[countQueueMark+name] += drops
			}
		}
	}
	return c
}

func readFile(name string) string {
	b, _ := os.ReadFile(name)
	return string(b)
}

// add adds a number in text.
func (c counters) add(name, text string, base int) {
	if n, err := strconv.ParseUint(text, base, 64); err == nil {
		c[name] += n
	}
}

// addPairs reads lines in pairs, of names and of values (proc_net(5)).
func (c counters) addPairs(text string) {
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j := 1; j < min(len(names), len(values)); j++ {
			c.add(names[j], values[j], 10)
		}
	}
}

// addTracking reads connection tracking's statistics: a line of names, and of hex
// numbers for each processor.
func (c counters) addTracking(text string) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	names := strings.Fields(lines[0])
	for _, line := range lines[1:] {
		for i, value := range strings.Fields(line) {
			if i < len(names) && names[i] == "drop" {
				c.add(countTracking, value, 16)
			}
		}
	}
}

// since is how much more there is than before.
func (c counters) since(before counters) counters {
	more := make(counters)
	for name, n := range c {
		if n > before[name] {
			more[name] = n - before[name]
		}
	}
	return more
}

// routing asks rtnetlink for objects.
func routing(kind, answer uint16, head []byte, attributes ...[]byte) [][]byte {
	s, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return nil
	}
	defer func() { _ = s.Close() }()
	body := [][]byte{head}
	bodies, err := s.Dump(netlink.NewMessage(kind, unix.NLM_F_REQUEST, append(body, attributes...)...), answer)
	if err != nil {
		return nil
	}
	return bodies
}

// queueDrops returns what the root queues of links dropped, by ifindex.
func queueDrops() map[int]uint64 {
	const (
		tcmsg, stats2, statsQueue = 20, 7, 3 // struct tcmsg, TCA_STATS2, TCA_STATS_QUEUE
		root                      = 0xffffffff
	)
	all := make(map[int]uint64)
	for _, body := range routing(unix.RTM_GETQDISC, unix.RTM_NEWQDISC, make([]byte, tcmsg)) {
		if len(body) < tcmsg || binary.NativeEndian.Uint32(body[12:]) != root {
			continue
		}
		index := int(binary.NativeEndian.Uint32(body[4:]))
		for kind, value := range netlink.Attributes(body[tcmsg:]) {
			if kind != stats2 {
				continue
			}
			for kind, value := range netlink.Attributes(value) {
				if kind == statsQueue && len(value) >= 12 { // struct gnet_stats_queue: qlen, backlog, drops
					all[index] += uint64(binary.NativeEndian.Uint32(value[8:]))
				}
			}
		}
	}
	return all
}

// vlans are the VLANs of a bridge port or a bridge.
type vlans struct {
	pvid int // of frames without a tag, 0 for none
	all  map[int]bool
}

// readVLANs returns the VLANs by ifindex, or nil if the bridge does not filter by them.
func readVLANs(bridge string) map[int]vlans {
	const (
		extMask, wantVLANs = 29, 2 // IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN
		vlanInfo, isPVID   = 2, 2  // IFLA_BRIDGE_VLAN_INFO, BRIDGE_VLAN_INFO_PVID
	)
	if sysfs(bridge, "bridge/vlan_filtering") != "1" {
		return nil
	}
	head := make([]byte, unix.SizeofIfInfomsg)
	head[0] = unix.AF_BRIDGE
	tables := make(map[int]vlans)
	for _, body := range routing(unix.RTM_GETLINK, unix.RTM_NEWLINK, head, netlink.AppendAttribute(nil, extMask, netlink.Uint32(wantVLANs))) {
		if len(body) < unix.SizeofIfInfomsg {
			continue
		}
		v := vlans{all: make(map[int]bool)}
		for kind, value := range netlink.Attributes(body[unix.SizeofIfInfomsg:]) {
			if kind != unix.IFLA_AF_SPEC {
				continue
			}
			for kind, info := range netlink.Attributes(value) {
				if kind != vlanInfo || len(info) < 4 {
					continue
				}
				vid := int(binary.NativeEndian.Uint16(info[2:]))
				v.all[vid] = true
				if binary.NativeEndian.Uint16(info)&isPVID != 0 {
					v.pvid = vid
				}
			}
		}
		tables[int(binary.NativeEndian.Uint32(body[4:]))] = v
	}
	return tables
}

// neighbour is the state of an address in the table of neighbours, or "" if it is not there.
func neighbour(index int, addr netip.Addr) string {
	const ndmsg = 12
	states := map[uint16]string{0x01: "incomplete", 0x02: "reachable", 0x04: "stale", 0x08: "delay", 0x10: "probe", 0x20: "failed", 0x40: "noarp", 0x80: "permanent"}
	for _, body := range routing(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, make([]byte, ndmsg)) {
		if len(body) < ndmsg || int(binary.NativeEndian.Uint32(body[4:])) != index {
			continue
		}
		for kind, value := range netlink.Attributes(body[ndmsg:]) {
			if kind == unix.NDA_DST && bytes.Equal(value, addr.AsSlice()) {
				return states[binary.NativeEndian.Uint16(body[8:])]
			}
		}
	}
	return ""
}

// portOf returns the link behind which a bridge has learned a card (struct __fdb_entry of
// linux/if_bridge.h), or "".
func portOf(bridge string, mac net.HardwareAddr) string {
	const size = 16
	table, _ := os.ReadFile(filepath.Join(sysClassNet, bridge, "brforward"))
	for ; len(table) >= size; table = table[size:] {
		if bytes.Equal(table[:6], mac) && table[7] == 0 { // not the bridge's own
			return portNumbered(bridge, int(table[6])|int(table[12])<<8)
		}
	}
	return ""
}

// portNumbered returns the link that is a bridge's port of a number.
func portNumbered(bridge string, number int) string {
	ports, _ := os.ReadDir(filepath.Join(sysClassNet, bridge, "brif"))
	for _, p := range ports {
		if n, err := strconv.ParseInt(sysfs(p.Name(), "brport/port_no"), 0, 32); err == nil && int(n) == number {
			return p.Name()
		}
	}
	return ""
}

// trackingFull reports whether connection tracking has as many connections as it may,
// and how many.
func trackingFull() (full bool, text string) {
	count, there := sysctl("netfilter/nf_conntrack_count")
	most, limited := sysctl("netfilter/nf_conntrack_max")
	if !there || !limited {
		return false, ""
	}
	return count >= most, fmt.Sprintf("%d connections of at most %d", count, most)
}
