package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// nftables numbers the states of a network namespace's rule set: every commit,
// of either family and by any program, makes a new generation. As long as the
// number is the same, nothing has changed. iptables-legacy is not counted.

// generation is one state of the rule set, and who made it.
type generation struct {
	id      uint32
	process string // the program's name, cut to 15 characters by the kernel
}

// nftSocket is a netlink socket to nftables.
type nftSocket struct{ *netlink.Socket }

// The sizes of a socket's buffers in bytes: for the rules of some thousand
// networks, since a transaction goes in one write, and for the answer to the largest
// transaction that has its rules echoed. Without the privilege to have them large
// transactions are refused, and go by iptables.
const (
	sendBuffer    = 32 << 20
	receiveBuffer = 4 << 20
)

// openNFT opens a socket that is a member of multicast groups.
func openNFT(groups ...uint) (*nftSocket, error) {
	s, err := netlink.Open(unix.NETLINK_NETFILTER, groups...)
	if err != nil {
		return nil, fmt.Errorf("speaking to nftables: %w", err)
	}
	s.SetBuffers(sendBuffer, receiveBuffer)
	return &nftSocket{s}, nil
}

// nftType is the type of a message of nftables.
func nftType(message uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | message }

// nftMessage is a message of netfilter: of nftables, or of its batches, which are
// of a subsystem, as the resource says. The struct nfgenmsg stands before the
// attributes. (linux/netfilter/nfnetlink.h)
func nftMessage(kind, flags uint16, family uint8, resource uint16, attributes []byte) []byte {
	return netlink.NewMessage(kind, flags|unix.NLM_F_REQUEST, []byte{family, unix.NFNETLINK_V0, byte(resource >> 8), byte(resource)}, attributes)
}

// nftAttributes are those behind the struct nfgenmsg.
func nftAttributes(body []byte) func(yield func(uint16, []byte) bool) {
	const nfgenmsgSize = 4
	return netlink.Attributes(body[min(nfgenmsgSize, len(body)):])
}

// nfproto is a family's number in messages of netfilter.
func nfproto(f firewall.Family) uint8 {
	if f == firewall.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// current asks for the present generation.
func (s *nftSocket) current() (uint32, error) {
	kind := nftType(unix.NFT_MSG_NEWGEN)
	body, err := s.Get(nftMessage(nftType(unix.NFT_MSG_GETGEN), 0, 0, 0, nil), kind)
	if err != nil {
		return 0, fmt.Errorf("asking nftables for its generation: %w", err)
	}
	g, ok := readGeneration(netlink.Message{Type: kind, Body: body})
	if !ok {
		return 0, errors.New("nftables tells no generation")
	}
	return g.id, nil
}

// readGeneration reads an NFT_MSG_NEWGEN.
func readGeneration(m netlink.Message) (g generation, ok bool) {
	if m.Type != nftType(unix.NFT_MSG_NEWGEN) {
		return g, false
	}
	for kind, value := range nftAttributes(m.Body) {
		switch {
		case kind == unix.NFTA_GEN_ID && len(value) == 4:
			g.id, ok = binary.BigEndian.Uint32(value), true
		case kind == unix.NFTA_GEN_PROC_NAME:
			g.process = strings.TrimRight(string(value), "\x00")
		}
	}
	return g, ok
}

// kernelRule is a rule as nftables lists it.
type kernelRule struct {
	handle      uint64
	expressions []byte // nil if the rule has something besides
}

// ruleAttributes name a chain in a message about rules.
func ruleAttributes(table, chain string) []byte {
	b := netlink.AppendAttribute(nil, unix.NFTA_RULE_TABLE, []byte(table+"\x00"))
	return netlink.AppendAttribute(b, unix.NFTA_RULE_CHAIN, []byte(chain+"\x00"))
}

// rules are those of a chain, in their order.
func (s *nftSocket) rules(chain chainKey) ([]kernelRule, error) {
	request := nftMessage(nftType(unix.NFT_MSG_GETRULE), unix.NLM_F_DUMP, nfproto(chain.family), 0, ruleAttributes(chain.table, chain.name))
	bodies, err := s.Query(request, nftType(unix.NFT_MSG_NEWRULE))
	if err != nil {
		return nil, fmt.Errorf("listing the rules of chain %s: %w", chain.name, err)
	}
	out := make([]kernelRule, len(bodies))
	for i, body := range bodies {
		out[i] = readRule(body)
	}
	return out, nil
}

// readRule reads an NFT_MSG_NEWRULE.
func readRule(body []byte) kernelRule {
	var r kernelRule
	plain := true
	for kind, value := range nftAttributes(body) {
		switch {
		case kind == unix.NFTA_RULE_HANDLE && len(value) == 8:
			r.handle = binary.BigEndian.Uint64(value)
		case kind == unix.NFTA_RULE_EXPRESSIONS:
			r.expressions = value
		case kind == unix.NFTA_RULE_USERDATA:
			plain = false
		}
	}
	if !plain {
		r.expressions = nil
	}
	return r
}

// commit carries out messages as one transaction, which the kernel refuses if the
// generation is not the one expected, unless that is 0 (linux/netfilter/nfnetlink.h,
// NFNL_BATCH_GENID). echoed is called with what the kernel says of a message whose
// flags ask for it.
func (s *nftSocket) commit(messages [][]byte, expected uint32, echoed func(at int, m netlink.Message)) error {
	var attributes []byte
	if expected != 0 {
		attributes = netlink.AppendAttribute(nil, unix.NFNL_BATCH_GENID, binary.BigEndian.AppendUint32(nil, expected))
	}
	// The last message is acknowledged, after the commit: not every kernel
	// acknowledges the end of a batch.
	netlink.AddFlags(messages[len(messages)-1], unix.NLM_F_ACK)
	batch := slices.Concat(
		[][]byte{nftMessage(unix.NFNL_MSG_BATCH_BEGIN, 0, 0, unix.NFNL_SUBSYS_NFTABLES, attributes)},
		messages,
		[][]byte{nftMessage(unix.NFNL_MSG_BATCH_END, 0, 0, unix.NFNL_SUBSYS_NFTABLES, nil)},
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
	if err != nil {
		return fmt.Errorf("waiting for nftables to commit: %w", err)
	}
	return refused
}
