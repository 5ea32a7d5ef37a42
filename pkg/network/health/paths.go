package health

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/path"
)

// Routed is what of an active network packets are routed by.
type Routed struct {
	Network  string
	Bridge   string // the bridge's name
	Index    int    // and its ifindex
	Host     int    // that of the link by which this host's own packets may go there, too; 0 for none
	Gateways []netip.Prefix
	// Forwards4 and Forwards6 say that guests reach what is beyond the host, by Dev
	// alone where that is not empty (<forward dev>).
	Forwards4, Forwards6 bool
	Dev                  string
}

// Ways tells which way packets take; *path.Asker is the real one.
type Ways interface {
	Lookup(p path.Packet) (path.Way, error)
	Rules(of netip.Addr) ([]path.Rule, error)
	VRFs() ([]path.VRF, error)
}

// Links knows links.
type Links interface {
	Lookup(name string) (bridge.Link, error)
	LookupIndex(index int) (bridge.Link, error)
}

// Somewhere far beyond the host: a.root-servers.net. No packet is sent there.
var (
	outside4 = netip.MustParseAddr("198.41.0.4")
	outside6 = netip.MustParseAddr("2001:503:ba3e::2:30")
)

// Paths is the source of what the host's routing does to guests: each network's way out,
// and the way back to its guests, is asked of the kernel, as their packets would take it.
func Paths(ways Ways, links Links, active func() []Routed) Source {
	return Source{"paths", func(context.Context) ([]api.Condition, error) {
		var all []api.Condition
		var errs []error
		vrfs := sync.OnceValues(ways.VRFs)
		for _, n := range active() {
			f := finder{Routed: n, ways: ways, links: links, vrfs: vrfs}
			f.vrf = f.master()
			f.device()
			for _, gateway := range n.Gateways {
				errs = append(errs, f.subnet(gateway))
			}
			all = append(all, f.found...)
		}
		return all, errors.Join(errs...)
	}}
}

// finder finds the conditions of one network.
type finder struct {
	Routed
	ways  Ways
	links Links
	vrfs  func() ([]path.VRF, error) // of the host, listed once for all networks
	vrf   path.VRF                   // that the bridge is in; of index 0 where it is in none
	found []api.Condition
}

// own is a packet of this host's own, as services that are bound to the bridge send it.
func (f *finder) own(to netip.Addr) path.Packet { return path.Packet{To: to, Bound: f.vrf.Index} }

// add adds a condition.
func (f *finder) add(kind string, severity api.Severity, message, evidence, remedy string) {
	c := api.Condition{Kind: kind, Severity: severity, Networks: []string{f.Network}, Message: message, Evidence: evidence, Remedy: remedy}
	if !slices.ContainsFunc(f.found, c.Same) {
		f.found = append(f.found, c)
	}
}

// device looks for the <forward dev>.
func (f *finder) device() {
	if f.Dev == "" {
		return
	}
	l, err := f.links.Lookup(f.Dev)
	switch {
	case errors.Is(err, bridge.ErrNotFound):
		f.add("forward-device", api.SeverityError,
			fmt.Sprintf("guests of network %q reach nothing beyond the host: they may leave by %s alone, which is not there", f.Network, f.Dev),
			fmt.Sprintf("<forward dev='%s'>, and no link has that name", f.Dev), "ip link show "+f.Dev)
	case err == nil && !l.Up:
		f.add("forward-device", api.SeverityError,
			fmt.Sprintf("guests of network %q reach nothing beyond the host: they may leave by %s alone, which is down", f.Network, f.Dev),
			fmt.Sprintf("<forward dev='%s'>, and that link is down", f.Dev), "ip link set "+f.Dev+" up")
	}
}

// subnet follows packets of and for guests in the network of a gateway.
func (f *finder) subnet(gateway netip.Prefix) error {
	guests := guestsOf(gateway)
	for _, guest := range guests {
		reached, err := f.toGuest(f.own(guest), "")
		if err != nil {
			return err
		}
		if !reached {
			return nil // nor do packets from elsewhere
		}
	}
	forwards := f.Forwards4
	if gateway.Addr().Is6() {
		forwards = f.Forwards6
	}
	if len(guests) == 0 || !forwards {
		return nil
	}
	return f.forwarded(guests[0])
}

