package service

import (
	"context"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
)

// Importers take over leases of another server, by the service that they are of.
type Importers map[string]func(ctx context.Context, leases []dhcpd.Lease) (taken int, refused []error, err error)

// Importers are those of the servers that are open.
func (s *Set) Importers() Importers {
	i, open := make(Importers), s.Servers()
	if srv := open.DHCP; srv != nil {
		i[DHCP] = srv.Import
	}
	if srv := open.DHCP6; srv != nil {
		i[DHCP6] = srv.Import
	}
	return i
}

// Importers are those of servers that are not open: they write to the store.
func (s *Spec) Importers() Importers {
	i := make(Importers)
	if s.DHCP != nil {
		i[DHCP] = func(_ context.Context, leases []dhcpd.Lease) (int, []error, error) { return v4.Import(*s.DHCP, leases) }
	}
	if s.DHCP6 != nil {
		i[DHCP6] = func(_ context.Context, leases []dhcpd.Lease) (int, []error, error) {
			return v6.Import(*s.DHCP6, leases)
		}
	}
	return i
}

// Import takes over leases. It returns how many there are now on disk, and why the
// others are not.
func (i Importers) Import(ctx context.Context, leases []dhcpd.Lease) (taken int, refused []string, err error) {
	of := make(map[string][]dhcpd.Lease)
	for _, l := range leases {
		service := DHCP6
		if l.Addr.Is4() {
			service = DHCP
		}
		of[service] = append(of[service], l)
	}
	for _, service := range []string{DHCP, DHCP6} {
		take := i[service]
		if take == nil {
			for _, l := range of[service] {
				refused = append(refused, l.Addr.String()+": the network does not serve "+service)
			}
			continue
		}
		if len(of[service]) == 0 {
			continue
		}
		some, others, err := take(ctx, of[service])
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
