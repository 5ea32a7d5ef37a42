package nft

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// guardPriority is that of the ports' chains at ingress. What others do there at the
// usual priority comes after.
const guardPriority = -100

// chain is a chain and what stands in it; device has it at that device's ingress.
type chain struct {
	name, device string
	rules        []rule
}

// kernel is the connection to nftables, which there is not until connect.
type kernel struct {
	socket *nfnetlink.Socket
	port   atomic.Uint32 // the socket's address, 0 before there is one
}

// connect makes the connection, if there is none.
func (k *kernel) connect() (err error) {
	if k.socket == nil {
		if k.socket, err = nfnetlink.Open(); err == nil {
			k.port.Store(k.socket.Address())
		}
	}
	return err
}

func (k *kernel) close() error {
	if k.socket == nil {
		return nil
	}
	err := k.socket.Close()
	k.socket = nil
	return err
}

// names are those of the tables of guards that there are, by whomever.
func (k *kernel) names() (names []string, err error) {
	tables, err := k.socket.Tables()
	for _, t := range tables {
		if t.Family == unix.NFPROTO_NETDEV && firewall.IsGuardTable(t.Table) {
			names = append(names, t.Table)
		}
	}
	return names, err
}

// drop deletes tables.
func (k *kernel) drop(names []string) error {
	var messages [][]byte
	for _, name := range names {
		messages = append(messages, guardPlace(name).DeleteTable())
	}
	return k.commit(messages)
}

// commit carries messages out as one transaction, or nothing of them.
func (k *kernel) commit(messages [][]byte) error {
	if len(messages) == 0 {
		return nil
	}
	return k.socket.Commit(messages, 0, nil)
}

// guardPlace is the table of guards with that name.
func guardPlace(name string) nfnetlink.Place {
	return nfnetlink.Place{Family: unix.NFPROTO_NETDEV, Table: name}
}

// place is a table of the kernel.
type place struct {
	nfnetlink.Place
	kernel *kernel
}

// batch is a transaction in the making.
type batch struct {
	place
	messages   [][]byte
	adds, dels []element
	sets       uint32 // that are made
	errs       []error
}

// begin begins a transaction.
func (t place) begin() *batch { return &batch{place: t} }

func (b *batch) say(messages ...[]byte) { b.messages = append(b.messages, messages...) }

// anew has the table be there and empty.
func (b *batch) anew() {
	b.gone()
	b.say(b.NewTable(0, ""))
}

// gone has the table not be there.
func (b *batch) gone() { b.say(b.NewTable(0, ""), b.DeleteTable()) }

// addSets makes sets.
func (b *batch) addSets(all []nfnetlink.Set) {
	for _, s := range all {
		b.sets++
		b.say(b.NewSet(s, b.sets))
	}
}

// addChains makes chains, and then what stands in them: they lead to each other.
func (b *batch) addChains(all []chain) {
	for _, c := range all {
		var hook *nfnetlink.Hook
		if c.device != "" {
			hook = &nfnetlink.Hook{Number: unix.NF_NETDEV_INGRESS, Priority: guardPriority, Type: "filter", Device: c.device}
		}
		b.say(b.NewChain(c.name, hook))
	}
	for _, c := range all {
		for _, r := range c.rules {
			expressions, err := r.expressions(b.Family)
			if err != nil {
				b.errs = append(b.errs, fmt.Errorf("chain %s: %w", c.name, err))
			}
			b.say(b.NewRule(c.name, expressions...))
		}
	}
}

// empty takes away what stands in chains, which are there.
func (b *batch) empty(all []chain) {
	for _, c := range all {
		b.say(b.FlushChain(c.name))
	}
}

// deleteChains deletes chains.
func (b *batch) deleteChains(names ...string) {
	for _, name := range names {
		b.say(b.DeleteChain(name))
	}
}

// deleteSets deletes sets with what is in them. No rule may look into them any more.
func (b *batch) deleteSets(all []nfnetlink.Set) {
	for _, s := range all {
		b.say(b.DeleteSet(s.Name))
		b.dels = slices.DeleteFunc(b.dels, func(e element) bool { return e.set == s.Name })
	}
}

// add adds an element to its set.
func (b *batch) add(e element) { b.adds = append(b.adds, e) }

// remove takes elements away from their sets.
func (b *batch) remove(all ...element) { b.dels = append(b.dels, all...) }

// commit carries the transaction out, or nothing of it.
func (b *batch) commit() error {
	if err := errors.Join(b.errs...); err != nil {
		return err
	}
	b.say(bySet(b.dels, b.DeleteElements)...)
	b.say(bySet(b.adds, b.NewElements)...)
	return b.kernel.commit(b.messages)
}

// missing reports whether an error is that of a kernel without a part that guards
// need.
func missing(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT)
}