// guestsOf are the first and the last address that guests may have, or fewer.
func guestsOf(gateway netip.Prefix) (guests []netip.Addr) {
	add := func(a netip.Addr) {
		if a != gateway.Addr() && gateway.Contains(a) && !slices.Contains(guests, a) {
			guests = append(guests, a)
		}
	}
	if gateway.Addr().BitLen()-gateway.Bits() < 2 {
		return nil
	}
	first := gateway.Masked().Addr().Next()
	add(first)
	add(first.Next())
	if len(guests) > 1 {
		guests = guests[:1]
	}
	add(last(gateway).Prev())
	return guests
}

// last is the last address of a prefix, of IPv4 its broadcast address.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// toGuest follows a packet to a guest that comes in by the link of that name, empty for
// one of the host's own, and reports whether it arrives.
func (f *finder) toGuest(p path.Packet, in string) (arrives bool, err error) {
	way, err := f.ways.Lookup(p)
	if err == nil && (way.Out == f.Index || p.In == 0 && f.Host != 0 && way.Out == f.Host) {
		return true, nil
	}
	switch {
	case errors.Is(err, path.ErrReverse):
		f.reverse(p, in)
		return false, nil
	case errors.Is(err, path.ErrUnreachable) && p.In != 0 && p.To.Is4() && !bridge.Forwards4(in):
		if bridge.Forwards4("all") { // else the firewall's conditions tell
			f.add("link-forwarding-off", api.SeverityError,
				fmt.Sprintf("answers to guests on %s are dropped where they come back: the host forwards nothing that comes in by %s", f.Bridge, in),
				fmt.Sprintf("net.ipv4.conf.%s.forwarding = 0", in), fmt.Sprintf("sysctl -w net.ipv4.conf.%s.forwarding=1", in))
		}
		return false, nil
	case err != nil && !refused(err):
		return false, err
	}
	rule, known := f.rule(p, in, way, err)
	f.add("route-to-guests", api.SeverityError,
		fmt.Sprintf("packets for guests on %s don't go there, but %s", f.Bridge, f.goes(way, err)),
		f.evidence(p, in, way, rule, known, err), f.ledTo(p, in, rule, known))
	return false, nil
}

// ledTo is the command that has a packet to a guest go there in spite of a rule.
func (f *finder) ledTo(p path.Packet, in string, rule path.Rule, known bool) string {
	switch {
	case f.vrf.Index != 0 && p.In != 0:
		return fmt.Sprintf("ip link set %s master %s", in, f.vrf.Name)
	case known && rule.Priority > 0 && rule.Table != mainTable:
		return fmt.Sprintf("ip%s rule add to %v lookup main priority %d", six(p.To), f.subnetOf(p.To), rule.Priority-1)
	}
	return "ip route show table all to match " + p.To.String()
}

// blocked says why a packet that a guest sends outside is refused, where nobody else does;
// own is the host's own way there, or its error.
func (f *finder) blocked(out path.Packet, way path.Way, err error, own path.Way, ownErr error) {
	switch {
	case errors.Is(err, path.ErrNoRoute) && ownErr != nil:
		f.elsewhere(out) // the host has no way out either
	case out.From.Is4() && !bridge.Forwards4(f.Bridge):
		// The firewall's conditions tell, or it is about to be mended.
	case f.isReverse(err, out.From, out.To, own):
		f.reverse(out, f.Bridge)
	default:
		f.leave(api.SeverityError, "are not forwarded: "+err.Error(), out, way, err)
	}
}

// reverse adds the condition of packets that are dropped where they come in.
func (f *finder) reverse(p path.Packet, in string) {
	f.add("reverse-path", api.SeverityError,
		fmt.Sprintf("packets from %v to %v are dropped where they come in, by %s: the host would answer by another link", p.From, p.To, in),
		fmt.Sprintf("ip route get %v from %v iif %s: %v; rp_filter is strict on %s", p.To, p.From, in, path.ErrReverse, in),
		fmt.Sprintf("sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.%s.rp_filter=2", in))
}

