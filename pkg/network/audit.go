package network

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/store"
)

// auditPace is how often it is looked whether run-state still is on disk.
const auditPace = 5 * time.Second

// audit looks whether run-state still is on disk.
type audit struct {
	*catalog
	keeping sync.Mutex // held by keep
}

// run writes run-state and leases anew that somebody removed, until ctx ends: without
// them the next vnetd would know less.
func (a *audit) run(ctx context.Context) {
	said := fmt.Sprint(error(nil))
	env.Every(ctx, auditPace, func() {
		// Once, not every time.
		err := a.keep()
		if text := fmt.Sprint(err); text != said {
			said = text
			a.env.Logger.Warn("run-state on disk", env.KeyError, err)
		}
	})
}

// keep writes the run-state that is not on disk of all networks and ports that
// nobody is about to change.
func (a *audit) keep() error {
	a.keeping.Lock()
	defer a.keeping.Unlock()
	onDisk, err := a.env.Store.Recorded()
	errs := []error{err, a.env.Store.KeepLock(), a.env.Store.KeepLeases()}
	if err != nil {
		return errors.Join(errs...)
	}
	for _, n := range a.all() {
		errs = append(errs, n.KeepRecord(onDisk))
	}
	for _, p := range a.ports.Registry().All(port.Own, port.External) {
		if onDisk.Ports[p.UUID] {
			continue
		}
		errs = append(errs, p.Keep(func(record store.Port) error {
			if onDisk.HasPort(record.UUID) {
				return nil
			}
			return a.ports.Keep(record)
		}))
	}
	return errors.Join(errs...)
}
