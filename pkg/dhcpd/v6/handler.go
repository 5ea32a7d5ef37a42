package v6

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// dispatch acts on a client's message. It returns the reply that can leave at
// once, nil when there is none or it waits for a commit. the engine must be locked.
func (s *handler) dispatch(c *request) *dhcpd.Reply {
	s.Count.Received[c.typ].Add(1)
	if c.unicast {
		// RFC 8415, sections 18.3.2, 18.3.4, 18.3.7 and 18.3.8: a message that came by
		// unicast, which we allow nobody, is answered "with a Reply message containing a
		// Status Code option with the value UseMulticast" and nothing else.
		return s.plan.reply(c, dhcpv6.MessageTypeReply, options{statusOption(iana.StatusUseMulticast)})
	}
	switch c.typ {
	case dhcpv6.MessageTypeSolicit:
		return s.handleSolicit(c)
	case dhcpv6.MessageTypeRequest:
		return s.assign(c, (*handler).requestIA)
	case dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		return s.assign(c, (*handler).extendIA)
	case dhcpv6.MessageTypeConfirm:
		return s.handleConfirm(c)
	case dhcpv6.MessageTypeRelease:
		return s.giveUp(c, s.releaseAddr)
	case dhcpv6.MessageTypeDecline:
		return s.giveUp(c, s.declineAddr)
	default:
		return s.plan.reply(c, dhcpv6.MessageTypeReply, s.plan.linkOptions(s.opts[:0], c, ""))
	}
}

// handleSolicit advertises addresses and keeps them for the client for a while,
// or gives them at once.
//
// RFC 8415, section 18.3.1: "If the client has included a Rapid Commit option in
// the Solicit message, and the server has been configured to respond with
// committed lease assignments and other resources, the server responds to the
// Solicit with a Reply message."
func (s *handler) handleSolicit(c *request) *dhcpd.Reply {
	if c.has(dhcpv6.OptionRapidCommit) && s.canAssign(c) {
		return s.assign(c, (*handler).requestIA, option{dhcpv6.OptionRapidCommit, nil})
	}
	opts := s.opts[:0]
	hostname := ""
	for i := range c.ias {
		ia := &c.ias[i]
		id := s.identity(c, ia)
		var a netip.Addr
		ok := s.admits(ia, id)
		if ok {
			a, ok = s.choose(c, ia, id)
		}
		if !ok {
			opts = append(opts, ia.option(nil, nothingFor(ia)))
			continue
		}
		s.Pool.Hold(a, id.Key, c.Now.Add(dhcpd.OfferHold), c.Via)
		hostname = s.plan.Hostname(a, c.Reserved, c.Name)
		opts = append(opts, ia.option([]iaAddr{s.plan.lifetimes(ia, c.Reserved, a)}, iana.StatusSuccess))
	}
	// Section 18.3.9 sets the Preference option to make clients choose us: we are
	// the only server of the link.
	opts = append(opts, option{dhcpv6.OptionPreference, most[:]})
	s.opts = s.plan.linkOptions(opts, c, hostname)
	return s.plan.reply(c, dhcpv6.MessageTypeAdvertise, s.opts)
}

// most is the value of the Preference option of a server that is chosen at once.
var most = [...]byte{255}

// canAssign reports whether an IA of c can be given an address.
func (s *handler) canAssign(c *request) bool {
	for i := range c.ias {
		if ia := &c.ias[i]; ia.code == dhcpv6.OptionIANA {
			if _, ok := s.Pool.Choose(s.identity(c, ia)); ok {
				return true
			}
		}
	}
	return false
}

// choose finds an address for an IA. It returns false when there is none.
func (s *handler) choose(c *request, ia *identityAssoc, id *dhcpd.Client) (netip.Addr, bool) {
	if ia.code != dhcpv6.OptionIANA {
		return netip.Addr{}, false
	}
	a, ok := s.Pool.Choose(id)
	if !ok && s.plan.Size > 0 {
		s.Count.Exhausted.Add(1)
		s.Log.Limited("no free DHCPv6 address", "mac", c.MAC, "size", s.plan.Size)
	}
	return a, ok
}

