package network

import (
	"context"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
	"github.com/vnetd/vnetd/pkg/network/service"
	"github.com/vnetd/vnetd/pkg/network/translate"
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

// importer takes over leases of another server.
type importer func(ctx context.Context, leases []dhcpd.Lease) (taken int, refused []error, err error)

// ImportLeases takes over the leases in text: a lease file of dnsmasq, or the file
// that libvirt keeps of them. It returns how many there are now on disk, and why the
// others are not. Of a network that is not active they are those with which it will
// start. Invalid: text is no such file, and nothing was taken.
func (n *Network) ImportLeases(ctx context.Context, text string) (taken int, refused []string, err error) {
	leases, err := dhcpd.ParseLeases(text)
	if err != nil {
		return 0, nil, api.Errorf(api.Invalid, "%w", err)
	}
	importers := n.servedImporters()
	if n.liveNetwork() == nil {
		if err := n.begin(); err != nil { // it shall not start meanwhile
			return 0, nil, err
		}
		defer n.op.Unlock()
		if importers, err = n.idleImporters(); err != nil {
			return 0, nil, err
		}
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
	}{{service.DHCP, of4}, {service.DHCP6, of6}} {
		if len(p.leases) == 0 {
			continue
		}
		take := importers[p.part]
		if take == nil {
			for _, l := range p.leases {
				refused = append(refused, l.Addr.String()+": the network does not serve "+p.part)
			}
			continue
		}
		some, others, err := take(ctx, p.leases)
		if err != nil {
			return taken, refused, err
		}
		taken += some
		for _, why := range others {
			refused = append(refused, why.Error())
		}
	}
	if taken > 0 {
		n.changed() // for who keeps an account of leases
	}
	return taken, refused, nil
}

// servedImporters are those of the servers that run, by service.
func (n *Network) servedImporters() map[string]importer {
	importers := make(map[string]importer)
	sv := n.runningServices()
	if srv := sv.DHCP(); srv != nil {
		importers[service.DHCP] = srv.Import
	}
	if srv := sv.DHCP6(); srv != nil {
		importers[service.DHCP6] = srv.Import
	}
	return importers
}

// idleImporters are those of the servers that the network will have. The caller holds
// n.op.
func (n *Network) idleImporters() (map[string]importer, error) {
	def := n.definition()
	if def == nil || n.liveNetwork() != nil {
		return nil, api.Errorf(api.InvalidState, "network %q has just started or ended: try again", n.name)
	}
	importers := make(map[string]importer)
	if translate.DHCPIP(def) != nil {
		importers[service.DHCP] = func(_ context.Context, leases []dhcpd.Lease) (int, []error, error) {
			return v4.Import(*n.m.serving.DHCP(def), leases)
		}
	}
	if translate.DHCP6IP(def) != nil {
		importers[service.DHCP6] = func(_ context.Context, leases []dhcpd.Lease) (int, []error, error) {
			return v6.Import(*n.m.serving.DHCP6(def), leases)
		}
	}
	return importers, nil
}
