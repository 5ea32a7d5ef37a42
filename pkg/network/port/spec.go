package port

import (
	"bytes"
	"cmp"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/internal/dnsname"
	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/netdef/policy"
	"github.com/vnetd/vnetd/pkg/store"
)

// maxQueues is what the kernel gives one TAP device (MAX_TAP_QUEUES).
const maxQueues = 256

// maxAliases is how many names a guest may have beside its own.
const maxAliases = 16

// maxText is the length of the longest id and owner's UUID, in bytes.
const maxText = 255

// Spec says what port is wanted. Of a port that is there it says what that has, too:
// a MAC address, a device's name and a lifetime of its own.
type Spec struct {
	Name     string           // the guest's name, empty for none
	Aliases  []string         // other names of the guest
	MAC      net.HardwareAddr // the guest's card; nil: one is made up
	IfName   string           // of the TAP device; empty: vnet0, vnet1, …
	Addrs    []netip.Addr     // set aside for the guest, at most one of a family
	Queues   int              // file descriptors, one a queue; 0 for one
	VnetHdr  bool             // frames carry a virtio_net header (IFF_VNET_HDR)
	Isolated bool             // no frames between this port and others that are isolated
	Lifetime string           // empty for LifetimeFD
	// Owner is the uid of whose port it is: who may open its device by name, and
	// whose limits count.
	Owner uint32
	// ID is the owner's word for the port, empty for none: asked for again, it is
	// the same port.
	ID        string
	OwnerUUID string // of the virtual machine, for display
	// Holder is who holds a port with LifetimeBus at first, see Port.Hold.
	Holder string

	MadeUp bool // the MAC address is not of the launcher's choice

	// Guard is what the port is kept from sending, as firewall.ParseGuard reads it; empty:
	// as its network says. Allow is what it may send beside what is its own: MAC
	// addresses, IP addresses and prefixes, and VLANs as vlan=N.
	Guard string
	Allow []string
	// Untrusted says that the owner may not choose addresses, and so no guard.
	Untrusted bool

	// Settings are those at first; what they are now, Status says.
	Settings Settings
}

// Settings are what of a port can change while it lives.
type Settings struct {
	PortGroup string // of its network; empty: the default one
	// Bandwidth is its own, of no direction for none; nil: as its group says.
	Bandwidth *netdef.Bandwidth
	// VLAN is its own in place of those of group and network, as netdef.ParseVLAN reads it;
	// empty: as they say.
	VLAN string
	// Rules are the port's own, ahead of those of its network, as policy.ParseRule reads them.
	Rules []string
}

// specOf is the Spec of a recorded port.
func specOf(s store.Port) Spec {
	return Spec{
		Name: s.Name, Aliases: s.Aliases, MAC: s.MAC, IfName: s.IfName, Addrs: s.Addrs, Queues: s.Queues,
		VnetHdr: s.VnetHdr, Isolated: s.Isolated, Lifetime: s.Lifetime, Owner: s.Owner, ID: s.ID,
		OwnerUUID: s.OwnerUUID, Holder: s.Holder, MadeUp: s.MadeUp, Guard: s.Guard, Allow: s.Allow, Untrusted: s.Untrusted,
		Settings: settingsOf(s),
	}
}

// settingsOf are the Settings of a recorded port. Limits that are not known are of a
// younger vnetd's.
func settingsOf(s store.Port) Settings {
	b, err := OwnBandwidth(s.Bandwidth)
	if err == nil && netdef.CheckLimits(b) != nil {
		b = nil
	}
	return Settings{PortGroup: s.PortGroup, Bandwidth: b, VLAN: s.VLAN, Rules: s.Rules}
}

// OwnBandwidth is the bandwidth with those limits, 0 for an absent one, as a port's own;
// nil where nothing is said of it. The error names a limit that there is not.
func OwnBandwidth(limits map[string]uint64) (*netdef.Bandwidth, error) {
	b, err := netdef.NewBandwidth(limits)
	if b == nil && err == nil && len(limits) > 0 {
		b = &netdef.Bandwidth{}
	}
	return b, err
}

// limitsOf are the limits of which OwnBandwidth makes b.
func limitsOf(b *netdef.Bandwidth) map[string]uint64 {
	limits := b.Limits()
	if b != nil && len(limits) == 0 {
		limits[netdef.LimitNames()[0]] = 0
	}
	return limits
}