// admits reports whether an IA may have an address as far as others behind its port have
// some. We give none to IAs of other kinds.
func (s *handler) admits(ia *identityAssoc, id *dhcpd.Client) bool {
	return ia.code != dhcpv6.OptionIANA || s.Admits(id)
}

// nothingFor returns the status of an IA that gets nothing. We delegate no prefixes.
func nothingFor(ia *identityAssoc) iana.StatusCode {
	if ia.code == dhcpv6.OptionIAPD {
		return iana.StatusNoPrefixAvail
	}
	return iana.StatusNoAddrsAvail
}

// assign answers a message with what decide gives to each of its IAs: the reply
// follows the commit.
func (s *handler) assign(c *request, decide func(*handler, *request, *identityAssoc, *dhcpd.Client) (netip.Addr, iana.StatusCode), extra ...option) *dhcpd.Reply {
	if s.Overloaded() {
		return nil
	}
	var ch dhcpd.Change
	opts := s.opts[:0]
	hostname := ""
	for i := range c.ias {
		ia := &c.ias[i]
		id := s.identity(c, ia)
		a, status := netip.Addr{}, nothingFor(ia)
		if s.admits(ia, id) {
			a, status = decide(s, c, ia, id)
		}
		var room [maxIAs]iaAddr
		given := room[:0]
		if a.IsValid() {
			times := s.plan.lifetimes(ia, c.Reserved, a)
			if l := s.leaseOf(c, ia, times); s.plan.Promise(&l) {
				given = append(given, times)
				hostname = ch.Bind(s.Pool.Bindings, id, l)
			} else {
				status = nothingFor(ia) // by now another host gives it; the client asks again
			}
		}
		if status == iana.StatusSuccess && (c.typ == dhcpv6.MessageTypeRenew || c.typ == dhcpv6.MessageTypeRebind) {
			given = append(given, ia.others(a)...)
		}
		opts = append(opts, ia.option(given, status))
	}
	s.opts = s.plan.linkOptions(append(opts, extra...), c, hostname)
	return s.finish(&ch, s.plan.reply(c, dhcpv6.MessageTypeReply, s.opts))
}

// finish sends a reply with its change, or at once when there is none.
func (s *handler) finish(ch *dhcpd.Change, out *dhcpd.Reply) *dhcpd.Reply {
	if ch.Empty() {
		return out
	}
	ch.Reply = out
	s.Enqueue(*ch)
	return nil
}

// others returns the addresses of the IA but for one, with zero lifetimes: the client
// stops using them.
func (ia *identityAssoc) others(a netip.Addr) []iaAddr {
	var all []iaAddr
	for _, o := range ia.addrs {
		if o.addr != a {
			all = append(all, iaAddr{addr: o.addr})
		}
	}
	return all
}

// leaseOf is the lease of a client on an address.
func (s *handler) leaseOf(c *request, ia *identityAssoc, a iaAddr) dhcpd.Lease {
	return dhcpd.Lease{
		Addr: a.addr, MAC: hardwareAddr(c.MAC), DUID: slices.Clone(c.DUID), IAID: ia.iaid,
		Hostname: s.plan.Hostname(a.addr, c.Reserved, c.Name),
		Expiry:   dhcpd.Expiry(c.Now, a.valid), State: dhcpd.StateBound,
	}
}

