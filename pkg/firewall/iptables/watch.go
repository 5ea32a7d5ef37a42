package iptables

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// Watch is firewall.Writer's: it is called for every commit to nftables.
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
	for {
		datagram, err := socket.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS):
			// More happened than the socket holds: look at all of it.
			changed()
		case err != nil:
			return fmt.Errorf("listening to nftables: %w", err)
		}
		for m := range netlink.Messages(datagram) {
			if g, ok := readGeneration(m); ok {
				w.heard(g)
				changed()
			}
		}
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
