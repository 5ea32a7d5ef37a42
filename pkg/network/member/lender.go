package member

import (
	"encoding/hex"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/record"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// lender is which addresses of a network this host gives, of one family.
type lender struct {
	c       *Cluster
	network string
	is4     bool
}

// Lender says which addresses of a network's ranges DHCP, of IPv4 or of IPv6, gives on this host;
// nil: all. Of a cluster that this host is not in any more it is those that its guests have.
func (cs *Clusters) Lender(doc *netdef.Network, is4 bool) dhcpd.Lender {
	switch c := cs.Of(doc); {
	case c != nil:
		return lender{c, doc.Name, is4}
	case doc.Span != nil && doc.Span.Cluster != "":
		return &outsider{has: make(map[netip.Addr]dhcpd.HWAddr)}
	}
	for _, c := range cs.All() {
		if c.joins(doc.Name) {
			return lender{c, doc.Name, is4}
		}
	}
	return nil
}

func (l lender) at(a netip.Addr) cluster.Address {
	return cluster.Address{Network: l.network, Addr: a}
}

// Blocks are dhcpd.Lender's, as are the others.
func (l lender) Blocks() []netip.Prefix {
	return slices.DeleteFunc(l.c.Member.Pool(l.network), func(b netip.Prefix) bool { return b.Addr().Is4() != l.is4 })
}

func (l lender) May(a netip.Addr, mac dhcpd.HWAddr, own bool) bool {
	if mac == (dhcpd.HWAddr{}) {
		return false // whose card is not known can't be told to other hosts
	}
	may := l.c.Member.MayLease(l.at(a), record.MAC(mac))
	if !may && own {
		l.c.Member.Want(l.at(a), record.MAC(mac), time.Now())
	}
	return may
}

func (l lender) Taken(a netip.Addr, mac dhcpd.HWAddr) bool {
	return l.c.Member.Taken(l.at(a), record.MAC(mac))
}

func (l lender) Promise(lease *dhcpd.Lease, _ bool) bool {
	r := recordOf(lease)
	if r.MAC == (record.MAC{}) {
		return false
	}
	if !l.c.Member.Promise(l.at(lease.Addr), r) {
		return false
	}
	l.c.hold(l.network, lease.Addr, true)
	l.c.tellNeed(l.c.met(need{l.network, lease.Addr.Is4()}, r.MAC))
	return true
}

// Keep leaves alone what this host has given up meanwhile.
func (l lender) Keep(lease *dhcpd.Lease) {
	if _, host := l.c.Member.Lease(l.at(lease.Addr)); host == l.c.Host {
		l.c.Member.SetLease(l.at(lease.Addr), recordOf(lease))
		l.c.hold(l.network, lease.Addr, true)
	}
}

func (l lender) End(a netip.Addr) {
	if l.c.hold(l.network, a, false) {
		l.c.Member.EndLease(l.at(a))
	}
}

// Begin has leases count that this host gave before the others hear of it. Later there are
// none that they don't know, but of a network that was this host's alone: a client of such a
// one is refused its address if it may not have it, and gets another.
func (l lender) Begin(all []dhcpd.Lease) {
	now := make(map[netip.Addr]bool, len(all))
	began := l.c.began() && !l.c.joins(l.network)
	for i := range all {
		lease := &all[i]
		now[lease.Addr] = true
		if !began {
			l.c.Member.SetLease(l.at(lease.Addr), recordOf(lease))
		} else if !l.c.Member.Promise(l.at(lease.Addr), recordOf(lease)) {
			continue
		}
		l.c.hold(l.network, lease.Addr, true)
	}
	for _, a := range l.c.held(l.network) {
		if a.Is4() == l.is4 && !now[a] {
			l.End(a)
		}
	}
}

func (l lender) Exhausted(mac dhcpd.HWAddr) {
	l.c.tellNeed(l.c.want(need{l.network, l.is4}, record.MAC(mac), time.Now()))
}

// tellNeed tells how many guests wait for addresses, where that is another number than before.
func (c *Cluster) tellNeed(changed map[need]int) {
	for n, guests := range changed {
		c.Member.SetNeed(n.network, n.is4, guests)
	}
}

// endAll ends all leases of a network.
func (c *Cluster) endAll(network string) {
	for _, a := range c.held(network) {
		lender{c, network, a.Is4()}.End(a)
	}
}

// Tell has those leases of a family count that a network has by which no DHCP is served now.
func (c *Cluster) Tell(network string, is4 bool, all []dhcpd.Lease) {
	lender{c, network, is4}.Begin(slices.DeleteFunc(slices.Clone(all), func(l dhcpd.Lease) bool { return l.Addr.Is4() != is4 }))
}

// recordOf is a lease as the others see it.
func recordOf(l *dhcpd.Lease) record.Lease {
	r := record.Lease{Client: hex.EncodeToString(slices.Concat(l.ClientID, l.DUID)), IAID: l.IAID, Name: l.Hostname}
	copy(r.MAC[:], l.MAC)
	if !l.Expiry.IsZero() {
		r.End, r.Seconds = l.Expiry.Unix(), int64(math.Ceil(time.Until(l.Expiry).Seconds()))
	}
	return r
}

// Lease is what this host has promised of an address, as DHCP has it; false for nothing.
func (c *Cluster) Lease(a cluster.Address) (dhcpd.Lease, bool) {
	r, host := c.Member.Lease(a)
	if host != c.Host {
		return dhcpd.Lease{}, false
	}
	l := dhcpd.Lease{Addr: a.Addr, MAC: slices.Clone(r.MAC[:]), Hostname: r.Name, IAID: r.IAID, State: dhcpd.StateBound}
	id, _ := hex.DecodeString(r.Client) // what can't be read is no identifier
	if a.Addr.Is4() {
		l.ClientID = id
	} else {
		l.DUID = id
	}
	if r.End != 0 {
		l.Expiry = time.Unix(r.End, 0)
	}
	return l, true
}

// Forsake ends a promise that DHCP does not take over.
func (c *Cluster) Forsake(a cluster.Address) { c.Member.EndLease(a) }