// record writes o into what is stored of a port, with its Settings at first.
func (o *Spec) record(s *store.Port) {
	s.Name, s.MAC, s.Addrs, s.Queues, s.VnetHdr, s.Isolated = o.Name, o.MAC, o.Addrs, o.Queues, o.VnetHdr, o.Isolated
	s.Aliases = o.Aliases
	s.Lifetime, s.Owner, s.ID, s.OwnerUUID, s.MadeUp = o.Lifetime, o.Owner, o.ID, o.OwnerUUID, o.MadeUp
	s.Guard, s.Allow, s.Untrusted = o.Guard, o.Allow, o.Untrusted
	o.Settings.record(s)
}

func (o Settings) record(s *store.Port) {
	s.PortGroup, s.Bandwidth, s.VLAN, s.Rules = o.PortGroup, limitsOf(o.Bandwidth), o.VLAN, o.Rules
}

// specOfDocument is the Spec of a port that owner registered with doc.
func specOfDocument(doc *netdef.Port, owner uint32) Spec {
	return Spec{
		Name: doc.Owner.Name, MAC: doc.MAC, Isolated: doc.Isolated == netdef.Yes,
		Lifetime: api.LifetimeExternal, Owner: owner, OwnerUUID: doc.Owner.UUID,
		Settings: Settings{PortGroup: doc.Group, Bandwidth: doc.Bandwidth, VLAN: doc.VLAN.String()},
	}
}

// addTo writes into a port's document what only o says.
func (o *Spec) addTo(doc *netdef.Port) {
	if o.Isolated {
		doc.Isolated = netdef.Yes
	}
}

// OwnVLAN is s's VLAN; nil for none.
func (s Settings) OwnVLAN() *netdef.VLAN {
	if s.VLAN == "" {
		return nil
	}
	v, err := netdef.ParseVLAN(s.VLAN)
	if err != nil { // it was checked
		return nil
	}
	return v
}

// plugged is how o's device is plugged in on a network that has its ports so.
func (o *Spec) plugged(cfg bridge.PortConfig) bridge.PortConfig {
	cfg.Isolated = cfg.Isolated || o.Isolated
	return cfg
}

// toggle is what a port has or has not, by its word in marks.
type toggle struct {
	key string
	on  *bool
}

func toggles(s *store.Port) []toggle {
	return []toggle{{"vnet_hdr", &s.VnetHdr}, {"isolated", &s.Isolated}, {"untrusted", &s.Untrusted}}
}

// describe writes o into what the outside sees of a port.
func (o *Spec) describe(info *api.Port) {
	info.Name, info.Reserved = o.Name, append([]netip.Addr{}, o.Addrs...)
	info.Aliases = append([]string{}, o.Aliases...)
	info.Queues, info.VnetHdr, info.Isolated = o.Queues, o.VnetHdr, o.Isolated
	info.Lifetime, info.Owner, info.OwnerUUID, info.ID = api.Lifetime(o.Lifetime), o.Owner, o.OwnerUUID, o.ID
}

// Check refuses what no port can have; the error is Invalid.
func (o *Spec) Check() error {
	switch {
	case !slices.Contains([]string{"", api.LifetimeFD, api.LifetimeBus, api.LifetimePersistent}, o.Lifetime):
		return api.Errorf(api.Invalid, "option lifetime: %q is not a lifetime, want fd, bus or persistent", o.Lifetime)
	case o.Queues < 0 || o.Queues > maxQueues:
		return api.Errorf(api.Invalid, "option queues: %d is not a number of queues, want 1 to %d", o.Queues, maxQueues)
	case o.MAC != nil && !ether.IsCard(o.MAC):
		return api.Errorf(api.Invalid, "option mac: %q is not the address of a card, want six bytes, not multicast, not all zero", o.MAC)
	case o.Name != "" && !hostLabel.MatchString(o.Name):
		return api.Errorf(api.Invalid, "option name: %.80q is not a host name, want 1 to 63 letters, digits and hyphens", o.Name)
	case o.IfName != "" && !ether.ValidName(o.IfName):
		return api.Errorf(api.Invalid, "option ifname: %q is not an interface name, want 1 to 15 characters without blank, slash or colon", o.IfName)
	case len(o.ID) > maxText:
		return api.Errorf(api.Invalid, "option id: %d bytes long, want at most %d", len(o.ID), maxText)
	case o.OwnerUUID != "" && !uuidText.MatchString(o.OwnerUUID):
		return api.Errorf(api.Invalid, "option owner_uuid: %.80q is not a UUID", o.OwnerUUID)
	}
	return cmp.Or(o.checkAddrs(), o.checkAliases(), o.checkGuard(), o.Settings.Check())
}

// Check refuses what no port can have; the error is Invalid.
func (s Settings) Check() error {
	if err := netdef.CheckLimits(s.Bandwidth); err != nil {
		return api.Errorf(api.Invalid, "%w", err)
	}
	if _, err := netdef.ParseVLAN(s.VLAN); s.VLAN != "" && err != nil {
		return api.Errorf(api.Invalid, "option vlan: %w", err)
	}
	for _, text := range s.Rules {
		if _, err := policy.ParseRule(text); err != nil {
			return api.Errorf(api.Invalid, "option rules: %w", err)
		}
	}
	return nil
}

