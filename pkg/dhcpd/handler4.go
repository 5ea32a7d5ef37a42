package dhcpd

import (
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// handle4 acts on a client's message. It returns the reply that can leave at
// once, nil when there is none or it waits for a commit. s.mu must be locked.
func (s *Server) handle4(c *request) *outgoing {
	if int(c.typ) < len(s.count.received) {
		s.count.received[c.typ].Add(1)
	}
	switch c.typ {
	case dhcpv4.MessageTypeDiscover:
		return s.handleDiscover(c)
	case dhcpv4.MessageTypeRequest:
		return s.handleRequest(c)
	case dhcpv4.MessageTypeDecline:
		s.handleDecline(c)
	case dhcpv4.MessageTypeRelease:
		s.handleRelease(c)
	case dhcpv4.MessageTypeInform:
		return s.handleInform(c)
	case dhcpv4.MessageTypeNone:
		s.handleBOOTP(c)
	default:
		s.count.ignored.Add(1)
	}
	return nil
}

// handleDiscover offers an address and keeps it for the client for a while.
//
// RFC 2131, section 4.3.1: "When a server receives a DHCPDISCOVER message from a
// client, the server chooses a network address for the requesting client. If no
// address is available, the server may choose to report the problem to the
// system administrator."
func (s *Server) handleDiscover(c *request) *outgoing {
	a, ok := s.pool.choose(&c.client)
	if !ok {
		s.exhausted(c)
		return nil
	}
	if s.unseen(a, c) {
		s.probe(a, c)
		return nil
	}
	// RFC 4039, section 3.1: "if the server is configured to support Rapid Commit",
	// it answers with a DHCPACK when the address is committed.
	if c.rapid {
		s.grant(c, a)
		return nil
	}
	s.pool.hold(a, c.key, c.now.Add(offerHold))
	p := s.plan
	l := lease4{addr: a, time: p.leaseTime(a, c.asked)}
	if r := c.reserved; r != nil && (r.Addr == a || !r.Addr.IsValid()) {
		l.hostname = p.hostname(a, c.reserved, c.name)
	}
	return p.leaseReply(c, dhcpv4.MessageTypeOffer, l)
}

// exhausted notes that there is no address for c.
func (s *Server) exhausted(c *request) {
	if s.plan.size == 0 {
		s.count.ignored.Add(1) // static hosts only, and c is none
		return
	}
	s.count.exhausted.Add(1)
	s.warn("exhausted", "no free DHCP address", "mac", c.mac, "size", s.plan.size)
}

// handleRequest finds out in which state the client is (RFC 2131, section 4.3.2
// and table 4).
func (s *Server) handleRequest(c *request) *outgoing {
	switch {
	// Section 3.1, step 4: "Those servers not selected by the DHCPREQUEST message
	// use the message as notification that the client has declined that server's
	// offer."
	case c.serverID.IsValid() && c.serverID != s.plan.cfg.Server:
		s.pool.unhold(c.key)
		s.foreign(c)
		s.count.ignored.Add(1)
		return nil
	case c.requested.IsValid() && c.serverID.IsValid():
		return s.handleSelecting(c)
	case c.requested.IsValid():
		return s.handleInitReboot(c)
	case c.ciaddr.IsValid() && c.unicast:
		return s.handleRenewing(c)
	case c.ciaddr.IsValid():
		return s.handleRebinding(c)
	default:
		s.count.malformed.Add(1)
		return nil
	}
}

// handleSelecting acts on "DHCPREQUEST generated during SELECTING state: Client
// inserts the address of the selected server in 'server identifier', 'ciaddr'
// MUST be zero, 'requested IP address' MUST be filled in with the yiaddr value
// from the chosen DHCPOFFER." (RFC 2131, section 4.3.2)
func (s *Server) handleSelecting(c *request) *outgoing {
	// Section 3.1, step 4: "If the selected server is unable to satisfy the
	// DHCPREQUEST message (e.g., the requested network address has been
	// allocated), the server SHOULD respond with a DHCPNAK message."
	if text := s.pool.refusal(c.requested, &c.client); text != "" {
		return s.plan.nak(c, text)
	}
	s.grant(c, c.requested)
	return nil
}

// handleInitReboot acts on "DHCPREQUEST generated during INIT-REBOOT state:
// 'server identifier' MUST NOT be filled in, 'requested IP address' option MUST
// be filled in with client's notion of its previously assigned address." (RFC
// 2131, section 4.3.2)
func (s *Server) handleInitReboot(c *request) *outgoing {
	p := s.plan
	// "Server SHOULD send a DHCPNAK message to the client if the 'requested IP
	// address' is incorrect, or is on the wrong network."
	if !p.cfg.Prefix.Contains(c.requested) {
		return p.nak(c, nakNetwork)
	}
	if b := s.pool.lease(c.key, c.now); b != nil && b.addr != c.requested {
		return p.nak(c, nakAddress)
	}
	if text := s.pool.refusal(c.requested, &c.client); text != "" {
		return p.nak(c, text)
	}
	// "If the DHCP server has no record of this client, then it MUST remain
	// silent". We are the only server of the link: the lease is made, which also
	// recovers from a lost lease store.
	s.grant(c, c.requested)
	return nil
}

// handleRenewing acts on "DHCPREQUEST generated during RENEWING state: 'server
// identifier' MUST NOT be filled in, 'requested IP address' option MUST NOT be
// filled in, 'ciaddr' MUST be filled in with client's IP address. [...] This
// message will be unicast". (RFC 2131, section 4.3.2)
func (s *Server) handleRenewing(c *request) *outgoing {
	if b := s.pool.lease(c.key, c.now); b != nil && b.addr != c.ciaddr {
		return s.plan.nak(c, nakNotLeased)
	}
	return s.extend(c)
}

// handleRebinding acts on "DHCPREQUEST generated during REBINDING state: [...]
// This message MUST be broadcast to the 0xffffffff IP broadcast address." (RFC
// 2131, section 4.3.2)
func (s *Server) handleRebinding(c *request) *outgoing {
	// "The DHCP server SHOULD check 'ciaddr' for correctness before replying to
	// the DHCPREQUEST." Everybody hears a broadcast; a client with another lease
	// of ours may mean another server.
	if b := s.pool.lease(c.key, c.now); b != nil && b.addr != c.ciaddr {
		s.count.ignored.Add(1)
		return nil
	}
	return s.extend(c)
}

// extend prolongs the lease of ciaddr, or makes it when it is unknown and
// nobody else has the address. A client for which another address is reserved
// is refused once it is free, so that it moves there.
func (s *Server) extend(c *request) *outgoing {
	if text := s.pool.refusal(c.ciaddr, &c.client); text != "" {
		return s.plan.nak(c, text)
	}
	s.grant(c, c.ciaddr)
	return nil
}

// grant leases a to c: the acknowledgement follows the commit. A lease of c on
// another address ends. Nobody else may have a.
func (s *Server) grant(c *request, a netip.Addr) {
	if s.overloaded() {
		return
	}
	p := s.plan
	l := lease4{addr: a, time: p.leaseTime(a, c.asked)}
	typ := dhcpv4.MessageTypeAck
	if c.typ == dhcpv4.MessageTypeNone {
		typ, l.time = dhcpv4.MessageTypeNone, Infinite
	}
	var ch change
	l.hostname = s.bind(&ch, &c.client, Lease{
		Addr: a, MAC: slices.Clone(c.msg.ClientHWAddr), ClientID: slices.Clone(c.id),
		Hostname: p.hostname(a, c.reserved, c.name), Expiry: expiry(c.now, l.time), State: StateBound,
	})
	ch.reply = p.leaseReply(c, typ, l)
	s.enqueue(ch)
}

// handleDecline keeps an address that is in use by somebody else from all
// clients for a while.
//
// RFC 2131, section 4.3.3: "If the server receives a DHCPDECLINE message, [...]
// the server MUST mark the network address as not available and SHOULD notify
// the local system administrator of a possible configuration problem."
func (s *Server) handleDecline(c *request) {
	b := s.pool.bindings[c.requested]
	if b == nil || s.otherServer(c) || (b.offer != c.key && (!b.lease.BoundAt(c.now) || b.key != c.key)) {
		s.count.ignored.Add(1)
		return
	}
	if s.overloaded() {
		return
	}
	s.count.conflicts.Add(1)
	s.warn("declined", "a client found its address in use", "mac", c.mac, "ip", b.addr)
	var ch change
	s.set(&ch, Declined, b, Lease{
		Addr: b.addr, MAC: slices.Clone(c.msg.ClientHWAddr), ClientID: slices.Clone(c.id),
		Expiry: c.now.Add(declineHold), State: StateDeclined,
	})
	s.pool.unhold(c.key)
	s.enqueue(ch)
}

// handleRelease ends a lease.
//
// RFC 2131, section 4.3.4: "Upon receipt of a DHCPRELEASE message, the server
// marks the network address as not allocated. The server SHOULD retain a record
// of the client's initialization parameters for possible reuse".
func (s *Server) handleRelease(c *request) {
	b := s.pool.bindings[c.ciaddr]
	if b == nil || s.otherServer(c) || !b.lease.BoundAt(c.now) || b.key != c.key {
		s.count.ignored.Add(1)
		return
	}
	if s.overloaded() {
		return
	}
	var ch change
	s.end(&ch, b, c.now)
	s.enqueue(ch)
}

// otherServer reports whether c is meant for another server.
func (s *Server) otherServer(c *request) bool {
	return c.serverID.IsValid() && c.serverID != s.plan.cfg.Server
}

// handleInform answers a client that has an address from elsewhere. See
// informReply.
func (s *Server) handleInform(c *request) *outgoing {
	a := c.ciaddr
	if !a.IsValid() {
		a = c.src // some clients leave ciaddr out
	}
	if !s.plan.usable(a) {
		s.count.ignored.Add(1)
		return nil
	}
	return s.plan.informReply(c, a)
}

// handleBOOTP answers a message without a type, from a client of RFC 951, when
// an address is reserved for its MAC. It has it for ever.
//
// RFC 1534, section 2: a server that answers BOOTP clients gives them addresses
// that don't expire, since they know of no lease.
func (s *Server) handleBOOTP(c *request) {
	r := c.reserved
	if r == nil || r.MAC == nil || !r.Addr.IsValid() || s.pool.refusal(r.Addr, &c.client) != "" {
		s.count.ignored.Add(1)
		return
	}
	s.grant(c, r.Addr)
}
