package dhcpd

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// MinLeaseTime is the shortest lease time that a client may ask for.
const MinLeaseTime = 120 * time.Second

// Why a client may not have an address.
const (
	NakNetwork   = "wrong network"
	NakAddress   = "wrong address"
	nakReserved  = "address reserved"
	nakNotAvail  = "address not available"
	nakInUse     = "address in use"
	NakNotLeased = "lease not found"
)

// Scope is which addresses of a subnet may be given to whom, and for how long.
// It never changes but by addDynamic, dropDynamic and relend.
type Scope struct {
	Network     string
	Prefix      netip.Prefix
	Domain      string
	Ranges      []Range       // as the settings have them
	whole       ranges        // of which addresses may be had
	chosen      ranges        // from which new addresses are chosen: see Lend
	lender      Lender        // nil: nobody else gives any
	DefaultTime time.Duration // of a lease
	Identity    Identity
	PerPort     int // see Settings
	Never       map[netip.Addr]bool
	byMAC       map[HWAddr]*Reservation
	byDUID      map[string]*Reservation
	byName      map[string]*Reservation // lower-case label, with and without MAC
	byAddr      map[netip.Addr]*Reservation
	tagged      []*Reservation          // for clients with certain tags
	masked      []*Reservation          // for clients with certain bytes in their hardware address
	dynamics    map[HWAddr]*Reservation // see SetDynamic; Addr may be zero
	unused      []Unused
	Size        uint64 // addresses in all ranges, as far as they are searched
}

// Unused is a reservation without effect.
type Unused struct {
	Addr netip.Addr
	For  string // its client: hardware address, DUID or name
	Why  string
}

// ReserveAll adds the reservations. Those that can't be used are logged and kept as
// unused.
func (p *Scope) ReserveAll(all []Reservation, log *slog.Logger) {
	p.byMAC = make(map[HWAddr]*Reservation)
	p.byDUID = make(map[string]*Reservation)
	p.byName = make(map[string]*Reservation)
	p.byAddr = make(map[netip.Addr]*Reservation)
	p.dynamics = make(map[HWAddr]*Reservation)
	for _, r := range all {
		why := ""
		switch {
		case r.Addr.IsValid() && !p.Usable(r.Addr):
			why = fmt.Sprintf("no client can have %v in %v", r.Addr, p.Prefix)
		case !p.reserve(&r):
			why = "an earlier one has its address or its client"
		default:
			continue
		}
		p.unused = append(p.unused, Unused{r.Addr, r.client(), why})
		log.Warn("ignoring a reservation that no client could use", "ip", r.Addr, "mac", r.MAC.String(), "name", r.Name, "reason", why)
	}
	p.Size = p.chosen.size
}

// shared returns how many addresses in all ranges anybody may have.
func (p *Scope) shared() uint64 {
	n := p.chosen.once()
	taken := maps.Clone(p.Never)
	for a := range p.byAddr {
		taken[a] = true
	}
	for a := range taken {
		if p.chosen.holding(a) != nil {
			n--
		}
	}
	return n
}

// reserve adds r, unless an earlier reservation has its address or its client.
func (p *Scope) reserve(r *Reservation) bool {
	if p.byAddr[r.Addr] != nil {
		return false
	}
	switch {
	case len(r.Tags) > 0:
		p.tagged = append(p.tagged, r)
	case !p.reserveClient(r):
		return false
	}
	if r.Addr.IsValid() {
		p.byAddr[r.Addr] = r
	}
	return true
}

// reserveClient adds the client of r, unless an earlier reservation has it.
func (p *Scope) reserveClient(r *Reservation) bool {
	label := strings.ToLower(ParseName([]byte(r.Name)).Label)
	cards := r.cards()
	switch {
	case slices.ContainsFunc(cards, func(c Card) bool { return c.Mask == nil && p.byMAC[HWAddr(c.MAC)] != nil }),
		len(r.DUID) > 0 && p.byDUID[string(r.DUID)] != nil,
		r.ByName() && (label == "" || p.byName[label] != nil):
		return false
	}
	for _, c := range cards {
		if c.Mask == nil {
			p.byMAC[HWAddr(c.MAC)] = r
		} else if !slices.Contains(p.masked, r) {
			p.masked = append(p.masked, r)
		}
	}
	if len(r.DUID) > 0 {
		p.byDUID[string(r.DUID)] = r
	}
	if label != "" && p.byName[label] == nil {
		p.byName[label] = r
	}
	return true
}

