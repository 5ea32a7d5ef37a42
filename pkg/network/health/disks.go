package health

import (
	"context"
	"fmt"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/store"
)

// Disks is the source of directories that can't be written.
func Disks(troubles func() []store.Trouble) Source {
	return Source{"disks", func(context.Context) ([]api.Condition, error) {
		var all []api.Condition
		for _, t := range troubles() {
			c := api.Condition{
				Kind: "disk-full", Severity: api.SeverityError, Evidence: t.Dir + ": " + t.Reason, Remedy: "df -h " + t.Dir,
				Message: fmt.Sprintf("nothing more can be written to %s: leases and networks are not kept", t.Dir),
			}
			if t.ReadOnly {
				c.Kind, c.Remedy = "disk-read-only", "findmnt --target "+t.Dir
			}
			if !t.State {
				c.Severity, c.Message = api.SeverityWarning, fmt.Sprintf("no network can be defined: %s can't be written", t.Dir)
			}
			all = append(all, c)
		}
		return all, nil
	}}
}

// Leases is the source of damage to the lease database; giving lists the networks that
// give addresses.
func Leases(damage func() error, giving func() []string) Source {
	return Source{"leases", func(context.Context) ([]api.Condition, error) {
		found := damage()
		if found == nil {
			return nil, nil
		}
		networks := giving()
		slices.Sort(networks)
		return []api.Condition{{
			Kind: "leases-damaged", Severity: api.SeverityWarning, Evidence: found.Error(), Networks: networks,
			Message: "the lease database was damaged: guests whose leases are lost may get other addresses",
		}}, nil
	}}
}
