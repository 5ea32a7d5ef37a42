package live

import (
	"context"
	"slices"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Leases lists the addresses that guests hold, in order of address; also those that
// the network would not give any more, and those of an inactive network: leases
// outlive its settings and itself.
func (n *Network) Leases() ([]env.Lease, error) {
	is, running := n.exists(), n.Services()
	if is == nil {
		return nil, nil
	}
	held, served := running.Leases()
	if served {
		others, err := n.unserved.list(n.env.Store, is, running)
		if err != nil {
			return nil, err
		}
		held = append(held, others...)
	} else {
		stored, err := n.env.Store.Leases(is.UUID).Load()
		if err != nil {
			return nil, err
		}
		now := time.Now()
		held = slices.DeleteFunc(stored, func(l dhcpd.Lease) bool { return !l.BoundAt(now) })
	}
	slices.SortFunc(held, func(a, b dhcpd.Lease) int { return a.Addr.Compare(b.Addr) })
	leases := make([]env.Lease, 0, len(held))
	for _, l := range held {
		leases = append(leases, newLease(is, l))
	}
	return leases, nil
}

// ExportLeases is the network's leases as dnsmasq keeps them in a file.
func (n *Network) ExportLeases() (string, error) {
	held, err := n.Leases()
	if err != nil {
		return "", err
	}
	leases := make([]dhcpd.Lease, 0, len(held))
	for _, l := range held {
		leases = append(leases, l.Lease)
	}
	defs := n.Definitions()
	if len(defs) == 0 {
		return "", nil
	}
	return translate.FormatLeases(leases, defs[0].MAC), nil
}

// ImportLeases takes over the leases in text: a lease file of dnsmasq, or the file
// that libvirt keeps of them. It returns how many there are now on disk, and why the
// others are not. Of a network that is not active they are those with which it will
// start. Invalid: text is no such file, and nothing was taken.
func (n *Network) ImportLeases(ctx context.Context, text string) (taken int, refused []string, err error) {
	leases, err := translate.ParseLeases(text)
	if err != nil {
		return 0, nil, api.Errorf(api.Invalid, "%w", err)
	}
	importers := n.Services().Importers()
	if n.Live() == nil {
		if err := n.Begin(); err != nil { // it shall not start meanwhile
			return 0, nil, err
		}
		defer n.op.Unlock()
		def := n.Definition()
		if def == nil || n.Live() != nil {
			return 0, nil, api.Errorf(api.InvalidState, "network %q has just started or ended: try again", n.name)
		}
		importers = n.env.Serving.Services(def, nil).Importers()
	}
	taken, refused, err = importers.Import(ctx, leases)
	if taken > 0 && err == nil {
		n.Changed() // for who keeps an account of leases
	}
	return taken, refused, err
}

// leasesOf are leases as DHCP has them.
func leasesOf(held []env.Lease) (all []dhcpd.Lease) {
	for i := range held {
		all = append(all, held[i].Lease)
	}
	return all
}