// Reservation returns the reservation of a client, nil when it has none, and adds the
// client's tags to c.Tags, unless that is nil. One for certain tags wins over others, one
// by identifier over one by MAC, that over one by name, and that over one that leaves
// bytes of the MAC open.
func (p *Scope) Reservation(c *Client) *Reservation {
	r := p.reservation(c)
	if c.Tags != nil {
		c.Tags.reserve(r)
	}
	return r
}

func (p *Scope) reservation(c *Client) *Reservation {
	for _, r := range p.tagged {
		if r.fits(c, p.Domain) && c.Tags.HasAll(r.Tags) {
			return r
		}
	}
	if r := p.identified(c); r != nil {
		return r
	}
	if r := p.byMAC[c.MAC]; r != nil {
		return r
	}
	if r := p.dynamics[c.MAC]; r != nil {
		return r
	}
	if r := p.byName[strings.ToLower(c.Name.Label)]; r != nil && r.ByName() && c.Name.inDomain(p.Domain) {
		return r
	}
	for _, r := range p.masked {
		if r.fits(c, p.Domain) {
			return r
		}
	}
	return nil
}

// identified returns the reservation of the client by what it calls itself.
func (p *Scope) identified(c *Client) *Reservation {
	switch {
	case len(c.DUID) > 0:
		return p.byDUID[string(c.DUID)]
	case len(c.ID) == 0:
		return nil
	}
	if r := p.byDUID[string(c.ID)]; r != nil || c.ID[0] != 0 {
		return r
	}
	return p.byDUID[string(c.ID[1:])]
}

// macAlone reports whether the client with that hardware address is known by nothing else.
func (p *Scope) macAlone(mac HWAddr) bool {
	if r := p.byMAC[mac]; r != nil && (r.Addr.IsValid() || r.NoID) {
		return true
	}
	noID := func(r *Reservation) bool {
		return r.NoID && slices.ContainsFunc(r.cards(), func(c Card) bool { return c.fits(mac) })
	}
	return slices.ContainsFunc(p.masked, noID) || slices.ContainsFunc(p.tagged, noID)
}

// Usable reports whether a client could have a.
func (p *Scope) Usable(a netip.Addr) bool { return p.Prefix.Contains(a) && !p.Never[a] }

// dynamic reports whether a may be given to anybody.
func (p *Scope) dynamic(a netip.Addr) bool {
	return p.chosen.holding(a) != nil && p.byAddr[a] == nil && !p.Never[a]
}

// offered reports whether a may be given to anybody, or to one client.
func (p *Scope) offered(a netip.Addr) bool {
	return p.Usable(a) && (p.whole.holding(a) != nil || p.byAddr[a] != nil)
}

// refusal is why a client with reservation r (may be nil) may not have a,
// whoever has it now. Empty when it may.
func (p *Scope) refusal(a netip.Addr, r *Reservation) string {
	owner := p.byAddr[a]
	switch {
	case !p.Prefix.Contains(a):
		return NakNetwork
	case p.Never[a]:
		return nakNotAvail
	case owner != nil && owner == r:
		return ""
	case p.whole.holding(a) == nil:
		return nakNotAvail
	case owner != nil:
		return nakReserved
	default:
		return ""
	}
}

// Hostname returns the name that a client gets with address a: its reservation's, or
// the one that it sent unless that is reserved for somebody else, or empty.
func (p *Scope) Hostname(a netip.Addr, r *Reservation, sent Name) string {
	if r != nil && !r.ByName() {
		if label := ParseName([]byte(r.Name)).Label; label != "" {
			return label
		}
	}
	owner := p.byName[strings.ToLower(sent.Label)]
	if owner != nil && (owner != r || owner.Addr.IsValid() && owner.Addr != a) {
		return ""
	}
	return sent.Label
}

