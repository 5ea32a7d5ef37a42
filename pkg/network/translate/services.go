package translate

import (
	"cmp"
	"context"
	"log/slog"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/service"
)

// Settings are what the daemon adds to what documents say of services.
type Settings struct {
	Leases func(uuid string) dhcpd.LeaseStore // of the network with that UUID
	Logger *slog.Logger

	// What holds where a document does not say.
	Identity dhcpd.Identity
	Probe    bool

	ResolvConf string
	StopRebind bool
}

// Services are what a network serves as live, complete, as far as that can be served.
// redirect leads guests' queries to OtherDNSPort, or no longer.
func (s *Settings) Services(live *netdef.Network, redirect func(ctx context.Context, redirected bool) error) *service.Spec {
	live, _ = live.Served()
	spec := &service.Spec{Bridge: live.Bridge.Name, Redirect: redirect}
	if DHCPIP(live) != nil {
		spec.DHCP = s.dhcp(live)
	}
	if DHCP6IP(live) != nil {
		spec.DHCP6 = s.dhcp6(live)
	}
	if HasIPv6(live) {
		cfg := RA(live)
		cfg.Logger = s.Logger
		spec.RA = &cfg
	}
	if ServesDNS(live) {
		spec.DNS = s.dns(live)
	}
	if TFTPIP(live) != nil {
		cfg := TFTP(live)
		cfg.Logger = s.Logger
		spec.TFTP = &cfg
	}
	if HasDomain(live) {
		cfg := Resolved(live)
		cfg.Logger = s.Logger
		spec.Resolved = &cfg
	}
	return spec
}

// dhcp is DHCP of live, which has a DHCPIP, complete.
func (s *Settings) dhcp(live *netdef.Network) *v4.Config {
	cfg := DHCP(live)
	cfg.Store, cfg.Logger = s.Leases(live.UUID), s.Logger
	cfg.Identity = cmp.Or(cfg.Identity, s.Identity)
	cfg.Probe = live.DHCPPolicy.Probe == netdef.Yes || live.DHCPPolicy.Probe == netdef.Unset && s.Probe
	return &cfg
}

// dhcp6 is dhcp for DHCPv6.
func (s *Settings) dhcp6(live *netdef.Network) *v6.Config {
	cfg := DHCP6(live)
	cfg.Identity = cmp.Or(cfg.Identity, s.Identity)
	cfg.Store, cfg.Logger = s.Leases(live.UUID), s.Logger
	return &cfg
}

// dns is the name service of live, which it has.
func (s *Settings) dns(live *netdef.Network) *dnsd.Config {
	cfg := DNS(live)
	cfg.ResolvConf, cfg.Logger = s.ResolvConf, s.Logger
	cfg.StopRebind = cfg.StopRebind || s.StopRebind
	if Redirectable(live) {
		cfg.OtherPort = OtherDNSPort
	}
	return &cfg
}
