package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Deleting rules by iptables-nft-restore takes one commit for each table, and
// each makes the next one, and the end of the program, wait for the kernel to
// dispose of the rules. Deleted by the handles that nftables gave them, the rules
// of all tables and both families go in one commit that nobody waits for.

// deleteByHandle carries out edits that only delete rules. It returns false if it
// did nothing, because they do more or because somebody else changed the rules
// since they were listed, which is before, the generation that the kernel checks.
func (f *Firewall) deleteByHandle(parts []*part, before uint32) bool {
	var edits []*part
	for _, p := range parts {
		switch {
		case p.edit == nil || p.edit.empty():
		case p.variant != variantNFT || !p.edit.onlyDeletes():
			return false
		default:
			edits = append(edits, p)
		}
	}
	if before == 0 || len(edits) == 0 {
		return false
	}
	var batch []byte
	for _, p := range edits {
		deletions, err := f.memory.socket.deletions(p)
		if err != nil {
			f.log.Debug("deleting rules by iptables-restore", "family", p.family, "error", err)
			return false
		}
		batch = append(batch, deletions...)
	}
	if err := f.memory.socket.commit(batch, before); err != nil {
		f.log.Debug("deleting rules by iptables-restore", "error", err)
		return false
	}
	edits[0].commits = 1
	return true
}

// onlyDeletes tells whether the edit has no other command than -D.
func (e *edit) onlyDeletes() bool {
	for _, lines := range e.commands {
		if slices.ContainsFunc(lines, func(line string) bool { return !strings.HasPrefix(line, "-D ") }) {
			return false
		}
	}
	return true
}

// deletions are the messages that delete what the part's edit deletes.
func (s *nftSocket) deletions(p *part) ([]byte, error) {
	family := uint8(unix.NFPROTO_IPV4)
	if p.family == IPv6 {
		family = unix.NFPROTO_IPV6
	}
	var out []byte
	for table, chains := range p.edit.before {
		for chain, before := range chains {
			handles, err := s.handles(family, table, chain)
			if err != nil {
				return nil, err
			}
			if len(handles) != len(before) {
				return nil, fmt.Errorf("chain %s of table %s has %d rules, listed were %d", chain, table, len(handles), len(before))
			}
			out = append(out, s.deletionsOf(family, table, chain, gone(before, p.edit.listed[table][chain], handles))...)
		}
	}
	return out, nil
}

// gone are the handles of the rules that are in before and not in after.
func gone(before, after []string, handles [][]byte) [][]byte {
	stays := make(map[string]bool, len(after))
	for _, args := range after {
		stays[args] = true
	}
	var out [][]byte
	for i, args := range before {
		if !stays[args] {
			out = append(out, handles[i])
		}
	}
	return out
}

// deletionsOf are the messages that delete rules of one chain.
func (s *nftSocket) deletionsOf(family uint8, table, chain string, handles [][]byte) []byte {
	var out []byte
	for _, handle := range handles {
		attributes := appendAttribute(ruleAttributes(table, chain), unix.NFTA_RULE_HANDLE, handle)
		out = append(out, nftMessage(unix.NFT_MSG_DELRULE, unix.NLM_F_REQUEST, s.next(), family, attributes)...)
	}
	return out
}

// ruleAttributes name a chain in a message about rules.
func ruleAttributes(table, chain string) []byte {
	b := appendAttribute(nil, unix.NFTA_RULE_TABLE, []byte(table+"\x00"))
	return appendAttribute(b, unix.NFTA_RULE_CHAIN, []byte(chain+"\x00"))
}

// handles are those of a chain's rules, in their order.
func (s *nftSocket) handles(family uint8, table, chain string) ([][]byte, error) {
	seq := s.next()
	if err := s.send(nftMessage(unix.NFT_MSG_GETRULE, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, seq, family, ruleAttributes(table, chain))); err != nil {
		return nil, fmt.Errorf("listing the rules of chain %s: %w", chain, err)
	}
	var out [][]byte
	for {
		datagram, err := s.receive()
		if err != nil {
			return nil, fmt.Errorf("listing the rules of chain %s: %w", chain, err)
		}
		for m := range netlinkMessages(datagram) {
			switch {
			case m.seq != seq:
			case m.kind == unix.NLMSG_DONE:
				return out, nil
			case m.kind == unix.NLMSG_ERROR:
				return nil, fmt.Errorf("listing the rules of chain %s: %w", chain, m.errno())
			case m.flags&unix.NLM_F_DUMP_INTR != 0:
				return nil, errors.New("the rules changed while they were listed")
			case m.is(unix.NFT_MSG_NEWRULE):
				out = append(out, m.handle())
			}
		}
	}
}

// handle is a rule's handle.
func (m netlinkMessage) handle() []byte {
	for kind, value := range m.attributes() {
		if kind == unix.NFTA_RULE_HANDLE {
			return slices.Clone(value)
		}
	}
	return nil
}

// commit sends messages as one transaction, which the kernel refuses if the
// generation is not the one expected. (linux/netfilter/nfnetlink.h,
// NFNL_BATCH_GENID)
func (s *nftSocket) commit(messages []byte, expected uint32) error {
	const subsystem = unix.NFNL_SUBSYS_NFTABLES
	begin := netfilterMessage(unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, s.next(), 0, subsystem,
		appendAttribute(nil, unix.NFNL_BATCH_GENID, binary.BigEndian.AppendUint32(nil, expected)))
	// Only the last message is acknowledged, after the commit: not every kernel
	// acknowledges the end of a batch.
	messages = acknowledge(messages)
	end := netfilterMessage(unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST, s.next(), 0, subsystem, nil)
	if err := s.send(slices.Concat(begin, messages, end)); err != nil {
		return fmt.Errorf("sending a transaction to nftables: %w", err)
	}
	for {
		datagram, err := s.receive()
		if err != nil {
			return fmt.Errorf("waiting for nftables to commit: %w", err)
		}
		for m := range netlinkMessages(datagram) {
			if m.kind == unix.NLMSG_ERROR {
				return m.errno()
			}
		}
	}
}

// acknowledge asks for an answer to the last message.
func acknowledge(messages []byte) []byte {
	last := 0
	for at := 0; at < len(messages); at += align4(int(binary.NativeEndian.Uint32(messages[at:]))) {
		last = at
	}
	flags := binary.NativeEndian.Uint16(messages[last+6:])
	binary.NativeEndian.PutUint16(messages[last+6:], flags|unix.NLM_F_ACK)
	return messages
}
