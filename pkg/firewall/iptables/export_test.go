package iptables

import (
	"time"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// Guards are the lines by which vnetd differs from libvirt: a guard stands at the
// head of the network's part of LIBVIRT_FWI and asks LIBVIRT_FWO first. See
// firewall.AskOutbound.
func Guards(n firewall.Network, prefix string) []firewall.Line {
	var guards []firewall.Rule
	for _, r := range n.Rules() {
		if r.Extra() {
			guards = append(guards, r)
		}
	}
	return options{prefix: prefix}.lines(guards)
}

// Taken is the snapshot of all rules that w looked at last, comparable.
func Taken(w *Writer) any {
	w.snapshots.mu.Lock()
	defer w.snapshots.mu.Unlock()
	return w.snapshots.last
}

// JumpsTo are Jumps, and those to the chains in which lines stand.
func JumpsTo(prefix string, lines ...firewall.Line) []firewall.Line {
	return options{prefix: prefix}.jumps(nowhere, lines)
}

// SetPatience sets how long the end of a storm of changes is waited for.
func (o *Observer) SetPatience(d time.Duration) { o.snapshots.patience = d }