// LeaseTime returns how long a client with reservation r (may be nil) gets a. asked is 0
// when it did not say.
//
// RFC 2131, section 4.3.1: "If the client has requested a specific lease in the
// DHCPDISCOVER message [...], the server may choose either to return the
// requested lease (if the lease is acceptable to local policy) or select
// another lease."
func (p *Scope) LeaseTime(a netip.Addr, r *Reservation, asked time.Duration) time.Duration {
	limit := p.DefaultTime
	if in := p.whole.holding(a); in != nil && in.LeaseTime != 0 {
		limit = in.LeaseTime
	}
	if r != nil && r.LeaseTime != 0 && (r.Addr == a || !r.Addr.IsValid()) {
		limit = r.LeaseTime
	}
	if asked != 0 {
		limit = min(limit, max(asked, MinLeaseTime))
	}
	return min(limit, Infinite)
}

// first returns the position in the pool where the search for an address for a client
// begins: always the same one, so that a client gets the same address again
// even when its lease was lost. The pool must not be empty.
func (p *Scope) first(group ClientKey) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(append([]byte(p.Network), group...))
	return h.Sum64() % p.Size
}

// addDynamic makes r known, except where the network itself says something else.
func (p *Scope) addDynamic(r *Reservation) {
	mac := HWAddr(r.MAC)
	p.dynamics[mac] = r
	if r.Addr.IsValid() && p.byMAC[mac] == nil && p.byAddr[r.Addr] == nil {
		p.byMAC[mac], p.byAddr[r.Addr] = r, r
	}
	if label := strings.ToLower(r.Name); label != "" && p.byName[label] == nil {
		p.byName[label] = r
	}
}

// dropDynamic undoes addDynamic.
func (p *Scope) dropDynamic(r *Reservation) {
	mac := HWAddr(r.MAC)
	delete(p.dynamics, mac)
	if p.byMAC[mac] == r {
		delete(p.byMAC, mac)
	}
	if p.byAddr[r.Addr] == r {
		delete(p.byAddr, r.Addr)
	}
	if label := strings.ToLower(r.Name); p.byName[label] == r {
		delete(p.byName, label)
	}
}

// Key identifies a DHCPv4 client on this link. Its group is all that have its
// hardware address.
//
// RFC 2131, section 4.2: "If the client supplies a 'client identifier', the
// client MUST use the same 'client identifier' in all subsequent messages, and
// the server MUST use that identifier to identify the client." Cloned disks
// send one identifier from two machines, so the hardware address is part of the
// key unless Config says otherwise, and one who has a reservation is known by
// what that says alone. The identifier that is the hardware address adds nothing.
func (p *Scope) Key(mac HWAddr, id []byte) (key, group ClientKey) {
	group = ClientKey(mac[:])
	if len(id) == 0 || p.Identity == ByMAC || p.macAlone(mac) || string(id) == "\x01"+string(mac[:]) {
		return group, group
	}
	if p.Identity == ByClientID || p.byDUID[string(id)] != nil {
		return ClientKey("id " + string(id)), group // no hardware address
	}
	key = group + ClientKey(id)
	return key, key[:len(group)] // one piece of memory
}

// IAKey identifies one address of a DHCPv6 client. Its group is all that have its
// DUID and IAID.
//
// RFC 8415, section 12: "each IA [...] is uniquely identified by the combination
// of the client's DUID and the IAID". Cloned disks send one of each from two
// machines, so the hardware address is part of the key, as in Key, if it is known.
func (p *Scope) IAKey(duid []byte, iaid uint32, mac HWAddr) (key, group ClientKey) {
	var room [MaxDUID + 4 + HWAddrLen]byte
	text := binary.BigEndian.AppendUint32(append(room[:0], duid...), iaid)
	if p.Identity == ByClientID || mac == (HWAddr{}) {
		group = ClientKey(text)
		return group, group
	}
	key = ClientKey(append(text, mac[:]...))
	return key, key[:len(text)] // one piece of memory
}

// keyOf identifies the client of the record of an address, and its group.
func (p *Scope) keyOf(a netip.Addr, mac, id, duid string, iaid uint32) (key, group ClientKey) {
	var hw HWAddr
	var room [max(MaxClientID, MaxDUID)]byte
	copy(hw[:], mac)
	if a.Is4() {
		return p.Key(hw, append(room[:0], id...))
	}
	return p.IAKey(append(room[:0], duid...), iaid, hw)
}

