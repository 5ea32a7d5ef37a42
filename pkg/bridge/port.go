package bridge

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// kindTun is the kernel's name of the device type of TAP (and TUN) devices.
const kindTun = "tun"

// PortConfig is how a port shall be plugged in.
type PortConfig struct {
	// MTU is the port's, 0 for the bridge's. A port with a smaller MTU lowers
	// that of a bridge whose own was never set.
	MTU int
	// Isolated keeps the port from reaching other isolated ports of the
	// bridge; it reaches the host and ports that aren't.
	Isolated bool
	// NoLearning keeps the bridge from learning addresses from the port's
	// frames, NoFlood from sending it unicast frames to addresses that the
	// bridge doesn't know. Both are for ports whose addresses AddFDB tells.
	NoLearning, NoFlood bool
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
	t := b.lockSTP(bridge)
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
	if reqs := plugRequests(br, l, p); len(reqs) > 0 {
		if err := b.withoutSTP(ctx, t, br, reqs...); err != nil {
			return err
		}
		// The kernel lets a carrier that just came (a veth's) take effect
		// late, but not later than somebody asks for the link.
		fresh, err := b.conn.byIndex(l.Index)
		if err != nil {
			return err
		}
		*l = fresh
	}
	if l.state != stateListening && l.state != stateLearning {
		return nil
	}
	forward := nl.NewRtAttr(nl.IFLA_BRPORT_STATE, nl.Uint8Attr(stateForwarding))
	return b.withoutSTP(ctx, t, br, setPort(l.Index, forward))
}

// plugRequests are the requests that make l a port of br as p asks. Isolation and
// the like are set before the port is up, so that no frame slips through.
func plugRequests(br, l *link, p PortConfig) []*nl.NetlinkRequest {
	var reqs []*nl.NetlinkRequest
	mtu := p.MTU
	if mtu == 0 {
		mtu = br.MTU
	}
	if l.MTU != mtu {
		reqs = append(reqs, setLink(l.Index, 0, 0, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu)))))
	}
	if l.Master != br.Index {
		reqs = append(reqs, setMaster(l.Index, br.Index))
	}
	if attrs := portAttributes(br, l, p); len(attrs) > 0 {
		reqs = append(reqs, setPort(l.Index, attrs...))
	}
	if !l.Up {
		reqs = append(reqs, setUp(l.Index))
	}
	return reqs
}

// portAttributes are those of l, a port of br or about to become one, that differ
// from p. A new port has none of the three.
func portAttributes(br, l *link, p PortConfig) []*nl.RtAttr {
	has := PortConfig{}
	if l.Master == br.Index {
		has = PortConfig{Isolated: l.isolated, NoLearning: l.noLearn, NoFlood: l.noFlood}
	}
	var attrs []*nl.RtAttr
	if has.Isolated != p.Isolated {
		attrs = append(attrs, nl.NewRtAttr(nl.IFLA_BRPORT_ISOLATED, boolAttr(p.Isolated)))
	}
	if has.NoLearning != p.NoLearning {
		attrs = append(attrs, nl.NewRtAttr(nl.IFLA_BRPORT_LEARNING, boolAttr(!p.NoLearning)))
	}
	if has.NoFlood != p.NoFlood {
		attrs = append(attrs, nl.NewRtAttr(nl.IFLA_BRPORT_UNICAST_FLOOD, boolAttr(!p.NoFlood)))
	}
	return attrs
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
// it was. A link that is no port, or gone, is success.
func (b *Bridges) Detach(port int) error {
	if err := netlink.LinkSetNoMaster(byItsIndex(port)); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("detaching port %d: %w", port, err)
	}
	return nil
}

// DeleteLink deletes the TAP device with that index. One that is gone is
// success; a link of another kind is an error and stays.
func (b *Bridges) DeleteLink(index int) error {
	l, err := b.conn.byIndex(index)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	case l.Kind != kindTun:
		return fmt.Errorf("deleting link %d: %q is of kind %q, not a TAP device", index, l.Name, l.Kind)
	}
	return remove(index)
}
