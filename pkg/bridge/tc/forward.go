package tc

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// tableName is the table of nftables, of the family netdev, with a chain for each device
// from which something comes in no faster than a rate.
const tableName = "vnetd_bandwidth"

// forwardPriority is that of the chains: behind the guards and what others have at
// ingress, as nothing comes after it.
const forwardPriority = 1000

// chainName is the chain of the device with that ifindex.
func chainName(index int) string { return fmt.Sprintf("device%d", index) }

// nft is a message of nf_tables about the family netdev.
func nft(kind, flags uint16, attributes []byte) []byte {
	family := []byte{unix.NFPROTO_NETDEV, unix.NFNETLINK_V0, 0, 0} // struct nfgenmsg
	return netlink.NewMessage(unix.NFNL_SUBSYS_NFTABLES<<8|kind, unix.NLM_F_REQUEST|flags, family, attributes)
}

// text appends an attribute that is a string.
func text(b []byte, kind uint16, value string) []byte {
	return netlink.AppendAttribute(b, kind, append([]byte(value), 0))
}

// number is one in network order.
func number(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// nested appends an attribute that has others.
func nested(b []byte, kind uint16, attributes []byte) []byte {
	return netlink.AppendAttribute(b, kind|unix.NLA_F_NESTED, attributes)
}

// batchMark begins or ends a transaction.
func batchMark(kind uint16) []byte {
	head := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES} // res_id
	return netlink.NewMessage(kind, unix.NLM_F_REQUEST, head)
}

// newForward are the messages that have what comes in from a device go to another, and
// that replace what there was for the device.
func newForward(index int, name string, to int) [][]byte {
	hook := netlink.AppendAttribute(nil, unix.NFTA_HOOK_HOOKNUM, number(0)) // NF_NETDEV_INGRESS
	hook = netlink.AppendAttribute(hook, unix.NFTA_HOOK_PRIORITY, number(forwardPriority))
	hook = text(hook, unix.NFTA_HOOK_DEV, name)
	chain := text(nil, unix.NFTA_CHAIN_TABLE, tableName)
	chain = text(chain, unix.NFTA_CHAIN_NAME, chainName(index))
	rule := text(nil, unix.NFTA_RULE_TABLE, tableName)
	rule = text(rule, unix.NFTA_RULE_CHAIN, chainName(index))
	based := text(nested(chain, unix.NFTA_CHAIN_HOOK, hook), unix.NFTA_CHAIN_TYPE, "filter")
	forwards := nested(rule, unix.NFTA_RULE_EXPRESSIONS, forwardTo(to))
	return [][]byte{
		nft(unix.NFT_MSG_NEWTABLE, create, text(nil, unix.NFTA_TABLE_NAME, tableName)),
		// One that may be there goes with what it has; one must be there for that.
		nft(unix.NFT_MSG_NEWCHAIN, create, chain),
		nft(unix.NFT_MSG_DELRULE, 0, rule),
		nft(unix.NFT_MSG_DELCHAIN, 0, chain),
		nft(unix.NFT_MSG_NEWCHAIN, create, based),
		nft(unix.NFT_MSG_NEWRULE, create|unix.NLM_F_APPEND, forwards),
	}
}

// deleteForward are the messages that end what newForward begins.
func deleteForward(index int) [][]byte {
	chain := text(nil, unix.NFTA_CHAIN_TABLE, tableName)
	rule := text(nil, unix.NFTA_RULE_TABLE, tableName)
	return [][]byte{
		nft(unix.NFT_MSG_DELRULE, 0, text(rule, unix.NFTA_RULE_CHAIN, chainName(index))),
		nft(unix.NFT_MSG_DELCHAIN, 0, text(chain, unix.NFTA_CHAIN_NAME, chainName(index))),
	}
}

// forwardTo is the expressions of "fwd to": the ifindex in a register, and the jump.
func forwardTo(index int) []byte {
	data := netlink.AppendAttribute(nil, unix.NFTA_DATA_VALUE, netlink.Uint32(uint32(index)))
	immediate := netlink.AppendAttribute(nil, unix.NFTA_IMMEDIATE_DREG, number(unix.NFT_REG_1))
	immediate = nested(immediate, unix.NFTA_IMMEDIATE_DATA, data)
	forward := netlink.AppendAttribute(nil, unix.NFTA_FWD_SREG_DEV, number(unix.NFT_REG_1))
	return expression(expression(nil, "immediate", immediate), "fwd", forward)
}

