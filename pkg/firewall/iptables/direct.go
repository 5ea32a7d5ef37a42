package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
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

// op is one rule to be inserted or deleted.
type op struct {
	chain   chainKey
	args    string
	insert  bool
	content []byte // of a rule to be inserted
	handle  uint64 // of an inserted rule, once the kernel has told; 0: not known
}

// commitDirectly carries out edits in one transaction, if all of it is of kinds
// that it can do. The kernel refuses it once somebody else has changed more than guards of
// ports. After an error that is not errUnsuited the edits may be carried out or not.
func (k *cache) commitDirectly(edits []*edit) error {
	if err := k.learnChains(edits); err != nil {
		return err
	}
	var ops []op
	for _, e := range edits {
		more, err := k.ops(e)
		if err != nil {
			return err
		}
		ops = append(ops, more...)
	}
	for {
		expected := k.id
		err := perform(k.socket, ops, expected)
		if err == nil {
			k.done(ops)
			return nil
		}
		// Guards are changed meanwhile, for each port and each lease.
		if !errors.Is(err, unix.ERESTART) || !k.holds() || k.id == expected {
			return err
		}
	}
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
// known. What it learns is true only if the listings still are.
func (k *cache) learnChains(edits []*edit) error {
	found := map[chainKey][]nfnetlink.Rule{}
	for _, e := range edits {
		for key := range k.unknown(e) {
			rules, err := k.socket.Rules(nfproto(key.family), key.table, key.name)
			if err != nil {
				return err
			}
			if listed := e.before[key]; len(rules) != len(listed) {
				return fmt.Errorf("chain %s of table %s has %d rules, listed were %d", key.name, key.table, len(rules), len(listed))
			}
			found[key] = rules
		}
	}
	if len(found) == 0 {
		return nil
	}
	if !k.holds() {
		return errors.New("the rules changed while they were listed")
	}
	for _, e := range edits {
		for key, rules := range found {
			if key.family == e.family {
				k.learn(key, e.before[key], rules)
			}
		}
	}
	return nil
}

// unknown are the chains of the edit about which more must be known.
func (k *cache) unknown(e *edit) map[chainKey]bool {
	out := map[chainKey]bool{}
	for table, commands := range e.commands {
		for _, c := range commands {
			key := chainKey{e.family, table, c.chain}
			if _, known := k.handles[key]; known || out[key] {
				continue
			}
			name, _ := parameterize(e.family, c.args)
			if c.op == opDelete || k.templates[name] == nil {
				out[key] = true
			}
		}
	}
	return out
}

// learn remembers the handles of a chain's rules, and the templates that are new.
// listed is the text of the rules, the last one first.
func (k *cache) learn(key chainKey, listed []string, rules []nfnetlink.Rule) {
	handles := make(map[string][]uint64, len(rules))
	for i, r := range rules {
		args := listed[len(listed)-1-i]
		handles[args] = append(handles[args], r.Handle)
		name, _ := parameterize(key.family, args)
		if k.templates[name] == nil && r.Expressions != nil && !r.Userdata {
			if t := learn(key.family, args, r.Expressions); t != nil {
				k.templates[name] = t
			}
		}
	}
	k.handles[key] = handles
}

// ops are the edit's commands in the terms of nftables.
func (k *cache) ops(e *edit) ([]op, error) {
	var out []op
	copies := map[chainKey]map[string]int{} // of rules to be deleted, so far
	for _, table := range tables() {
		for _, c := range e.commands[table] {
			d := op{chain: chainKey{e.family, table, c.chain}, args: c.args, insert: c.op == opInsert}
			if copies[d.chain] == nil {
				copies[d.chain] = map[string]int{}
			}
			var err error
			if d.insert {
				d.content, err = k.content(e.family, c.args)
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

// message is the op in nftables' terms; the kernel is asked to tell the handle of
// what is inserted if echo is set.
func (o *op) message(echo bool) []byte {
	attributes := nfnetlink.RuleAttributes(o.chain.table, o.chain.name)
	if !o.insert {
		attributes = netlink.AppendAttribute(attributes, unix.NFTA_RULE_HANDLE, binary.BigEndian.AppendUint64(nil, o.handle))
		return nfnetlink.Message(nfnetlink.Type(unix.NFT_MSG_DELRULE), 0, nfproto(o.chain.family), 0, attributes)
	}
	flags := uint16(unix.NLM_F_CREATE)
	if echo {
		flags |= unix.NLM_F_ECHO
	}
	return nfnetlink.Message(nfnetlink.Type(unix.NFT_MSG_NEWRULE), flags, nfproto(o.chain.family), 0, append(attributes, o.content...))
}

// perform does ops as one transaction, if the generation is the one expected,
// and notes the handles of what was inserted.
func perform(s *nfnetlink.Socket, ops []op, expected uint32) error {
	messages := make([][]byte, len(ops))
	for i := range ops {
		messages[i] = ops[i].message(len(ops) <= echoed)
	}
	return s.Commit(messages, expected, func(at int, m netlink.Message) {
		if m.Type == nfnetlink.Type(unix.NFT_MSG_NEWRULE) {
			ops[at].handle = nfnetlink.ReadRule(m.Body).Handle
		}
	})
}
