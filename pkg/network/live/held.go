package live

import (
	"slices"
	"sync"
	"time"
	"weak"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/service"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
)

// newLease describes a lease of the network whose document is is.
func newLease(is *netdef.Network, l dhcpd.Lease) env.Lease {
	lease := env.Lease{Interface: is.Bridge.Name, Lease: l, PrefixLen: l.Addr.BitLen()}
	for i := range is.IPs {
		if p := is.IPs[i].Prefix(); p.Contains(l.Addr) {
			lease.PrefixLen = p.Bits()
		}
	}
	return lease
}

// unserved is the leases that run although the network does not serve DHCP for their
// family any more. Nobody changes those while the services are the same, so that they
// are read once. Services that have ended, with their sockets' buffers, are not kept for that.
type unserved struct {
	mu     sync.Mutex // guards what follows
	by     weak.Pointer[service.Set]
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
	if by := weak.Make(by); u.by != by {
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