// checkAliases refuses names that a guest can't have beside its own.
func (o *Spec) checkAliases() error {
	if len(o.Aliases) > maxAliases {
		return api.Errorf(api.Invalid, "option aliases: %d names, want at most %d", len(o.Aliases), maxAliases)
	}
	names := []string{strings.ToLower(o.Name)}
	for _, a := range o.Aliases {
		lower := strings.ToLower(a)
		switch {
		case o.Name == "":
			return api.Errorf(api.Invalid, "option aliases: %.80q is another name of a guest without one, want the option name too", a)
		case !hostLabel.MatchString(a):
			return api.Errorf(api.Invalid, "option aliases: %.80q is not a host name, want 1 to 63 letters, digits and hyphens", a)
		case dnsname.IsReserved(a):
			return api.Errorf(api.Invalid, "option aliases: %q is no name for a guest: others look for a service by it", a)
		case slices.Contains(names, lower):
			return api.Errorf(api.Invalid, "option aliases: %q is there twice, or the guest's name", a)
		}
		names = append(names, lower)
	}
	return nil
}

// HasAlias reports whether a name is an alias of o.
func (o *Spec) HasAlias(name string) bool {
	return slices.ContainsFunc(o.Aliases, func(a string) bool { return strings.EqualFold(a, name) })
}

// checkAddrs refuses two addresses of one family: DHCP gives a card one.
func (o *Spec) checkAddrs() error {
	for i, a := range o.Addrs {
		if slices.ContainsFunc(o.Addrs[:i], func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			return api.Errorf(api.Invalid, "option address: %v is the second of its family, want at most one IPv4 and one IPv6 address", a)
		}
	}
	return nil
}

// maxAllow is how many things a port may send beside its own.
const maxAllow = 64

// checkGuard refuses what no guard is.
func (o *Spec) checkGuard() error {
	if _, err := firewall.ParseGuard(o.Guard); o.Guard != "" && err != nil {
		return api.Errorf(api.Invalid, "option guard: %w", err)
	}
	if len(o.Allow) > maxAllow {
		return api.Errorf(api.Invalid, "option allow: %d things, want at most %d", len(o.Allow), maxAllow)
	}
	for _, text := range o.Allow {
		if err := new(firewall.GuardedPort).Allow(text); err != nil {
			return api.Errorf(api.Invalid, "option allow: %w", err)
		}
	}
	return nil
}

// hostLabel is one label of a host name (RFC 1123 §2.1), uuidText a UUID.
var (
	hostLabel = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	uuidText  = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
)

// Differs names the option of a port that is there which o asks to be otherwise,
// empty for none. What o leaves open fits.
func (o *Spec) Differs(p *Port) string {
	now := p.Status().Settings
	for _, f := range []struct {
		option string
		other  bool
	}{
		{"name", o.Name != "" && o.Name != p.Name},
		{"aliases", len(o.Aliases) > 0 && !slices.Equal(o.Aliases, p.Aliases)},
		{"mac", o.MAC != nil && !bytes.Equal(o.MAC, p.MAC)},
		{"ifname", o.IfName != "" && o.IfName != p.IfName},
		{"address", len(o.Addrs) > 0 && !slices.Equal(o.Addrs, p.Addrs)},
		{"queues", max(o.Queues, 1) != p.Queues},
		{"vnet_hdr", o.VnetHdr != p.VnetHdr},
		{"isolated", o.Isolated != p.Isolated},
		{"guard", o.Guard != "" && o.Guard != p.Guard},
		{"allow", len(o.Allow) > 0 && !slices.Equal(o.Allow, p.Allow)},
		{"vlan", o.Settings.VLAN != "" && o.Settings.VLAN != now.VLAN},
		{"rules", len(o.Settings.Rules) > 0 && !slices.Equal(o.Settings.Rules, now.Rules)},
		{"lifetime", cmp.Or(o.Lifetime, api.LifetimeFD) != p.Lifetime},
		{"owner_uuid", o.OwnerUUID != "" && o.OwnerUUID != p.OwnerUUID},
		{"portgroup", o.Settings.PortGroup != "" && o.Settings.PortGroup != now.PortGroup},
		{"bandwidth", o.Settings.Bandwidth != nil && !maps.Equal(o.Settings.Bandwidth.Limits(), now.Bandwidth.Limits())},
	} {
		if f.other {
			return f.option
		}
	}
	return ""
}
