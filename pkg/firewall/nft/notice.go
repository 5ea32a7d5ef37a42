package nft

import (
	"context"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/keep"
)

// Watch is firewall.Writer's: changed is called for every commit of others but those to
// the table of ports' guards alone, of which there is one for every port.
func (w *Writer) Watch(ctx context.Context, changed func()) error {
	socket, err := nfnetlink.Open(unix.NFNLGRP_NFTABLES)
	if err != nil {
		w.log.Info("no notifications of changes of the firewall", "error", err)
		return nil
	}
	var now commit
	return socket.Listen(ctx, func() {
		now = commit{others: true, tables: true} // part of it is lost
		changed()
	}, func(m netlink.Message) {
		g, ends := nfnetlink.ReadGeneration(m)
		if !ends {
			now.note(m, w.port.Load())
			return
		}
		if w.pass(g, now) {
			changed()
		}
		now = commit{}
	})
}

// commit is what the notifications of a commit were about until now: the generation
// comes last.
type commit struct {
	others bool // somebody else's doing, and more than guards
	tables bool // the networks' tables, not by this writer
}

// note takes in one notification; port is the writer's.
func (c *commit) note(m netlink.Message, port uint32) {
	switch table := nfnetlink.Table(m); {
	case table == "" || table == firewall.GuardTable || table == firewall.OffloadTable || table == firewall.SpanTable || table == keep.Table || m.Port == port:
	case table == networksTable:
		c.others, c.tables = true, true
	default:
		c.others = true
	}
}

// pass notes a commit, and reports whether somebody else made it. What is known of the
// tables holds on after commits that were about something else.
func (w *Writer) pass(g nfnetlink.Generation, c commit) (foreign bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !c.tables && w.known != 0 && w.known == g.ID-1 {
		w.known = g.ID
	}
	if !c.others {
		return false
	}
	w.foreign = g.ID
	w.heardMu.Lock()
	defer w.heardMu.Unlock()
	if g.Process != "" {
		w.heard = append(w.heard, g.Process)
	}
	return true
}

// lastForeign is the last generation in which somebody else changed rules, as far as
// Watch has heard.
func (w *Writer) lastForeign() uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.foreign
}

// Others is firewall.Writer's.
func (w *Writer) Others() []string {
	w.heardMu.Lock()
	defer w.heardMu.Unlock()
	all := slices.Clone(w.heard)
	w.heard = nil
	return all
}
