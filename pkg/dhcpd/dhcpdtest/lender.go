package dhcpdtest

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// Lender gives addresses of its blocks to whoever has none that is somebody else's.
type Lender struct {
	mu     sync.Mutex
	blocks []netip.Prefix
	theirs map[netip.Addr]bool // given by another host
	held   map[netip.Addr]dhcpd.HWAddr
	wanted int
}

// NewLender makes one without blocks.
func NewLender() *Lender { return &Lender{held: make(map[netip.Addr]dhcpd.HWAddr)} }

// Blocks is dhcpd.Lender's.
func (l *Lender) Blocks() []netip.Prefix {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.blocks)
}

// May is dhcpd.Lender's.
func (l *Lender) May(a netip.Addr, mac dhcpd.HWAddr, reserved bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.may(a, mac, reserved)
}

// Taken is dhcpd.Lender's.
func (l *Lender) Taken(a netip.Addr, mac dhcpd.HWAddr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	has, held := l.held[a]
	return held && has != mac || l.theirs[a]
}

func (l *Lender) may(a netip.Addr, mac dhcpd.HWAddr, reserved bool) bool {
	if has, held := l.held[a]; held {
		return has == mac
	}
	return !l.theirs[a] && (reserved || slices.ContainsFunc(l.blocks, func(b netip.Prefix) bool { return b.Contains(a) }))
}

// Promise is dhcpd.Lender's.
func (l *Lender) Promise(lease *dhcpd.Lease, reserved bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	mac := dhcpd.HWAddr(lease.MAC)
	if !l.may(lease.Addr, mac, reserved) {
		return false
	}
	l.held[lease.Addr] = mac
	return true
}

// Keep is dhcpd.Lender's.
func (l *Lender) Keep(lease *dhcpd.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[lease.Addr] = dhcpd.HWAddr(lease.MAC)
}

// End is dhcpd.Lender's.
func (l *Lender) End(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, a)
}

// Begin is dhcpd.Lender's.
func (l *Lender) Begin(all []dhcpd.Lease) {
	for i := range all {
		l.Keep(&all[i])
	}
}

// Exhausted is dhcpd.Lender's.
func (l *Lender) Exhausted(dhcpd.HWAddr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted++
}

// Holds is who has an address.
func (l *Lender) Holds(a netip.Addr) dhcpd.HWAddr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[a]
}

// Block makes addresses this host's, and others another host's.
func (l *Lender) Block(b string, theirs ...netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blocks, l.theirs = append(l.blocks, netip.MustParsePrefix(b)), make(map[netip.Addr]bool)
	for _, a := range theirs {
		l.theirs[a] = true
	}
}

// Unblock takes back what Block made this host's by the same name.
func (l *Lender) Unblock(b string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blocks = slices.DeleteFunc(l.blocks, func(p netip.Prefix) bool { return p == netip.MustParsePrefix(b) })
}

// Wanted is how often a client went without an address.
func (l *Lender) Wanted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wanted
}
