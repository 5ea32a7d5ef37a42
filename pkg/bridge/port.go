package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/bridge/removal"
	"github.com/vnetd/vnetd/pkg/bridge/vlan"
)

// kindTun is the kernel's name of the device type of TAP (and TUN) devices.
const kindTun = "tun"

// The kernel's names of devices that are on an interface of the host, see package tap.
const (
	KindMacvtap = "macvtap"
	KindMacvlan = "macvlan"
)

// PortConfig is how a port shall be plugged in.
type PortConfig struct {
	// MTU is the port's, 0 for the bridge's when it is plugged in, and from then on
	// whatever others make it. A port with a smaller MTU lowers that of a bridge whose
	// own was never set.
	MTU int
	// Isolated keeps the port from reaching other isolated ports of the
	// bridge; it reaches the host and ports that aren't.
	Isolated bool
	// NoLearning keeps the bridge from learning addresses from the port's
	// frames, NoFlood from sending it unicast frames to addresses that the
	// bridge doesn't know. Both are for ports whose address FDB tells.
	NoLearning, NoFlood bool
	// VLANs are those that frames of the port may belong to; nil leaves that alone. The
	// bridge must filter VLANs, see ErrNotFiltering. With PlainVLANs, a port without VLANs
	// has those of function PlainVLANs where the bridge filters.
	VLANs      vlan.Table
	PlainVLANs bool
	// FDB is an address behind the port that the bridge is told of, by a static entry of its
	// forwarding database; nil for none.
	FDB net.HardwareAddr
	// Sticky has no frame that comes by another port move that address: it stays behind this
	// one.
	Sticky bool
	// Alias is what the port says of itself where it says nothing; empty for nothing.
	Alias string
	// Amend is asked of what differs from the above.
	Amend Amend
}

// Attach makes the link with index port a port of the bridge with index bridge,
// sets it up, and has it forward frames before Attach returns, with STP on as it
// was. It may be called again for a port that is plugged in: what differs from p
// is brought to it, and a port that STP keeps waiting (listening, learning)
// forwards at once. A port that STP blocks because of a loop stays blocked.
//
// Where ports of one bridge come at short intervals for many seconds, Attach
// waits now and then for up to two seconds, see helloPacer.
//
// A port without carrier, such as a persistent TAP device that nobody has open,
// can't forward; call Attach again when Watch shows its carrier.
//
// The error is ErrNotFound when one of the links is gone, ErrNotBridge when
// bridge is none.
func (b *Bridges) Attach(ctx context.Context, bridge, port int, p PortConfig) error {
	t := b.stp.lock(bridge)
	defer t.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("attaching port %d: %w", port, err)
	}
	br, err := b.conn.byIndex(bridge)
	if err != nil {
		return err
	}
	if err := br.mustBeBridge(br.Name); err != nil {
		return err
	}
	l, err := b.conn.byIndex(port)
	if err != nil {
		return err
	}
	if err := b.plugIn(ctx, t, &br, &l, p); err != nil {
		return fmt.Errorf("attaching port %q to bridge %q: %w", l.Name, br.Name, err)
	}
	return nil
}

// plugIn is Attach for links that were looked up, with the bridge's STP state t locked.
func (b *Bridges) plugIn(ctx context.Context, t *stpState, br, l *link, p PortConfig) error {
	vlans, err := vlansOf(b.conn, br, l, p)
	if err != nil {
		return err
	}
	moved := len(vlans) > 0 && l.Master == br.Index
	if reqs := requests(p.Amend.pass(portChanges(br, l, p, vlans))); len(reqs) > 0 {
		if err := t.without(ctx, b.conn, br, reqs...); err != nil {
			return err
		}
		// The kernel lets a carrier that just came (a veth's) take effect
		// late, but not later than somebody asks for the link.
		fresh, err := b.conn.byIndex(l.Index)
		if err != nil {
			return err
		}
		*l = fresh
		// The same goes for the bridge, which may have got its carrier by it.
		if _, err := b.conn.byIndex(br.Index); err != nil {
			return err
		}
	}
	if l.Master == br.Index && (l.state == stateListening || l.state == stateLearning) {
		if err := t.without(ctx, b.conn, br, forward(l)); err != nil {
			return err
		}
	}
	return b.conn.tellFDB(br, l, p, moved)
}

