package forward

import (
	"errors"
	"fmt"

	"github.com/vnetd/vnetd/internal/portowner"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// Clash refuses forwards of next, but for those that has, nil for none, has as well, whose
// ports a program of this host listens at: it would hear nobody any more.
func Clash(next, has *netdef.Network) error {
	had := make(map[string]bool)
	if has != nil {
		for i := range has.PortForwards {
			had[has.PortForwards[i].Key()] = true
		}
	}
	var faults []error
	for i := range next.PortForwards {
		f := &next.PortForwards[i]
		if had[f.Key()] {
			continue
		}
		if err := listened(f); err != nil {
			faults = append(faults, api.Errorf(api.Conflict, "network/vnetd:forward[%d]/@port: %w", i+1, err))
		}
	}
	return errors.Join(faults...)
}

// listened is who listens at one of the ports of f, nil for nobody. Those of sctp the
// kernel does not list.
func listened(f *netdef.PortForward) error {
	if f.Protocol == "sctp" {
		return nil
	}
	who, where, found := portowner.Listener(f.Protocol, f.Address, f.Ports.Start, f.Ports.End)
	if !found {
		return nil
	}
	return fmt.Errorf("%s %s is taken: %s listens at %s", f.Protocol, f.Ports, who, where)
}
