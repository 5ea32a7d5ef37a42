package nfnetlink

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// What golang.org/x/sys does not have of linux/netfilter/nf_tables.h, and of libnftnl's
// udata.h, by which nft(8) keeps what the kernel does not know.
const (
	tableUserdata    = 6    // NFTA_TABLE_USERDATA
	chainDevices     = 4    // NFTA_HOOK_DEVS
	setConcatenation = 0x80 // NFT_SET_CONCAT
	setFields        = 2    // NFTA_SET_DESC_CONCAT
	setSize          = 1    // NFTA_SET_DESC_SIZE
	fieldSize        = 1    // NFTA_SET_FIELD_LEN
	tableComment     = 0    // NFTNL_UDATA_TABLE_COMMENT
	setExpression    = 17   // NFTA_SET_EXPR
	setByteOrder     = 0    // NFTNL_UDATA_SET_KEYBYTEORDER
	setComment       = 7    // NFTNL_UDATA_SET_COMMENT
	elementComment   = 0    // NFTNL_UDATA_SET_ELEM_COMMENT
	hostOrder        = 1    // BYTEORDER_HOST_ENDIAN of nft
	networkOrder     = 2    // BYTEORDER_BIG_ENDIAN of nft
)

// TableOwner is the flag of a table that nobody else can change, and that goes with the
// socket that made it (NFT_TABLE_F_OWNER, Linux 5.12).
const TableOwner = 2

// Place is a table of a family (NFPROTO_…).
type Place struct {
	Family uint8
	Table  string
}

// message is one about something of the table, whose name is the attribute kind 1 of all
// messages, and its own name, if not empty, kind 2 or whichever is given.
func (p Place) message(kind, flags uint16, attributes ...[]byte) []byte {
	return Message(Type(kind), flags, p.Family, 0, slices.Concat([][]byte{text(unix.NFTA_TABLE_NAME, p.Table)}, attributes)...)
}

// text is an attribute with a text.
func text(kind uint16, s string) []byte {
	return netlink.AppendAttribute(nil, kind, []byte(s+"\x00"))
}

// nest is an attribute with attributes.
func nest(kind uint16, attributes []byte) []byte {
	return netlink.AppendAttribute(nil, unix.NLA_F_NESTED|kind, attributes)
}

// note is userdata with a text.
func note(kind byte, s string) []byte {
	return append([]byte{kind, byte(len(s) + 1)}, s+"\x00"...)
}

// NewTable makes the table if it is not there.
func (p Place) NewTable(flags uint32, comment string) []byte {
	attributes := AppendNumber(nil, unix.NFTA_TABLE_FLAGS, flags)
	if comment != "" {
		attributes = netlink.AppendAttribute(attributes, tableUserdata, note(tableComment, comment))
	}
	return p.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, attributes)
}

// DeleteTable deletes the table, which must be there, with all that is in it.
func (p Place) DeleteTable() []byte { return p.message(unix.NFT_MSG_DELTABLE, 0) }

// Hook is where the kernel asks a chain.
type Hook struct {
	Number   uint32 // NF_INET_…
	Priority int32
	Type     string   // filter or nat
	Device   string   // of the family netdev alone, whose hooks are a device's
	Devices  []string // in place of Device: up to 255 (NFT_NETDEVICE_MAX of linux/netfilter/nf_tables.h)
	Drop     bool     // what no rule decides
}

// NewChain makes a chain; a nil hook has only other chains lead to it.
func (p Place) NewChain(name string, hook *Hook) []byte {
	attributes := text(unix.NFTA_CHAIN_NAME, name)
	if hook != nil {
		at := AppendNumber(nil, unix.NFTA_HOOK_HOOKNUM, hook.Number)
		at = AppendNumber(at, unix.NFTA_HOOK_PRIORITY, uint32(hook.Priority))
		if hook.Device != "" {
			at = append(at, text(unix.NFTA_HOOK_DEV, hook.Device)...)
		}
		if len(hook.Devices) > 0 {
			at = append(at, nest(chainDevices, devices(hook.Devices))...)
		}
		attributes = append(attributes, nest(unix.NFTA_CHAIN_HOOK, at)...)
		attributes = append(attributes, text(unix.NFTA_CHAIN_TYPE, hook.Type)...)
		if hook.Drop {
			attributes = AppendNumber(attributes, unix.NFTA_CHAIN_POLICY, 0) // NF_DROP
		}
	}
	return p.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, attributes)
}

