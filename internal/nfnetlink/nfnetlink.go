// Package nfnetlink speaks to nftables by netlink: transactions, which may be bound to a
// generation of the rule set, lists, notifications, and rules in the kernel's own form. What a
// rule does is written by the expressions of package github.com/google/nftables.
package nfnetlink

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// nftables numbers the states of a network namespace's rule set: every commit,
// of either family and by any program, makes a new generation. As long as the
// number is the same, nothing has changed. iptables-legacy is not counted.

// Generation is one state of the rule set, and who made it.
type Generation struct {
	ID      uint32
	Process string // the program's name, cut to 15 characters by the kernel
}

// Socket is a netlink socket to nftables.
type Socket struct{ *netlink.Socket }

// buffer is the size of a socket's buffers in bytes: for the rules of some thousand
// networks, since a transaction goes in one write, for the answer to the largest
// transaction that has its rules echoed, or of which each message is refused, and for
// what is told of one. Without the privilege to have it large transactions are refused,
// and go by iptables.
const buffer = 32 << 20

// Open opens a socket that is a member of multicast groups.
func Open(groups ...uint) (*Socket, error) {
	s, err := netlink.Open(unix.NETLINK_NETFILTER, groups...)
	if err != nil {
		return nil, fmt.Errorf("speaking to nftables: %w", err)
	}
	s.SetBuffers(buffer, buffer)
	return &Socket{s}, nil
}

// Type is the type of a message of nftables.
func Type(message uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | message }

// Message is a message of netfilter: of nftables, or of its batches, which are
// of a subsystem, as the resource says. The struct nfgenmsg stands before the
// attributes. (linux/netfilter/nfnetlink.h)
func Message(kind, flags uint16, family uint8, resource uint16, attributes ...[]byte) []byte {
	head := []byte{family, unix.NFNETLINK_V0, byte(resource >> 8), byte(resource)}
	return netlink.NewMessage(kind, flags|unix.NLM_F_REQUEST, slices.Concat([][]byte{head}, attributes)...)
}

// Attributes are those behind the struct nfgenmsg.
func Attributes(body []byte) func(yield func(uint16, []byte) bool) {
	const nfgenmsgSize = 4
	return netlink.Attributes(body[min(nfgenmsgSize, len(body)):])
}

// Listen calls f with every notification of the groups that s was opened with until ctx
// ends, whose error it then returns, and lost where more came than the socket holds: some
// were dropped. Both are called from the caller's goroutine. It closes s.
func (s *Socket) Listen(ctx context.Context, lost func(), f func(netlink.Message)) error {
	stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // ends Receive
	defer func() {
		if stop() {
			_ = s.Close()
		}
	}()
	for {
		datagram, err := s.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS):
			lost()
			continue
		case err != nil:
			return fmt.Errorf("listening to nftables: %w", err)
		}
		for m := range netlink.Messages(datagram) {
			f(m)
		}
	}
}

// Current asks for the present generation.
func (s *Socket) Current() (uint32, error) {
	kind := Type(unix.NFT_MSG_NEWGEN)
	body, err := s.Get(Message(Type(unix.NFT_MSG_GETGEN), 0, 0, 0, nil), kind)
	if err != nil {
		return 0, fmt.Errorf("asking nftables for its generation: %w", err)
	}
	g, ok := ReadGeneration(netlink.Message{Type: kind, Body: body})
	if !ok {
		return 0, errors.New("nftables tells no generation")
	}
	return g.ID, nil
}

// ReadGeneration reads an NFT_MSG_NEWGEN.
func ReadGeneration(m netlink.Message) (g Generation, ok bool) {
	if m.Type != Type(unix.NFT_MSG_NEWGEN) {
		return g, false
	}
	for kind, value := range Attributes(m.Body) {
		switch {
		case kind == unix.NFTA_GEN_ID && len(value) == 4:
			g.ID, ok = binary.BigEndian.Uint32(value), true
		case kind == unix.NFTA_GEN_PROC_NAME:
			g.Process = strings.TrimRight(string(value), "\x00")
		}
	}
	return g, ok
}

