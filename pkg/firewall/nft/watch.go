package nft

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
)

const (
	// lookPace is how often counters are read for the log, and what could not be
	// written is tried again.
	lookPace = 5 * time.Second

	// tellPace is how often the log tells of one kind of one port.
	tellPace = time.Minute
)

// dropGone leaves out ports whose devices are gone. The caller holds g.mu.
func (g *Guards) dropGone() {
	maps.DeleteFunc(g.ports, func(index int, p *port) bool {
		link, err := net.InterfaceByName(p.IfName)
		return err != nil || link.Index != index
	})
}

// Watch puts guards back that others take away, tries again what failed, and tells
// the log what is stopped, until ctx ends.
func (g *Guards) Watch(ctx context.Context) error {
	tell := newTeller(g.log)
	told := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() {
		done <- g.listen(ctx, func() {
			select {
			case told <- struct{}{}:
			default:
			}
		})
	}()
	tick := time.NewTicker(lookPace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			<-done
			return ctx.Err()
		case <-told:
			g.repair()
		case <-tick.C:
			g.tend()
			tell.tell(g.names(), g.Stopped())
		}
	}
}

// repair makes the table anew, which somebody changed.
func (g *Guards) repair() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held || len(g.networks) == 0 {
		return
	}
	g.log.Warn("another program changed the port guards: they are put back")
	_ = g.rewrite() // it is in g.err
}

// tend tries again what failed, and takes away what is counted of ports that are no
// more.
func (g *Guards) tend() {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.held:
	case g.err != nil:
		_ = g.rewrite() // it is in g.err
	case len(g.tally.gone) > 0 && g.stands:
		_ = g.settle(func() error {
			b := g.kernel.begin()
			b.remove(g.tally.sweep(g.kernel)...)
			return b.commit()
		})
	}
}

// names are the devices of ports, by ifindex.
func (g *Guards) names() map[int]string {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make(map[int]string)
	for index, p := range g.ports {
		all[index] = p.IfName
	}
	return all
}

// listen calls changed when somebody else has changed the table, until ctx ends.
func (g *Guards) listen(ctx context.Context, changed func()) error {
	socket, err := netlink.Open(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		g.log.Info("no notifications of changes of port guards", "error", err)
		return nil
	}
	socket.SetBuffers(0, socketBuffer) // all that one transaction of ours changes is told at once
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
			changed() // more happened than the socket holds
			continue
		case err != nil:
			return fmt.Errorf("listening to nftables: %w", err)
		}
		for m := range netlink.Messages(datagram) {
			if m.Port != 0 && m.Port != g.port.Load() && concerns(m) {
				changed()
				break
			}
		}
	}
}

// concerns reports whether a notification is about the table of guards.
func concerns(m netlink.Message) bool {
	kinds := []int{
		unix.NFT_MSG_DELTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE,
		unix.NFT_MSG_DELSET, unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM, unix.NFT_MSG_NEWTABLE,
	}
	return slices.Contains(kinds, int(m.Type&0xff)) && nfnetlink.Table(m) == tableName
}
