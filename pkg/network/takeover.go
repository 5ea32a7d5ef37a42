package network

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
)

// Takeover is a network as libvirt's network driver left it: the texts of its
// files. Either document may be empty, not both.
type Takeover struct {
	Definition string   // <network>; empty: the network is transient
	Status     string   // <networkstatus>; empty: it is inactive
	Ports      []string // <networkport> of each port
	Leases     string   // of its dnsmasq, as ParseLeases of dhcpd reads them
	Autostart  bool
}

// What becomes of a network that is taken over.
const (
	TakeDefine  = "define"  // it is defined here
	TakeAdopt   = "adopt"   // it is active, and goes on as vnetd's
	TakePresent = "present" // vnetd has it already, and it stays as it is
)

// Taken is what a network became, or would become, by TakeOver.
type Taken struct {
	Name      string      `json:"name"`
	UUID      string      `json:"uuid"`
	Bridge    string      `json:"bridge"`
	Action    string      `json:"action"` // define, adopt or present
	Autostart bool        `json:"autostart"`
	Start     bool        `json:"start"` // it is inactive and starts now, as it is marked for autostart
	Ports     []TakenPort `json:"ports"`
	Leases    int         `json:"leases"`

	// Refused are ports and leases that can't be taken over, and what else went
	// wrong, each with the reason.
	Refused []string `json:"refused"`
}

// TakenPort is a port of another program's that goes on.
type TakenPort struct {
	UUID  string `json:"uuid"`
	Owner string `json:"owner"`
	MAC   string `json:"mac"`
}

// takeover is a Takeover that has been understood and fits.
type takeover struct {
	network   *Network    // that is known by the name; nil: a new one
	known     api.Network // of it
	def, live *netdef.Network
	autostart bool
	ports     []*netdef.Port
	leases    []dhcpd.Lease
	taken     Taken
}

// TakeOver makes a network of libvirt's a network of vnetd's, under the same name,
// UUID, MAC address and bridge. One that is active goes on with its guests plugged
// in: its bridge stays, its rules are replaced by vnetd's at once, its ports are
// registered, and its leases are on disk before DHCP is served. libvirt's dnsmasq
// must be gone by then, or the services wait for it. With dry nothing is changed,
// and the result is what would be.
//
// A network that vnetd has already keeps its definition, and is marked for autostart
// where it was in libvirt; where it is inactive here and active there it is adopted.
// Errors are Invalid for a text that can't be read, Exists and Conflict for what is in
// the way, and Unsupported; nothing is changed then.
func (m *Manager) TakeOver(ctx context.Context, t Takeover, dry bool) (Taken, error) {
	m.defining.Lock()
	defer m.defining.Unlock()
	to, err := m.understand(t)
	if err != nil || dry {
		return to.taken, err
	}
	n, err := m.introduce(to)
	if err != nil || to.taken.Action == TakePresent {
		return to.taken, err
	}
	if err := m.keepLeases(to); err != nil {
		return to.taken, err
	}
	switch {
	case to.live != nil:
		err = n.takeOver(ctx, to)
	case to.taken.Start:
		if failed := n.Start(ctx); failed != nil {
			to.refuse("it is defined and could not be started: %w", failed)
		}
	}
	m.log.Info("network of libvirt taken over", keyNetwork, n.name, "action", to.taken.Action,
		"ports", len(to.taken.Ports), "leases", to.taken.Leases, "refused", to.taken.Refused)
	return to.taken, err
}

// refuse notes what is not taken over.
func (to *takeover) refuse(format string, args ...any) {
	for line := range strings.Lines(fmt.Errorf(format, args...).Error()) {
		to.taken.Refused = append(to.taken.Refused, strings.TrimSuffix(line, "\n"))
	}
}

// understand reads the texts of t and finds out what would become of it. The caller
// holds m.defining.
func (m *Manager) understand(t Takeover) (*takeover, error) {
	to := &takeover{autostart: t.Autostart, taken: Taken{Ports: []TakenPort{}, Refused: []string{}}}
	if err := to.read(t); err != nil {
		return to, err
	}
	is := cmp.Or(to.live, to.def)
	to.taken.Name, to.taken.UUID, to.taken.Bridge = is.Name, is.UUID, is.Bridge.Name
	if err := m.fit(to); err != nil {
		return to, err
	}
	to.decide()
	if to.taken.Action == TakeAdopt {
		to.readPorts(m, t.Ports)
	}
	return to, nil
}