// clientOf returns the client of a record, as it would show itself.
func (p *Scope) clientOf(l *Lease, now time.Time) *Client {
	c := &Client{Now: now, DUID: slices.Clone(l.DUID), ID: slices.Clone(l.ClientID), Name: Name{Label: l.Hostname}, Named: true}
	c.Key, c.Group = p.keyOf(l.Addr, string(l.MAC), string(l.ClientID), string(l.DUID), l.IAID)
	if len(l.MAC) == HWAddrLen {
		c.MAC = HWAddr(l.MAC)
	}
	c.Reserved = p.Reservation(c)
	return c
}

// Lend sets the part of the pool aside from which new addresses are chosen, where others give
// the rest. ReserveAll must follow.
func (p *Scope) Lend(l Lender) {
	p.whole, p.lender = newRanges(p.Ranges), l
	p.chosen = newRanges(p.parts())
}

// parts are the ranges from which new addresses are chosen now.
func (p *Scope) parts() (parts []Range) {
	if p.lender == nil {
		return p.Ranges
	}
	blocks := p.lender.Blocks()
	for _, r := range p.Ranges {
		for _, b := range blocks {
			if part, ok := r.within(b); ok {
				parts = append(parts, part)
			}
		}
	}
	return parts
}

// relend takes in which addresses the lender has given by now. It returns what came to the
// ranges, whose positions have stayed; false where some went, and all positions are others.
func (p *Scope) relend() (came []Range, stayed bool) {
	had := make(map[Range]int, len(p.chosen.all))
	for _, r := range p.chosen.all {
		had[r]++
	}
	parts := p.parts()
	for _, r := range parts {
		if had[r]--; had[r] < 0 {
			came = append(came, r)
		}
	}
	if stayed = len(parts)-len(came) == len(p.chosen.all); stayed {
		for _, r := range came {
			p.chosen.add(r)
		}
	} else {
		p.chosen = newRanges(parts)
	}
	p.Size = p.chosen.size
	return came, stayed
}

// within is the part of r in a block.
func (r Range) within(b netip.Prefix) (Range, bool) {
	first, last := b.Masked().Addr(), lastOf(b)
	if first.Less(r.Start) {
		first = r.Start
	}
	if r.End.Less(last) {
		last = r.End
	}
	r.Start, r.End = first, last
	return r, first.BitLen() == last.BitLen() && !last.Less(first)
}

// lastOf is the last address of a block.
func lastOf(b netip.Prefix) netip.Addr {
	bytes := b.Masked().Addr().AsSlice()
	for i := b.Bits(); i < 8*len(bytes); i++ {
		bytes[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(bytes)
	return a
}

// reserved reports whether the settings reserve an address, for whomever.
func (p *Scope) reserved(a netip.Addr) bool {
	r := p.byAddr[a]
	return r != nil && p.dynamics[hwOf(r)] != r
}

// hwOf is the card of a reservation, zero where it has none.
func hwOf(r *Reservation) (mac HWAddr) {
	copy(mac[:], r.MAC)
	return mac
}

// lent reports whether an address may be promised to a client as far as other hosts go.
func (p *Scope) lent(a netip.Addr, mac HWAddr) bool {
	return p.lender == nil || p.lender.May(a, mac, p.isOwn(a))
}

// taken reports whether an address can't be set aside for a client as far as other hosts go.
func (p *Scope) taken(a netip.Addr, mac HWAddr) bool {
	if p.lender != nil && p.isOwn(a) {
		return p.lender.Taken(a, mac)
	}
	return !p.lent(a, mac)
}

// isOwn reports whether the address is given to nobody who just asks for one: it is reserved, or
// in no range.
func (p *Scope) isOwn(a netip.Addr) bool { return p.reserved(a) || p.whole.holding(a) == nil }

// Want tells that a client gets no address for want of one.
func (p *Scope) Want(mac HWAddr) {
	if p.lender != nil {
		p.lender.Exhausted(mac)
	}
}

// Promise has an address be a client's on all hosts, before its lease is stored. It returns
// false where it may not be.
func (p *Scope) Promise(l *Lease) bool {
	if p.lender == nil {
		return true
	}
	lent := *l // so that no lease of a network on one host is where the collector looks
	return p.lender.Promise(&lent, p.isOwn(l.Addr))
}
