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
	own    bool // by this writer
}

// note takes in one notification; port is the writer's.
func (c *commit) note(m netlink.Message, port uint32) {
	switch table := nfnetlink.Table(m); {
	case m.Port == port && table != "":
		c.own = true
	case table == "" || firewall.IsGuardTable(table) || table == firewall.OffloadTable || table == firewall.SpanTable || table == keep.Table:
	case table == networksTable:
		c.others, c.tables = true, true
	default:
		c.others = true
	}
}

// commitsBuffer has all that one transaction of some thousand networks changes wait.
const commitsBuffer = 4 << 20

// catchUp takes in all commits until now: what is known of the tables holds on after those
// that were about something else, as those to other tables of vnetd's are. A process that has
// committed has had the kernel tell of it. The caller holds mu.
func (w *Writer) catchUp() {
	all := w.commits.Read(func(m netlink.Message) bool {
		g, ends := nfnetlink.ReadGeneration(m)
		if !ends {
			w.coming.note(m, w.port.Load())
			return true
		}
		w.known = w.coming.after(w.known, g.ID, w.anew)
		w.coming = commit{}
		return true
	})
	if !all {
		w.known, w.coming = 0, commit{}
		_ = w.commits.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES) // else the tables are looked at each time
	}
}

// after is the generation up to which nobody else has changed the tables, 0 for none that is
// known, once the commit has made one. anew says that this writer's make the tables anew.
func (c *commit) after(known, made uint32, anew bool) uint32 {
	switch {
	case anew && c.own:
		return made
	case known == 0 || int32(made-known) <= 0:
		return known
	case c.tables || made != next(known):
		return 0
	}
	return made
}

// next is the generation after another: none is 0.
func next(generation uint32) uint32 { return max(generation+1, 1) }

// pass notes a commit, and reports whether somebody else made it.
func (w *Writer) pass(g nfnetlink.Generation, c commit) (foreign bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.catchUp()
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
