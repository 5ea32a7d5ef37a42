// Package guard gives every port of a network its guard: before it is plugged in,
// and again whenever its network or its guest's addresses change. It follows the
// devices that others plug into networks' bridges. What a guard is, package firewall
// says; what is asked of a port, package port; what of its network, package translate.
package guard

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/vlan"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Kernel is what a Keeper asks of the writer of guards; *nft.Guards is the real one,
// whose contracts hold.
type Kernel interface {
	SetNetwork(n firewall.GuardedNetwork) error
	RemoveNetwork(bridge string) error
	SetPort(p firewall.GuardedPort) error
	RemovePort(index int) error
	Port(index int) (firewall.GuardedPort, bool)
	Stopped() map[int]firewall.Stopped
	StoppedBy(index int) firewall.Stopped
	Release() error
	Silence() error
	Purge() error
	Err() error
	Watch(ctx context.Context) error
}

// Links is what a Keeper asks of pkg/bridge.
type Links interface {
	LookupIndex(index int) (bridge.Link, error)
	Members(bridge int) ([]bridge.Link, error)
	NetsOf(index int) ([]netip.Prefix, error)
}

// Networks are the active networks.
type Networks interface {
	// Live is the network of that name; nil where it is not active.
	Live(name string) *netdef.Network
	// OnBridge is the network on the bridge with that ifindex; nil for none.
	OnBridge(index int) *netdef.Network
	// Index is the ifindex of the bridge of the network of that name; 0 for none.
	Index(name string) int
	// Names lists them.
	Names() []string
}

// Keeper keeps the guards of all ports. That the kernel refuses one is a condition and
// no error: Kernel tries again. The methods of a nil *Keeper do nothing. They may be
// called concurrently.
type Keeper struct {
	kernel   Kernel
	links    Links
	ports    *port.Registry
	networks Networks
	table    *neighbours

	mu     sync.Mutex
	others map[int]bool // ifindexes of devices that nobody registered and that have guards; guarded by mu
	theirs map[int]bool // the same of devices of registered ports; guarded by mu
}

// NewKeeper returns the keeper of the guards of ports; nil for no Kernel. Without
// Neighbours the host's table is what the kernel learns.
func NewKeeper(kernel Kernel, hosts Neighbours, links Links, ports *port.Registry, networks Networks) *Keeper {
	if kernel == nil {
		return nil
	}
	return &Keeper{
		kernel: kernel, links: links, ports: ports, networks: networks, table: newNeighbours(hosts),
		others: make(map[int]bool), theirs: make(map[int]bool),
	}
}

// Release has all guards be in the kernel that were set until now.
func (k *Keeper) Release() {
	if k != nil {
		_ = k.kernel.Release()
	}
}

// Silence has nothing come out of guarded ports any more, in place of guards; see nft.Guards.
func (k *Keeper) Silence() error {
	if k == nil {
		return nil
	}
	return k.kernel.Silence()
}

// Purge removes all guards.
func (k *Keeper) Purge() error {
	if k == nil {
		return nil
	}
	return k.kernel.Purge()
}

// Watch repairs guards until ctx ends.
func (k *Keeper) Watch(ctx context.Context) error {
	if k == nil {
		return nil
	}
	return k.kernel.Watch(ctx)
}

// End forgets the guards of ports of a network, which was live.
func (k *Keeper) End(live *netdef.Network) error {
	if k == nil {
		return nil
	}
	k.table.end(live.Bridge.Name)
	return k.kernel.RemoveNetwork(live.Bridge.Name)
}

// All sets the guards of all ports of a network that is live, on the bridge with that
// ifindex; 0: there is none.
func (k *Keeper) All(live *netdef.Network, index int) {
	if k == nil || index == 0 {
		return
	}
	k.Registered(live, index)
	links, err := k.links.Members(index)
	if err != nil {
		return
	}
	for _, l := range links {
		k.other(live, l)
	}
}

// Registered is All of ports of vnetd's own and registered ones alone.
func (k *Keeper) Registered(live *netdef.Network, index int) {
	if k == nil || index == 0 {
		return
	}
	l, err := k.links.LookupIndex(index)
	if err != nil {
		return // who made the bridge says so
	}
	network := translate.GuardedNetwork(live, index, l.MAC)
	network.Behind = append(network.Behind, k.routed(index)...)
	_ = k.kernel.SetNetwork(network)
	for _, p := range k.ports.On(live.Name, port.Own, port.External) {
		k.port(live, index, p)
	}
	k.table.settle(live.Bridge.Name, index)
}

