package hostlink

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// Priorities of rules of routing, the last before the main table.
const (
	firstPriority = 32700 + iota // what has the host's own address there
	otherPriority                // what has another one, or is the kernel's, goes on by the main table
	lastPriority                 // what has none yet
)

// rule is a rule of routing for what this host sends itself to a subnet.
type rule struct {
	priority uint32
	from, to netip.Prefix // from is invalid for what has any address or none
	table    uint32
	icmp     [2]uint16 // messages of ICMP from one to another, as types and codes; zero: any packet
}

func (r *rule) String() string {
	from := "all"
	if r.from.IsValid() {
		from = r.from.String()
	}
	text := fmt.Sprintf("from %s to %v iif lo", from, r.to)
	if r.icmp != [2]uint16{} {
		text += fmt.Sprintf(" icmp types %d to %d", r.icmp[0]>>8, r.icmp[1]>>8)
	}
	return fmt.Sprintf("%s lookup %d", text, r.table)
}

// errors4 and errors6 are the types of messages of ICMP that tell of errors (RFC 792, RFC 4443 section
// 2.1): of those the kernel chooses the source as it does for programs that leave that to it. Rules of
// routing know types of ICMP as ports.
var (
	errors4 = [][2]uint16{{3 << 8, 5<<8 | 0xff}, {11 << 8, 12<<8 | 0xff}}
	errors6 = [][2]uint16{{1 << 8, 127<<8 | 0xff}}
)

// rules are those of a way. In IPv4 what has no source yet can be told from what has; in IPv6 what has
// one is led elsewhere before.
func (c *Config) rules(w *Way) (all []rule) {
	to := w.Subnet.Masked()
	all = append(all, rule{priority: firstPriority, from: host(w.Addr), to: to, table: c.Table})
	last := rule{priority: lastPriority, to: to, table: c.Table}
	other := rule{priority: otherPriority, to: to, table: unix.RT_TABLE_MAIN}
	kinds := errors6
	if w.Addr.Is4() {
		kinds = errors4
		last.from = host(netip.IPv4Unspecified())
		other.from = last.from
	} else {
		for _, half := range []string{"::/1", "8000::/1"} {
			chosen := other
			chosen.from = netip.MustParsePrefix(half)
			all = append(all, chosen)
		}
	}
	for _, other.icmp = range kinds {
		all = append(all, other)
	}
	return append(all, last)
}

// ruleChanges have the rules of c be there, and no others of its table. Those that lead elsewhere are known
// by the subnets of those that lead to the table: they go first, and come before the last.
func (c *Config) ruleChanges(s *netlink.Socket) (changes []change, err error) {
	var wanted, has []rule
	for i := range c.Ways {
		wanted = append(wanted, c.rules(&c.Ways[i])...)
	}
	for _, f := range []byte{unix.AF_INET, unix.AF_INET6} {
		if !c.settled(f) {
			continue
		}
		some, err := c.own(s, f, wanted)
		if err != nil {
			return nil, err
		}
		has = append(has, some...)
	}
	elsewhere := func(r *rule) bool { return r.table != c.Table }
	for _, first := range []bool{true, false} {
		for _, r := range has {
			if elsewhere(&r) == first && !slices.Contains(wanted, r) {
				changes = append(changes, c.ruleChange(r.String(), "", r.message(unix.RTM_DELRULE, 0)))
			}
		}
	}
	for _, r := range wanted {
		if !slices.Contains(has, r) {
			changes = append(changes, c.ruleChange("", r.String(), r.message(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)))
		}
	}
	return changes, nil
}

// own lists the rules of a family that are c's.
func (c *Config) own(s *netlink.Socket, f byte, wanted []rule) (own []rule, err error) {
	head := make([]byte, unix.SizeofRtMsg) // struct fib_rule_hdr has the same size
	head[0] = f
	bodies, err := s.Dump(request(unix.RTM_GETRULE, unix.NLM_F_DUMP, head), unix.RTM_NEWRULE)
	if err != nil {
		return nil, fmt.Errorf("listing the rules of routing: %w", err)
	}
	var all []rule
	subnets := make(map[netip.Prefix]bool)
	for _, r := range wanted {
		subnets[r.to] = true
	}
	for _, b := range bodies {
		if r, ok := parseRule(b); ok && b[0] == f {
			all = append(all, r)
			subnets[r.to] = subnets[r.to] || r.table == c.Table
		}
	}
	return slices.DeleteFunc(all, func(r rule) bool { return !subnets[r.to] || r.table != c.Table && r.priority != otherPriority }), nil
}

func (c *Config) ruleChange(has, want string, message []byte) change {
	return change{Difference: bridge.Difference{Link: c.Name, Aspect: bridge.AspectRoute, Has: has, Want: want}, messages: [][]byte{message}}
}

// parseRule reads the body of an RTM_NEWRULE message; ok is false for one that is not vnetd's.
func parseRule(b []byte) (r rule, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return rule{}, false
	}
	r.table = uint32(b[4])
	prefix := func(value []byte, bits byte) netip.Prefix {
		a, _ := netip.AddrFromSlice(value)
		return netip.PrefixFrom(a, int(bits))
	}
	for kind, value := range netlink.Attributes(b[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.FRA_SRC:
			r.from = prefix(value, b[2])
		case unix.FRA_DST:
			r.to = prefix(value, b[1])
		case unix.FRA_PRIORITY:
			r.priority = uint32(number(value))
		case unix.FRA_TABLE:
			r.table = uint32(number(value))
		case unix.FRA_PROTOCOL:
			ok = len(value) == 1 && value[0] == protocol
		case unix.FRA_DPORT_RANGE:
			if len(value) == 4 {
				r.icmp = [2]uint16{binary.NativeEndian.Uint16(value), binary.NativeEndian.Uint16(value[2:])}
			}
		}
	}
	return r, ok && r.to.IsValid()
}

// message is the message that makes or deletes r.
func (r *rule) message(kind, flags uint16) []byte {
	head := make([]byte, unix.SizeofRtMsg)
	head[0], head[1], head[7] = family(r.to.Addr()), byte(r.to.Bits()), unix.FR_ACT_TO_TBL
	b := netlink.AppendAttribute(nil, unix.FRA_DST, r.to.Addr().AsSlice())
	if r.from.IsValid() {
		head[2] = byte(r.from.Bits())
		b = netlink.AppendAttribute(b, unix.FRA_SRC, r.from.Addr().AsSlice())
	}
	b = netlink.AppendAttribute(b, unix.FRA_IIFNAME, []byte("lo\x00"))
	b = netlink.AppendAttribute(b, unix.FRA_PRIORITY, netlink.Uint32(r.priority))
	b = netlink.AppendAttribute(b, unix.FRA_TABLE, netlink.Uint32(r.table))
	b = netlink.AppendAttribute(b, unix.FRA_PROTOCOL, []byte{protocol})
	if r.icmp != [2]uint16{} {
		proto := byte(unix.IPPROTO_ICMP)
		if r.to.Addr().Is6() {
			proto = unix.IPPROTO_ICMPV6
		}
		b = netlink.AppendAttribute(b, unix.FRA_IP_PROTO, []byte{proto})
		ports := binary.NativeEndian.AppendUint16(nil, r.icmp[0])
		b = netlink.AppendAttribute(b, unix.FRA_DPORT_RANGE, binary.NativeEndian.AppendUint16(ports, r.icmp[1]))
	}
	return request(kind, flags, head, b)
}
