package network

import (
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/service"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Lease is an address that a guest holds.
type Lease struct {
	Interface string // the bridge
	dhcpd.Lease
	PrefixLen int // of the network; all bits where the address is outside of it
}

// newLease is l as one of a network that is is.
func newLease(is *netdef.Network, l dhcpd.Lease) Lease {
	lease := Lease{Interface: is.Bridge.Name, Lease: l, PrefixLen: l.Addr.BitLen()}
	for i := range is.IPs {
		if p := is.IPs[i].Prefix(); p.Contains(l.Addr) {
			lease.PrefixLen = p.Bits()
		}
	}
	return lease
}

// Leases lists the addresses that guests hold, in order of address; also those that
// the network would not give any more, and those of an inactive network: leases
// outlive its settings and itself.
func (n *Network) Leases() ([]Lease, error) {
	is, running := n.exists(), n.runningServices()
	if is == nil {
		return nil, nil
	}
	held, served := running.Leases()
	if served {
		others, err := n.unservedLeases(is, running)
		if err != nil {
			return nil, err
		}
		held = append(held, others...)
	} else {
		stored, err := n.m.cfg.Store.Leases(is.UUID).Load()
		if err != nil {
			return nil, err
		}
		now := time.Now()
		held = slices.DeleteFunc(stored, func(l dhcpd.Lease) bool { return !l.BoundAt(now) })
	}
	slices.SortFunc(held, func(a, b dhcpd.Lease) int { return a.Addr.Compare(b.Addr) })
	leases := make([]Lease, 0, len(held))
	for _, l := range held {
		leases = append(leases, newLease(is, l))
	}
	return leases, nil
}

// unserved is the leases that run although the network does not serve DHCP for their
// family any more. Nobody changes those while the services are the same, so that they
// are read once.
type unserved struct {
	mu     sync.Mutex // guards what follows
	by     *service.Set
	leases []dhcpd.Lease // of families that by does not serve
}

// unservedLeases lists those of the network, which is live and served by that set.
func (n *Network) unservedLeases(live *netdef.Network, by *service.Set) ([]dhcpd.Lease, error) {
	serves := map[bool]bool{true: translate.DHCPIP(live) != nil, false: translate.DHCP6IP(live) != nil}
	if serves[true] && serves[false] {
		return nil, nil
	}
	u := &n.unserved
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.by != by {
		stored, err := n.m.cfg.Store.Leases(live.UUID).Load()
		if err != nil {
			return nil, err
		}
		u.by, u.leases = by, slices.DeleteFunc(stored, func(l dhcpd.Lease) bool { return serves[l.Addr.Is4()] })
	}
	now := time.Now()
	u.leases = slices.DeleteFunc(u.leases, func(l dhcpd.Lease) bool { return !l.BoundAt(now) })
	return slices.Clone(u.leases), nil
}

// sweepLeases forgets leases of networks that are gone, once they have ended. The
// caller holds m.defining, so that none of them comes back meanwhile.
func (m *Manager) sweepLeases() {
	known := make(map[string]bool)
	for _, def := range m.definitions(nil) {
		known[def.UUID] = true
	}
	if err := m.cfg.Store.SweepLeases(func(uuid string) bool { return known[uuid] }); err != nil {
		m.log.Warn("leases of former networks are not cleared away", keyError, err)
	}
}
