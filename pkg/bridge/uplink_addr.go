package bridge

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ifaProto is IFA_PROTO of linux/if_addr.h: who set the address.
const ifaProto = 11

// settable are the flags of an address that a request may have.
func (a uplinkAddress) settable() uint32 {
	return a.flags & (unix.IFA_F_NODAD | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MANAGETEMPADDR |
		unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN)
}

// addAddress are the changes that give a link an address of an uplink. An IPv6
// address goes without duplicate address detection: the host has it already, and
// it must be of use at once. Its flags are set right afterwards.
func addAddress(a uplinkAddress, to link) []change {
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
func setAddressFlags(a uplinkAddress, to link, flags uint32) change {
	req := addressChange(a, to, flags, unix.NLM_F_REPLACE)
	return change{req: req, what: fmt.Sprintf("setting the flags of address %v of %q", a.prefix, to.Name)}
}

// addressChange is the request that creates or replaces an address.
func addressChange(a uplinkAddress, to link, flags uint32, how int) *nl.NetlinkRequest {
	m := a.only(unix.IFA_LOCAL, unix.IFA_ADDRESS, unix.IFA_BROADCAST, unix.IFA_CACHEINFO, unix.IFA_RT_PRIORITY, ifaProto)
	m.head[2] = uint8(flags) // ifa_flags
	copy(m.head[4:], nl.Uint32Attr(uint32(to.Index)))
	m = m.with(unix.IFA_FLAGS, nl.Uint32Attr(flags))
	if label := a.get(unix.IFA_LABEL); label != nil {
		m = m.with(unix.IFA_LABEL, nl.ZeroTerminated(relabel(unix.ByteSliceToString(label), to.Name)))
	}
	return m.request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|how)
}

// localLimit is how long awaitLocal waits: a kernel under load may take some
// milliseconds.
const localLimit = time.Second

// awaitLocal waits until the kernel takes in packets for the IPv6 addresses of the
// new link. It does so some time after they were added, from a work queue
// (addrconf_dad_work of net/ipv6/addrconf.c), and not while the link is down.
func (b *Bridges) awaitLocal(mv *uplinkMove) error {
	for end := time.Now().Add(localLimit); time.Now().Before(end); time.Sleep(time.Millisecond) {
		local, err := b.localAddresses(mv.to.Index)
		if err != nil {
			return err
		}
		waiting := slices.ContainsFunc(mv.addresses, func(a uplinkAddress) bool {
			return a.prefix.Addr().Is6() && !local[a.prefix.Addr()]
		})
		if !waiting || !mv.to.Up {
			break
		}
	}
	return nil
}

// localAddresses are the IPv6 addresses for which the kernel takes in packets
// because of that link.
func (b *Bridges) localAddresses(index int) (map[netip.Addr]bool, error) {
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET6, Table: unix.RT_TABLE_LOCAL}}
	msgs, err := b.conn.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, msg)
	if err != nil {
		return nil, fmt.Errorf("listing local routes: %w", err)
	}
	local := make(map[netip.Addr]bool)
	for _, m := range msgs {
		r, err := parseUplinkRoute(UplinkRoute{Message: m})
		if err == nil && r.family() == unix.AF_INET6 && r.head[rtmType] == unix.RTN_LOCAL && r.leads(index) {
			local[r.dst().Addr()] = true
		}
	}
	return local, nil
}

// relabel is the label of an IPv4 address ("eno1", "eno1:web") on another link.
func relabel(label, link string) string {
	_, suffix, ok := strings.Cut(label, ":")
	if full := link + ":" + suffix; ok && len(full) <= maxName {
		return full
	}
	return link
}
