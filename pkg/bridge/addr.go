package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/internal/netlink"
)

// address is an address of a link.
type address struct {
	index  int
	prefix netip.Prefix
	// peer is IFA_ADDRESS: the other end's address, without one the same as
	// the own.
	peer  netip.Addr
	scope uint8
	flags uint32
	// protocol is who added it, as of a route; 0 where that is not told.
	protocol uint8
}

// ifaProto is IFA_PROTO of linux/if_addr.h.
const ifaProto = 11

// usable reports whether a socket may bind to the address: duplicate address
// detection (RFC 4862 section 5.4) is neither under way nor lost. On a bridge
// without ports it would never end, as there is no carrier.
func (a *address) usable() bool {
	return a.flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0
}

// setAddresses gives the link the wanted addresses, in their order, and takes those
// away that are ours and not wanted.
func (c *conn) setAddresses(l *link, cfg *Config) error {
	index := l.Index
	have, err := c.addresses(index)
	if err != nil {
		return err
	}
	if unwanted := unwantedAddresses(have, cfg); len(unwanted) > 0 {
		if err := c.carryOut(c.removals(index, unwanted, cfg), cfg.Amend); err != nil {
			return err
		}
		// The kernel may have removed more: secondary addresses.
		if have, err = c.addresses(index); err != nil {
			return err
		}
	}
	var changes []change
	for _, p := range cfg.Addrs {
		if slices.ContainsFunc(have, func(a address) bool { return a.prefix == p }) {
			continue
		}
		changes = append(changes, change{
			Difference: Difference{cfg.Name, AspectAddress, "", p.String()},
			do:         func() error { return c.addAddresses(index, []netip.Prefix{p}) },
		})
	}
	return c.carryOut(append(changes, c.linkLocal(l, cfg, have)...), cfg.Amend)
}

// linkLocal brings back the IPv6 link-local address, which router advertisements and
// DHCPv6 go out from. The kernel makes it when a link gets its carrier, and not again.
func (c *conn) linkLocal(l *link, cfg *Config, have []address) []change {
	lost := cfg.hasIPv6() && l.running && !slices.ContainsFunc(have, func(a address) bool { return a.prefix.Addr().IsLinkLocalUnicast() && a.prefix.Addr().Is6() })
	if !lost {
		return nil
	}
	p := netip.PrefixFrom(ether.LinkLocal(cfg.MAC), 64)
	return []change{{
		Difference: Difference{cfg.Name, AspectAddress, "", p.String()},
		do: func() error {
			err := c.do(newAddress(l.Index, p))
			if errors.Is(err, unix.EEXIST) {
				err = nil
			}
			return err
		},
	}}
}

func (c *conn) addAddresses(index int, missing []netip.Prefix) error {
	for _, p := range missing {
		err := c.do(newAddress(index, p))
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("adding address %v: %w", p, err)
		}
	}
	return nil
}

// unwantedAddresses are those of have that must go, also in order to come back
// usable.
func unwantedAddresses(have []address, cfg *Config) []address {
	var unwanted []address
	for _, a := range have {
		ours := a.protocol == routeProtocol && a.scope == unix.RT_SCOPE_UNIVERSE || slices.Contains(cfg.Former, a.prefix)
		if slices.Contains(cfg.Addrs, a.prefix) {
			ours = !a.usable()
		}
		if ours {
			unwanted = append(unwanted, a)
		}
	}
	return unwanted
}

// removals are the changes that remove addresses. One that is wanted and not usable is
// no difference before it is missing.
func (c *conn) removals(index int, addrs []address, cfg *Config) (changes []change) {
	for _, a := range addrs {
		d := Difference{cfg.Name, AspectAddress, a.prefix.String(), ""}
		if slices.Contains(cfg.Addrs, a.prefix) {
			d.Has, d.Want = "tentative "+d.Has, d.Has
		}
		changes = append(changes, change{Difference: d, do: func() error {
			// EADDRNOTAVAIL: a secondary address, gone with its primary.
			err := c.do(delAddress(index, a))
			if errors.Is(err, unix.EADDRNOTAVAIL) {
				err = nil
			}
			return err
		}})
	}
	return changes
}

