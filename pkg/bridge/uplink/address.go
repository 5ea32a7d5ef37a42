package uplink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// ifaProto is IFA_PROTO of linux/if_addr.h: who set the address.
const ifaProto = 11

// forever is the lifetime of an address that doesn't end.
const forever = bridge.Forever

// address is an address of an uplink or its bridge.
type address struct {
	message
	prefix netip.Prefix
	// peer is IFA_ADDRESS: the other end's address, without one the same as the
	// own.
	peer  netip.Addr
	flags uint32
}

// parseAddress reads the body of an RTM_NEWADDR message. IFA_LOCAL is the link's
// own address; IFA_ADDRESS is the peer's where there is one, and the only one that
// IPv6 gives otherwise.
func parseAddress(data []byte) (address, error) {
	m, err := parseMessage(data, unix.SizeofIfAddrmsg)
	if err != nil {
		return address{}, err
	}
	a := address{message: m, flags: uint32(m.head[2])} // ifa_flags
	if v := m.get(unix.IFA_FLAGS); v != nil && len(v) != 4 {
		return address{}, fmt.Errorf("address flags of %d bytes", len(v))
	} else if v != nil {
		a.flags = m.u32(unix.IFA_FLAGS)
	}
	a.peer, _ = netip.AddrFromSlice(m.get(unix.IFA_ADDRESS))
	local, ok := netip.AddrFromSlice(m.get(unix.IFA_LOCAL))
	if !ok {
		local = a.peer
	}
	a.prefix = netip.PrefixFrom(local, int(m.head[1])) // ifa_prefixlen
	if !a.prefix.IsValid() || !a.peer.IsValid() {
		return address{}, errors.New("address message without address")
	}
	return a, nil
}

// index is that of the link.
func (a address) index() int { return int(binary.NativeEndian.Uint32(a.head[4:])) }

// same reports whether both are the same address to the kernel.
func (a address) same(other address) bool {
	return a.prefix == other.prefix && a.peer == other.peer
}

// linkLocal reports whether the address is an IPv6 link-local one: it stays on the
// uplink.
func (a address) linkLocal() bool {
	return a.prefix.Addr().Is6() && a.prefix.Addr().IsLinkLocalUnicast()
}

// valid is the rest of the address's lifetime in seconds (ifa_valid of struct
// ifa_cacheinfo, after ifa_prefered), or forever.
func (a address) valid() uint32 {
	if c := a.get(unix.IFA_CACHEINFO); len(c) >= 8 {
		return binary.NativeEndian.Uint32(c[4:])
	}
	return forever
}

// aged is the address after that time.
func (a address) aged(by time.Duration) address {
	c := a.get(unix.IFA_CACHEINFO)
	if len(c) < 8 {
		return a
	}
	lifetimes := binary.NativeEndian.AppendUint32(nil, aged(binary.NativeEndian.Uint32(c), by))
	lifetimes = binary.NativeEndian.AppendUint32(lifetimes, aged(a.valid(), by))
	a.message = a.with(unix.IFA_CACHEINFO, append(lifetimes, c[8:]...))
	return a
}

// aged is a lifetime in seconds after that time.
func aged(lifetime uint32, by time.Duration) uint32 {
	if lifetime == forever {
		return forever
	}
	return uint32(max(int64(lifetime)-int64(max(by, 0)/time.Second), 0))
}

// withLifetimesOf is the address with the lifetimes of another.
func (a address) withLifetimesOf(other address) address {
	if c := other.get(unix.IFA_CACHEINFO); c != nil {
		a.message = a.with(unix.IFA_CACHEINFO, c)
	}
	return a
}

