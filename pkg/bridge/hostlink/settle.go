package hostlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// protocol marks addresses, routes and rules as vnetd's (`ip route show proto 66`), as package bridge
// does. ifaProto is IFA_PROTO of linux/if_addr.h.
const (
	protocol = 66
	ifaProto = 11
)

// settle has the host's end be up, and all that leads to it be there. What keeps others from using the
// link for what it is not for comes first, and last what has programs use it.
func (c *Config) settle(s *netlink.Socket, index int) error {
	if err := c.setSysctls(); err != nil {
		return err
	}
	d, err := byIndex(s, index)
	if err != nil || d.index == 0 {
		return err
	}
	if !d.up {
		err := c.mend(s, []change{{Difference: bridge.Difference{Link: c.Name, Aspect: bridge.AspectUp, Has: "down", Want: "up"}, messages: [][]byte{request(unix.RTM_NEWLINK, 0, upHead(index))}}})
		if err != nil {
			return err
		}
	}
	for _, find := range []func(*netlink.Socket, int) ([]change, error){c.addressChanges, c.routeChanges} {
		changes, err := find(s, index)
		if err == nil {
			err = c.mend(s, changes)
		}
		if err != nil {
			return err
		}
	}
	changes, err := c.ruleChanges(s)
	if err != nil {
		return err
	}
	return c.mend(s, changes)
}

// sysctl is a setting below /proc/sys/net.
type sysctl struct{ link, path, value string }

// sysctls are the settings of the link, and of the bridge beside it: each answers ARP for its own
// address alone, and asks by it. Nothing is forwarded that comes by the link, and what it
// gets must be from where the answer goes to: of IPv6, where no link has such settings, rules see to that.
func (c *Config) sysctls() (all []sysctl) {
	add := func(link, family string, settings ...string) {
		for i := 0; i < len(settings); i += 2 {
			all = append(all, sysctl{link, filepath.Join(family, "conf", link, settings[i]), settings[i+1]})
		}
	}
	add(c.Name, "ipv4", "forwarding", "0", "rp_filter", "1", "route_localnet", "0", "accept_redirects", "0", "arp_ignore", "1", "arp_announce", "2", "proxy_arp", "0")
	add(c.Bridge, "ipv4", "arp_ignore", "1", "arp_announce", "2")
	if slices.ContainsFunc(c.Ways, func(w Way) bool { return w.Addr.Is6() }) {
		add(c.Name, "ipv6", "accept_ra", "0", "autoconf", "0", "accept_redirects", "0", "accept_dad", "0", "addr_gen_mode", "0", "disable_ipv6", "0")
	} else {
		add(c.Name, "ipv6", "disable_ipv6", "1")
	}
	return all
}

// setSysctls makes the settings, but for those of IPv6 on a host without it.
func (c *Config) setSysctls() error {
	for _, one := range c.sysctls() {
		path := filepath.Join("/proc/sys/net", one.path)
		has, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(one.path, "ipv6") {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading sysctls: %w", err)
		}
		key := "net." + strings.ReplaceAll(one.path, "/", ".") + " = "
		is := strings.TrimSpace(string(has))
		if is == one.value || c.Amend != nil && !c.Amend(bridge.Difference{Link: one.link, Aspect: bridge.AspectSysctl, Has: key + is, Want: key + one.value}) {
			continue
		}
		if err := os.WriteFile(path, []byte(one.value), 0o644); err != nil {
			return fmt.Errorf("setting sysctls: %w", err)
		}
	}
	return nil
}

// host is an address as a prefix of its own.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// settled reports whether c says what shall be of a family.
func (c *Config) settled(f byte) bool { return f != unix.AF_INET || !c.Unsettled4 }