// newAddress is the request that adds an address. An IPv4 address has the
// broadcast address of its network, if the network has one (RFC 3021: a /31 has
// none). An IPv6 address goes without duplicate address detection, see usable. It is
// marked as ours (`ip address show proto 66`), which kernels before 5.18 don't keep.
func newAddress(index int, p netip.Prefix) *nl.NetlinkRequest {
	msg := addressMessage(index, p)
	if p.Addr().Is6() {
		msg.IfAddrmsg.Flags = unix.IFA_F_NODAD
	}
	req := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, p.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, p.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(ifaProto, []byte{routeProtocol}))
	if p.Addr().Is4() && p.Bits() < 31 {
		req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, broadcast(p)))
	}
	return req
}

// delAddress is the request that removes an address.
func delAddress(index int, a address) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_DELADDR, 0)
	req.AddData(addressMessage(index, a.prefix))
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, a.prefix.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, a.peer.AsSlice()))
	return req
}

// addressMessage is the fixed part of a request about an address.
func addressMessage(index int, p netip.Prefix) *nl.IfAddrmsg {
	family := unix.AF_INET
	if p.Addr().Is6() {
		family = unix.AF_INET6
	}
	msg := nl.NewIfAddrmsg(family)
	msg.Index, msg.Prefixlen = uint32(index), uint8(p.Bits())
	if p.Addr().IsLinkLocalUnicast() && p.Addr().Is6() {
		msg.Scope = unix.RT_SCOPE_LINK
	}
	return msg
}

// broadcast is the last address of an IPv4 network.
func broadcast(p netip.Prefix) []byte {
	ip := p.Addr().As4()
	hosts := uint32(1)<<(32-p.Bits()) - 1
	return binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(ip[:])|hosts)
}

// addresses lists the addresses of one link, of all links when index is 0.
func (c *conn) addresses(index int) ([]address, error) {
	var all []address
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		addrs, err := c.addressesOf(family, index)
		if err != nil {
			return nil, err
		}
		all = append(all, addrs...)
	}
	return all, nil
}

// addressesOf lists the addresses of a family on one link, on all links when
// index is 0.
func (c *conn) addressesOf(family uint8, index int) ([]address, error) {
	msg := nl.NewIfAddrmsg(int(family))
	msg.Index = uint32(index)
	msgs, err := c.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, msg)
	if err != nil {
		return nil, fmt.Errorf("listing addresses of link %d: %w", index, err)
	}
	var all []address
	for _, m := range msgs {
		a, err := parseAddress(m)
		if err != nil {
			return nil, err
		}
		// A kernel without IPv6 answers with what it has.
		ofFamily := a.prefix.Addr().Is6() == (family == unix.AF_INET6)
		if ofFamily && (index == 0 || a.index == index) {
			all = append(all, a)
		}
	}
	return all, nil
}

// parseAddress reads the body of an RTM_NEWADDR message. IFA_LOCAL is the link's
// own address; IFA_ADDRESS is the peer's where there is one, and the only one
// that IPv6 gives otherwise.
func parseAddress(m []byte) (address, error) {
	if len(m) < unix.SizeofIfAddrmsg {
		return address{}, errors.New("short address message")
	}
	msg := nl.DeserializeIfAddrmsg(m)
	a := address{index: int(msg.Index), scope: msg.Scope, flags: uint32(msg.IfAddrmsg.Flags)}
	var local netip.Addr
	err := netlink.ParseAttributes(m[unix.SizeofIfAddrmsg:], func(kind uint16, value []byte) error {
		switch kind {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(value)
		case unix.IFA_ADDRESS:
			a.peer, _ = netip.AddrFromSlice(value)
		case unix.IFA_FLAGS:
			a.flags = binary.NativeEndian.Uint32(value)
		case ifaProto:
			a.protocol = value[0]
		}
		return nil
	})
	if !local.IsValid() {
		local = a.peer
	}
	a.prefix = netip.PrefixFrom(local, int(msg.Prefixlen))
	return a, err
}
