package iptables

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/firewall"
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
	keeperTable   = "vnetd"
	keeperChain   = "keep"
	keeperComment = "keeps translated connections while rules are mended"
)

// ownedTable is NFT_TABLE_F_OWNER.
const ownedTable = 2

// keeper owns the tables, of one family each.
type keeper struct {
	socket *nftSocket                 // nil: there are none
	failed map[firewall.Family]string // why there is none of a family; empty: it is ours
}

// has reports whether the table of a family is ours. It stays so, as the kernel lets
// nobody else change it.
func (k *keeper) has(f firewall.Family) bool {
	failed, tried := k.failed[f]
	return tried && failed == ""
}

// take makes the table of a family. The error is nil, too, where it is the same as the
// last time: a kernel can't do it, or somebody has a table of that name.
func (k *keeper) take(f firewall.Family) (taken bool, err error) {
	if k.socket == nil {
		k.socket, err = openNFT()
	}
	if err == nil {
		err = k.socket.commit(keeperMessages(f), 0, func(int, netlink.Message) {})
	}
	failed := ""
	if err != nil {
		failed = err.Error()
	}
	if k.failed == nil {
		k.failed = make(map[firewall.Family]string)
	}
	if last, tried := k.failed[f]; tried && last == failed {
		err = nil
	}
	k.failed[f] = failed
	return failed == "", err
}

// release gives the tables back, which removes them.
func (k *keeper) release() error {
	defer func() { *k = keeper{} }()
	if k.socket == nil {
		return nil
	}
	return k.socket.Close()
}

// keeperMessages make the table of one family: a chain for translation, which
// translates nothing, and in it a rule about the state of connections, which does
// nothing.
func keeperMessages(f firewall.Family) [][]byte {
	named := func(table, chain uint16) []byte {
		return netlink.AppendAttribute(netlink.AppendAttribute(nil, table, []byte(keeperTable+"\x00")), chain, []byte(keeperChain+"\x00"))
	}
	table := appendNumber(netlink.AppendAttribute(nil, unix.NFTA_TABLE_NAME, []byte(keeperTable+"\x00")), unix.NFTA_TABLE_FLAGS, ownedTable)
	// libnftnl's NFTNL_UDATA_TABLE_COMMENT is 0.
	const userdata = 6
	table = netlink.AppendAttribute(table, userdata, append([]byte{0, byte(len(keeperComment) + 1)}, keeperComment+"\x00"...))

	const priority = 100 // NF_IP_PRI_NAT_SRC and NF_IP6_PRI_NAT_SRC
	hook := appendNumber(appendNumber(nil, unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_POST_ROUTING), unix.NFTA_HOOK_PRIORITY, priority)
	chain := netlink.AppendAttribute(named(unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME), unix.NLA_F_NESTED|unix.NFTA_CHAIN_HOOK, hook)
	chain = netlink.AppendAttribute(chain, unix.NFTA_CHAIN_TYPE, []byte("nat\x00"))

	rule := netlink.AppendAttribute(named(unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN), unix.NLA_F_NESTED|unix.NFTA_RULE_EXPRESSIONS, keeperExpressions())
	return [][]byte{
		nftMessage(nftType(unix.NFT_MSG_NEWTABLE), unix.NLM_F_CREATE, nfproto(f), 0, table),
		nftMessage(nftType(unix.NFT_MSG_NEWCHAIN), unix.NLM_F_CREATE, nfproto(f), 0, chain),
		nftMessage(nftType(unix.NFT_MSG_NEWRULE), unix.NLM_F_CREATE, nfproto(f), 0, rule),
	}
}

// keeperExpressions are "ct state invalid", without a verdict.
func keeperExpressions() []byte {
	const invalid = 1 // NF_CT_STATE_INVALID_BIT
	data := func(b []byte, kind uint16, n uint32) []byte {
		value := netlink.AppendAttribute(nil, unix.NFTA_DATA_VALUE, binary.NativeEndian.AppendUint32(nil, n))
		return netlink.AppendAttribute(b, unix.NLA_F_NESTED|kind, value)
	}
	load := appendNumber(appendNumber(nil, unix.NFTA_CT_DREG, unix.NFT_REG_1), unix.NFTA_CT_KEY, unix.NFT_CT_STATE)
	mask := appendNumber(appendNumber(nil, unix.NFTA_BITWISE_SREG, unix.NFT_REG_1), unix.NFTA_BITWISE_DREG, unix.NFT_REG_1)
	mask = data(data(appendNumber(mask, unix.NFTA_BITWISE_LEN, 4), unix.NFTA_BITWISE_MASK, invalid), unix.NFTA_BITWISE_XOR, 0)
	compare := appendNumber(appendNumber(nil, unix.NFTA_CMP_SREG, unix.NFT_REG_1), unix.NFTA_CMP_OP, unix.NFT_CMP_NEQ)
	compare = data(compare, unix.NFTA_CMP_DATA, 0)
	var out []byte
	for _, e := range [][]byte{newExpression("ct", load), newExpression("bitwise", mask), newExpression("cmp", compare)} {
		out = netlink.AppendAttribute(out, unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, e)
	}
	return out
}

// appendNumber appends an attribute with a number.
func appendNumber(b []byte, kind uint16, n uint32) []byte {
	return netlink.AppendAttribute(b, kind, binary.BigEndian.AppendUint32(nil, n))
}
