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
	looked bool    // it is known what a former process left
	stands bool    // the tables are there, with is in their sets
	is     content //
	own    content // what networks ask for
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
	return &Table{log: log, use: use, used: sync.OnceFunc(func() { close(use) })}
}

// Set is firewall.Spans'.
func (t *Table) Set(networks iter.Seq[*firewall.Network]) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := wanted(networks)
	if len(own) == 0 && !t.looked {
		return nil // what a former process left is a network's that comes yet, or goes with Settle
	}
	if err := t.connect(); err != nil {
		return err
	}
	if err := t.become(join(own, t.former)); err != nil {
		return err
	}
	t.own = own
	return nil
}

// Settle is firewall.Spans'.
func (t *Table) Settle() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.connect(); err != nil {
		if len(t.own) == 0 {
			return nil // a kernel without nftables has nothing of a former process
		}
		return err
	}
	t.former = nil
	return t.become(t.own)
}

// become makes the tables have that in their sets; nothing: not be there. The caller holds mu
// and is connected.
func (t *Table) become(next content) error {
	var messages [][]byte
	switch {
	case len(next) == 0 && t.stands:
		messages = removal()
	case len(next) == 0:
	case t.stands:
		messages = change(t.is, next)
	default:
		messages = append(removal(), creation(next)...)
	}
	if len(messages) == 0 {
		return nil
	}
	err := t.commit(messages)
	if err != nil && t.stands && len(next) > 0 { // somebody else changed them
		err = t.commit(append(removal(), creation(next)...))
	}
	if err != nil {
		return fmt.Errorf("keeping networks that span hosts apart: %w", explain(err))
	}
	if t.is, t.stands = next, len(next) > 0; t.stands {
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
		t.is, t.stands = t.former, true
		return t.rewrite()
	}
	t.looked = true
	return nil
}

// rewrite makes the tables anew with what is in their sets, in one transaction. The caller
// holds mu.
func (t *Table) rewrite() error {
	err := t.commit(append(removal(), creation(t.is)...))
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
	t.former, t.own, t.is, t.stands = nil, nil, nil, false
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
	found := t.found()
	for _, s := range sets() {
		if !maps.Equal(found[s.Name], t.is[s.Name]) {
			return false
		}
	}
	chains := append(hooks(), hook{in: frames, name: chainLocal, rules: local()})
	for _, c := range chains {
		all, err := t.socket.Rules(c.in.Family, c.in.Table, c.name)
		if err != nil || len(all) != len(c.rules) {
			return false
		}
	}
	return true
}