// routed lists what the host itself reaches over the bridge with that ifindex: the
// administrator's further subnets there, and routes that lead to guests. What it sends there
// may come back.
func (k *Keeper) routed(bridge int) (all []netip.Prefix) {
	nets, err := k.links.NetsOf(bridge)
	if err != nil {
		return nil // it is asked again with the next change
	}
	for _, p := range nets {
		if !p.Addr().IsLinkLocalUnicast() && !p.Addr().IsMulticast() {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return all
}

// Port sets the guard of a port of vnetd's own or of a registered one on a network that
// is live.
func (k *Keeper) Port(live *netdef.Network, p *port.Port) {
	if k != nil && live != nil {
		k.port(live, k.networks.Index(live.Name), p)
	}
}

// port is Port for the bridge with that ifindex; 0: there is none.
func (k *Keeper) port(live *netdef.Network, bridge int, p *port.Port) {
	if p.IsMacvtap() || p.Status().Index == 0 || p.Kind == port.External && !k.on(live, p.Status().Index) {
		return
	}
	g := guarded(live, p)
	if bridge != 0 {
		k.known(live, bridge, p, &g)
		s := p.Status()
		g.Natives = k.natives(bridge, translate.PortVLANs(live, s.PortGroup, s.OwnVLAN()))
	}
	for _, other := range k.siblings(p) {
		its := guarded(live, other)
		g.MACs, g.Addrs = append(g.MACs, its.MACs...), append(g.Addrs, its.Addrs...)
	}
	k.mu.Lock()
	delete(k.others, g.Index)
	if p.Kind == port.External {
		k.theirs[g.Index] = true
	}
	k.mu.Unlock()
	_ = k.kernel.SetPort(g)
}

// natives are the VLANs in which the bridge with that ifindex has frames without a tag be of a port
// with such VLANs: where it has none of its own, the one that the kernel gives all ports.
func (k *Keeper) natives(bridge int, t vlan.Table) (all []uint16) {
	l, err := k.links.LookupIndex(bridge)
	if err != nil || !l.FiltersVLANs {
		return nil // it tells no VLANs apart
	}
	for _, e := range t {
		if e.PVID {
			all = append(all, e.ID)
		}
	}
	if t == nil && l.DefaultVLAN != 0 {
		all = append(all, l.DefaultVLAN)
	}
	return all
}

// known has this host know what the guest behind p has. A machine that answers by several
// ports says itself by which.
func (k *Keeper) known(live *netdef.Network, bridge int, p *port.Port, g *firewall.GuardedPort) {
	siblings := k.siblings(p)
	for _, other := range siblings {
		k.table.drop(other.Status().Index)
	}
	mac := p.CardAddr()
	if len(mac) != 6 || len(siblings) > 0 {
		k.table.drop(g.Index)
		return
	}
	k.table.set(live.Bridge.Name, bridge, g.Index, firewall.MAC(mac), claims(live, p, g))
}

// on reports whether a device is on the bridge of live: one that libvirt plugged in may
// have been moved elsewhere.
func (k *Keeper) on(live *netdef.Network, index int) bool {
	l, err := k.links.LookupIndex(index)
	if err != nil {
		return false
	}
	there := k.networks.OnBridge(l.Master)
	return there != nil && there.Name == live.Name
}

// siblings are the further ports of the machine behind p on its network. A machine with
// several cards there answers for all of its addresses by any, and a bond of them has one
// MAC address.
func (k *Keeper) siblings(p *port.Port) []*port.Port {
	if p.OwnerUUID == "" {
		return nil
	}
	return slices.DeleteFunc(k.ports.On(p.Network, port.Own, port.External), func(o *port.Port) bool {
		return o == p || o.OwnerUUID != p.OwnerUUID
	})
}

// Changed sets the guard of a port anew, whose guest has other addresses.
func (k *Keeper) Changed(p *port.Port) {
	if k == nil {
		return
	}
	live := k.networks.Live(p.Network)
	for _, p := range append(k.siblings(p), p) {
		k.Port(live, p)
	}
}

// guarded is p with its guard on a network that is live.
func guarded(live *netdef.Network, p *port.Port) firewall.GuardedPort {
	s, g := p.Status(), port.Guarded(p)
	g.Bridge, g.Guard, g.Isolated = live.Bridge.Name, of(live, p), p.Isolated || live.Isolated == netdef.Yes
	// A launcher need not use the address that was made up: the guest's lease tells. Rules of the port
	// know its guest by its cards.
	g.Bound = !p.MadeUp || s.Card != nil || len(s.Held) > 0 || len(s.Rules) > 0
	if len(s.Rules) > 0 {
		g.Guard[firewall.GuardMAC] = firewall.GuardStrict
	}
	g.Addrs = append(g.Addrs, translate.ReservedFor(live, p.CardAddr())...)
	for _, e := range translate.PortVLANs(live, s.PortGroup, s.OwnVLAN()) {
		if !e.Untagged {
			g.VLANs = append(g.VLANs, e.ID) // the bridge carries them with their tag
		}
	}
	return g
}

// of is the guard of p on a network that is live.
func of(live *netdef.Network, p *port.Port) firewall.Guard {
	if p.Spec.Guard == "" {
		return translate.Guard(live, p.Untrusted)
	}
	g, _ := firewall.ParseGuard(p.Spec.Guard) // it was checked
	return g
}

// MostAddresses is how many addresses those behind p may have by DHCP on a network that
// is live, 0 for any number.
func MostAddresses(live *netdef.Network, p *port.Port) int {
	return translate.MostAddresses(live, of(live, p))
}

// isGuest reports whether somebody's guest is behind a device on the bridge of live: a
// virtual machine or a container, and not the LAN, which is behind the uplink, and where
// this host is a container itself may be behind any veth on a bridge of the admin's.
func isGuest(live *netdef.Network, l bridge.Link) bool {
	switch l.Kind {
	case "tun":
		return l.Name != live.UplinkDevice()
	case "veth":
		return live.Mode().OwnsBridge()
	}
	return false
}

// other sets the guard of a guest's device that nobody registered, unless it is that of
// a port which is being made. What its guest has is not known, so it is kept from
// nothing but what is others'.
func (k *Keeper) other(live *netdef.Network, l bridge.Link) {
	if !isGuest(live, l) || k.ports.Index(l.Index) != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, there := k.kernel.Port(l.Index); there && !k.others[l.Index] {
		return
	}
	k.others[l.Index] = true
	guard := translate.Guard(live, false)
	for kind := range guard {
		guard[kind] = min(guard[kind], firewall.GuardGateway)
	}
	_ = k.kernel.SetPort(firewall.GuardedPort{
		Bridge: live.Bridge.Name, IfName: l.Name, Index: l.Index, Guard: guard, Isolated: live.Isolated == netdef.Yes,
		Natives: k.natives(l.Master, nil),
	})
}

// left forgets the guard of a device that is not vnetd's own and left its bridge: one of
// its own has its guard before it is plugged in, and is put back.
func (k *Keeper) left(index int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.others[index] || k.theirs[index] {
		delete(k.others, index)
		delete(k.theirs, index)
		k.table.drop(index)
		_ = k.kernel.RemovePort(index)
	}
}

// OnLink follows devices that come to bridges and go from them.
func (k *Keeper) OnLink(e bridge.LinkEvent) {
	if k == nil {
		return
	}
	p, live := k.ports.Index(e.Index), k.networks.OnBridge(e.Master)
	switch {
	case e.Deleted:
		k.left(e.Index)
		k.table.drop(e.Index)
		_ = k.kernel.RemovePort(e.Index)
	case live == nil:
		k.left(e.Index)
	case p == nil:
		k.other(live, e.Link)
	case p.Kind == port.External:
		k.Port(live, p)
	}
}

// Describe adds to info what the guard of p is.
func (k *Keeper) Describe(p *port.Port, info *api.Port) {
	info.Guard = firewall.Guard{}.String()
	if k == nil || k.kernel.Err() != nil {
		return
	}
	if set, there := k.kernel.Port(p.Status().Index); there {
		info.Guard = set.Guard.String()
	}
}

// StoppedBy is how many frames of each kind the guard of the port with that UUID has
// stopped.
func (k *Keeper) StoppedBy(uuid string) map[string]uint64 {
	all := make(map[string]uint64)
	if k == nil {
		return all
	}
	p := k.ports.UUID(uuid)
	if p == nil {
		return all
	}
	for kind, frames := range k.kernel.StoppedBy(p.Status().Index) {
		all[kind.String()] = frames
	}
	return all
}

// Stopped is what the guards of all ports have stopped, by the port's UUID.
func (k *Keeper) Stopped() map[string]firewall.Stopped {
	all := make(map[string]firewall.Stopped)
	if k == nil {
		return all
	}
	stopped := k.kernel.Stopped()
	for _, p := range k.ports.All(port.Own, port.External) {
		if of := stopped[p.Status().Index]; of != nil {
			all[p.UUID] = of
		}
	}
	return all
}

// Conditions are why guards are not as they should be.
func (k *Keeper) Conditions(context.Context) ([]api.Condition, error) {
	if k == nil {
		return nil, nil
	}
	err := k.kernel.Err()
	if err == nil {
		return nil, nil
	}
	return []api.Condition{{
		Kind: "port-guard-missing", Severity: api.SeverityError, Networks: k.networks.Names(),
		Message:  "guests can pose as their gateway and as each other: the kernel does not take the ports' guards",
		Evidence: err.Error(), Remedy: "modprobe nf_tables",
	}}, nil
}