// requestIA decides on an IA of a Request.
//
// RFC 8415, section 18.3.2: "If the server finds that the prefix on one or more
// IP addresses in any IA in the message from the client is not appropriate for
// the link to which the client is connected, the server MUST return the IA to the
// client with a Status Code option with the value NotOnLink."
func (s *handler) requestIA(c *request, ia *identityAssoc, id *dhcpd.Client) (netip.Addr, iana.StatusCode) {
	if c.typ == dhcpv6.MessageTypeRequest && !s.onLink(ia) {
		return netip.Addr{}, iana.StatusNotOnLink
	}
	for _, a := range ia.addrs {
		if ia.code == dhcpv6.OptionIANA && s.Pool.Refusal(a.addr, id) == "" {
			return a.addr, iana.StatusSuccess
		}
	}
	// "If the server cannot assign any addresses to an IA in the message from the
	// client, the server MUST return the IA to the client with a Status Code option
	// with the value NoAddrsAvail and no addresses in the IA."
	a, ok := s.choose(c, ia, id)
	if !ok {
		return a, nothingFor(ia)
	}
	return a, iana.StatusSuccess
}

// extendIA decides on an IA of a Renew or Rebind. Without a record the addresses
// are given again if free, which recovers from a lost lease store. A client whose
// address is not right for it any more gets another one along with the news.
//
// RFC 8415, section 18.3.4: "If the server finds that any of the addresses in the
// IA are not appropriate for the link to which the client is attached, the server
// returns the address to the client with lifetimes of 0."
func (s *handler) extendIA(c *request, ia *identityAssoc, id *dhcpd.Client) (netip.Addr, iana.StatusCode) {
	if ia.code != dhcpv6.OptionIANA {
		return netip.Addr{}, nothingFor(ia)
	}
	b := cmp.Or(s.Pool.Lease(id.Key, c.Now), s.Pool.LeaseAway(id.Key, c.Now))
	if !b.None() && s.Pool.Refusal(b.Addr(), id) == "" {
		return b.Addr(), iana.StatusSuccess
	}
	for _, a := range ia.addrs {
		if s.Pool.Refusal(a.addr, id) == "" {
			return a.addr, iana.StatusSuccess
		}
	}
	switch {
	case !b.None():
		a, _ := s.choose(c, ia, id)
		return a, iana.StatusSuccess
	case c.typ == dhcpv6.MessageTypeRebind && len(ia.addrs) > 0, !s.onLink(ia):
		return netip.Addr{}, iana.StatusSuccess // all with zero lifetimes
	default:
		// "If the server cannot find a client entry for the IA, the server returns the
		// IA containing no addresses with a Status Code option set to NoBinding".
		return netip.Addr{}, iana.StatusNoBinding
	}
}

// onLink reports whether all addresses of an IA belong to the link.
func (s *handler) onLink(ia *identityAssoc) bool {
	return !slices.ContainsFunc(ia.addrs, func(a iaAddr) bool { return !s.plan.Prefix.Contains(a.addr) })
}

// handleConfirm tells a client that may have moved whether its addresses fit.
//
// RFC 8415, section 18.3.3: "If any of the addresses in the IA are not
// appropriate for the link, the server returns a status of NotOnLink. [...] If
// [...] there were no addresses in any of the IAs sent by the client, the server
// MUST NOT send a Reply to the client."
func (s *handler) handleConfirm(c *request) *dhcpd.Reply {
	status, any := iana.StatusSuccess, false
	for i := range c.ias {
		any = any || len(c.ias[i].addrs) > 0
		if !s.onLink(&c.ias[i]) {
			status = iana.StatusNotOnLink
		}
	}
	if !any {
		s.Count.Ignored.Add(1)
		return nil
	}
	return s.plan.reply(c, dhcpv6.MessageTypeReply, options{statusOption(status)})
}

