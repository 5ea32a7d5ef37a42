package api

import (
	"net/netip"
	"time"
)

// State says where a network stands.
type State string

// The states of a network.
const (
	Inactive State = "inactive"
	Starting State = "starting"
	Active   State = "active"
	Degraded State = "degraded" // active, but something of it is missing and tried again: LastError says what
	Stopping State = "stopping"
	Failed   State = "failed" // inactive, because the last start or stop failed: LastError says why
)

// Network is what a network is at one moment.
type Network struct {
	Name string `json:"name"`
	UUID string `json:"uuid"` // as RFC 9562 writes it, in lower case
	Mode string `json:"mode"` // nat, route, open, none (isolated), bridge
	// Bridge is the name of the bridge device; empty if none is chosen yet.
	Bridge string `json:"bridge"`
	State  State  `json:"state"`
	// Active: what the network needs is there, whatever State says beside it.
	Active bool `json:"active"`
	// Persistent: there is a definition on disk. A network that is not persistent
	// is gone when it stops.
	Persistent bool `json:"persistent"`
	Autostart  bool `json:"autostart"` // with vnetd
	// LastError is the reason of Degraded and Failed, empty otherwise.
	LastError string `json:"last_error"`

	// These are not among the properties on D-Bus, and so not in lists.
	MAC       string         `json:"mac"` // of the bridge
	MTU       int            `json:"mtu"` // 0: the kernel's default
	Addresses []netip.Prefix `json:"addresses"`
	// Uplink is the interface of the host by which guests leave, as the document names it;
	// empty: by whichever the host's routes say, or by none.
	Uplink string `json:"uplink"`
	// Parents are what ports are on in place of a bridge, as the document has it: interfaces
	// of the host, the card whose virtual functions they are, or PCI devices.
	Parents []string `json:"parents"`
}

// Detail is what a person asks of a network beyond that.
type Detail struct {
	Pending []string `json:"pending"` // what its next start changes, a line for each element
	Pools   []Pool   `json:"pools"`
	DNS     *DNS     `json:"dns"`  // null where no names are served
	Span    *Span    `json:"span"` // null where the network is this host's alone
	// Announced are the prefixes of which routers are told by BGP; null where it announces nothing.
	Announced []netip.Prefix `json:"announced"`
	// NotUnderstood are lines of <dnsmasq:options>.
	NotUnderstood []string `json:"not_understood"`
	// Faults are what fails of an active network, by part.
	Faults map[string]string `json:"faults"`
	// Repairs counts how often the bridge was gone and made anew.
	Repairs uint64 `json:"repairs"`
}

// Span is how a network is one with those of other hosts: by a tunnel, which is not encrypted.
type Span struct {
	VNI    int    `json:"vni"`    // the network's number in the tunnel
	Device string `json:"device"` // the tunnel's end
	Port   uint16 `json:"port"`   // of UDP
	// Underlay is the address of this host at which the others reach it, and Link the device
	// that has it; empty: it has none now, and so no tunnel.
	Underlay netip.Addr   `json:"underlay"`
	Link     string       `json:"link"`
	Peers    []netip.Addr `json:"peers"` // the other hosts
	Share    *Share       `json:"share"` // null where the document names the hosts
	Host     *SpanHost    `json:"host"`  // null where this host itself is in it by the gateway alone
}

// SpanHost is how this host itself is in a network that spans hosts: its programs reach guests of all hosts.
type SpanHost struct {
	Link string `json:"link"` // of this host
	MAC  string `json:"mac"`  // empty: it is not known yet by which address the others know this host
	// Addresses are this host's own in the network; none: it has got none yet.
	Addresses []netip.Addr `json:"addresses"`
}

// Pool is the DHCP of one address family.
type Pool struct {
	Family       string  `json:"family"` // ipv4 or ipv6
	Ranges       []Range `json:"ranges"`
	Size         uint64  `json:"size"` // addresses in the ranges that guests can have; at most 2^64-1
	Used         uint64  `json:"used"` // of them, leased
	Reservations int     `json:"reservations"`
}

// Range is the first and the last address of a range.
type Range struct {
	Start netip.Addr `json:"start"`
	End   netip.Addr `json:"end"`
}

// DNS is the name service of a network.
type DNS struct {
	Domain    string        `json:"domain"`
	Upstreams []DNSUpstream `json:"upstreams"`
}

// DNSUpstream is a server that guests' queries are forwarded to.
type DNSUpstream struct {
	Addr    netip.AddrPort `json:"addr"`
	Domain  string         `json:"domain"` // whose names it is asked for; empty: all others
	Failing bool           `json:"failing"`
	// Case says what the server does with the case of letters in a name, EDNS and TCP
	// whether they work with it: "unknown" if that was not seen of late. RTT is how
	// long it takes to answer, in nanoseconds; 0: it has not of late.
	Case string        `json:"case"` // "kept" or "lost"
	EDNS string        `json:"edns"` // "works" or "lost"
	TCP  string        `json:"tcp"`  // "works" or "fails"
	RTT  time.Duration `json:"rtt"`
}

// Lease is an address that a guest holds.
type Lease struct {
	Expiry   *time.Time `json:"expiry"` // null: never
	MAC      string     `json:"mac"`
	Address  netip.Addr `json:"address"`
	Prefix   int        `json:"prefix"` // length of the network's
	Hostname string     `json:"hostname"`
	// ClientID is the DHCPv4 client identifier or the DHCPv6 DUID, as pairs of hex
	// digits with colons; empty if the guest sent none.
	ClientID string `json:"client_id"`

	// These are in lists of a network's leases on D-Bus alone: the bridge on which
	// the lease was given, and the identity association of a DHCPv6 lease (RFC 8415,
	// 4.2), a number in text.
	Interface string `json:"-"`
	IAID      string `json:"-"`
}