// forward is the request that has a port forward.
func forward(l *link) *nl.NetlinkRequest {
	return setPort(l.Index, nl.NewRtAttr(nl.IFLA_BRPORT_STATE, nl.Uint8Attr(stateForwarding)))
}

// tellFDB tells the bridge br of the address behind its port l, unless it knows it. It
// knows it in the VLANs that the port had, so one that was moved is told of again.
func (c *conn) tellFDB(br, l *link, p PortConfig, moved bool) error {
	if p.FDB == nil || l.Master != br.Index {
		return nil
	}
	e, err := c.fdb(br.Index, p.FDB)
	if err == nil && moved {
		return c.addFDB(l.Index, p.FDB, p.Sticky)
	}
	if err != nil || e.port == l.Index && e.static && e.sticky == p.Sticky {
		return err
	}
	tell := change{
		Difference: Difference{Link: l.Name, Aspect: AspectFDB, Want: p.FDB.String()},
		do:         func() error { return c.addFDB(l.Index, p.FDB, p.Sticky) },
	}
	if e.port != 0 {
		tell.Has, tell.Want = fmt.Sprintf("%v on link %d", p.FDB, e.port), p.FDB.String()+" static"
		if p.Sticky {
			tell.Want += " sticky"
		}
	}
	return c.carryOut([]change{tell}, p.Amend)
}

// Pin has the bridge with that index keep an address behind a port of it that another program
// plugged in, whatever comes by other ports. A port that has left, or is gone, is success.
func (b *Bridges) Pin(bridge, port int, mac net.HardwareAddr, amend Amend) error {
	l, err := b.conn.byIndex(port)
	if errors.Is(err, ErrNotFound) || err == nil && l.Master != bridge {
		return nil
	}
	if err != nil {
		return err
	}
	return b.conn.tellFDB(&link{Link: Link{Index: bridge}}, &l, PortConfig{FDB: mac, Sticky: true, Amend: amend}, false)
}

// Learn has a port of the bridge with that index learn who is behind it by the frames that come, and the
// bridge forget that it was told that an address is; or not learn, and the bridge be told so, as by Pin.
// A link that is no port any more is ErrNotFound.
func (b *Bridges) Learn(bridge, port int, mac net.HardwareAddr, on bool) error {
	l, err := b.conn.byIndex(port)
	if err != nil {
		return err
	}
	if l.Master != bridge {
		return fmt.Errorf("link %q is not on the bridge: %w", l.Name, ErrNotFound)
	}
	if l.noLearn == on {
		if err := b.conn.do(setPort(port, nl.NewRtAttr(nl.IFLA_BRPORT_LEARNING, boolAttr(on)))); err != nil {
			return fmt.Errorf("setting whether port %q learns: %w", l.Name, err)
		}
	}
	if !on {
		return b.Pin(bridge, port, mac, nil)
	}
	e, err := b.conn.fdb(bridge, mac)
	if err != nil || e.port != port || !e.static {
		return err
	}
	err = b.conn.do(fdbRequest(unix.RTM_DELNEIGH, 0, port, mac, unix.NTF_MASTER))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing the forwarding entry of %v on port %d: %w", mac, port, err)
	}
	return nil
}