// again answers a Request that waited while nobody served by the leases that the client has by
// what is on disk, see dhcpd.Pool.Again: all those that it asks for, for the time that is left. Nil
// where that may not be. The engine must be locked.
func (s *handler) again(c *request) *dhcpd.Reply {
	if c.typ != dhcpv6.MessageTypeRequest || c.unicast || len(c.relays) > 0 {
		return nil
	}
	opts := s.opts[:0]
	hostname, known := "", false
	for i := range c.ias {
		ia := &c.ias[i]
		if ia.code != dhcpv6.OptionIANA {
			opts = append(opts, ia.option(nil, nothingFor(ia)))
			continue
		}
		id := s.identity(c, ia)
		l, ok := s.Pool.Again(id, id.Requested)
		if !ok {
			return nil
		}
		left := l.Left(c.Now)
		opts = append(opts, ia.option([]iaAddr{{addr: l.Addr, preferred: left, valid: left}}, iana.StatusSuccess))
		hostname, known = l.Hostname, true
	}
	if !known {
		return nil
	}
	s.Count.Received[c.typ].Add(1)
	s.opts = s.plan.linkOptions(opts, c, hostname)
	return s.plan.reply(c, dhcpv6.MessageTypeReply, s.opts)
}

// giveUp takes addresses back from a client.
//
// RFC 8415, section 18.3.7: "For each IA in the Release message for which the
// server has no binding information, the server adds an IA option using the IAID
// from the Release message and includes a Status Code option with the value
// NoBinding in the IA option." Section 18.3.8 says so for Decline.
func (s *handler) giveUp(c *request, take func(*dhcpd.Change, *dhcpd.Client, *identityAssoc, dhcpd.Binding) bool) *dhcpd.Reply {
	if s.Overloaded() {
		return nil
	}
	var ch dhcpd.Change
	opts := options{statusOption(iana.StatusSuccess)}
	for i := range c.ias {
		ia := &c.ias[i]
		id, known := s.identity(c, ia), false
		for _, a := range ia.addrs {
			b := s.Pool.Lookup(a.addr)
			if !b.None() && take(&ch, id, ia, b) {
				known = true
			}
		}
		if !known {
			opts = append(opts, ia.option(nil, iana.StatusNoBinding))
		}
	}
	return s.finish(&ch, s.plan.reply(c, dhcpv6.MessageTypeReply, opts))
}

// releaseAddr ends a lease. It returns false when id has none of b.
func (s *handler) releaseAddr(ch *dhcpd.Change, id *dhcpd.Client, _ *identityAssoc, b dhcpd.Binding) bool {
	if b.Key() != id.Key || !b.BoundAt(id.Now) || !s.Pool.Holds(id, b) {
		return false
	}
	ch.End(s.Pool.Bindings, b, id.Now)
	return true
}

// declineAddr keeps an address that is in use by somebody else from all clients
// for a while. It returns false when id neither has it nor was advertised it.
//
// RFC 8415, section 18.3.8: "The server SHOULD mark the addresses declined by the
// client so that those addresses are not assigned to other clients".
func (s *handler) declineAddr(ch *dhcpd.Change, id *dhcpd.Client, ia *identityAssoc, b dhcpd.Binding) bool {
	if b.Offered() != id.Key && (b.Key() != id.Key || !b.BoundAt(id.Now)) || !s.Pool.Holds(id, b) {
		return false
	}
	s.Count.Conflicts.Add(1)
	s.Log.Limited("a client found its address in use", "mac", id.MAC, "ip", b.Addr())
	ch.Set(s.Pool.Bindings, dhcpd.Declined, b, dhcpd.Lease{
		Addr: b.Addr(), MAC: hardwareAddr(id.MAC), DUID: slices.Clone(id.DUID), IAID: ia.iaid,
		Expiry: id.Now.Add(dhcpd.DeclineHold), State: dhcpd.StateDeclined,
	})
	if b.Offered() == id.Key {
		s.Pool.Withdraw(id.Key)
	}
	return true
}

// hardwareAddr is an address as a record has it: nil when it is not known.
func hardwareAddr(mac dhcpd.HWAddr) net.HardwareAddr {
	if mac == (dhcpd.HWAddr{}) {
		return nil
	}
	return net.HardwareAddr(slices.Clone(mac[:]))
}
