package path

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// Attributes of a rule (FRA_ of linux/fib_rules.h).
const (
	fraDst      = 1
	fraSrc      = 2
	fraIifName  = 3
	fraPriority = 6
	fraFwmark   = 10
	fraTable    = 15
	fraOifName  = 17
	fraL3mdev   = 19
	fraUIDRange = 20
	fraIPProto  = 22
	fraSport    = 23
	fraDport    = 24
)

// Flags and actions of a rule.
const (
	ruleInvert  = 2 // FIB_RULE_INVERT: "not"
	ruleToTable = 1 // FR_ACT_TO_TBL
)

// Rule is a rule of policy routing, `ip rule`.
type Rule struct {
	Priority int
	From, To netip.Prefix // invalid for all
	In, Out  string       // names of links, empty for all
	Table    int
	// Other says that it looks at more: marks, users, ports, or what it does not want.
	Other bool
	// Refuses says that it is no lookup: blackhole, unreachable, prohibit.
	Refuses bool
	L3mdev  bool // the table is that of the link's VRF
}

// String is r as ip-rule(8) shows it.
func (r Rule) String() string {
	from := "all"
	if r.From.IsValid() {
		from = r.From.String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d: from %s", r.Priority, from)
	for _, part := range []struct {
		word  string
		value fmt.Stringer
		there bool
	}{{"to", r.To, r.To.IsValid()}, {"iif", name(r.In), r.In != ""}, {"oif", name(r.Out), r.Out != ""}} {
		if part.there {
			fmt.Fprintf(&b, " %s %v", part.word, part.value)
		}
	}
	switch {
	case r.L3mdev:
		b.WriteString(" lookup [l3mdev-table]")
	case r.Refuses:
		b.WriteString(" refuse")
	default:
		fmt.Fprintf(&b, " lookup %s", TableName(r.Table))
	}
	return b.String()
}

type name string

func (n name) String() string { return string(n) }

// TableName is a table as iproute2 names it, which knows three by name.
func TableName(table int) string {
	switch table {
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_LOCAL:
		return "local"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	}
	return fmt.Sprint(table)
}

// Rules lists the rules of the family of an address, in order.
func (a *Asker) Rules(of netip.Addr) ([]Rule, error) {
	s, err := a.socket.Open()
	if err != nil {
		return nil, err
	}
	head := make([]byte, unix.SizeofRtMsg) // struct fib_rule_hdr has the same size
	head[0] = family(of)
	bodies, err := s.Dump(netlink.NewMessage(unix.RTM_GETRULE, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, head), unix.RTM_NEWRULE)
	if err != nil {
		return nil, fmt.Errorf("listing the rules of routing: %w", err)
	}
	var all []Rule
	for _, b := range bodies {
		if r, ok := parseRule(b); ok && b[0] == head[0] {
			all = append(all, r)
		}
	}
	slices.SortStableFunc(all, func(a, b Rule) int { return a.Priority - b.Priority })
	return all, nil
}

// parseRule reads the body of an RTM_NEWRULE message.
func parseRule(b []byte) (r Rule, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return Rule{}, false
	}
	r.Table = int(b[4])
	r.Refuses = b[7] > ruleToTable
	r.Other = binary.NativeEndian.Uint32(b[8:])&ruleInvert != 0
	for kind, value := range netlink.Attributes(b[unix.SizeofRtMsg:]) {
		switch kind {
		case fraSrc:
			r.From = prefix(value, b[2])
		case fraDst:
			r.To = prefix(value, b[1])
		case fraIifName:
			r.In = unix.ByteSliceToString(value)
		case fraOifName:
			r.Out = unix.ByteSliceToString(value)
		case fraPriority:
			r.Priority = number(value)
		case fraTable:
			r.Table = number(value)
		case fraL3mdev:
			r.L3mdev = len(value) > 0 && value[0] != 0
		case fraFwmark:
			r.Other = r.Other || number(value) != 0
		case fraUIDRange, fraIPProto, fraSport, fraDport:
			r.Other = true
		}
	}
	return r, true
}

func number(value []byte) int {
	if len(value) < 4 {
		return 0
	}
	return int(binary.NativeEndian.Uint32(value))
}

func prefix(value []byte, bits byte) netip.Prefix {
	a, _ := netip.AddrFromSlice(value)
	return netip.PrefixFrom(a, int(bits))
}

// matches reports whether the rule is for a packet that comes in by the link of that
// name, empty for none, as far as it does not look at more.
func (r Rule) matches(p Packet, in string) bool {
	return (!r.From.IsValid() || r.From.Contains(p.From)) && (!r.To.IsValid() || r.To.Contains(p.To)) &&
		(r.In == "" || r.In == in) && r.Out == ""
}

// Chosen is the rule by which a packet that comes in by the link of that name, empty for
// none, is looked up in a table: the first that is for it, those that look at more than
// is known of it last. ok is false where it can't be told.
func Chosen(rules []Rule, p Packet, in string, table int) (r Rule, ok bool) {
	for _, fits := range []func(Rule) bool{
		func(r Rule) bool { return r.Table == table && !r.Other },
		func(r Rule) bool { return r.Table == table },
		func(r Rule) bool { return r.L3mdev },
	} {
		i := slices.IndexFunc(rules, func(r Rule) bool { return !r.Refuses && fits(r) && (r.Other || r.matches(p, in)) })
		if i >= 0 {
			return rules[i], true
		}
	}
	return Rule{}, false
}

// Refused is the first rule that refuses a packet by itself; ok is false where none does.
func Refused(rules []Rule, p Packet, in string) (r Rule, ok bool) {
	i := slices.IndexFunc(rules, func(r Rule) bool { return r.Refuses && !r.Other && r.matches(p, in) })
	if i < 0 {
		return Rule{}, false
	}
	return rules[i], true
}
