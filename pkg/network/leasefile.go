package network

import (
	"context"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

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
	defs := n.definitions()
	if len(defs) == 0 {
		return "", nil
	}
	return dhcpd.FormatLeases(leases, defs[0].MAC), nil
}

// importer is a server that takes over leases of another one.
type importer interface {
	Import(ctx context.Context, leases []dhcpd.Lease) (taken int, refused []error, err error)
}

// ImportLeases takes over the leases in text: a lease file of dnsmasq, or the file
// that libvirt keeps of them. It returns how many there are now on disk, and why the
// others are not. Invalid: text is no such file, and nothing was taken. InvalidState:
// the network is not active.
func (n *Network) ImportLeases(ctx context.Context, text string) (taken int, refused []string, err error) {
	leases, err := dhcpd.ParseLeases(text)
	if err != nil {
		return 0, nil, Errorf(Invalid, "%w", err)
	}
	if n.liveNetwork() == nil {
		return 0, nil, Errorf(InvalidState, "network %q is not active: start it, its servers say which leases fit", n.name)
	}
	var of4, of6 []dhcpd.Lease
	for _, l := range leases {
		if l.Addr.Is4() {
			of4 = append(of4, l)
		} else {
			of6 = append(of6, l)
		}
	}
	for _, p := range []struct {
		part   string
		leases []dhcpd.Lease
	}{{partDHCP, of4}, {partDHCP6, of6}} {
		if len(p.leases) == 0 {
			continue
		}
		srv, ok := n.server(p.part).(importer)
		if !ok {
			for _, l := range p.leases {
				refused = append(refused, l.Addr.String()+": the network does not serve "+p.part)
			}
			continue
		}
		some, others, err := srv.Import(ctx, p.leases)
		if err != nil {
			return taken, refused, err
		}
		taken += some
		for _, why := range others {
			refused = append(refused, why.Error())
		}
	}
	return taken, refused, nil
}
