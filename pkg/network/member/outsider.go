package member

import (
	"net/netip"
	"sync"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// outsider is the lender of a network whose cluster this host is not in any more: the other hosts
// give the addresses of its ranges. Its guests renew what they have, and no other gets any.
type outsider struct {
	mu  sync.Mutex // guards what follows
	has map[netip.Addr]dhcpd.HWAddr
}

// Blocks are dhcpd.Lender's, as are the others.
func (*outsider) Blocks() []netip.Prefix { return nil }

func (o *outsider) May(a netip.Addr, mac dhcpd.HWAddr, _ bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	has, there := o.has[a]
	return there && has == mac
}

func (o *outsider) Taken(a netip.Addr, mac dhcpd.HWAddr) bool { return !o.May(a, mac, true) }

func (o *outsider) Promise(l *dhcpd.Lease, own bool) bool {
	return len(l.MAC) == dhcpd.HWAddrLen && o.May(l.Addr, dhcpd.HWAddr(l.MAC), own)
}

// Keep has nobody to tell.
func (*outsider) Keep(*dhcpd.Lease) {}

func (o *outsider) End(a netip.Addr) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.has, a)
}

func (o *outsider) Begin(all []dhcpd.Lease) {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.has)
	for i := range all {
		if len(all[i].MAC) == dhcpd.HWAddrLen {
			o.has[all[i].Addr] = dhcpd.HWAddr(all[i].MAC)
		}
	}
}

// Exhausted has nobody to ask.
func (*outsider) Exhausted(dhcpd.HWAddr) {}
