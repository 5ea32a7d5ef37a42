package iptables

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// Watch is firewall.Writer's: changed is called for every commit to nftables but those
// to the table of ports' guards alone, of which there is one for every port.
func (w *Writer) Watch(ctx context.Context, changed func()) error {
	socket, err := openNFT(unix.NFNLGRP_NFTABLES)
	if err != nil {
		w.log.Info("no notifications of changes of the firewall", "error", err)
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = socket.Close() })
	defer func() {
		if stop() {
			_ = socket.Close()
		}
	}()
	var now commit
	for {
		datagram, err := socket.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS):
			// More happened than the socket holds: look at all of it.
			changed()
			now = commit{others: true} // part of it may be lost
		case err != nil:
			return fmt.Errorf("listening to nftables: %w", err)
		}
		for m := range netlink.Messages(datagram) {
			g, ends := readGeneration(m)
			if !ends {
				now.note(m)
				continue
			}
			if now.guards && !now.others {
				w.cache.heardGuards(g.id)
			} else {
				w.heard(g)
				changed()
			}
			now = commit{}
		}
	}
}

// commit is which tables the notifications of a commit were about until now: the
// generation comes last.
type commit struct{ guards, others bool }

// note takes in one notification. The table's name is the first attribute of all of
// them (NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, …).
func (c *commit) note(m netlink.Message) {
	if m.Type>>8 != unix.NFNL_SUBSYS_NFTABLES {
		return
	}
	for kind, value := range nftAttributes(m.Body) {
		if kind != unix.NFTA_TABLE_NAME {
			continue
		}
		if strings.TrimRight(string(value), "\x00") == firewall.GuardTable {
			c.guards = true
		} else {
			c.others = true
		}
		return
	}
}

// heard notes who made a generation.
func (w *Writer) heard(g generation) {
	w.heardMu.Lock()
	defer w.heardMu.Unlock()
	if g.process != "" {
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
		if !w.cache.ours[g.id] {
			programs = append(programs, g.process)
		}
	}
	clear(w.cache.ours)
	return programs
}