// Table is the table that a notification is about, "" if it is about none. Its name is
// the first attribute of all of them (NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, …).
func Table(m netlink.Message) string {
	if m.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || m.Type == Type(unix.NFT_MSG_NEWGEN) {
		return ""
	}
	for kind, value := range Attributes(m.Body) {
		if kind == unix.NFTA_TABLE_NAME {
			return strings.TrimRight(string(value), "\x00")
		}
	}
	return ""
}

// Rule is a rule as nftables lists it.
type Rule struct {
	Chain       string
	Handle      uint64
	Expressions []byte
	Userdata    bool // the rule has a comment or the like
}

// RuleAttributes name a chain in a message about rules.
func RuleAttributes(table, chain string) []byte {
	b := netlink.AppendAttribute(nil, unix.NFTA_RULE_TABLE, []byte(table+"\x00"))
	return netlink.AppendAttribute(b, unix.NFTA_RULE_CHAIN, []byte(chain+"\x00"))
}

// HasTable reports whether a family (NFPROTO_…) has a table.
func (s *Socket) HasTable(family uint8, table string) (bool, error) {
	name := netlink.AppendAttribute(nil, unix.NFTA_TABLE_NAME, []byte(table+"\x00"))
	return s.has(Message(Type(unix.NFT_MSG_GETTABLE), 0, family, 0, name), unix.NFT_MSG_NEWTABLE)
}

// HasChain reports whether a table, which may not be there, has a chain.
func (s *Socket) HasChain(p Place, chain string) (bool, error) {
	return s.has(p.message(unix.NFT_MSG_GETCHAIN, 0, text(unix.NFTA_CHAIN_NAME, chain)), unix.NFT_MSG_NEWCHAIN)
}