// portChanges make l a port of br as p asks, with the changes of its VLANs. Isolation and the like are set before the
// port is up, so that no frame slips through. Those of a port depend on its being one.
func portChanges(br, l *link, p PortConfig, vlans []change) (changes []change) {
	if mtu := p.mtu(br, l); l.MTU != mtu {
		changes = append(changes, differs(l.Name, AspectMTU, l.MTU, mtu, setMTU(l.Index, mtu)))
	}
	if l.Master != br.Index {
		// A new port has none of the attributes: they are no differences of their own.
		reqs := []*nl.NetlinkRequest{setMaster(l.Index, br.Index)}
		reqs = append(reqs, requests(slices.Concat(vlans, attributesOf(l, PortConfig{}, p)))...)
		c := differs(l.Name, AspectMaster, fmt.Sprint("link ", l.Master), br.Name, reqs...)
		if l.Master == 0 {
			c.Has = ""
		}
		changes = append(changes, c)
	} else {
		changes = append(changes, vlans...)
		changes = append(changes, attributesOf(l, PortConfig{Isolated: l.isolated, NoLearning: l.noLearn, NoFlood: l.noFlood}, p)...)
		changes = append(changes, stateOf(br, l)...)
	}
	if p.Alias != "" && l.Alias == "" {
		changes = append(changes, differs(l.Name, AspectAlias, "", p.Alias, setLink(l.Index, 0, 0, alias(p.Alias))))
	}
	if !l.Up {
		changes = append(changes, differs(l.Name, AspectUp, "down", "up", setUp(l.Index)))
	}
	return changes
}

// mtu is the MTU that l shall have as a port of br. A bridge whose own was never set has
// that of its least port: what is plugged in keeps its MTU there, or one small port would
// bring down all others for good.
func (p PortConfig) mtu(br, l *link) int {
	if p.MTU == 0 && l.Master == br.Index {
		return l.MTU
	}
	return cmp.Or(p.MTU, br.MTU)
}

// attributesOf brings those that l has to p.
func attributesOf(l *link, has, p PortConfig) (changes []change) {
	for _, a := range []struct {
		what      Aspect
		has, want bool
		attr      int
	}{
		{AspectIsolated, has.Isolated, p.Isolated, nl.IFLA_BRPORT_ISOLATED},
		{AspectLearning, !has.NoLearning, !p.NoLearning, nl.IFLA_BRPORT_LEARNING},
		{AspectFlood, !has.NoFlood, !p.NoFlood, nl.IFLA_BRPORT_UNICAST_FLOOD},
	} {
		if a.has != a.want {
			changes = append(changes, differs(l.Name, a.what, onOff(a.has), onOff(a.want), setPort(l.Index, nl.NewRtAttr(a.attr, boolAttr(a.want)))))
		}
	}
	return changes
}

// stateOf has a port forward which somebody has disabled: without STP, which disables
// none, the kernel does so only with a port without carrier, or of a bridge that is down.
func stateOf(br, l *link) []change {
	if br.stp != stpOff || !br.Up || !l.Up || !l.running || l.state != stateDisabled {
		return nil
	}
	return []change{differs(l.Name, AspectState, "disabled", "forwarding", forward(l))}
}

func boolAttr(v bool) []byte {
	if v {
		return nl.Uint8Attr(1)
	}
	return nl.Uint8Attr(0)
}

// setMaster is the request that makes a link a port of master, 0 for none.
func setMaster(index, master int) *nl.NetlinkRequest {
	return setLink(index, 0, 0, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(master))))
}

// Detach takes a port off the bridge it is plugged into. The link stays, up as
// it was. A link that is no port, or gone, is success. The request has a socket of its own:
// it keeps the kernel waiting for RCU, and no other shall queue behind it.
func (b *Bridges) Detach(port int) error {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: port}}
	if err := netlink.LinkSetNoMaster(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("detaching port %d: %w", port, err)
	}
	return nil
}

// DeleteLink deletes the TAP or macvtap device, or the macvlan interface, with that index.
// One that is gone is success; a link of another kind is an error and stays.
func (b *Bridges) DeleteLink(index int) error {
	l, err := b.conn.byIndex(index)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	case l.Kind != kindTun && l.Kind != KindMacvtap && l.Kind != KindMacvlan:
		return fmt.Errorf("deleting link %d: %q is of kind %q, not a TAP device", index, l.Name, l.Kind)
	}
	return b.removal.Delete(index, removal.Other)
}
