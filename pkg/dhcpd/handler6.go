package dhcpd

import (
	"net"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// handle6 acts on a client's message. It returns the reply that can leave at
// once, nil when there is none or it waits for a commit. s.mu must be locked.
func (s *Server6) handle6(c *request6) *outgoing {
	s.count.received[c.typ].Add(1)
	if c.unicast {
		// RFC 8415, sections 18.3.2, 18.3.4, 18.3.7 and 18.3.8: a message that came by
		// unicast, which we allow nobody, is answered "with a Reply message containing a
		// Status Code option with the value UseMulticast" and nothing else.
		return s.plan.reply(c, dhcpv6.MessageTypeReply, options6{statusOption(iana.StatusUseMulticast)})
	}
	switch c.typ {
	case dhcpv6.MessageTypeSolicit:
		return s.handleSolicit(c)
	case dhcpv6.MessageTypeRequest:
		return s.assign(c, s.requestIA, nil)
	case dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		return s.assign(c, s.extendIA, nil)
	case dhcpv6.MessageTypeConfirm:
		return s.handleConfirm(c)
	case dhcpv6.MessageTypeRelease:
		return s.giveUp(c, s.releaseAddr)
	case dhcpv6.MessageTypeDecline:
		return s.giveUp(c, s.declineAddr)
	default:
		return s.plan.reply(c, dhcpv6.MessageTypeReply, s.plan.linkOptions(c, ""))
	}
}

// handleSolicit advertises addresses and keeps them for the client for a while,
// or gives them at once.
//
// RFC 8415, section 18.3.1: "If the client has included a Rapid Commit option in
// the Solicit message, and the server has been configured to respond with
// committed lease assignments and other resources, the server responds to the
// Solicit with a Reply message."
func (s *Server6) handleSolicit(c *request6) *outgoing {
	if c.has(dhcpv6.OptionRapidCommit) && s.canAssign(c) {
		return s.assign(c, s.requestIA, options6{{dhcpv6.OptionRapidCommit, nil}})
	}
	var opts options6
	hostname := ""
	for i := range c.ias {
		ia := &c.ias[i]
		id := c.identity(ia)
		a, ok := s.choose(c, ia, id)
		if !ok {
			opts = append(opts, ia.option(nil, nothingFor(ia)))
			continue
		}
		s.pool.hold(a, id.key, c.now.Add(offerHold))
		hostname = s.plan.hostname(a, c.reserved, c.name)
		opts = append(opts, ia.option([]iaAddr{s.plan.lifetimes(ia, a)}, iana.StatusSuccess))
	}
	// Section 18.3.9 sets the Preference option to make clients choose us: we are
	// the only server of the link.
	opts = append(opts, option6{dhcpv6.OptionPreference, []byte{255}})
	return s.plan.reply(c, dhcpv6.MessageTypeAdvertise, append(opts, s.plan.linkOptions(c, hostname)...))
}

// canAssign reports whether an IA of c can be given an address.
func (s *Server6) canAssign(c *request6) bool {
	return slices.ContainsFunc(c.ias, func(ia ia6) bool {
		if ia.code != dhcpv6.OptionIANA {
			return false
		}
		_, ok := s.pool.choose(c.identity(&ia))
		return ok
	})
}

// choose finds an address for an IA. It returns false when there is none.
func (s *Server6) choose(c *request6, ia *ia6, id *client) (netip.Addr, bool) {
	if ia.code != dhcpv6.OptionIANA {
		return netip.Addr{}, false
	}
	a, ok := s.pool.choose(id)
	if !ok && s.plan.size > 0 {
		s.count.exhausted.Add(1)
		s.warn("exhausted", "no free DHCPv6 address", "mac", c.mac, "size", s.plan.size)
	}
	return a, ok
}

// nothingFor is the status of an IA that gets nothing. We delegate no prefixes.
func nothingFor(ia *ia6) iana.StatusCode {
	if ia.code == dhcpv6.OptionIAPD {
		return iana.StatusNoPrefixAvail
	}
	return iana.StatusNoAddrsAvail
}

// assign answers a message with what decide gives to each of its IAs: the reply
// follows the commit.
func (s *Server6) assign(c *request6, decide func(*request6, *ia6, *client) (netip.Addr, iana.StatusCode), extra options6) *outgoing {
	if s.overloaded() {
		return nil
	}
	var ch change
	var opts options6
	hostname := ""
	for i := range c.ias {
		ia := &c.ias[i]
		id := c.identity(ia)
		a, status := decide(c, ia, id)
		var given []iaAddr
		if a.IsValid() {
			given = append(given, s.plan.lifetimes(ia, a))
			hostname = s.lease(&ch, c, ia, id, given[0])
		}
		if status == iana.StatusSuccess && (c.typ == dhcpv6.MessageTypeRenew || c.typ == dhcpv6.MessageTypeRebind) {
			given = append(given, ia.others(a)...)
		}
		opts = append(opts, ia.option(given, status))
	}
	opts = append(append(opts, extra...), s.plan.linkOptions(c, hostname)...)
	return s.answer(&ch, s.plan.reply(c, dhcpv6.MessageTypeReply, opts))
}

// answer sends a reply with its change, or at once when there is none.
func (s *Server6) answer(ch *change, out *outgoing) *outgoing {
	if len(ch.writes) == 0 {
		return out
	}
	ch.reply = out
	s.enqueue(*ch)
	return nil
}

// others are the addresses of the IA but for one, with zero lifetimes: the client
// stops using them.
func (ia *ia6) others(a netip.Addr) []iaAddr {
	var all []iaAddr
	for _, o := range ia.addrs {
		if o.addr != a {
			all = append(all, iaAddr{addr: o.addr})
		}
	}
	return all
}

// lease makes an address the client's as a part of ch and returns its host name.
func (s *Server6) lease(ch *change, c *request6, ia *ia6, id *client, a iaAddr) string {
	l := Lease{
		Addr: a.addr, DUID: slices.Clone(c.duid), IAID: ia.iaid,
		Hostname: s.plan.hostname(a.addr, c.reserved, c.name),
		Expiry:   expiry(c.now, a.valid), State: StateBound,
	}
	if c.mac != (hwAddr{}) {
		l.MAC = net.HardwareAddr(slices.Clone(c.mac[:]))
	}
	return s.bind(ch, id, l)
}

// requestIA decides on an IA of a Request.
//
// RFC 8415, section 18.3.2: "If the server finds that the prefix on one or more
// IP addresses in any IA in the message from the client is not appropriate for
// the link to which the client is connected, the server MUST return the IA to the
// client with a Status Code option with the value NotOnLink."
func (s *Server6) requestIA(c *request6, ia *ia6, id *client) (netip.Addr, iana.StatusCode) {
	if c.typ == dhcpv6.MessageTypeRequest && !s.onLink(ia) {
		return netip.Addr{}, iana.StatusNotOnLink
	}
	for _, a := range ia.addrs {
		if ia.code == dhcpv6.OptionIANA && s.pool.refusal(a.addr, id) == "" {
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
func (s *Server6) extendIA(c *request6, ia *ia6, id *client) (netip.Addr, iana.StatusCode) {
	if ia.code != dhcpv6.OptionIANA {
		return netip.Addr{}, nothingFor(ia)
	}
	b := s.pool.lease(id.key, c.now)
	if b != nil && s.pool.refusal(b.addr, id) == "" {
		return b.addr, iana.StatusSuccess
	}
	for _, a := range ia.addrs {
		if s.pool.refusal(a.addr, id) == "" {
			return a.addr, iana.StatusSuccess
		}
	}
	switch {
	case b != nil:
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
func (s *Server6) onLink(ia *ia6) bool {
	return !slices.ContainsFunc(ia.addrs, func(a iaAddr) bool { return !s.plan.prefix.Contains(a.addr) })
}

// handleConfirm tells a client that may have moved whether its addresses fit.
//
// RFC 8415, section 18.3.3: "If any of the addresses in the IA are not
// appropriate for the link, the server returns a status of NotOnLink. [...] If
// [...] there were no addresses in any of the IAs sent by the client, the server
// MUST NOT send a Reply to the client."
func (s *Server6) handleConfirm(c *request6) *outgoing {
	status, any := iana.StatusSuccess, false
	for i := range c.ias {
		any = any || len(c.ias[i].addrs) > 0
		if !s.onLink(&c.ias[i]) {
			status = iana.StatusNotOnLink
		}
	}
	if !any {
		s.count.ignored.Add(1)
		return nil
	}
	return s.plan.reply(c, dhcpv6.MessageTypeReply, options6{statusOption(status)})
}

// giveUp takes addresses back from a client.
//
// RFC 8415, section 18.3.7: "For each IA in the Release message for which the
// server has no binding information, the server adds an IA option using the IAID
// from the Release message and includes a Status Code option with the value
// NoBinding in the IA option." Section 18.3.8 says so for Decline.
func (s *Server6) giveUp(c *request6, take func(*change, *request6, *binding)) *outgoing {
	if s.overloaded() {
		return nil
	}
	var ch change
	opts := options6{statusOption(iana.StatusSuccess)}
	for i := range c.ias {
		ia := &c.ias[i]
		key, known := key6(c.duid, ia.iaid), false
		for _, a := range ia.addrs {
			b := s.pool.bindings[a.addr]
			if b != nil && b.key == key && b.lease.BoundAt(c.now) {
				known = true
				take(&ch, c, b)
			}
		}
		if !known {
			opts = append(opts, ia.option(nil, iana.StatusNoBinding))
		}
	}
	return s.answer(&ch, s.plan.reply(c, dhcpv6.MessageTypeReply, opts))
}

// releaseAddr ends a lease.
func (s *Server6) releaseAddr(ch *change, c *request6, b *binding) { s.end(ch, b, c.now) }

// declineAddr keeps an address that is in use by somebody else from all clients
// for a while.
//
// RFC 8415, section 18.3.8: "The server SHOULD mark the addresses declined by the
// client so that those addresses are not assigned to other clients".
func (s *Server6) declineAddr(ch *change, c *request6, b *binding) {
	s.count.conflicts.Add(1)
	s.warn("declined", "a client found its address in use", "mac", c.mac, "ip", b.addr)
	l := b.lease
	l.Hostname, l.Expiry, l.State = "", c.now.Add(declineHold), StateDeclined
	s.set(ch, Declined, b, l)
}
