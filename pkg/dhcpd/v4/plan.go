package v4

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// plan is what a Config asks of DHCPv4. It never changes
// but for its scope and scratch.
type plan struct {
	cfg      Config
	serverID []byte
	boots    []bootPlan // the last one is for all that no other fits
	scratch  []option   // see head
	dhcpd.Scope
}

// newPlan derives the plan of a valid cfg.
func newPlan(cfg *Config, log *slog.Logger) *plan {
	p := &plan{cfg: *cfg}
	p.cfg.Prefix = cfg.Prefix.Masked()
	if p.cfg.LeaseTime == 0 {
		p.cfg.LeaseTime = DefaultLeaseTime
	}
	p.Scope = dhcpd.Scope{
		Network: cfg.Network, Prefix: p.cfg.Prefix, Domain: cfg.Domain,
		Ranges: cfg.Ranges, DefaultTime: p.cfg.LeaseTime, Identity: cfg.Identity,
		Never: map[netip.Addr]bool{cfg.Server: true, cfg.Router: true},
	}
	// RFC 3021: a prefix of 31 bits has neither a network nor a broadcast address.
	if p.Prefix.Bits() < 31 {
		p.Never[p.Prefix.Addr()] = true
		p.Never[broadcastOf(p.Prefix)] = true
	}
	p.ReserveAll(cfg.Reservations, log)
	p.serverID = cfg.Server.AsSlice()
	for _, b := range append(slices.Clip(cfg.Boots), Boot{File: cfg.BootFile, Server: cfg.BootServer}) {
		p.boots = append(p.boots, p.newBoot(b))
	}
	return p
}

// broadcastOf returns the last address of p, an IPv4 prefix.
func broadcastOf(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	host := ^uint32(0) >> p.Bits()
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(a[:])|host)))
}
