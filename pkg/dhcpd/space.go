package dhcpd

import (
	"encoding/binary"
	"hash/fnv"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"strings"
	"time"
)

// minLeaseTime is the shortest lease time that a client may ask for.
const minLeaseTime = 120 * time.Second

// Why a client may not have an address.
const (
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

// clientKey is who a client is, see space.key and key6. It can be compared; its
// content has no other meaning.
type clientKey string

// client is who asks for an address.
type client struct {
	now time.Time
	key clientKey
	// mac is the client's hardware address, all zero when DHCPv6 can't know it.
	mac hwAddr
	// duid is empty in DHCPv4.
	duid []byte
	// seed decides where in the pool the search for an address begins.
	seed []byte
	// requested is the address that the client would like, zero for none.
	requested netip.Addr
	// name is the client's own; named whether it sent one at all, usable or not.
	name  clientName
	named bool
	// reserved is the client's reservation, nil when it has none.
	reserved *Reservation
}

// space is which addresses of a subnet may be given to whom, and for how long.
// It never changes but by addLive and dropLive.
type space struct {
	network  string
	prefix   netip.Prefix
	domain   string
	ranges   []Range
	length   time.Duration // of a lease
	identity Identity
	never    map[netip.Addr]bool
	byMAC    map[hwAddr]*Reservation
	byDUID   map[string]*Reservation
	byName   map[string]*Reservation // lower-case label, with and without MAC
	byAddr   map[netip.Addr]*Reservation
	lives    map[hwAddr]*Reservation // see SetLive; Addr may be zero
	size     uint64                  // addresses in all ranges, as far as they are searched
}

// reserveAll adds the reservations. Those that can't be used are logged.
func (p *space) reserveAll(all []Reservation, log *slog.Logger) {
	p.byMAC = make(map[hwAddr]*Reservation)
	p.byDUID = make(map[string]*Reservation)
	p.byName = make(map[string]*Reservation)
	p.byAddr = make(map[netip.Addr]*Reservation)
	p.lives = make(map[hwAddr]*Reservation)
	for _, r := range all {
		if !p.usable(r.Addr) || !p.reserve(&r) {
			log.Warn("ignoring a reservation that no client could use", "ip", r.Addr, "mac", r.MAC.String(), "name", r.Name)
		}
	}
	for i := range p.ranges {
		p.size += p.ranges[i].len()
	}
}

// shared is how many addresses in all ranges anybody may have.
func (p *space) shared() uint64 {
	n := p.size
	taken := maps.Clone(p.never)
	for a := range p.byAddr {
		taken[a] = true
	}
	for a := range taken {
		p.positions(a, func(uint64) { n-- })
	}
	return n
}

// reserve adds r, unless an earlier reservation has its address or its client.
func (p *space) reserve(r *Reservation) bool {
	label := strings.ToLower(parseName([]byte(r.Name)).label)
	switch {
	case p.byAddr[r.Addr] != nil,
		r.MAC != nil && p.byMAC[hwAddr(r.MAC)] != nil,
		len(r.DUID) > 0 && p.byDUID[string(r.DUID)] != nil,
		r.byName() && (label == "" || p.byName[label] != nil):
		return false
	}
	if r.MAC != nil {
		p.byMAC[hwAddr(r.MAC)] = r
	}
	if len(r.DUID) > 0 {
		p.byDUID[string(r.DUID)] = r
	}
	p.byAddr[r.Addr] = r
	if label != "" && p.byName[label] == nil {
		p.byName[label] = r
	}
	return true
}

// key identifies a DHCPv4 client on this link.
//
// RFC 2131, section 4.2: "If the client supplies a 'client identifier', the
// client MUST use the same 'client identifier' in all subsequent messages, and
// the server MUST use that identifier to identify the client." Cloned disks
// send one identifier from two machines, so the hardware address is part of the
// key unless Config says otherwise, and one who has a reservation is known by it
// alone. The identifier that is the hardware address adds nothing.
func (p *space) key(mac hwAddr, id []byte) clientKey {
	if len(id) == 0 || p.identity == ByMAC || p.byMAC[mac] != nil || string(id) == "\x01"+string(mac[:]) {
		return clientKey(mac[:])
	}
	if p.identity == ByClientID {
		return clientKey("id " + string(id)) // no hardware address
	}
	return clientKey(string(mac[:]) + string(id))
}

// key6 identifies one address of a DHCPv6 client.
//
// RFC 8415, section 12: "each IA [...] is uniquely identified by the combination
// of the client's DUID and the IAID".
func key6(duid []byte, iaid uint32) clientKey {
	return clientKey(binary.BigEndian.AppendUint32([]byte(duid[:len(duid):len(duid)]), iaid))
}

// keyOf identifies the client of a record.
func (p *space) keyOf(l *Lease) clientKey {
	if l.Addr.Is4() {
		return p.key(hwAddr(l.MAC), l.ClientID)
	}
	return key6(l.DUID, l.IAID)
}

// reservation is the one that a client has, nil when it has none. One by DUID
// wins over one by MAC, and that over one by name.
func (p *space) reservation(c *client) *Reservation {
	if r := p.byDUID[string(c.duid)]; r != nil {
		return r
	}
	if r := p.byMAC[c.mac]; r != nil {
		return r
	}
	if r := p.lives[c.mac]; r != nil {
		return r
	}
	r := p.byName[strings.ToLower(c.name.label)]
	if r == nil || !r.byName() || !c.name.inDomain(p.domain) {
		return nil
	}
	return r
}

// usable reports whether a client could have a.
func (p *space) usable(a netip.Addr) bool { return p.prefix.Contains(a) && !p.never[a] }

// rangeOf is the first range that holds a, nil when none does.
func (p *space) rangeOf(a netip.Addr) *Range {
	for i := range p.ranges {
		if r := &p.ranges[i]; r.contains(a) {
			return r
		}
	}
	return nil
}

// dynamic reports whether a may be given to anybody.
func (p *space) dynamic(a netip.Addr) bool {
	return p.rangeOf(a) != nil && p.byAddr[a] == nil && !p.never[a]
}

// refusal is why a client with reservation r (may be nil) may not have a,
// whoever has it now. Empty when it may.
func (p *space) refusal(a netip.Addr, r *Reservation) string {
	owner := p.byAddr[a]
	switch {
	case !p.prefix.Contains(a):
		return nakNetwork
	case p.never[a]:
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
func (p *space) hostname(a netip.Addr, r *Reservation, sent clientName) string {
	if r != nil && !r.byName() {
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
func (p *space) leaseTime(a netip.Addr, asked time.Duration) time.Duration {
	limit := p.length
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

// first is the position in the pool where the search for an address for a client
// begins: always the same one, so that a client gets the same address again
// even when its lease was lost. The pool must not be empty.
func (p *space) first(seed []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(p.network))
	_, _ = h.Write(seed)
	return h.Sum64() % p.size
}

// at is the address at a position in the pool.
func (p *space) at(pos uint64) netip.Addr {
	for i := range p.ranges {
		r := &p.ranges[i]
		if pos < r.len() {
			return advance(r.Start, pos)
		}
		pos -= r.len()
	}
	return netip.Addr{}
}

// positions calls fn with each position of a in the pool: several where ranges
// overlap.
func (p *space) positions(a netip.Addr, fn func(pos uint64)) {
	base := uint64(0)
	for i := range p.ranges {
		r := &p.ranges[i]
		if r.contains(a) {
			if off := distance(r.Start, a); off < r.len() {
				fn(base + off)
			}
		}
		base += r.len()
	}
}

// searched is how many addresses of one range are searched for a free one: more
// than can ever be leased. A client that asks gets those beyond, too.
const searched = 1 << 40

// len is the number of addresses in r, at most searched.
func (r *Range) len() uint64 { return min(distance(r.Start, r.End), searched-1) + 1 }

func (r *Range) contains(a netip.Addr) bool { return !a.Less(r.Start) && !r.End.Less(a) }

// byName reports whether the client of r is whoever has its name.
func (r *Reservation) byName() bool { return r.MAC == nil && len(r.DUID) == 0 }

// distance is how many addresses b lies behind a, of the same family and not
// less; the largest uint64 when it is more.
func distance(a, b netip.Addr) uint64 {
	x, y := a.As16(), b.As16()
	be := binary.BigEndian
	hi, lo := be.Uint64(y[:])-be.Uint64(x[:]), be.Uint64(y[8:])-be.Uint64(x[8:])
	if be.Uint64(y[8:]) < be.Uint64(x[8:]) {
		hi--
	}
	if hi != 0 {
		return ^uint64(0)
	}
	return lo
}

// advance is the address n behind a.
func advance(a netip.Addr, n uint64) netip.Addr {
	b := a.As16()
	be := binary.BigEndian
	lo := be.Uint64(b[8:])
	if lo+n < lo {
		be.PutUint64(b[:], be.Uint64(b[:])+1)
	}
	be.PutUint64(b[8:], lo+n)
	if a.Is4() {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.AddrFrom16(b)
}
