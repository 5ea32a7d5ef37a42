package network

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/network/port"
)

// auditPace is how often it is looked whether run-state still is on disk.
const auditPace = 5 * time.Second

// audit looks whether run-state still is on disk.
type audit struct {
	m  *Manager
	mu sync.Mutex // held by keep
}

// run writes run-state anew that somebody removed, until ctx ends: without it the
// next vnetd would know less.
func (a *audit) run(ctx context.Context) {
	tick := time.NewTicker(auditPace)
	defer tick.Stop()
	said := fmt.Sprint(error(nil))
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// Once, not every time.
		err := a.keep()
		if text := fmt.Sprint(err); text != said {
			said = text
			a.m.log.Warn("run-state on disk", keyError, err)
		}
	}
}

// keep writes the run-state that is not on disk of all networks and ports that
// nobody is about to change.
func (a *audit) keep() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	networks, ports, err := a.m.cfg.Store.Recorded()
	errs := []error{err, a.m.cfg.Store.KeepLock()}
	if err != nil {
		return errors.Join(errs...)
	}
	for _, n := range a.m.all() {
		if n.op.TryLock() {
			errs = append(errs, turn{n}.keepRecord(networks))
			n.op.Unlock()
		}
	}
	for _, p := range a.m.ports.reg.All(port.Own, port.External) {
		if !ports[p.UUID] {
			errs = append(errs, p.Keep(a.m.ports.keep))
		}
	}
	return errors.Join(errs...)
}

// keepRecord writes the network's run-state where it is not among those on disk. The
// caller holds n.op.
func (n turn) keepRecord(onDisk map[string]bool) error {
	live := n.liveNetwork()
	if live == nil {
		return nil
	}
	return n.record.Keep(onDisk[live.UUID])
}
