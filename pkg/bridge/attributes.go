package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrCantFilter says that the kernel has no bridges that filter VLANs
// (CONFIG_BRIDGE_VLAN_FILTERING).
var ErrCantFilter = errors.New("this kernel's bridges can't filter VLANs")

// ErrCantSnoop says that the kernel's bridges know nothing of multicast groups
// (CONFIG_BRIDGE_IGMP_SNOOPING).
var ErrCantSnoop = errors.New("this kernel's bridges can't snoop multicast")

// Switch is something that can be on or off, or be left as it is.
type Switch int

// The states of a Switch.
const (
	AsIs Switch = iota
	On
	Off
)

// Adjust brings MTU, spanning tree, VLAN filtering, multicast and the bound of the
// forwarding database of the bridge with that
// index, which somebody else has made, to cfg, and nothing else of it. What is right is
// not touched. The error is ErrNotFound when there is no such link, ErrNotBridge for
// another kind, and as of Ensure for what the kernel has not.
func (b *Bridges) Adjust(ctx context.Context, index int, cfg Config) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("bridge %q: %w", cfg.Name, err)
	}
	l, err := b.conn.byIndex(index)
	if err == nil {
		err = l.mustBeBridge(l.Name)
	}
	if err != nil {
		return err
	}
	cfg.Name, cfg.MAC, cfg.Alias = l.Name, l.MAC, "" // its maker's
	if err := b.setAttributes(&l, &cfg); err != nil {
		return fmt.Errorf("configuring bridge %q: %w", l.Name, err)
	}
	return nil
}

// setAttributes brings MAC address, MTU, alias, STP, forward delay, VLAN filtering,
// multicast and the bound of the forwarding database of l to cfg.
func (b *Bridges) setAttributes(l *link, cfg *Config) error {
	switch {
	case cfg.FilterVLANs && !l.CanFilterVLANs:
		return ErrCantFilter
	case (cfg.Snooping == On || cfg.Querier == On) && !l.canSnoop:
		return ErrCantSnoop
	}
	defer b.stp.lock(l.Index).Unlock()
	return b.conn.doAll(requests(cfg.Amend.pass(attributeChanges(l, cfg))))
}

// attributeChanges are what setAttributes changes.
func attributeChanges(l *link, cfg *Config) (changes []change) {
	if !bytes.Equal(l.MAC, cfg.MAC) {
		changes = append(changes, differs(cfg.Name, AspectMAC, l.MAC, cfg.MAC, setLink(l.Index, 0, 0, nl.NewRtAttr(unix.IFLA_ADDRESS, cfg.MAC))))
	}
	if cfg.MTU != 0 && l.MTU != cfg.MTU {
		changes = append(changes, differs(cfg.Name, AspectMTU, l.MTU, cfg.MTU, setMTU(l.Index, cfg.MTU)))
	}
	changes = append(changes, switchChanges(l, cfg)...)
	if want := uint32(cfg.MaxLearned); l.countsLearned && l.maxLearned != want {
		changes = append(changes, differs(cfg.Name, AspectMaxLearned, l.maxLearned, want, setBridge(l.Index, nl.NewRtAttr(unix.IFLA_BR_FDB_MAX_LEARNED, nl.Uint32Attr(want)))))
	}
	if cfg.Alias != "" && l.Alias == "" {
		changes = append(changes, differs(cfg.Name, AspectAlias, l.Alias, cfg.Alias, setLink(l.Index, 0, 0, alias(cfg.Alias))))
	}
	if reqs := stpRequests(l, cfg); len(reqs) > 0 {
		has := fmt.Sprintf("%s, forward delay %v", onOff(l.stp != stpOff), hundredths(l.delay))
		want := fmt.Sprintf("%s, forward delay %v", onOff(cfg.STP), hundredths(cfg.delay()))
		changes = append(changes, differs(cfg.Name, AspectSTP, has, want, reqs...))
	}
	return changes
}

// switchChanges are those of what is on or off.
func switchChanges(l *link, cfg *Config) (changes []change) {
	filter := AsIs
	if (cfg.MACTable || cfg.FilterVLANs) && l.CanFilterVLANs {
		filter = On
	}
	for _, s := range []struct {
		what Aspect
		has  bool
		want Switch
		attr int
	}{
		{AspectVLANFiltering, l.FiltersVLANs, filter, nl.IFLA_BR_VLAN_FILTERING},
		{AspectSnooping, l.snoops, cfg.Snooping, nl.IFLA_BR_MCAST_SNOOPING},
		{AspectQuerier, l.queries, cfg.Querier, nl.IFLA_BR_MCAST_QUERIER},
	} {
		if want := s.want == On; s.want != AsIs && s.has != want {
			changes = append(changes, differs(cfg.Name, s.what, onOff(s.has), onOff(want), setBridge(l.Index, nl.NewRtAttr(s.attr, boolAttr(want)))))
		}
	}
	return changes
}

// SetMTU sets the MTU of the link with that index. The error is ErrNotFound when there is
// none.
func (b *Bridges) SetMTU(index, mtu int) error {
	err := b.conn.do(setMTU(index, mtu))
	if errors.Is(err, unix.ENODEV) {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("setting the MTU of link %d to %d: %w", index, mtu, err)
	}
	return nil
}

// setMTU is the request that sets a link's MTU.
func setMTU(index, mtu int) *nl.NetlinkRequest {
	return setLink(index, 0, 0, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
}