// has reports whether what a request asks for is there, which is told by a message of that kind.
func (s *Socket) has(request []byte, kind uint16) (bool, error) {
	_, err := s.Get(request, Type(kind))
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// Tables are those of all families. Where that takes the kernel one buffer it is one state of
// them, however often other programs commit: nft(8) begins its list again at each commit.
func (s *Socket) Tables() ([]Place, error) {
	bodies, err := s.Dump(Message(Type(unix.NFT_MSG_GETTABLE), unix.NLM_F_DUMP, unix.NFPROTO_UNSPEC, 0), Type(unix.NFT_MSG_NEWTABLE))
	if err != nil {
		return nil, fmt.Errorf("listing the tables of nftables: %w", err)
	}
	all := make([]Place, len(bodies))
	for i, body := range bodies {
		if len(body) > 0 {
			all[i].Family = body[0] // struct nfgenmsg
		}
		for kind, value := range Attributes(body) {
			if kind == unix.NFTA_TABLE_NAME {
				all[i].Table = strings.TrimRight(string(value), "\x00")
			}
		}
	}
	return all, nil
}

// Rules are those of a chain of a family (NFPROTO_…), in their order; an empty chain
// stands for all of the table.
func (s *Socket) Rules(family uint8, table, chain string) ([]Rule, error) {
	attributes := RuleAttributes(table, chain)
	if chain == "" {
		attributes = netlink.AppendAttribute(nil, unix.NFTA_RULE_TABLE, []byte(table+"\x00"))
	}
	bodies, err := s.Dump(Message(Type(unix.NFT_MSG_GETRULE), unix.NLM_F_DUMP, family, 0, attributes), Type(unix.NFT_MSG_NEWRULE))
	if err != nil {
		return nil, fmt.Errorf("listing the rules of table %s, chain %s: %w", table, chain, err)
	}
	out := make([]Rule, len(bodies))
	for i, body := range bodies {
		out[i] = ReadRule(body)
	}
	return out, nil
}

// ReadRule reads an NFT_MSG_NEWRULE.
func ReadRule(body []byte) (r Rule) {
	for kind, value := range Attributes(body) {
		switch {
		case kind == unix.NFTA_RULE_CHAIN:
			r.Chain = strings.TrimRight(string(value), "\x00")
		case kind == unix.NFTA_RULE_HANDLE && len(value) == 8:
			r.Handle = binary.BigEndian.Uint64(value)
		case kind == unix.NFTA_RULE_EXPRESSIONS:
			r.Expressions = value
		case kind == unix.NFTA_RULE_USERDATA:
			r.Userdata = true
		}
	}
	return r
}

// AppendNumber appends an attribute with a number.
func AppendNumber(b []byte, kind uint16, n uint32) []byte {
	return netlink.AppendAttribute(b, kind, binary.BigEndian.AppendUint32(nil, n))
}

// Expression is an expression of that name and those attributes.
func Expression(name string, data []byte) []byte {
	b := netlink.AppendAttribute(nil, unix.NFTA_EXPR_NAME, []byte(name+"\x00"))
	return netlink.AppendAttribute(b, unix.NLA_F_NESTED|unix.NFTA_EXPR_DATA, data)
}

// Commit carries out messages as one transaction, which the kernel refuses if the
// generation is not the one expected, unless that is 0 (linux/netfilter/nfnetlink.h,
// NFNL_BATCH_GENID). echoed is called with what the kernel says of a message whose
// flags ask for it.
func (s *Socket) Commit(messages [][]byte, expected uint32, echoed func(at int, m netlink.Message)) error {
	var attributes []byte
	if expected != 0 {
		attributes = netlink.AppendAttribute(nil, unix.NFNL_BATCH_GENID, binary.BigEndian.AppendUint32(nil, expected))
	}
	// The last message is acknowledged, after the commit: not every kernel
	// acknowledges the end of a batch.
	netlink.AddFlags(messages[len(messages)-1], unix.NLM_F_ACK)
	batch := slices.Concat(
		[][]byte{Message(unix.NFNL_MSG_BATCH_BEGIN, 0, 0, unix.NFNL_SUBSYS_NFTABLES, attributes)},
		messages,
		[][]byte{Message(unix.NFNL_MSG_BATCH_END, 0, 0, unix.NFNL_SUBSYS_NFTABLES, nil)},
	)
	var refused error
	err := s.Exchange(batch, func(at int, m netlink.Message) bool {
		switch {
		case at > len(messages):
		case m.Type == unix.NLMSG_ERROR:
			refused = m.Err()
			return true
		case at > 0: // 0: the transaction as a whole
			echoed(at-1, m)
		}
		return false
	})
	if err != nil || refused != nil {
		s.Drain() // of what else was refused
	}
	if err != nil {
		return fmt.Errorf("waiting for nftables to commit: %w", err)
	}
	return refused
}

// Element is an element of a set or map as nftables lists it. Its end is nil where it is
// none of intervals, and of value and verdict one at least.
type Element struct {
	Key, KeyEnd    []byte
	Ends           bool   // the key is the first one behind an interval, in a set of one field
	Value          []byte // of a map of values
	Verdict, Chain []byte // of a map of verdicts: its code as a number of 4 bytes, and where it leads
	Expression     []byte // what it has beside, such as a counter; is not written
	Comment        string // is not read
}

// Elements are those of a set of a family (NFPROTO_…).
func (s *Socket) Elements(family uint8, table, set string) ([]Element, error) {
	attributes := netlink.AppendAttribute(nil, unix.NFTA_SET_ELEM_LIST_TABLE, []byte(table+"\x00"))
	attributes = netlink.AppendAttribute(attributes, unix.NFTA_SET_ELEM_LIST_SET, []byte(set+"\x00"))
	bodies, err := s.Dump(Message(Type(unix.NFT_MSG_GETSETELEM), unix.NLM_F_DUMP, family, 0, attributes), Type(unix.NFT_MSG_NEWSETELEM))
	if err != nil {
		return nil, fmt.Errorf("listing the elements of table %s, set %s: %w", table, set, err)
	}
	var all []Element
	for _, body := range bodies {
		for kind, list := range Attributes(body) {
			if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			for _, one := range netlink.Attributes(list) {
				all = append(all, ReadElement(one))
			}
		}
	}
	return all, nil
}

// keyEnd is NFTA_SET_ELEM_KEY_END of linux/netfilter/nf_tables.h.
const keyEnd = 10

// ReadElement reads the attributes of an element.
func ReadElement(attributes []byte) (e Element) {
	for kind, value := range netlink.Attributes(attributes) {
		switch kind {
		case unix.NFTA_SET_ELEM_KEY:
			e.Key = readData(value)
		case keyEnd:
			e.KeyEnd = readData(value)
		case unix.NFTA_SET_ELEM_FLAGS:
			e.Ends = len(value) == 4 && binary.BigEndian.Uint32(value)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_DATA:
			e.Value = readData(value)
			e.Verdict, e.Chain = readVerdict(value)
		case unix.NFTA_SET_ELEM_EXPR:
			e.Expression = value
		}
	}
	return e
}

// readData is the value among attributes of data, nil if there is none.
func readData(attributes []byte) []byte {
	for kind, value := range netlink.Attributes(attributes) {
		if kind == unix.NFTA_DATA_VALUE {
			return value
		}
	}
	return nil
}

// readVerdict is the verdict among attributes of data.
func readVerdict(attributes []byte) (code, chain []byte) {
	for kind, value := range netlink.Attributes(attributes) {
		if kind != unix.NFTA_DATA_VERDICT {
			continue
		}
		for part, b := range netlink.Attributes(value) {
			switch {
			case part == unix.NFTA_VERDICT_CODE && len(b) == 4:
				code = b
			case part == unix.NFTA_VERDICT_CHAIN:
				chain = b
			}
		}
	}
	return code, chain
}

// Address is the socket's own, by which notifications tell whose doing a change is.
func (s *Socket) Address() (port uint32) {
	_ = s.Control(func(fd int) error {
		addr, err := unix.Getsockname(fd)
		if at, ok := addr.(*unix.SockaddrNetlink); ok {
			port = at.Pid
		}
		return err
	})
	return port
}

// TableFlags are the flags of a table (NFT_TABLE_F_…); unix.ENOENT where it is not there.
func (s *Socket) TableFlags(p Place) (flags uint32, err error) {
	body, err := s.Get(p.message(unix.NFT_MSG_GETTABLE, 0), Type(unix.NFT_MSG_NEWTABLE))
	if err != nil {
		return 0, err
	}
	for kind, value := range Attributes(body) {
		if kind == unix.NFTA_TABLE_FLAGS && len(value) == 4 {
			flags = binary.BigEndian.Uint32(value)
		}
	}
	return flags, nil
}

// Devices are those to which chains of a family, which has some, are bound, one each, by table.
func (s *Socket) Devices(family uint8) (map[string][]string, error) {
	bodies, err := s.Dump(Message(Type(unix.NFT_MSG_GETCHAIN), unix.NLM_F_DUMP, family, 0, nil), Type(unix.NFT_MSG_NEWCHAIN))
	if err != nil {
		return nil, fmt.Errorf("listing the devices of chains: %w", err)
	}
	all := map[string][]string{}
	for _, body := range bodies {
		var table string
		for kind, value := range Attributes(body) {
			switch kind {
			case unix.NFTA_CHAIN_TABLE:
				table = strings.TrimRight(string(value), "\x00")
			case unix.NFTA_CHAIN_HOOK:
				for kind, value := range netlink.Attributes(value) {
					if kind == unix.NFTA_HOOK_DEV {
						all[table] = append(all[table], strings.TrimRight(string(value), "\x00"))
					}
				}
			}
		}
	}
	return all, nil
}

// Chain is a chain as nftables lists it.
type Chain struct {
	Base   bool   // the kernel asks it
	Policy uint32 // NF_ACCEPT or NF_DROP, of one that the kernel asks
}

// Chains are those of a table by name.
func (s *Socket) Chains(p Place) (map[string]Chain, error) {
	bodies, err := s.Dump(Message(Type(unix.NFT_MSG_GETCHAIN), unix.NLM_F_DUMP, p.Family, 0, nil), Type(unix.NFT_MSG_NEWCHAIN))
	if err != nil {
		return nil, fmt.Errorf("listing the chains of table %s: %w", p.Table, err)
	}
	all := map[string]Chain{}
	for _, body := range bodies {
		var c Chain
		var table, name string
		for kind, value := range Attributes(body) {
			switch {
			case kind == unix.NFTA_CHAIN_TABLE:
				table = strings.TrimRight(string(value), "\x00")
			case kind == unix.NFTA_CHAIN_NAME:
				name = strings.TrimRight(string(value), "\x00")
			case kind == unix.NFTA_CHAIN_HOOK:
				c.Base = true
			case kind == unix.NFTA_CHAIN_POLICY && len(value) == 4:
				c.Policy = binary.BigEndian.Uint32(value)
			}
		}
		if table == p.Table {
			all[name] = c
		}
	}
	return all, nil
}
