package dhcpd

import (
	"hash/fnv"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Bounds of the lease time that a client may ask for, and the texts of refused
// addresses.
const (
	minLeaseTime = 120 * time.Second

	nakNetwork   = "wrong network"
	nakAddress   = "wrong address"
	nakReserved  = "address reserved"
	nakNotAvail  = "address not available"
	nakInUse     = "address in use"
	nakNotLeased = "lease not found"
)

// hwAddrLen is the length of an Ethernet address.
const hwAddrLen = 6

// hwAddr is an Ethernet address that can be compared.
type hwAddr [hwAddrLen]byte

func (h hwAddr) String() string { return net.HardwareAddr(h[:]).String() }

// clientKey is who a client is, see plan.key. It can be compared; its content
// has no other meaning.
type clientKey string

// plan is what a Config allows: which addresses may be given to whom, and for
// how long. It never changes.
type plan struct {
	cfg    Config
	byMAC  map[hwAddr]*Reservation
	byName map[string]*Reservation // lower-case label, with and without MAC
	byAddr map[netip.Addr]*Reservation
	size   int // addresses in all ranges
}

// newPlan derives the plan of a valid cfg.
func newPlan(cfg *Config, log *slog.Logger) *plan {
	p := &plan{
		cfg:    *cfg,
		byMAC:  make(map[hwAddr]*Reservation),
		byName: make(map[string]*Reservation),
		byAddr: make(map[netip.Addr]*Reservation),
	}
	p.cfg.Prefix = cfg.Prefix.Masked()
	if p.cfg.LeaseTime == 0 {
		p.cfg.LeaseTime = DefaultLeaseTime
	}
	for _, r := range cfg.Reservations {
		if !p.usable(r.Addr) || !p.reserve(&r) {
			log.Warn("ignoring a reservation that no client could use", "ip", r.Addr, "mac", r.MAC, "name", r.Name)
		}
	}
	for _, r := range cfg.Ranges {
		p.size += r.len()
	}
	return p
}

// reserve adds r, unless an earlier reservation has its address or its client.
func (p *plan) reserve(r *Reservation) bool {
	label := strings.ToLower(parseName([]byte(r.Name)).label)
	if p.byAddr[r.Addr] != nil {
		return false
	}
	if r.MAC != nil {
		if p.byMAC[hwAddr(r.MAC)] != nil {
			return false
		}
		p.byMAC[hwAddr(r.MAC)] = r
	} else if label == "" || p.byName[label] != nil {
		return false
	}
	p.byAddr[r.Addr] = r
	if label != "" && p.byName[label] == nil {
		p.byName[label] = r
	}
	return true
}

// len is the number of addresses in r.
func (r *Range) len() int { return int(offset(r.End)-offset(r.Start)) + 1 }

func (r *Range) contains(a netip.Addr) bool { return !a.Less(r.Start) && !r.End.Less(a) }

// key identifies a client on this link.
//
// RFC 2131, section 4.2: "If the client supplies a 'client identifier', the
// client MUST use the same 'client identifier' in all subsequent messages, and
// the server MUST use that identifier to identify the client." Cloned disks
// send one identifier from two machines, so the hardware address is always part
// of the key, and one who has a reservation is known by it alone. The
// identifier that is the hardware address adds nothing.
func (p *plan) key(mac hwAddr, id []byte) clientKey {
	if len(id) == 0 || p.byMAC[mac] != nil || string(id) == "\x01"+string(mac[:]) {
		return clientKey(mac[:])
	}
	return clientKey(string(mac[:]) + string(id))
}

// reservation is the one that a client has, nil when it has none. One by MAC
// wins over one by name.
func (p *plan) reservation(mac hwAddr, name clientName) *Reservation {
	if r := p.byMAC[mac]; r != nil {
		return r
	}
	r := p.byName[strings.ToLower(name.label)]
	if r == nil || r.MAC != nil || !name.inDomain(p.cfg.Domain) {
		return nil
	}
	return r
}

// excluded reports whether a is never given away.
func (p *plan) excluded(a netip.Addr) bool {
	if a == p.cfg.Server || a == p.cfg.Router {
		return true
	}
	// RFC 3021: a prefix of 31 bits has neither a network nor a broadcast address.
	return p.cfg.Prefix.Bits() < 31 && (a == p.cfg.Prefix.Addr() || a == broadcastOf(p.cfg.Prefix))
}

// usable reports whether a client could have a.
func (p *plan) usable(a netip.Addr) bool { return p.cfg.Prefix.Contains(a) && !p.excluded(a) }

// rangeOf is the first range that holds a, nil when none does.
func (p *plan) rangeOf(a netip.Addr) *Range {
	for i := range p.cfg.Ranges {
		if r := &p.cfg.Ranges[i]; r.contains(a) {
			return r
		}
	}
	return nil
}

// dynamic reports whether a may be given to anybody.
func (p *plan) dynamic(a netip.Addr) bool {
	return p.rangeOf(a) != nil && p.byAddr[a] == nil && !p.excluded(a)
}

// refusal is why a client with reservation r (may be nil) may not have a,
// whoever has it now. Empty when it may.
func (p *plan) refusal(a netip.Addr, r *Reservation) string {
	owner := p.byAddr[a]
	switch {
	case !p.cfg.Prefix.Contains(a):
		return nakNetwork
	case p.excluded(a):
		return nakNotAvail
	case owner != nil && owner == r:
		return ""
	case p.rangeOf(a) == nil:
		return nakNotAvail
	case owner != nil:
		return nakReserved
	default:
		return ""
	}
}

// hostname is the name that a client gets with address a: its reservation's, or
// the one that it sent unless that is reserved for somebody else, or empty.
func (p *plan) hostname(a netip.Addr, r *Reservation, sent clientName) string {
	if r != nil && r.MAC != nil {
		if label := parseName([]byte(r.Name)).label; label != "" {
			return label
		}
	}
	owner := p.byName[strings.ToLower(sent.label)]
	if owner != nil && (owner != r || owner.Addr != a) {
		return ""
	}
	return sent.label
}

// leaseTime is how long a client gets a. asked is 0 when it did not say.
//
// RFC 2131, section 4.3.1: "If the client has requested a specific lease in the
// DHCPDISCOVER message [...], the server may choose either to return the
// requested lease (if the lease is acceptable to local policy) or select
// another lease."
func (p *plan) leaseTime(a netip.Addr, asked time.Duration) time.Duration {
	limit := p.cfg.LeaseTime
	if r := p.rangeOf(a); r != nil && r.LeaseTime != 0 {
		limit = r.LeaseTime
	}
	if r := p.byAddr[a]; r != nil && r.LeaseTime != 0 {
		limit = r.LeaseTime
	}
	if asked != 0 {
		limit = min(limit, max(asked, minLeaseTime))
	}
	return min(limit, Infinite)
}

// first is the position in the pool where the search for an address for mac
// begins: always the same one, so that a client gets the same address again
// even when its lease was lost. The pool must not be empty.
func (p *plan) first(mac hwAddr) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(p.cfg.Network))
	_, _ = h.Write(mac[:])
	return int(h.Sum64() % uint64(p.size))
}

// at is the address at a position in the pool.
func (p *plan) at(pos int) netip.Addr {
	for i := range p.cfg.Ranges {
		r := &p.cfg.Ranges[i]
		if pos < r.len() {
			return addrOf(offset(r.Start) + uint32(pos))
		}
		pos -= r.len()
	}
	return netip.Addr{}
}

// positions calls fn with each position of a in the pool: several where ranges
// overlap.
func (p *plan) positions(a netip.Addr, fn func(pos int)) {
	base := 0
	for i := range p.cfg.Ranges {
		r := &p.cfg.Ranges[i]
		if r.contains(a) {
			fn(base + int(offset(a)-offset(r.Start)))
		}
		base += r.len()
	}
}
