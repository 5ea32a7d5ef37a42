package offload

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

const (
	// lookDelay is how long after a change it is looked at what changed: more comes soon.
	lookDelay = 300 * time.Millisecond
	// retryTime is how often what the kernel refused is tried again.
	retryTime = time.Minute
)

// news is what was heard of since the last look.
type news struct {
	wake chan struct{} // has room for one

	mu    sync.Mutex // guards what follows
	table bool       // somebody else changed the table
	rules bool       // rules changed of which connections are not asked that are offloaded
}

// tell notes what happened; neither: something else of the host changed.
func (n *news) tell(table, rules bool) {
	n.mu.Lock()
	n.table, n.rules = n.table || table, n.rules || rules
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// take returns what was told since the last call.
func (n *news) take() (table, rules bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	table, rules = n.table, n.rules
	n.table, n.rules = false, false
	return table, rules
}

// Watch follows the host's devices as they come and go, has rules decide anew of all
// connections when others change them, puts the table back, and tries again what the
// kernel refused, until ctx ends, whose error it returns.
func (t *Table) Watch(ctx context.Context) error {
	heard := &news{wake: make(chan struct{}, 1)}
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { t.listen(ctx, heard) })
	running.Go(func() {
		groups := []uint{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR}
		changed := func() { heard.tell(false, false) }
		if err := netlink.Watch(ctx, unix.NETLINK_ROUTE, groups, changed, func(netlink.Message) { changed() }); err != nil {
			t.cfg.Logger.Info("no notifications of the host's devices", "error", err)
		}
	})
	tick := time.NewTicker(retryTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-heard.wake:
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(lookDelay):
			}
		}
		t.look(heard.take())
	}
}

// look makes the table what it should be. What somebody may have changed, or what rules
// are to decide of anew, is made anew.
func (t *Table) look(table, rules bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.asked {
		return
	}
	if table && len(t.devices) > 0 {
		t.cfg.Logger.Warn("another program changed the table of offloaded connections: it is put back")
	}
	if len(t.devices) > 0 {
		t.stands = t.stands && !table && !rules
	}
	t.settle()
}

// silent are vnetd's own tables that refuse no packet which is forwarded, beside those of guards.
var silent = []string{firewall.SpanTable, "vnetd_keep", "vnetd_bandwidth"}

// listen tells of changes of nftables, iptables' among them, until ctx ends.
func (t *Table) listen(ctx context.Context, heard *news) {
	socket, err := nfnetlink.Open(unix.NFNLGRP_NFTABLES)
	if err != nil {
		t.cfg.Logger.Info("no notifications of changes of rules: connections that are offloaded are not asked about them", "error", err)
		return
	}
	_ = socket.Listen(ctx, func() { heard.tell(true, true) }, func(m netlink.Message) {
		switch table := nfnetlink.Table(m); {
		case table == "" || firewall.IsGuardTable(table) || slices.Contains(silent, table):
		case table != firewall.OffloadTable:
			heard.tell(false, true)
		case m.Port != 0 && m.Port != t.port.Load():
			heard.tell(true, false)
		}
	})
}