// devices are the names of devices, one behind the other.
func devices(names []string) (all []byte) {
	for _, name := range names {
		all = append(all, text(deviceName, name)...)
	}
	return all
}

// FlushChain deletes all rules of a chain.
func (p Place) FlushChain(name string) []byte {
	return p.message(unix.NFT_MSG_DELRULE, 0, text(unix.NFTA_RULE_CHAIN, name))
}

// DeleteChain deletes a chain, to which nothing may lead, with its rules.
func (p Place) DeleteChain(name string) []byte {
	return p.message(unix.NFT_MSG_DELCHAIN, 0, text(unix.NFTA_CHAIN_NAME, name))
}

// NewRule appends a rule to a chain.
func (p Place) NewRule(chain string, expressions ...[]byte) []byte {
	size := 0
	for _, e := range expressions {
		size += len(e) + 2*unix.NLA_HDRLEN
	}
	list := make([]byte, 0, size)
	for _, e := range expressions {
		list = netlink.AppendAttribute(list, unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, e)
	}
	return p.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, text(unix.NFTA_RULE_CHAIN, chain), nest(unix.NFTA_RULE_EXPRESSIONS, list))
}

// DataType is a type of keys or values: its number in nft(8), and its size in registers.
type DataType struct{ Number, Size uint32 }

// Set is a set, or a map.
type Set struct {
	Name   string
	Key    DataType
	Fields []uint32 // sizes of those that a key is made of, in bytes; none: it is one
	// Intervals has elements be ranges of keys.
	Intervals bool
	// NetworkOrder says that keys, of one field, have their highest byte first, for nft(8)
	// alone. Those of intervals have it always.
	NetworkOrder bool
	Map          bool
	Verdicts     bool     // of a map: its values are verdicts, else of the type Value
	Value        DataType //
	// Dynamic has rules add elements, at most Size of them, which are gone after so many
	// milliseconds of Timeout; 0: they stay.
	Dynamic bool
	Timeout uint64
	Size    uint32
	Counter bool   // each element has one
	Comment string // for nft(8)
}

// NewSet makes a set. id is its number in the transaction, not 0.
func (p Place) NewSet(s Set, id uint32) []byte {
	attributes := text(unix.NFTA_SET_NAME, s.Name)
	for _, n := range []struct {
		kind   uint16
		number uint32
	}{{unix.NFTA_SET_FLAGS, s.flags()}, {unix.NFTA_SET_KEY_TYPE, s.Key.Number}, {unix.NFTA_SET_KEY_LEN, s.Key.Size}, {unix.NFTA_SET_ID, id}} {
		attributes = AppendNumber(attributes, n.kind, n.number)
	}
	if s.Map {
		value := s.Value
		if s.Verdicts {
			value = DataType{Number: unix.NFT_DATA_VERDICT}
		}
		attributes = AppendNumber(AppendNumber(attributes, unix.NFTA_SET_DATA_TYPE, value.Number), unix.NFTA_SET_DATA_LEN, value.Size)
	}
	if s.Timeout > 0 {
		attributes = netlink.AppendAttribute(attributes, unix.NFTA_SET_TIMEOUT, binary.BigEndian.AppendUint64(nil, s.Timeout))
	}
	if d := s.description(); d != nil {
		attributes = append(attributes, nest(unix.NFTA_SET_DESC, d)...)
	}
	if d := s.userdata(); d != nil {
		attributes = netlink.AppendAttribute(attributes, unix.NFTA_SET_USERDATA, d)
	}
	if s.Counter {
		attributes = append(attributes, nest(setExpression, Expression("counter", nil))...)
	}
	return p.message(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, attributes)
}