// addressChanges have the link have its addresses and no others: each by itself, so that no route of the main table
// leads to the link.
func (c *Config) addressChanges(s *netlink.Socket, index int) (changes []change, err error) {
	var has []netip.Prefix
	for _, f := range []byte{unix.AF_INET, unix.AF_INET6} {
		head := make([]byte, unix.SizeofIfAddrmsg)
		head[0] = f
		binary.NativeEndian.PutUint32(head[4:], uint32(index))
		bodies, err := s.Dump(request(unix.RTM_GETADDR, unix.NLM_F_DUMP, head), unix.RTM_NEWADDR)
		if err != nil {
			return nil, fmt.Errorf("listing addresses: %w", err)
		}
		for _, b := range bodies {
			p, of := parseAddress(b)
			if of != index || !p.IsValid() || p.Addr().IsLinkLocalUnicast() {
				continue
			}
			has = append(has, p)
			if c.settled(f) && !slices.ContainsFunc(c.Ways, func(w Way) bool { return host(w.Addr) == p }) {
				changes = append(changes, c.addressChange(p.String(), "", request(unix.RTM_DELADDR, 0, addressHead(index, p), localAddress(p))))
			}
		}
	}
	for _, w := range c.Ways {
		if p := host(w.Addr); !slices.Contains(has, p) {
			flags := netlink.AppendAttribute(nil, unix.IFA_FLAGS, netlink.Uint32(unix.IFA_F_NOPREFIXROUTE|unix.IFA_F_NODAD))
			flags = netlink.AppendAttribute(flags, ifaProto, []byte{protocol})
			changes = append(changes, c.addressChange("", p.String(), request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, addressHead(index, p), localAddress(p), flags)))
		}
	}
	return changes, nil
}

func (c *Config) addressChange(has, want string, message []byte) change {
	return change{Difference: bridge.Difference{Link: c.Name, Aspect: bridge.AspectAddress, Has: has, Want: want}, messages: [][]byte{message}}
}

// addressHead is a struct ifaddrmsg.
func addressHead(index int, p netip.Prefix) []byte {
	head := make([]byte, unix.SizeofIfAddrmsg)
	head[0], head[1] = family(p.Addr()), byte(p.Bits())
	binary.NativeEndian.PutUint32(head[4:], uint32(index))
	return head
}

func localAddress(p netip.Prefix) []byte {
	b := netlink.AppendAttribute(nil, unix.IFA_LOCAL, p.Addr().AsSlice())
	return netlink.AppendAttribute(b, unix.IFA_ADDRESS, p.Addr().AsSlice())
}

// parseAddress reads the body of an RTM_NEWADDR message; invalid for what is too short.
func parseAddress(body []byte) (p netip.Prefix, index int) {
	if len(body) < unix.SizeofIfAddrmsg {
		return netip.Prefix{}, 0
	}
	var local, address netip.Addr
	for kind, value := range netlink.Attributes(body[unix.SizeofIfAddrmsg:]) {
		switch kind {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(value)
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(value)
		}
	}
	if !local.IsValid() {
		local = address
	}
	return netip.PrefixFrom(local, int(body[1])), int(binary.NativeEndian.Uint32(body[4:]))
}

// route is one of the link's table.
type route struct {
	subnet netip.Prefix
	source netip.Addr
	index  int
	mtu    int
}

func (r *route) String() string {
	text := r.subnet.String() + " src " + r.source.String()
	if r.mtu != 0 {
		text += fmt.Sprintf(" mtu %d", r.mtu)
	}
	return text
}

// routeChanges have the table lead to the subnets by the link.
func (c *Config) routeChanges(s *netlink.Socket, index int) (changes []change, err error) {
	has, err := c.routes(s)
	if err != nil {
		return nil, err
	}
	var wanted []route
	for _, w := range c.Ways {
		wanted = append(wanted, route{w.Subnet.Masked(), w.Addr, index, w.MTU})
	}
	for _, r := range has {
		if c.settled(family(r.subnet.Addr())) && !slices.ContainsFunc(wanted, func(w route) bool { return w.subnet == r.subnet }) {
			changes = append(changes, c.routeChange(r.String(), "", c.routeMessage(unix.RTM_DELROUTE, 0, &r)))
		}
	}
	for _, w := range wanted {
		i := slices.IndexFunc(has, func(r route) bool { return r.subnet == w.subnet })
		if i >= 0 && has[i] == w {
			continue
		}
		was := ""
		if i >= 0 {
			was = has[i].String()
		}
		changes = append(changes, c.routeChange(was, w.String(), c.routeMessage(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, &w)))
	}
	return changes, nil
}

