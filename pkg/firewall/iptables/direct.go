package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// iptables-nft-restore lists the rules of the tables it is to change, makes one
// commit for each table, and each commit makes the next one, and the end of the
// program, wait for the kernel to dispose of the rules that were deleted. Written
// here, the rules of all tables and both families go in one commit that nobody
// waits for: inserted by a template that was learned, deleted by the handles that
// nftables gave them. What needs more, a chain or an unknown template, is left to
// iptables.

// errUnsuited says that edits can't be carried out without iptables. Nothing was
// done.
var errUnsuited = errors.New("not without iptables")

// echoed is the largest number of rules in one transaction whose handles the
// kernel is asked to tell at once.
const echoed = 1000

// chainKey names a chain of one family.
type chainKey struct {
	family      firewall.Family
	table, name string
}

// nfproto is a family's number in messages of netfilter.
func nfproto(f firewall.Family) uint8 {
	if f == firewall.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// op is one rule to be inserted or deleted.
type op struct {
	chain   chainKey
	args    string
	insert  bool
	content []byte // of a rule to be inserted
	handle  uint64 // of an inserted rule, once the kernel has told; 0: not known
}

// commitDirectly carries out what was planned in one transaction, if all of it
// is of kinds that it can do. The kernel refuses it unless before is still the
// generation. After an error that is not errUnsuited the edits may be carried out
// or not.
func (w *Writer) commitDirectly(parts []*part, before uint32) error {
	var edits []*part
	for _, p := range parts {
		if p.edit != nil && !p.edit.empty() {
			edits = append(edits, p)
		}
	}
	if before == 0 || len(edits) == 0 || slices.ContainsFunc(edits, func(p *part) bool { return p.variant != variantNFT || !p.edit.simple() }) {
		return errUnsuited
	}
	if err := w.cache.learnChains(edits, before); err != nil {
		return err
	}
	var ops []op
	for _, p := range edits {
		more, err := w.cache.ops(p)
		if err != nil {
			return err
		}
		ops = append(ops, more...)
	}
	if err := w.cache.socket.perform(ops, before); err != nil {
		return err
	}
	w.cache.done(ops)
	edits[0].commits = 1
	return nil
}

// simple reports whether the edit only inserts and deletes rules.
func (e *edit) simple() bool {
	for _, commands := range e.commands {
		if slices.ContainsFunc(commands, func(c command) bool { return c.op != opInsert && c.op != opDelete }) {
			return false
		}
	}
	return true
}

// learnChains lists the chains whose handles or templates are needed and not
// known. What it learns holds only if the generation is still the one of the
// listings.
func (k *cache) learnChains(edits []*part, before uint32) error {
	found := map[chainKey][]kernelRule{}
	for _, p := range edits {
		for key := range k.unknown(p) {
			rules, err := k.socket.rules(key)
			if err != nil {
				return err
			}
			if listed := p.edit.before[key]; len(rules) != len(listed) {
				return fmt.Errorf("chain %s of table %s has %d rules, listed were %d", key.name, key.table, len(rules), len(listed))
			}
			found[key] = rules
		}
	}
	if len(found) == 0 {
		return nil
	}
	if now, err := k.socket.current(); err != nil || now != before {
		return errors.Join(errors.New("the rules changed while they were listed"), err)
	}
	for _, p := range edits {
		for key, rules := range found {
			if key.family == p.family {
				k.learn(key, p.edit.before[key], rules)
			}
		}
	}
	return nil
}

// unknown are the chains of the edit about which more must be known.
func (k *cache) unknown(p *part) map[chainKey]bool {
	out := map[chainKey]bool{}
	for table, commands := range p.edit.commands {
		for _, c := range commands {
			key := chainKey{p.family, table, c.chain}
			if _, known := k.handles[key]; known || out[key] {
				continue
			}
			name, _ := parameterize(p.family, c.args)
			if c.op == opDelete || k.templates[name] == nil {
				out[key] = true
			}
		}
	}
	return out
}

// learn remembers the handles of a chain's rules, and the templates that are new.
// listed is the text of the rules, the last one first.
func (k *cache) learn(key chainKey, listed []string, rules []kernelRule) {
	handles := make(map[string][]uint64, len(rules))
	for i, r := range rules {
		args := listed[len(listed)-1-i]
		handles[args] = append(handles[args], r.handle)
		name, _ := parameterize(key.family, args)
		if k.templates[name] == nil && r.expressions != nil {
			if t := learn(key.family, args, r.expressions); t != nil {
				k.templates[name] = t
			}
		}
	}
	k.handles[key] = handles
}

// ops are the edit's commands in the terms of nftables.
func (k *cache) ops(p *part) ([]op, error) {
	var out []op
	copies := map[chainKey]map[string]int{} // of rules to be deleted, so far
	for _, table := range tables() {
		for _, c := range p.edit.commands[table] {
			d := op{chain: chainKey{p.family, table, c.chain}, args: c.args, insert: c.op == opInsert}
			if copies[d.chain] == nil {
				copies[d.chain] = map[string]int{}
			}
			var err error
			if d.insert {
				d.content, err = k.content(p.family, c.args)
			} else {
				d.handle, err = k.handle(d.chain, c.args, copies[d.chain][c.args])
				copies[d.chain][c.args]++
			}
			if err != nil {
				return nil, err
			}
			out = append(out, d)
		}
	}
	return out, nil
}

// content is a rule made of its template.
func (k *cache) content(f firewall.Family, args string) ([]byte, error) {
	name, values := parameterize(f, args)
	if k.templates[name] == nil {
		return nil, fmt.Errorf("%w: no rule like %q was seen", errUnsuited, args)
	}
	return k.templates[name].attributes(values), nil
}

// handle is that of a rule's copy.
func (k *cache) handle(chain chainKey, args string, number int) (uint64, error) {
	handles := k.handles[chain][args]
	if number >= len(handles) {
		return 0, fmt.Errorf("%w: the handle of %q is not known", errUnsuited, args)
	}
	return handles[number], nil
}

// done remembers what ops have changed.
func (k *cache) done(ops []op) {
	for _, d := range ops {
		handles, known := k.handles[d.chain]
		switch {
		case !known:
		case !d.insert:
			handles[d.args] = slices.DeleteFunc(handles[d.args], func(h uint64) bool { return h == d.handle })
			if len(handles[d.args]) == 0 {
				delete(handles, d.args)
			}
		case d.handle == 0:
			delete(k.handles, d.chain)
		default:
			handles[d.args] = append(handles[d.args], d.handle)
		}
	}
}

// ruleAttributes name a chain in a message about rules.
func ruleAttributes(table, chain string) []byte {
	b := appendAttribute(nil, unix.NFTA_RULE_TABLE, []byte(table+"\x00"))
	return appendAttribute(b, unix.NFTA_RULE_CHAIN, []byte(chain+"\x00"))
}

// kernelRule is a rule as nftables lists it.
type kernelRule struct {
	handle      uint64
	expressions []byte // nil if the rule has something besides
}

// rules are those of a chain, in their order.
func (s *nftSocket) rules(chain chainKey) ([]kernelRule, error) {
	seq := s.next()
	request := nftMessage(unix.NFT_MSG_GETRULE, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, seq, nfproto(chain.family), ruleAttributes(chain.table, chain.name))
	if err := s.send(request); err != nil {
		return nil, fmt.Errorf("listing the rules of chain %s: %w", chain.name, err)
	}
	var out []kernelRule
	for {
		datagram, err := s.receive()
		if err != nil {
			return nil, fmt.Errorf("listing the rules of chain %s: %w", chain.name, err)
		}
		for m := range netlinkMessages(datagram) {
			switch {
			case m.seq != seq:
			case m.kind == unix.NLMSG_DONE:
				return out, nil
			case m.kind == unix.NLMSG_ERROR:
				return nil, fmt.Errorf("listing the rules of chain %s: %w", chain.name, m.errno())
			case m.flags&unix.NLM_F_DUMP_INTR != 0:
				return nil, errors.New("the rules changed while they were listed")
			case m.is(unix.NFT_MSG_NEWRULE):
				out = append(out, m.rule())
			}
		}
	}
}

// rule reads an NFT_MSG_NEWRULE.
func (m netlinkMessage) rule() kernelRule {
	var r kernelRule
	plain := true
	for kind, value := range m.attributes() {
		switch {
		case kind == unix.NFTA_RULE_HANDLE && len(value) == 8:
			r.handle = binary.BigEndian.Uint64(value)
		case kind == unix.NFTA_RULE_EXPRESSIONS:
			r.expressions = slices.Clone(value)
		case kind == unix.NFTA_RULE_USERDATA:
			plain = false
		}
	}
	if !plain {
		r.expressions = nil
	}
	return r
}

// message is the op as a message.
func (d *op) message(echo bool) message {
	o := message{family: nfproto(d.chain.family), attributes: ruleAttributes(d.chain.table, d.chain.name)}
	if !d.insert {
		o.kind = unix.NFT_MSG_DELRULE
		o.attributes = appendAttribute(o.attributes, unix.NFTA_RULE_HANDLE, binary.BigEndian.AppendUint64(nil, d.handle))
		return o
	}
	o.kind, o.flags = unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE
	o.attributes = append(o.attributes, d.content...)
	if echo {
		o.flags |= unix.NLM_F_ECHO
	}
	return o
}

// perform does ops as one transaction, if the generation is the one expected,
// and notes the handles of what was inserted.
func (s *nftSocket) perform(ops []op, expected uint32) error {
	messages := make([]message, len(ops))
	for i := range ops {
		messages[i] = ops[i].message(len(ops) <= echoed)
	}
	return s.commit(messages, expected, func(at int, m netlinkMessage) {
		if m.is(unix.NFT_MSG_NEWRULE) {
			ops[at].handle = m.rule().handle
		}
	})
}

// message is one message of a transaction.
type message struct {
	kind, flags uint16
	family      uint8
	attributes  []byte
}

// commit carries out messages as one transaction, which the kernel refuses if the
// generation is not the one expected, unless that is 0 (linux/netfilter/nfnetlink.h,
// NFNL_BATCH_GENID). echoed is called with what the kernel says of a message whose
// flags ask for it.
func (s *nftSocket) commit(messages []message, expected uint32, echoed func(at int, m netlinkMessage)) error {
	const subsystem = unix.NFNL_SUBSYS_NFTABLES
	begin := s.next()
	var attributes []byte
	if expected != 0 {
		attributes = appendAttribute(nil, unix.NFNL_BATCH_GENID, binary.BigEndian.AppendUint32(nil, expected))
	}
	batch := netfilterMessage(unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, begin, 0, subsystem, attributes)
	for i, o := range messages {
		flags := o.flags | unix.NLM_F_REQUEST
		if i == len(messages)-1 {
			// The last message is acknowledged, after the commit: not every kernel
			// acknowledges the end of a batch.
			flags |= unix.NLM_F_ACK
		}
		batch = append(batch, nftMessage(o.kind, flags, s.next(), o.family, o.attributes)...)
	}
	batch = append(batch, netfilterMessage(unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST, s.next(), 0, subsystem, nil)...)
	if err := s.send(batch); err != nil {
		return fmt.Errorf("sending a transaction to nftables: %w", err)
	}
	for {
		datagram, err := s.receive()
		if err != nil {
			return fmt.Errorf("waiting for nftables to commit: %w", err)
		}
		for m := range netlinkMessages(datagram) {
			at := int(m.seq) - int(begin) - 1 // -1: the transaction as a whole
			switch {
			case at < -1 || at >= len(messages):
			case m.kind == unix.NLMSG_ERROR:
				return m.errno()
			case at >= 0:
				echoed(at, m)
			}
		}
	}
}
