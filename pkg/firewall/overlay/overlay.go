// Package overlay keeps apart what of a network that spans hosts is each host's own: the
// gateway with its ARP and neighbour discovery, DHCP, router advertisements, and what bridges
// tell each other. Guests behind the tunnel hear nothing of them. It also has tunnels take
// packets from the network's hosts alone, and none that guests send.
//
// It does so by two tables of nftables of vnetd's own, beside the rules of either writer, with
// sets for what networks there are.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// Table is both tables, in the network namespace of the thread that first uses them. Its
// methods may be called concurrently.
type Table struct {
	log *slog.Logger
	// port is the address of socket, 0 before there is one: notifications tell whose
	// doing a change is.
	port atomic.Uint32
	// used is closed once there is something to watch.
	used func()
	use  chan struct{}

	mu     sync.Mutex // guards what follows
	socket *nfnetlink.Socket
	looked bool   // it is known what a former process left
	stands bool   // the tables are there, with what content says in their sets
	own    claims // what networks ask for
	// former is what a former process left in the sets, until all its networks are known.
	former content
}

var _ firewall.Spans = (*Table)(nil)

// New returns a Table, which touches nothing before Set. log is told what was found; nil
// discards it.
func New(log *slog.Logger) *Table {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	use := make(chan struct{})
	return &Table{log: log, own: newClaims(), use: use, used: sync.OnceFunc(func() { close(use) })}
}

// Set is firewall.Spans'.
func (t *Table) Set(networks iter.Seq[*firewall.Network]) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := t.own.to(networks)
	// What a former process left is a network's that comes yet, or goes with Settle.
	if t.looked || t.own.hosts+next.hosts > 0 {
		if err := t.connect(); err != nil {
			return err
		}
		if err := t.become(next); err != nil {
			return err
		}
	}
	t.own.take(next)
	return nil
}

// Settle is firewall.Spans'.
func (t *Table) Settle() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.connect(); err != nil {
		if t.own.hosts == 0 {
			return nil // a kernel without nftables has nothing of a former process
		}
		return err
	}
	if len(t.former) == 0 {
		return nil
	}
	own := func() content { return t.own.content(step{}) }
	if err := t.make(t.own.hosts > 0, own, func() [][]byte { return change(t.content(step{}), own()) }); err != nil {
		return err
	}
	t.former = nil
	return nil
}

// content is what is in the sets after a step of what networks ask for. The caller holds mu.
func (t *Table) content(s step) content { return join(t.own.content(s), t.former) }

// become has the sets be what networks ask for after a step. The caller holds mu and is
// connected.
func (t *Table) become(s step) error {
	stand := t.own.hosts+s.hosts > 0 || len(t.former) > 0
	return t.make(stand, func() content { return t.content(s) }, func() [][]byte {
		old, fresh := t.own.differences(s)
		old.drop(t.former)
		fresh.drop(t.former)
		return change(old, fresh)
	})
}

// make has the tables stand with all in their sets, or not be there. Where they stand, changes
// do that. The caller holds mu and is connected.
func (t *Table) make(stand bool, all func() content, changes func() [][]byte) error {
	anew := func() [][]byte { return append(removal(), creation(all())...) }
	var messages [][]byte
	switch {
	case stand && t.stands:
		messages = changes()
	case stand:
		messages = anew()
	case t.stands:
		messages = removal()
	}
	if len(messages) == 0 {
		return nil
	}
	err := t.commit(messages)
	if err != nil && t.stands && stand { // somebody else changed them
		err = t.commit(anew())
	}
	if err != nil {
		return fmt.Errorf("keeping networks that span hosts apart: %w", explain(err))
	}
	if t.stands = stand; stand {
		t.used()
	}
	return nil
}

// explain says which part of the kernel is not there.
func explain(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return fmt.Errorf("this kernel has no nftables for bridges, want nf_tables with CONFIG_NF_TABLES_BRIDGE: %w", err)
	}
	return err
}

// connect opens the socket, and looks what a former process left. The caller holds mu.
func (t *Table) connect() (err error) {
	if t.socket == nil {
		if t.socket, err = nfnetlink.Open(); err != nil {
			return err
		}
		t.port.Store(t.socket.Address())
	}
	if t.looked {
		return nil
	}
	// A table of another version may have other rules: it is there, but does not stand. Where
	// none can be asked for, none is there.
	if there, err := t.socket.HasTable(frames.Family, frames.Table); err == nil && there {
		t.former = t.found()
		if len(t.former) == 0 {
			return t.commit(removal())
		}
		t.stands = true
		return t.rewrite()
	}
	t.looked = true
	return nil
}

// rewrite makes the tables anew with what shall be in their sets, in one transaction. The caller
// holds mu.
func (t *Table) rewrite() error {
	err := t.commit(append(removal(), creation(t.content(step{}))...))
	t.looked = t.looked || err == nil
	return err
}

// found is what is in the sets now, as far as it can be read.
func (t *Table) found() content {
	c := make(content)
	for _, s := range sets() {
		all, err := t.socket.Elements(s.in.Family, s.in.Table, s.Name)
		if err != nil {
			continue
		}
		for _, e := range all {
			if len(e.Key) == int(s.Key.Size) {
				c.add(s.Name, e.Key)
			}
		}
	}
	return c
}

// commit carries out a transaction.
func (t *Table) commit(messages [][]byte) error {
	return t.socket.Commit(messages, 0, func(int, netlink.Message) {})
}

// Purge is firewall.Spans'.
func (t *Table) Purge() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.connect(); err != nil {
		return err
	}
	t.former, t.own, t.stands = nil, newClaims(), false
	err := t.commit(removal())
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil // a kernel without such tables has none
	}
	return err
}

// Close gives up the connection to the kernel. It touches no rule.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.socket == nil {
		return nil
	}
	err := t.socket.Close()
	t.socket = nil
	return err
}

// lookDelay is how long after a change it is looked at: more comes soon.
const lookDelay = 100 * time.Millisecond

// Watch puts the tables back when somebody else changes them, until ctx ends, whose error it
// returns.
func (t *Table) Watch(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	tell := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.use:
	}
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { t.listen(ctx, tell) })
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lookDelay):
		}
		t.repair()
	}
}

// listen tells of changes of the tables that others make, until ctx ends.
func (t *Table) listen(ctx context.Context, tell func()) {
	socket, err := nfnetlink.Open(unix.NFNLGRP_NFTABLES)
	if err != nil {
		t.log.Info("no notifications of changes of rules between hosts", "error", err)
		return
	}
	tell() // of what happened before
	_ = socket.Listen(ctx, tell, func(m netlink.Message) {
		if nfnetlink.Table(m) == firewall.SpanTable && m.Port != 0 && m.Port != t.port.Load() {
			tell()
		}
	})
}

// repair makes the tables anew, which somebody else changed.
func (t *Table) repair() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.stands || t.socket == nil || t.intact() {
		return
	}
	t.log.Warn("another program changed the rules of networks that span hosts: they are put back", "table", firewall.SpanTable)
	if err := t.rewrite(); err != nil {
		t.log.Error("rules of networks that span hosts could not be put back", "error", explain(err))
	}
}

// intact reports whether the tables are as they were made. The caller holds mu.
func (t *Table) intact() bool {
	found, all := t.found(), t.content(step{})
	for _, s := range sets() {
		if !maps.Equal(found[s.Name], all[s.Name]) {
			return false
		}
	}
	for _, c := range chains() {
		all, err := t.socket.Rules(c.in.Family, c.in.Table, c.name)
		if err != nil || len(all) != len(c.rules) {
			return false
		}
	}
	return true
}
