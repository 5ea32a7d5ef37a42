package firewall

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// The kernel tracks and translates connections as long as some rule asks for it.
// Whoever flushes the rules ends that too, and before they are mended the packets
// of established connections come to this host as if they were its own, which
// answers with a reset: the guests' connections are lost. A table of our own, that
// no flush takes away because it belongs to our socket, keeps both at work. It does
// nothing else, and goes with the process. (linux/netfilter/nf_tables.h,
// NFT_TABLE_F_OWNER, Linux 5.12)

// The table and its chain as nft(8) lists them.
const (
	holdTable   = "vnetd"
	holdChain   = "keep"
	holdComment = "keeps translated connections while rules are mended"
)

// ownedTable is NFT_TABLE_F_OWNER.
const ownedTable = 2

// hold owns the tables, of one family each.
type hold struct {
	socket   *nftSocket // nil: there are none
	families []Family   // those for which it was tried
}

// keepConnections sees to it that translated connections outlive a flush, from
// the first network on that is translated. On a kernel that can't they don't. The
// caller holds mu.
func (f *Firewall) keepConnections() {
	for _, family := range []Family{IPv4, IPv6} {
		if slices.Contains(f.hold.families, family) || !f.standing.translates(family) {
			continue
		}
		before := f.memory.generation()
		if err := f.hold.take(family); err != nil {
			f.log.Debug("connections of guests may be lost when rules are flushed", "family", family, "error", err)
		} else if f.memory.id == before {
			f.memory.settle(before, 1)
		}
	}
}

// translates tells whether any network's sources of the family are rewritten.
func (s *standing) translates(f Family) bool {
	return slices.ContainsFunc(s.entries, func(e entry) bool { return e.network.translated(f) })
}

// take makes the table of a family. What fails is not tried again.
func (h *hold) take(f Family) error {
	h.families = append(h.families, f)
	if h.socket == nil {
		socket, err := openNFT(0)
		if err != nil {
			return err
		}
		h.socket = socket
	}
	return h.socket.commit(holdOrders(f), 0, func(int, netlinkMessage) {})
}

// release gives the tables back, which removes them.
func (h *hold) release() error {
	defer func() { *h = hold{} }()
	if h.socket == nil {
		return nil
	}
	return h.socket.close()
}

// holdOrders make the table of one family: a chain for translation, which
// translates nothing, and in it a rule about the state of connections, which does
// nothing.
func holdOrders(f Family) []order {
	named := func(table, chain uint16) []byte {
		return appendAttribute(appendAttribute(nil, table, []byte(holdTable+"\x00")), chain, []byte(holdChain+"\x00"))
	}
	table := appendNumber(appendAttribute(nil, unix.NFTA_TABLE_NAME, []byte(holdTable+"\x00")), unix.NFTA_TABLE_FLAGS, ownedTable)
	// libnftnl's NFTNL_UDATA_TABLE_COMMENT is 0.
	const userdata = 6
	table = appendAttribute(table, userdata, append([]byte{0, byte(len(holdComment) + 1)}, holdComment+"\x00"...))

	const priority = 100 // NF_IP_PRI_NAT_SRC and NF_IP6_PRI_NAT_SRC
	hook := appendNumber(appendNumber(nil, unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_POST_ROUTING), unix.NFTA_HOOK_PRIORITY, priority)
	chain := appendAttribute(named(unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME), unix.NLA_F_NESTED|unix.NFTA_CHAIN_HOOK, hook)
	chain = appendAttribute(chain, unix.NFTA_CHAIN_TYPE, []byte("nat\x00"))

	rule := appendAttribute(named(unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN), unix.NLA_F_NESTED|unix.NFTA_RULE_EXPRESSIONS, holdExpressions())
	return []order{
		{unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, f.nfproto(), table},
		{unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, f.nfproto(), chain},
		{unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE, f.nfproto(), rule},
	}
}

// holdExpressions are "ct state invalid", without a verdict.
func holdExpressions() []byte {
	const invalid = 1 // NF_CT_STATE_INVALID_BIT
	data := func(b []byte, kind uint16, n uint32) []byte {
		value := appendAttribute(nil, unix.NFTA_DATA_VALUE, binary.NativeEndian.AppendUint32(nil, n))
		return appendAttribute(b, unix.NLA_F_NESTED|kind, value)
	}
	load := appendNumber(appendNumber(nil, unix.NFTA_CT_DREG, unix.NFT_REG_1), unix.NFTA_CT_KEY, unix.NFT_CT_STATE)
	mask := appendNumber(appendNumber(nil, unix.NFTA_BITWISE_SREG, unix.NFT_REG_1), unix.NFTA_BITWISE_DREG, unix.NFT_REG_1)
	mask = data(data(appendNumber(mask, unix.NFTA_BITWISE_LEN, 4), unix.NFTA_BITWISE_MASK, invalid), unix.NFTA_BITWISE_XOR, 0)
	compare := appendNumber(appendNumber(nil, unix.NFTA_CMP_SREG, unix.NFT_REG_1), unix.NFTA_CMP_OP, unix.NFT_CMP_NEQ)
	compare = data(compare, unix.NFTA_CMP_DATA, 0)
	var out []byte
	for _, e := range [][]byte{newExpression("ct", load), newExpression("bitwise", mask), newExpression("cmp", compare)} {
		out = appendAttribute(out, unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, e)
	}
	return out
}

// appendNumber appends an attribute with a number.
func appendNumber(b []byte, kind uint16, n uint32) []byte {
	return appendAttribute(b, kind, binary.BigEndian.AppendUint32(nil, n))
}
