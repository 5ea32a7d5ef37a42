package dhcpd

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// ClientKey is who a client is, or what several have in common, see Scope.Key and
// Scope.IAKey. It can be compared; its content has no other meaning.
type ClientKey string

// maxGroup is how many leases of one group are looked at to recognise a client.
const maxGroup = 64

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
	return ClientKey(string(mac[:]) + string(id)), group
}

// IAKey identifies one address of a DHCPv6 client. Its group is all that have its
// DUID and IAID.
//
// RFC 8415, section 12: "each IA [...] is uniquely identified by the combination
// of the client's DUID and the IAID". Cloned disks send one of each from two
// machines, so the hardware address is part of the key, as in Key, if it is known.
func (p *Scope) IAKey(duid []byte, iaid uint32, mac HWAddr) (key, group ClientKey) {
	group = ClientKey(binary.BigEndian.AppendUint32(duid[:len(duid):len(duid)], iaid))
	if p.Identity == ByClientID || mac == (HWAddr{}) {
		return group, group
	}
	return group + ClientKey(mac[:]), group
}

// keyOf identifies the client of a record, and its group.
func (p *Scope) keyOf(l *Lease) (key, group ClientKey) {
	var mac HWAddr
	copy(mac[:], l.MAC)
	if l.Addr.Is4() {
		return p.Key(mac, l.ClientID)
	}
	return p.IAKey(l.DUID, l.IAID, mac)
}

// keepIdentity has the record of c tell what a former one of it told and c does not.
func (l *Lease) keepIdentity(c *Client, was *Lease) {
	if len(l.ClientID) == 0 {
		l.ClientID = was.ClientID
	}
	if len(l.MAC) == 0 || c.Guessed && len(was.MAC) > 0 {
		l.MAC = was.MAC
	}
}

// Recognise makes c who it was before, if it tells more or less of itself now: it
// has no lease under its key, and somebody of its group has one who said nothing but
// what they have in common, or c does. So does one machine whose firmware sends no
// identifier and whose system does, or whose system leaves it out when it renews. Of
// several the one is meant that has an address that c names, which may be zero, else
// the newest.
//
// Two of a group that both say more are two, even if what they have in common is one
// card. The engine of pl must be locked.
func (pl *Pool) Recognise(c *Client, named netip.Addr) {
	if pl.runs(c.Key, c.Now) {
		return
	}
	if c.Key != c.Group {
		if pl.runs(c.Group, c.Now) {
			c.Key = c.Group
		}
		return
	}
	var known *Binding
	for n, b := 0, pl.groups[c.Group]; b != nil && n < maxGroup; n, b = n+1, b.older {
		if b.Lease.BoundAt(c.Now) && (known == nil || b.Addr == named) {
			known = b
		}
	}
	if known != nil {
		c.Key = known.Key
	}
}

// runs reports whether a client has a lease, wherever the subnet is.
func (pl *Pool) runs(key ClientKey, now time.Time) bool {
	return pl.Lease(key, now) != nil || pl.LeaseAway(key, now) != nil
}

// former returns the address that somebody of the group of c had last and has no more,
// nil when there is none.
func (pl *Pool) former(c *Client) *Binding {
	if b := pl.byClient[c.Group]; b != nil && !b.Lease.live(c.Now) {
		return b
	}
	for n, b := 0, pl.groups[c.Group]; b != nil && n < maxGroup; n, b = n+1, b.older {
		if !b.Lease.live(c.Now) {
			return b
		}
	}
	return nil
}

// join puts b at the head of a group, of which it may be already, empty for none. One
// whose client is known by nothing but the group needs no place in it.
func (pl *Pool) join(b *Binding, group ClientKey) {
	if b.Key == group {
		group = ""
	}
	if b.group == group {
		return
	}
	if b.group != "" {
		pl.quit(b)
	}
	if b.group = group; group == "" {
		return
	}
	if b.older = pl.groups[group]; b.older != nil {
		b.older.newer = b
	}
	pl.groups[group] = b
}

// quit takes b out of its group.
func (pl *Pool) quit(b *Binding) {
	switch {
	case b.newer != nil:
		b.newer.older = b.older
	case b.older != nil:
		pl.groups[b.group] = b.older
	default:
		delete(pl.groups, b.group)
	}
	if b.older != nil {
		b.older.newer = b.newer
	}
	b.older, b.newer = nil, nil
}
