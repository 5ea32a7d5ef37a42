package dhcpd

import (
	"log/slog"
	"net/netip"
)

// plan is what a Config asks of DHCPv4. It never changes
// but for its space and scratch.
type plan struct {
	cfg      Config
	serverID []byte
	link     []option4 // what all clients are told of the link
	scratch  []option4 // see head
	space
}

// newPlan derives the plan of a valid cfg.
func newPlan(cfg *Config, log *slog.Logger) *plan {
	p := &plan{cfg: *cfg}
	p.cfg.Prefix = cfg.Prefix.Masked()
	if p.cfg.LeaseTime == 0 {
		p.cfg.LeaseTime = DefaultLeaseTime
	}
	p.space = space{
		network: cfg.Network, prefix: p.cfg.Prefix, domain: cfg.Domain,
		ranges: cfg.Ranges, length: p.cfg.LeaseTime, identity: cfg.Identity,
		never: map[netip.Addr]bool{cfg.Server: true, cfg.Router: true},
	}
	// RFC 3021: a prefix of 31 bits has neither a network nor a broadcast address.
	if p.prefix.Bits() < 31 {
		p.never[p.prefix.Addr()] = true
		p.never[broadcastOf(p.prefix)] = true
	}
	p.reserveAll(cfg.Reservations, log)
	p.serverID, p.link = cfg.Server.AsSlice(), p.sharedOptions()
	return p
}