// uplinkAddresses lists the addresses of a link in the order in which they must be
// added to stand in the kernel's order again: the kernel puts new IPv6 addresses
// first. Those that lost duplicate address detection are left out.
func (k kernel) addresses(index int) ([]address, error) {
	var all []address
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		msgs, err := k.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, indexed(family, unix.SizeofIfAddrmsg, index))
		if err != nil {
			return nil, fmt.Errorf("listing addresses of link %d: %w", index, err)
		}
		if family == unix.AF_INET6 {
			slices.Reverse(msgs)
		}
		for _, m := range msgs {
			a, err := parseAddress(m)
			if err != nil {
				return nil, err
			}
			if a.head[0] == family && a.index() == index && a.flags&unix.IFA_F_DADFAILED == 0 {
				all = append(all, a)
			}
		}
	}
	return all, nil
}

// settable are the flags of an address that a request may have.
func (a address) settable() uint32 {
	return a.flags & (unix.IFA_F_NODAD | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MANAGETEMPADDR |
		unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN)
}

// addAddress are the changes that give a link an address of an uplink. An IPv6
// address goes without duplicate address detection: the host has it already, and
// it must be of use at once. Its flags are set right afterwards.
func addAddress(a address, to bridge.Link) []change {
	flags := a.settable()
	if a.prefix.Addr().Is6() {
		flags |= unix.IFA_F_NODAD
	}
	req := addressChange(a, to, flags, unix.NLM_F_EXCL)
	changes := []change{{req, fmt.Sprintf("adding address %v to %q", a.prefix, to.Name), unix.EEXIST}}
	if flags != a.settable() {
		changes = append(changes, setAddressFlags(a, to, a.settable()))
	}
	return changes
}

// setAddressFlags changes the flags of an address of a link.
func setAddressFlags(a address, to bridge.Link, flags uint32) change {
	req := addressChange(a, to, flags, unix.NLM_F_REPLACE)
	return change{req: req, what: fmt.Sprintf("setting the flags of address %v of %q", a.prefix, to.Name)}
}

// addressChange is the request that creates or replaces an address.
func addressChange(a address, to bridge.Link, flags uint32, how uint16) []byte {
	m := a.only(unix.IFA_LOCAL, unix.IFA_ADDRESS, unix.IFA_BROADCAST, unix.IFA_CACHEINFO, unix.IFA_RT_PRIORITY, ifaProto)
	m.head[2] = uint8(flags) // ifa_flags
	binary.NativeEndian.PutUint32(m.head[4:], uint32(to.Index))
	m = m.with(unix.IFA_FLAGS, netlink.Uint32(flags))
	if label := a.get(unix.IFA_LABEL); label != nil {
		m = m.with(unix.IFA_LABEL, append([]byte(relabel(unix.ByteSliceToString(label), to.Name)), 0))
	}
	return m.request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|how)
}

// localAddresses are the IPv6 addresses for which the kernel takes in packets
// because of that link.
func (k kernel) localAddresses(index int) (map[netip.Addr]bool, error) {
	ask := head(unix.AF_INET6, unix.SizeofRtMsg)
	ask[rtmTable] = unix.RT_TABLE_LOCAL
	msgs, err := k.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, ask)
	if err != nil {
		return nil, fmt.Errorf("listing local routes: %w", err)
	}
	local := make(map[netip.Addr]bool)
	for _, m := range msgs {
		r, err := parseRoute(Route{Message: m})
		if err == nil && r.family() == unix.AF_INET6 && r.head[rtmType] == unix.RTN_LOCAL && r.leads(index) {
			local[r.dst().Addr()] = true
		}
	}
	return local, nil
}

// relabel is the label of an IPv4 address ("eno1", "eno1:web") on another link.
func relabel(label, link string) string {
	_, suffix, ok := strings.Cut(label, ":")
	if full := link + ":" + suffix; ok && len(full) <= ether.MaxName {
		return full
	}
	return link
}

// delAddress is the request that takes an address off a link.
func delAddress(a address, index int) []byte {
	m := a.only(unix.IFA_LOCAL, unix.IFA_ADDRESS)
	m.head = indexed(a.head[0], unix.SizeofIfAddrmsg, index)
	m.head[1] = a.head[1] // ifa_prefixlen
	return m.request(unix.RTM_DELADDR, 0)
}