// read parses the documents and the leases.
func (to *takeover) read(t Takeover) (err error) {
	if t.Definition != "" {
		if to.def, err = netdef.Parse([]byte(t.Definition)); err != nil {
			return fmt.Errorf("definition: %w", err)
		}
	}
	if t.Status != "" {
		if to.live, err = netdef.ParseStatus([]byte(t.Status)); err == nil {
			err = to.live.Validate()
		}
		if err != nil {
			return fmt.Errorf("status: %w", err)
		}
	}
	switch {
	case to.def == nil && to.live == nil:
		return api.Errorf(api.Invalid, "a network without a definition and without a status is none")
	case to.def != nil && to.live != nil && (to.def.Name != to.live.Name || to.def.UUID != "" && to.def.UUID != to.live.UUID):
		return api.Errorf(api.Conflict, "the status is of network %q with the UUID %s, the definition of %q with %s",
			to.live.Name, to.live.UUID, to.def.Name, to.def.UUID)
	}
	if to.leases, err = dhcpd.ParseLeases(t.Leases); err != nil {
		return api.Errorf(api.Invalid, "leases: %w", err)
	}
	return nil
}

// fit finds out whether the network is still active, completes its documents and
// looks for what is in their way.
func (m *Manager) fit(to *takeover) error {
	if err := m.fitLive(to); err != nil {
		return err
	}
	is := cmp.Or(to.live, to.def)
	if to.network = m.find(is.Name); to.network != nil {
		to.known = to.network.Info()
		if is.UUID != "" && to.known.UUID != is.UUID {
			return api.Errorf(api.Exists, "vnetd has another network %q, with the UUID %s", is.Name, to.known.UUID)
		}
	}
	if to.live != nil {
		if err := errors.Join(netdef.Conflicts(to.live, m.definitions(to.network)), m.subnetsTaken(to.network, to.live, nil)); err != nil {
			return fmt.Errorf("status: %w", err)
		}
	}
	if to.def == nil || to.network != nil {
		return nil
	}
	to.inherit()
	def, err := m.complete(to.def, nil)
	if err != nil {
		return fmt.Errorf("definition: %w", err)
	}
	to.def = def
	to.taken.UUID, to.taken.Bridge = cmp.Or(to.taken.UUID, def.UUID), cmp.Or(to.taken.Bridge, def.Bridge.Name)
	return nil
}

// inherit gives the definition what it lacks and the live network has.
func (to *takeover) inherit() {
	if to.live == nil {
		return
	}
	to.def.UUID = cmp.Or(to.def.UUID, to.live.UUID)
	to.def.Bridge.Name = cmp.Or(to.def.Bridge.Name, to.live.Bridge.Name)
	if to.def.MAC == nil {
		to.def.MAC = to.live.MAC
	}
}

// fitLive drops the status of a network whose bridge is gone, which libvirt takes
// for inactive, too, and refuses what vnetd could not run.
func (m *Manager) fitLive(to *takeover) error {
	live := to.live
	if live == nil {
		return nil
	}
	l, err := m.cfg.Links.Lookup(live.Bridge.Name)
	switch {
	case live.Bridge.Name != "" && errors.Is(err, bridge.ErrNotFound):
		if to.live = nil; to.def == nil {
			return api.Errorf(api.InvalidState, "status: the bridge %q is gone and the network has no definition: nothing is left of it", live.Bridge.Name)
		}
		return nil
	case err != nil && live.Bridge.Name != "":
		return err
	case live.Mode().OwnsBridge() && l.Kind != "bridge":
		return api.Errorf(api.Conflict, "status: the device %q is no bridge, but %s", live.Bridge.Name, l.Kind)
	}
	if err := translate.Unsupported(live); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	if !live.OwnsBridge() {
		return nil
	}
	if live.MAC == nil {
		live.MAC = l.MAC
	}
	for i := range live.IPs {
		p := live.IPs[i].Prefix()
		if owner, err := m.cfg.Links.AddressOwner(p, live.Bridge.Name); err != nil {
			return err
		} else if owner != "" {
			return api.Errorf(api.Conflict, "status: subnet %v is also on interface %q", p.Masked(), owner)
		}
	}
	return nil
}

// decide says what becomes of the network.
func (to *takeover) decide() {
	t := &to.taken
	t.Autostart = to.autostart && to.def != nil
	if to.network != nil {
		t.Autostart = to.known.Persistent && (to.autostart || to.known.Autostart)
	}
	switch {
	case to.network != nil && (to.known.Active || to.live == nil):
		t.Action, t.UUID, t.Bridge = TakePresent, to.known.UUID, to.known.Bridge
		return
	case to.live != nil:
		t.Action = TakeAdopt
	default:
		t.Action = TakeDefine
	}
	t.Start = t.Action == TakeDefine && t.Autostart
	to.leases = slices.DeleteFunc(to.leases, to.strange)
	t.Leases = len(to.leases)
}

