package iptables

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// Watch is firewall.Writer's: changed is called for every commit to nftables but those
// to the tables of ports' guards, of which there is one for every port, and of offloaded
// connections.
func (w *Writer) Watch(ctx context.Context, changed func()) error {
	socket, err := nfnetlink.Open(unix.NFNLGRP_NFTABLES)
	if err != nil {
		w.log.Info("no notifications of changes of the firewall", "error", err)
		return nil
	}
	var now commit
	return socket.Listen(ctx, func() {
		changed()
		now = commit{others: true} // part of it may be lost
	}, func(m netlink.Message) {
		g, ends := nfnetlink.ReadGeneration(m)
		if !ends {
			now.note(m)
			return
		}
		if now.guards && !now.others {
			w.pass()
		} else {
			w.heard(g)
			changed()
		}
		now = commit{}
	})
}

// commit is which tables the notifications of a commit were about until now: the
// generation comes last.
type commit struct{ guards, others bool }

// note takes in one notification.
func (c *commit) note(m netlink.Message) {
	switch table := nfnetlink.Table(m); {
	case table == "":
	case firewall.IsGuardTable(table) || table == firewall.OffloadTable || table == firewall.SpanTable:
		c.guards = true
	default:
		c.others = true
	}
}

// pass has what is known of the rules outlive a commit to guards now, unless somebody is at work
// who will do so: what waits to be read has an end.
func (w *Writer) pass() {
	if w.mu.TryLock() {
		defer w.mu.Unlock()
		w.cache.catchUp(0)
	}
}

// heard notes who made a generation.
func (w *Writer) heard(g nfnetlink.Generation) {
	w.heardMu.Lock()
	defer w.heardMu.Unlock()
	if g.Process != "" {
		w.made = append(w.made, g)
	}
}

// Others is firewall.Writer's.
func (w *Writer) Others() []string {
	w.heardMu.Lock()
	made := w.made
	w.made = nil
	w.heardMu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	var programs []string
	for _, g := range made {
		if !w.cache.ours[g.ID] {
			programs = append(programs, g.Process)
		}
	}
	clear(w.cache.ours)
	return programs
}
