package takeover

import (
	"bytes"
	"net/netip"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// foreign reports whether a lease is of no subnet of the network, or of no guest's
// address there, and notes it.
func (p *Plan) foreign(l dhcpd.Lease) bool {
	is := p.Is()
	for i := range is.IPs {
		ip := &is.IPs[i]
		switch {
		case !ip.Prefix().Contains(l.Addr):
		case isGuests(ip, l.Addr):
			return false
		default:
			p.Refuse("lease of %v: the network gives guests no such address", l.Addr)
			return true
		}
	}
	p.Refuse("lease of %v: the network has no such subnet", l.Addr)
	return true
}

// isGuests reports whether an address of the subnet can be a guest's: all can but the
// bridge's own, the subnet's (in IPv6 its routers' anycast address) and the broadcast
// address.
func isGuests(ip *netdef.IP, a netip.Addr) bool {
	p := ip.Prefix().Masked()
	if a == ip.Address {
		return false
	}
	// RFC 3021: a prefix of 31 bits has neither a network nor a broadcast address.
	if p.Bits() >= a.BitLen()-1 {
		return true
	}
	return a != p.Addr() && (a.Is6() || p.Contains(a.Next()))
}

// Merge lists what is to be stored of the leases, where had are stored already.
func (p *Plan) Merge(had []dhcpd.Lease, now time.Time) []dhcpd.Lease {
	known := make(map[netip.Addr]dhcpd.Lease)
	for _, l := range had {
		known[l.Addr] = l
	}
	var puts []dhcpd.Lease
	for _, l := range p.Leases {
		if k, ok := known[l.Addr]; ok && !supersedes(&l, &k, now) {
			continue
		}
		known[l.Addr] = l
		if !l.BoundAt(now) {
			l.State = dhcpd.StateReleased
		}
		puts = append(puts, l)
	}
	return puts
}

// supersedes reports whether a lease of libvirt's stands before what vnetd knows of
// its address: where that has ended, or is the same client's and ends earlier.
func supersedes(l, known *dhcpd.Lease, now time.Time) bool {
	switch {
	case !l.BoundAt(now) || !known.BoundAt(now):
		return l.BoundAt(now)
	case !bytes.Equal(l.MAC, known.MAC) || !bytes.Equal(l.DUID, known.DUID) || l.IAID != known.IAID || known.Expiry.IsZero():
		return false
	default:
		return l.Expiry.IsZero() || l.Expiry.After(known.Expiry)
	}
}

// Compare notes the leases that are not among those which the servers hold.
func (p *Plan) Compare(held []dhcpd.Lease, now time.Time) {
	has := make(map[netip.Addr]bool)
	for _, l := range held {
		has[l.Addr] = true
	}
	for _, l := range p.Leases {
		if l.BoundAt(now) && !has[l.Addr] {
			p.Report.Leases--
			p.Refuse("lease of %v: the network gives guests no such address", l.Addr)
		}
	}
}