// strange tells whether a lease is of no subnet of the network, or of no guest's
// address there, and notes it.
func (to *takeover) strange(l dhcpd.Lease) bool {
	is := cmp.Or(to.live, to.def)
	for i := range is.IPs {
		ip := &is.IPs[i]
		switch {
		case !ip.Prefix().Contains(l.Addr):
		case isGuests(ip, l.Addr):
			return false
		default:
			to.refuse("lease of %v: the network gives guests no such address", l.Addr)
			return true
		}
	}
	to.refuse("lease of %v: the network has no such subnet", l.Addr)
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

// readPorts reads the ports of a network that is adopted.
func (to *takeover) readPorts(m *Manager, texts []string) {
	for _, text := range texts {
		doc, err := netdef.ParsePort([]byte(text))
		if err != nil {
			to.refuse("a port: %w", err)
			continue
		}
		full, err := portOn(to.live, doc, true)
		switch {
		case err != nil:
			to.refuse("port %s of %s: %w", doc.UUID, doc.Owner.Name, err)
		case m.ports.uuid(doc.UUID) != nil || m.external.uuid(doc.UUID) != nil:
			to.refuse("port %s of %s: vnetd has a port of this UUID", doc.UUID, doc.Owner.Name)
		default:
			to.ports = append(to.ports, full)
			to.taken.Ports = append(to.taken.Ports, TakenPort{full.UUID, full.Owner.Name, full.MAC.String()})
		}
	}
}

// introduce makes the network known, with its definition on disk if it has one, and
// marks it for autostart.
func (m *Manager) introduce(to *takeover) (*Network, error) {
	if n := to.network; n != nil {
		if to.taken.Autostart == to.known.Autostart {
			return n, nil
		}
		return n, n.SetAutostart(to.taken.Autostart)
	}
	n := newNetwork(m, cmp.Or(to.def, to.live))
	if to.def != nil {
		if err := m.cfg.Store.SaveDefinition(to.def); err != nil {
			return nil, err
		}
		n.setDefinition(to.def)
		if to.taken.Autostart {
			if err := m.cfg.Store.SetAutostart(n.name, true); err != nil {
				return nil, errors.Join(err, m.cfg.Store.DeleteDefinition(n.name))
			}
			n.setAutostart(true)
		}
	}
	m.add(n)
	m.events.publish(Event{Kind: NetworkDefined, Network: n.Info()})
	return n, nil
}

// keepLeases puts the leases on disk, for the servers to find there when they are
// opened.
func (m *Manager) keepLeases(to *takeover) error {
	disk := m.cfg.Store.Leases(to.taken.UUID)
	had, err := disk.Load()
	if err != nil {
		return err
	}
	known := make(map[netip.Addr]dhcpd.Lease)
	for _, l := range had {
		known[l.Addr] = l
	}
	now := time.Now()
	var puts []dhcpd.Lease
	for _, l := range to.leases {
		if k, ok := known[l.Addr]; ok && !supersedes(&l, &k, now) {
			continue
		}
		known[l.Addr] = l
		if !l.BoundAt(now) {
			l.State = dhcpd.StateReleased
		}
		puts = append(puts, l)
	}
	if len(puts) == 0 {
		return nil
	}
	return disk.Commit(puts, nil)
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

// takeOver makes vnetd's what libvirt left active. What fails leaves the network
// degraded, never down: its guests are at work.
func (n *Network) takeOver(ctx context.Context, to *takeover) error {
	if err := n.begin(); err != nil {
		return err
	}
	defer n.op.Unlock()
	// From here on it is done, whoever hangs up.
	ctx = context.WithoutCancel(ctx)
	if err := n.record(store.Run{Phase: store.Active, Network: to.live, Persistent: n.persistent()}); err != nil {
		return err
	}
	for _, doc := range to.ports {
		x := newExternal(n, doc, time.Now(), 0) // libvirt's, which was root's
		if err := n.m.external.add(x, Limits{}); err != nil {
			to.refuse("%w", err)
			continue
		}
		if err := n.m.cfg.Store.SavePort(n.m.external.record(x)); err != nil {
			to.refuse("recording port %s: %w", doc.UUID, err)
		}
		n.m.publishPort(PortAdded, x)
	}
	if err := errors.Join(n.assume(ctx, to.live), n.m.cfg.Rules.RemoveLeftovers(ctx, translate.Firewall(to.live))); err != nil {
		to.refuse("%w", err)
	}
	n.keepStopped(to.live.UUID, false)
	to.compareLeases(n)
	return nil
}

// compareLeases notes the leases that the servers did not take.
func (to *takeover) compareLeases(n *Network) {
	held, served := n.runningServices().Leases()
	if !served {
		return
	}
	has := make(map[netip.Addr]bool)
	for _, l := range held {
		has[l.Addr] = true
	}
	now := time.Now()
	for _, l := range to.leases {
		if l.BoundAt(now) && !has[l.Addr] {
			to.taken.Leases--
			to.refuse("lease of %v: the network gives guests no such address", l.Addr)
		}
	}
}