// expression appends an expression to a list of them.
func expression(b []byte, name string, data []byte) []byte {
	e := nested(text(nil, unix.NFTA_EXPR_NAME, name), unix.NFTA_EXPR_DATA, data)
	return nested(b, unix.NFTA_LIST_ELEM, e)
}

// dumpForward asks for the rules of a device's chain.
func dumpForward(index int) []byte {
	rule := text(nil, unix.NFTA_RULE_TABLE, tableName)
	return nft(unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, text(rule, unix.NFTA_RULE_CHAIN, chainName(index)))
}

// dumpChains asks for the chains of all tables of the family.
func dumpChains() []byte { return nft(unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, nil) }

// parseChain reads of which device a chain is; ok is false where it is none of ours.
func parseChain(body []byte) (index int, ok bool) {
	var table, name string
	for kind, value := range netlink.Attributes(behindFamily(body)) {
		switch kind {
		case unix.NFTA_CHAIN_TABLE:
			table = unix.ByteSliceToString(value)
		case unix.NFTA_CHAIN_NAME:
			name = unix.ByteSliceToString(value)
		}
	}
	if _, err := fmt.Sscanf(name, "device%d", &index); err != nil || table != tableName {
		return 0, false
	}
	return index, name == chainName(index)
}

// parseForward reads where a rule of ours forwards to, 0 for nowhere. Messages of other
// chains are none of its business.
func parseForward(body []byte, of int) (to int) {
	chain, forwards := "", false
	for kind, value := range netlink.Attributes(behindFamily(body)) {
		switch kind {
		case unix.NFTA_RULE_CHAIN:
			chain = unix.ByteSliceToString(value)
		case unix.NFTA_RULE_EXPRESSIONS:
			to, forwards = parseExpressions(value)
		}
	}
	if chain != chainName(of) || !forwards {
		return 0
	}
	return to
}

// behindFamily is what stands behind the struct nfgenmsg of an answer.
func behindFamily(body []byte) []byte { return body[min(len(body), 4):] }

// parseExpressions reads what forwardTo says.
func parseExpressions(list []byte) (to int, forwards bool) {
	for _, e := range netlink.Attributes(list) {
		for kind, value := range netlink.Attributes(e) {
			switch {
			case kind == unix.NFTA_EXPR_NAME:
				forwards = forwards || unix.ByteSliceToString(value) == "fwd"
			case kind == unix.NFTA_EXPR_DATA && to == 0:
				to = parseImmediate(value)
			}
		}
	}
	return to, forwards
}

// parseImmediate reads the number that an expression loads, 0 for none.
func parseImmediate(expression []byte) int {
	for kind, data := range netlink.Attributes(expression) {
		if kind != unix.NFTA_IMMEDIATE_DATA {
			continue
		}
		for kind, value := range netlink.Attributes(data) {
			if kind == unix.NFTA_DATA_VALUE && len(value) >= 4 {
				return int(binary.NativeEndian.Uint32(value))
			}
		}
	}
	return 0
}

// transaction carries out messages of nf_tables together or not at all. The error joins
// those of the messages.
func transaction(s *netlink.Socket, messages [][]byte) error {
	all := append([][]byte{batchMark(unix.NFNL_MSG_BATCH_BEGIN)}, messages...)
	all = append(all, batchMark(unix.NFNL_MSG_BATCH_END))
	for _, m := range messages {
		netlink.AddFlags(m, unix.NLM_F_ACK)
	}
	var errs []error
	left := len(messages)
	// Some kernels answer to the marks, most don't: those of the messages come in order.
	err := s.Exchange(all, func(at int, m netlink.Message) bool {
		if m.Type != unix.NLMSG_ERROR {
			return false
		}
		errs = append(errs, m.Err())
		if at > 0 && at <= len(messages) {
			left--
		}
		return left == 0 || at == 0 && m.Err() != nil
	})
	return errors.Join(append(errs, err)...)
}
