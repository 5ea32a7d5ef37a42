package network

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/service"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
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
		others, err := n.unserved.list(n.m.cfg.Store, is, running)
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

// list lists those of the network, which is live and served by that set.
func (u *unserved) list(st *store.Store, live *netdef.Network, by *service.Set) ([]dhcpd.Lease, error) {
	serves := map[bool]bool{true: translate.DHCPIP(live) != nil, false: translate.DHCP6IP(live) != nil}
	if serves[true] && serves[false] {
		return nil, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.by != by {
		stored, err := st.Leases(live.UUID).Load()
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
	return translate.FormatLeases(leases, defs[0].MAC), nil
}

// ImportLeases takes over the leases in text: a lease file of dnsmasq, or the file
// that libvirt keeps of them. It returns how many there are now on disk, and why the
// others are not. Of a network that is not active they are those with which it will
// start. Invalid: text is no such file, and nothing was taken.
func (n *Network) ImportLeases(ctx context.Context, text string) (taken int, refused []string, err error) {
	leases, err := translate.ParseLeases(text)
	if err != nil {
		return 0, nil, api.Errorf(api.Invalid, "%w", err)
	}
	importers := n.runningServices().Importers()
	if n.liveNetwork() == nil {
		if err := n.begin(); err != nil { // it shall not start meanwhile
			return 0, nil, err
		}
		defer n.op.Unlock()
		def := n.definition()
		if def == nil || n.liveNetwork() != nil {
			return 0, nil, api.Errorf(api.InvalidState, "network %q has just started or ended: try again", n.name)
		}
		importers = n.m.serving.Services(def, nil).Importers()
	}
	taken, refused, err = importers.Import(ctx, leases)
	if taken > 0 && err == nil {
		n.changed() // for who keeps an account of leases
	}
	return taken, refused, err
}
