package service

import (
	"context"
	"net/netip"

	"github.com/vnetd/vnetd/pkg/dhcpd/ra"
	"github.com/vnetd/vnetd/pkg/dhcpd/tftp"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/dnsd/resolved"
)

// The names of the services, as networks' faults and logs have them.
const (
	DHCP     = "dhcp"
	DHCP6    = "dhcpv6"
	RA       = "router advertisements"
	DNS      = "dns"
	TFTP     = "tftp"
	Resolved = "the host's resolver"
)

// Spec is what a network serves. What it does not serve is nil; the settings of
// the rest are complete but for the functions by which servers tell of leases, which
// a Set fills in.
type Spec struct {
	Bridge string // the bridge's name
	DHCP   *v4.Config
	DHCP6  *v6.Config
	RA     *ra.Config
	DNS    *dnsd.Config
	TFTP   *tftp.Config
	// Resolved lacks the ifindex and the port: they are found out when it begins.
	Resolved *resolved.Config
	// Redirect has the firewall lead guests' queries to Config.OtherDNSPort
	// (redirected), or no longer. Needed where names are served.
	Redirect func(ctx context.Context, redirected bool) error
}

// onSubnet reports whether an address is of a subnet with DHCP. Leases may be from
// before the subnet was moved: nobody reaches a guest there.
func (s *Spec) onSubnet(a netip.Addr) bool {
	return s.DHCP != nil && s.DHCP.Prefix.Contains(a) || s.DHCP6 != nil && s.DHCP6.Prefix.Contains(a)
}