func (c *Config) routeChange(has, want string, message []byte) change {
	return change{Difference: bridge.Difference{Link: c.Name, Aspect: bridge.AspectRoute, Has: has, Want: want}, messages: [][]byte{message}}
}

// routes lists the table.
func (c *Config) routes(s *netlink.Socket) (all []route, err error) {
	for _, f := range []byte{unix.AF_INET, unix.AF_INET6} {
		head := make([]byte, unix.SizeofRtMsg)
		head[0] = f
		bodies, err := s.Dump(request(unix.RTM_GETROUTE, unix.NLM_F_DUMP, head, netlink.AppendAttribute(nil, unix.RTA_TABLE, netlink.Uint32(c.Table))), unix.RTM_NEWROUTE)
		if errors.Is(err, unix.ENOENT) {
			continue // the table is made with its first route
		}
		if err != nil {
			return nil, fmt.Errorf("listing routes: %w", err)
		}
		for _, b := range bodies {
			if r, table, ok := parseRoute(b); ok && b[0] == f && table == c.Table {
				all = append(all, r)
			}
		}
	}
	return all, nil
}

// parseRoute reads the body of an RTM_NEWROUTE message; ok is false for what is no route to a subnet.
func parseRoute(body []byte) (r route, table uint32, ok bool) {
	if len(body) < unix.SizeofRtMsg {
		return route{}, 0, false
	}
	table = uint32(body[4])
	for kind, value := range netlink.Attributes(body[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.RTA_DST:
			a, _ := netip.AddrFromSlice(value)
			r.subnet = netip.PrefixFrom(a, int(body[1]))
		case unix.RTA_PREFSRC:
			r.source, _ = netip.AddrFromSlice(value)
		case unix.RTA_OIF:
			r.index = number(value)
		case unix.RTA_TABLE:
			table = uint32(number(value))
		case unix.RTA_METRICS:
			for kind, value := range netlink.Attributes(value) {
				if kind == unix.RTAX_MTU {
					r.mtu = number(value)
				}
			}
		}
	}
	return r, table, r.subnet.IsValid()
}

// routeMessage is the message that makes or deletes a route.
func (c *Config) routeMessage(kind, flags uint16, r *route) []byte {
	head := make([]byte, unix.SizeofRtMsg)
	head[0], head[1] = family(r.subnet.Addr()), byte(r.subnet.Bits())
	head[5], head[6], head[7] = protocol, unix.RT_SCOPE_LINK, unix.RTN_UNICAST
	if kind == unix.RTM_DELROUTE {
		head[5], head[6] = 0, unix.RT_SCOPE_NOWHERE
	}
	b := netlink.AppendAttribute(nil, unix.RTA_DST, r.subnet.Addr().AsSlice())
	b = netlink.AppendAttribute(b, unix.RTA_TABLE, netlink.Uint32(c.Table))
	b = netlink.AppendAttribute(b, unix.RTA_OIF, netlink.Uint32(uint32(r.index)))
	if kind == unix.RTM_NEWROUTE {
		b = netlink.AppendAttribute(b, unix.RTA_PREFSRC, r.source.AsSlice())
		if r.mtu != 0 {
			b = netlink.AppendAttribute(b, unix.RTA_METRICS, netlink.AppendAttribute(nil, unix.RTAX_MTU, netlink.Uint32(uint32(r.mtu))))
		}
	}
	return request(kind, flags, head, b)
}