// forwarded follows packets of a guest to what is beyond the host, and the answers.
func (f *finder) forwarded(guest netip.Addr) error {
	outside := outside4
	if guest.Is6() {
		outside = outside6
	}
	out := path.Packet{From: guest, To: outside, In: f.Index}
	way, err := f.ways.Lookup(out)
	own, ownErr := f.ways.Lookup(f.own(outside))
	switch {
	case err != nil && !refused(err):
		return err
	case err != nil:
		f.blocked(out, way, err, own, ownErr)
		return nil
	}
	name := f.name(way.Out)
	switch {
	case f.Dev != "" && name != f.Dev:
		if _, err := f.links.Lookup(f.Dev); err == nil {
			f.leave(api.SeverityError, fmt.Sprintf("are routed to %s, and may leave by %s alone", name, f.Dev), out, way, nil)
		}
	case f.vrf.Index == 0 && way.Table != mainTable && way.Table != defaultTable || ownErr == nil && way.Out != own.Out:
		f.leave(api.SeverityInfo, fmt.Sprintf("leave by %s, by another table than main", name), out, way, nil)
	}
	_, err = f.toGuest(path.Packet{From: outside, To: guest, In: way.Out}, name)
	return err
}

// isReverse reports whether err, of a packet that a guest sends outside, is for the way back,
// by which the host would not send packets to the guest over the bridge: newer kernels
// give the same answer as for a blackhole.
func (f *finder) isReverse(err error, guest, outside netip.Addr, own path.Way) bool {
	if errors.Is(err, path.ErrReverse) {
		return true
	}
	if !errors.Is(err, path.ErrBlackhole) || guest.Is6() || own.Out == 0 || !bridge.StrictReverse4(f.Bridge) {
		return false
	}
	back, err := f.ways.Lookup(path.Packet{From: outside, To: guest, In: own.Out})
	return err == nil && back.Out != f.Index
}

// leave adds a condition of packets that guests send.
func (f *finder) leave(severity api.Severity, what string, p path.Packet, way path.Way, err error) {
	rule, known := f.rule(p, f.Bridge, way, err)
	remedy := fmt.Sprintf("ip%s rule show", six(p.To))
	f.add("route-from-guests", severity, fmt.Sprintf("packets of guests on %s to the outside %s", f.Bridge, what),
		f.evidence(p, f.Bridge, way, rule, known, err), remedy)
}

// The tables that a host has in any case.
const (
	mainTable    = 254
	defaultTable = 253
)

// refused reports whether err is the kernel's refusal of a packet.
func refused(err error) bool {
	return slices.ContainsFunc([]error{path.ErrNoRoute, path.ErrUnreachable, path.ErrProhibited, path.ErrBlackhole, path.ErrReverse},
		func(e error) bool { return errors.Is(err, e) })
}

// rule is the rule that decides over a packet; known is false where that can't be told.
func (f *finder) rule(p path.Packet, in string, way path.Way, err error) (r path.Rule, known bool) {
	rules, failed := f.ways.Rules(p.To)
	switch {
	case failed != nil:
		return path.Rule{}, false
	case err != nil:
		return path.Refused(rules, p, in)
	}
	return path.Chosen(rules, p, in, way.Table)
}

// goes says where packets go instead.
func (f *finder) goes(way path.Way, err error) string {
	if err != nil {
		return "nowhere: " + err.Error()
	}
	return "to " + f.name(way.Out)
}

// evidence is what ip(8) shows when it is asked as the kernel was.
func (f *finder) evidence(p path.Packet, in string, way path.Way, rule path.Rule, known bool, err error) string {
	text := "ip route get " + p.To.String()
	switch {
	case p.In != 0:
		text += fmt.Sprintf(" from %v iif %s", p.From, in)
	case p.Bound != 0:
		text += " oif " + f.name(p.Bound)
	}
	if err != nil {
		text += ": " + err.Error()
	} else {
		text += fmt.Sprintf(": dev %s table %s", f.name(way.Out), path.TableName(way.Table))
	}
	if known {
		text += fmt.Sprintf(", by rule %v", rule)
	}
	return text
}

// name is the name of the link with that ifindex.
func (f *finder) name(index int) string {
	l, err := f.links.LookupIndex(index)
	if err != nil {
		return fmt.Sprintf("link %d", index)
	}
	return l.Name
}

// subnetOf is the subnet of a guest.
func (f *finder) subnetOf(guest netip.Addr) netip.Prefix {
	for _, g := range f.Gateways {
		if g.Contains(guest) {
			return g.Masked()
		}
	}
	return netip.PrefixFrom(guest, guest.BitLen())
}

// six is what ip(8) needs to know of IPv6.
func six(a netip.Addr) string {
	if a.Is6() {
		return " -6"
	}
	return ""
}