// flags are the set's (NFT_SET_…).
func (s Set) flags() (flags uint32) {
	for _, f := range []struct {
		is   bool
		flag uint32
	}{
		{s.Intervals, unix.NFT_SET_INTERVAL},
		{s.Map, unix.NFT_SET_MAP},
		{len(s.Fields) > 0, setConcatenation},
		{s.Dynamic, unix.NFT_SET_EVAL},
		{s.Timeout > 0, unix.NFT_SET_TIMEOUT},
	} {
		if f.is {
			flags |= f.flag
		}
	}
	return flags
}

// userdata is what nft(8) keeps with the set.
func (s Set) userdata() (d []byte) {
	order := uint32(hostOrder)
	if s.Intervals || s.NetworkOrder {
		order = networkOrder
	}
	if len(s.Fields) == 0 || s.Intervals {
		d = binary.NativeEndian.AppendUint32([]byte{setByteOrder, 4}, order)
	}
	if s.Comment != "" {
		d = append(d, note(setComment, s.Comment)...)
	}
	return d
}

// description says what keys are made of, and how many elements there may be.
func (s Set) description() (d []byte) {
	if s.Size > 0 {
		d = AppendNumber(d, setSize, s.Size)
	}
	if len(s.Fields) == 0 {
		return d
	}
	var list []byte
	for _, size := range s.Fields {
		list = append(list, nest(unix.NFTA_LIST_ELEM, AppendNumber(nil, fieldSize, size))...)
	}
	return append(d, nest(setFields, list)...)
}

// DeleteSet deletes a set, which no rule may look into, with its elements.
func (p Place) DeleteSet(name string) []byte {
	return p.message(unix.NFT_MSG_DELSET, 0, text(unix.NFTA_SET_NAME, name))
}

// elementsAtOnce is how many elements go into one message, whose attributes end at
// 64 KiB.
const elementsAtOnce = 200

// NewElements adds elements to a set.
func (p Place) NewElements(set string, all []Element) [][]byte {
	return p.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, set, all)
}

// DeleteElements takes elements out of a set, by their keys.
func (p Place) DeleteElements(set string, all []Element) [][]byte {
	bare := make([]Element, len(all))
	for i, e := range all {
		bare[i] = Element{Key: e.Key, KeyEnd: e.KeyEnd, Ends: e.Ends}
	}
	return p.elements(unix.NFT_MSG_DELSETELEM, 0, set, bare)
}

func (p Place) elements(kind, flags uint16, set string, all []Element) (messages [][]byte) {
	for len(all) > 0 {
		n := min(len(all), elementsAtOnce)
		var list []byte
		for i := range all[:n] {
			list = netlink.AppendAttribute(list, unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, all[i].attributes())
		}
		messages = append(messages, p.message(kind, flags, text(unix.NFTA_SET_ELEM_LIST_SET, set), nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, list)))
		all = all[n:]
	}
	return messages
}

// attributes are what ReadElement reads.
func (e *Element) attributes() []byte {
	data := func(kind uint16, b []byte) []byte {
		return nest(kind, netlink.AppendAttribute(nil, unix.NFTA_DATA_VALUE, b))
	}
	out := data(unix.NFTA_SET_ELEM_KEY, e.Key)
	if e.KeyEnd != nil {
		out = append(out, data(keyEnd, e.KeyEnd)...)
	}
	if e.Ends {
		out = AppendNumber(out, unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	switch {
	case e.Verdict != nil:
		v := netlink.AppendAttribute(nil, unix.NFTA_VERDICT_CODE, e.Verdict)
		if e.Chain != nil {
			v = netlink.AppendAttribute(v, unix.NFTA_VERDICT_CHAIN, e.Chain)
		}
		out = append(out, nest(unix.NFTA_SET_ELEM_DATA, nest(unix.NFTA_DATA_VERDICT, v))...)
	case e.Value != nil:
		out = append(out, data(unix.NFTA_SET_ELEM_DATA, e.Value)...)
	}
	if e.Comment != "" {
		out = netlink.AppendAttribute(out, unix.NFTA_SET_ELEM_USERDATA, note(elementComment, e.Comment))
	}
	return out
}
