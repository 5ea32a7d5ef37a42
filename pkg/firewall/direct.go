package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// iptables-nft-restore lists the rules of the tables it is to change, makes one
// commit for each table, and each commit makes the next one, and the end of the
// program, wait for the kernel to dispose of the rules that were deleted. Written
// here, the rules of all tables and both families go in one commit that nobody
// waits for: inserted in a form that was learned, deleted by the handles that
// nftables gave them. What needs more, a chain or an unknown form, is left to
// iptables.

// errUnsuited says that edits can't be carried out without iptables. Nothing was
// done.
var errUnsuited = errors.New("not without iptables")

// echoed is the largest number of rules in one transaction whose handles the
// kernel is asked to tell at once.
const echoed = 1000

// chainKey names a chain of one family.
type chainKey struct {
	family      Family
	table, name string
}

// nfproto is the family's number in messages of netfilter.
func (f Family) nfproto() uint8 {
	if f == IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// deed is one rule to be inserted or deleted.
type deed struct {
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
func (f *Firewall) commitDirectly(parts []*part, before uint32) error {
	var edits []*part
	for _, p := range parts {
		if p.edit != nil && !p.edit.empty() {
			edits = append(edits, p)
		}
	}
	if before == 0 || len(edits) == 0 || slices.ContainsFunc(edits, func(p *part) bool { return p.variant != variantNFT || !p.edit.simple() }) {
		return errUnsuited
	}
	if err := f.memory.survey(edits, before); err != nil {
		return err
	}
	var deeds []deed
	for _, p := range edits {
		more, err := f.memory.deeds(p)
		if err != nil {
			return err
		}
		deeds = append(deeds, more...)
	}
	if err := f.memory.socket.perform(deeds, before); err != nil {
		return err
	}
	f.memory.done(deeds)
	edits[0].commits = 1
	return nil
}

// simple tells whether the edit only inserts and deletes rules.
func (e *edit) simple() bool {
	for _, commands := range e.commands {
		if slices.ContainsFunc(commands, func(c command) bool { return c.op != opInsert && c.op != opDelete }) {
			return false
		}
	}
	return true
}

// survey lists the chains whose handles or whose rules' forms are needed and not
// known. What it learns holds only if the generation is still the one of the
// listings.
func (m *memory) survey(edits []*part, before uint32) error {
	found := map[chainKey][]kernelRule{}
	for _, p := range edits {
		for key := range m.unknown(p) {
			rules, err := m.socket.rules(key)
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
	if now, err := m.socket.current(); err != nil || now != before {
		return errors.Join(errors.New("the rules changed while they were listed"), err)
	}
	for _, p := range edits {
		for key, rules := range found {
			if key.family == p.family {
				m.study(key, p.edit.before[key], rules)
			}
		}
	}
	return nil
}

// unknown are the chains of the edit about which more must be known.
func (m *memory) unknown(p *part) map[chainKey]bool {
	out := map[chainKey]bool{}
	for table, commands := range p.edit.commands {
		for _, c := range commands {
			key := chainKey{p.family, table, c.chain}
			if _, known := m.handles[key]; known || out[key] {
				continue
			}
			name, _ := shape(p.family, c.args)
			if c.op == opDelete || m.forms[name] == nil {
				out[key] = true
			}
		}
	}
	return out
}

// study remembers the handles of a chain's rules, and the forms that are new.
// listed is the text of the rules, the last one first.
func (m *memory) study(key chainKey, listed []string, rules []kernelRule) {
	handles := make(map[string][]uint64, len(rules))
	for i, r := range rules {
		args := listed[len(listed)-1-i]
		handles[args] = append(handles[args], r.handle)
		name, _ := shape(key.family, args)
		if m.forms[name] == nil && r.expressions != nil {
			if form := learn(key.family, args, r.expressions); form != nil {
				m.forms[name] = form
			}
		}
	}
	m.handles[key] = handles
}

// deeds are the edit's commands in the terms of nftables.
func (m *memory) deeds(p *part) ([]deed, error) {
	var out []deed
	copies := map[chainKey]map[string]int{} // of rules to be deleted, so far
	for _, table := range tables() {
		for _, c := range p.edit.commands[table] {
			d := deed{chain: chainKey{p.family, table, c.chain}, args: c.args, insert: c.op == opInsert}
			if copies[d.chain] == nil {
				copies[d.chain] = map[string]int{}
			}
			var err error
			if d.insert {
				d.content, err = m.content(p.family, c.args)
			} else {
				d.handle, err = m.handle(d.chain, c.args, copies[d.chain][c.args])
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

// content is a rule in the form of its shape.
func (m *memory) content(f Family, args string) ([]byte, error) {
	name, values := shape(f, args)
	if m.forms[name] == nil {
		return nil, fmt.Errorf("%w: no rule like %q was seen", errUnsuited, args)
	}
	return m.forms[name].attributes(values), nil
}

// handle is that of a rule's copy.
func (m *memory) handle(chain chainKey, args string, number int) (uint64, error) {
	handles := m.handles[chain][args]
	if number >= len(handles) {
		return 0, fmt.Errorf("%w: the handle of %q is not known", errUnsuited, args)
	}
	return handles[number], nil
}

// done remembers what deeds have changed.
func (m *memory) done(deeds []deed) {
	for _, d := range deeds {
		handles, known := m.handles[d.chain]
		switch {
		case !known:
		case !d.insert:
			handles[d.args] = slices.DeleteFunc(handles[d.args], func(h uint64) bool { return h == d.handle })
			if len(handles[d.args]) == 0 {
				delete(handles, d.args)
			}
		case d.handle == 0:
			delete(m.handles, d.chain)
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
	request := nftMessage(unix.NFT_MSG_GETRULE, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, seq, chain.family.nfproto(), ruleAttributes(chain.table, chain.name))
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

// order is the deed as a message.
func (d *deed) order(echo bool) order {
	o := order{family: d.chain.family.nfproto(), attributes: ruleAttributes(d.chain.table, d.chain.name)}
	if !d.insert {
		o.message = unix.NFT_MSG_DELRULE
		o.attributes = appendAttribute(o.attributes, unix.NFTA_RULE_HANDLE, binary.BigEndian.AppendUint64(nil, d.handle))
		return o
	}
	o.message, o.flags = unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE
	o.attributes = append(o.attributes, d.content...)
	if echo {
		o.flags |= unix.NLM_F_ECHO
	}
	return o
}

// perform does deeds as one transaction, if the generation is the one expected,
// and notes the handles of what was inserted.
func (s *nftSocket) perform(deeds []deed, expected uint32) error {
	orders := make([]order, len(deeds))
	for i := range deeds {
		orders[i] = deeds[i].order(len(deeds) <= echoed)
	}
	return s.commit(orders, expected, func(at int, m netlinkMessage) {
		if m.is(unix.NFT_MSG_NEWRULE) {
			deeds[at].handle = m.rule().handle
		}
	})
}

// order is one message of a transaction.
type order struct {
	message, flags uint16
	family         uint8
	attributes     []byte
}

// commit carries out orders as one transaction, which the kernel refuses if the
// generation is not the one expected, unless that is 0 (linux/netfilter/nfnetlink.h,
// NFNL_BATCH_GENID). echoed is called with what the kernel says of an order whose
// flags ask for it.
func (s *nftSocket) commit(orders []order, expected uint32, echoed func(at int, m netlinkMessage)) error {
	const subsystem = unix.NFNL_SUBSYS_NFTABLES
	begin := s.next()
	var attributes []byte
	if expected != 0 {
		attributes = appendAttribute(nil, unix.NFNL_BATCH_GENID, binary.BigEndian.AppendUint32(nil, expected))
	}
	batch := netfilterMessage(unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, begin, 0, subsystem, attributes)
	for i, o := range orders {
		flags := o.flags | unix.NLM_F_REQUEST
		if i == len(orders)-1 {
			// The last order is acknowledged, after the commit: not every kernel
			// acknowledges the end of a batch.
			flags |= unix.NLM_F_ACK
		}
		batch = append(batch, nftMessage(o.message, flags, s.next(), o.family, o.attributes)...)
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
			case at < -1 || at >= len(orders):
			case m.kind == unix.NLMSG_ERROR:
				return m.errno()
			case at >= 0:
				echoed(at, m)
			}
		}
	}
}
