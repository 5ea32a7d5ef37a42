package nft

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// lookPace is how often counters are read for the log, and what could not be
// written is tried again.
const lookPace = 5 * time.Second

// Watch puts guards back that others take away, tries again what failed, and tells
// the log what is stopped, until ctx ends.
func (g *Guards) Watch(ctx context.Context) error {
	tell := newTeller(g.log)
	told := newNews()
	done := make(chan error, 1)
	go func() { done <- g.listen(ctx, told.tell) }()
	tick := time.NewTicker(lookPace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			<-done
			return ctx.Err()
		case <-told.wake:
			g.repair(told.take())
		case <-tick.C:
			g.tend()
			tell.tell(g.names(), g.Stopped())
		}
	}
}

// repair makes tables anew that somebody changed; nil stands for all.
func (g *Guards) repair(changed map[string]bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held {
		return
	}
	told := false
	for _, t := range g.all() {
		if changed != nil && !changed[t.Table] {
			continue
		}
		if !told {
			g.log.Warn("another program changed the port guards: they are put back")
			told = true
		}
		g.anew(t)
	}
}

// tend tries again what failed, and takes away what is counted of ports that are no
// more.
func (g *Guards) tend() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held {
		return
	}
	for _, t := range g.all() {
		switch {
		case !t.stands:
			g.anew(t)
			g.end(t)
		case len(t.tally.gone) > 0:
			_ = g.settle(t, func() error {
				b := t.begin()
				b.remove(t.tally.sweep(&t.place)...)
				return b.commit()
			})
		}
	}
	g.sweep()
}

// names are the devices of ports, by ifindex.
func (g *Guards) names() map[int]string {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make(map[int]string)
	for _, t := range g.tables {
		for index, p := range t.ports {
			all[index] = p.IfName
		}
	}
	return all
}

// news are the tables that somebody else has changed.
type news struct {
	wake chan struct{} // holds a value while there are some

	mu     sync.Mutex      // guards what follows
	tables map[string]bool // nil: any may be
}

func newNews() *news { return &news{wake: make(chan struct{}, 1), tables: make(map[string]bool)} }

// tell notes a change of a table, of any for "".
func (n *news) tell(table string) {
	n.mu.Lock()
	if table == "" {
		n.tables = nil
	}
	if n.tables != nil {
		n.tables[table] = true
	}
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// take returns what was told of, nil for all tables.
func (n *news) take() (tables map[string]bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	tables, n.tables = n.tables, make(map[string]bool)
	return tables
}

// listen calls changed with a table that somebody else has changed, or "" where it may be any,
// until ctx ends.
func (g *Guards) listen(ctx context.Context, changed func(table string)) error {
	socket, err := nfnetlink.Open(unix.NFNLGRP_NFTABLES)
	if err != nil {
		g.log.Info("no notifications of changes of port guards", "error", err)
		return nil
	}
	return socket.Listen(ctx, func() { changed("") }, func(m netlink.Message) {
		if m.Port != 0 && m.Port != g.kernel.port.Load() && concerns(m) {
			changed(nfnetlink.Table(m))
		}
	})
}

// concerns reports whether a notification is about a table of guards.
func concerns(m netlink.Message) bool {
	kinds := []int{
		unix.NFT_MSG_DELTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE,
		unix.NFT_MSG_DELSET, unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM, unix.NFT_MSG_NEWTABLE,
	}
	return slices.Contains(kinds, int(m.Type&0xff)) && firewall.IsGuardTable(nfnetlink.Table(m))
}
