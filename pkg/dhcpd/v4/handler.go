package v4

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// handler acts on the messages of one link. The engine's lock guards its fields.
type handler struct {
	*dhcpd.Engine
	plan   *plan
	probes probes
	others map[netip.Addr]ForeignServer // nil until there is one
	waiting
	// request is the message that is being handled. Who keeps it keeps a copy.
	request request
}

// newHandler makes a handler without a transport, with its leases.
func newHandler(cfg *Config) (*handler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("checking DHCP settings of network %q: %w", cfg.Network, err)
	}
	log := iface.NewLog(cfg.Logger, cfg.Network, cfg.Interface)
	h := &handler{plan: newPlan(cfg, log.Logger)}
	var err error
	h.Engine, err = dhcpd.NewEngine(h, &cfg.Settings, &h.plan.Scope, log)
	return h, err
}

// Relayed implements handler: giaddr is not zero (RFC 2131, section 2).
func (*handler) Relayed(b []byte) bool {
	const giaddr = 24
	return len(b) >= giaddr+net.IPv4len && [net.IPv4len]byte(b[giaddr:]) != [net.IPv4len]byte{}
}

// Handle implements handler.
func (s *handler) Handle(d dhcpd.Datagram, now time.Time) (*dhcpd.Reply, error) {
	c := &s.request
	if err := c.read(d, s.plan, now); err != nil {
		return nil, err
	}
	if !s.Allow(c.MAC[:], now) {
		return nil, nil
	}
	s.identify(c)
	if c.Reserved != nil && c.Reserved.Ignore && c.typ != dhcpv4.MessageTypeRelease {
		s.Count.Ignored.Add(1)
		return nil, nil
	}
	// Whoever is hidden may be told what there is: what a client sent while nobody read is
	// answered late.
	if asks := c.typ == dhcpv4.MessageTypeDiscover && !c.rapid || c.typ == dhcpv4.MessageTypeInform; s.Pool.Forged(&c.Client) && !(c.Via.Hidden && asks) {
		if out := s.plan.again(c, s.Pool); out != nil {
			s.Count.Received[c.typ].Add(1)
			return out, nil
		}
		s.Count.Ignored.Add(1)
		s.Log.Limited("a message in the name of another client", "mac", c.MAC, "from", c.Via.HW, "ifindex", c.Via.Port)
		return nil, nil
	}
	return s.dispatch(c), nil
}

// identify finds out who c is to us. the engine must be locked.
func (s *handler) identify(c *request) {
	c.Key, c.Group = s.plan.Key(c.MAC, c.ID)
	s.Pool.Recognise(&c.Client, cmp.Or(c.ciaddr, c.Requested))
	if s.plan.tagged {
		c.Tags = s.plan.tags(c)
	}
	c.Reserved = s.plan.Reservation(&c.Client)
}

// dispatch acts on a client's message. It returns the reply that can leave at
// once, nil when there is none or it waits for a commit. the engine must be locked.
func (s *handler) dispatch(c *request) *dhcpd.Reply {
	if int(c.typ) < len(s.Count.Received) {
		s.Count.Received[c.typ].Add(1)
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
		s.Count.Ignored.Add(1)
	}
	return nil
}

// handleDiscover offers an address and keeps it for the client for a while.
//
// RFC 2131, section 4.3.1: "When a server receives a DHCPDISCOVER message from a
// client, the server chooses a network address for the requesting client. If no
// address is available, the server may choose to report the problem to the
// system administrator."
func (s *handler) handleDiscover(c *request) *dhcpd.Reply {
	if !s.Admits(&c.Client) {
		return nil
	}
	delete(s.waiters, c.MAC)
	a, ok := s.Pool.Choose(&c.Client)
	if !ok {
		s.wait(c)
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
	s.Pool.Hold(a, c.Key, c.Now.Add(dhcpd.OfferHold), c.Via)
	p := s.plan
	l := given{addr: a, time: p.LeaseTime(a, c.Reserved, c.asked)}
	if r := c.Reserved; r != nil && (r.Addr == a || !r.Addr.IsValid()) {
		l.hostname = p.Hostname(a, c.Reserved, c.Name)
	}
	return p.leaseReply(c, dhcpv4.MessageTypeOffer, l)
}

// exhausted notes that there is no address for c.
func (s *handler) exhausted(c *request) {
	if s.plan.Size == 0 {
		s.Count.Ignored.Add(1) // static hosts only, and c is none
		return
	}
	s.Count.Exhausted.Add(1)
	s.Log.Limited("no free DHCP address", "mac", c.MAC, "size", s.plan.Size)
}

// handleRequest finds out in which state the client is (RFC 2131, section 4.3.2
// and table 4).
func (s *handler) handleRequest(c *request) *dhcpd.Reply {
	switch {
	// Section 3.1, step 4: "Those servers not selected by the DHCPREQUEST message
	// use the message as notification that the client has declined that server's
	// offer."
	case c.serverID.IsValid() && c.serverID != s.plan.cfg.Server:
		s.Pool.Withdraw(c.Key)
		s.foreign(c)
		s.Count.Ignored.Add(1)
		return nil
	case c.Requested.IsValid() && c.serverID.IsValid():
		return s.handleSelecting(c)
	case c.Requested.IsValid():
		return s.handleInitReboot(c)
	case c.ciaddr.IsValid() && c.unicast:
		return s.handleRenewing(c)
	case c.ciaddr.IsValid():
		return s.handleRebinding(c)
	default:
		s.Count.Malformed.Add(1)
		return nil
	}
}

// handleSelecting acts on "DHCPREQUEST generated during SELECTING state: Client
// inserts the address of the selected server in 'server identifier', 'ciaddr'
// MUST be zero, 'requested IP address' MUST be filled in with the yiaddr value
// from the chosen DHCPOFFER." (RFC 2131, section 4.3.2)
func (s *handler) handleSelecting(c *request) *dhcpd.Reply {
	// Section 3.1, step 4: "If the selected server is unable to satisfy the
	// DHCPREQUEST message (e.g., the requested network address has been
	// allocated), the server SHOULD respond with a DHCPNAK message."
	if text := s.Pool.Refusal(c.Requested, &c.Client); text != "" {
		return s.plan.nak(c, text)
	}
	s.grant(c, c.Requested)
	return nil
}

// handleInitReboot acts on "DHCPREQUEST generated during INIT-REBOOT state:
// 'server identifier' MUST NOT be filled in, 'requested IP address' option MUST
// be filled in with client's notion of its previously assigned address." (RFC
// 2131, section 4.3.2)
func (s *handler) handleInitReboot(c *request) *dhcpd.Reply {
	p := s.plan
	// "Server SHOULD send a DHCPNAK message to the client if the 'requested IP
	// address' is incorrect, or is on the wrong network."
	if !p.cfg.Prefix.Contains(c.Requested) {
		return p.nak(c, dhcpd.NakNetwork)
	}
	if b := s.Pool.Lease(c.Key, c.Now); !b.None() && b.Addr() != c.Requested {
		return p.nak(c, dhcpd.NakAddress)
	}
	if text := s.Pool.Refusal(c.Requested, &c.Client); text != "" {
		return p.nak(c, text)
	}
	// "If the DHCP server has no record of this client, then it MUST remain
	// silent". We are the only server of the link: the lease is made, which also
	// recovers from a lost lease store.
	s.grant(c, c.Requested)
	return nil
}

// handleRenewing acts on "DHCPREQUEST generated during RENEWING state: 'server
// identifier' MUST NOT be filled in, 'requested IP address' option MUST NOT be
// filled in, 'ciaddr' MUST be filled in with client's IP address. [...] This
// message will be unicast". (RFC 2131, section 4.3.2)
func (s *handler) handleRenewing(c *request) *dhcpd.Reply {
	if b := s.Pool.Lease(c.Key, c.Now); !b.None() && b.Addr() != c.ciaddr {
		return s.plan.nak(c, dhcpd.NakNotLeased)
	}
	return s.extend(c)
}

// handleRebinding acts on "DHCPREQUEST generated during REBINDING state: [...]
// This message MUST be broadcast to the 0xffffffff IP broadcast address." (RFC
// 2131, section 4.3.2)
func (s *handler) handleRebinding(c *request) *dhcpd.Reply {
	// "The DHCP server SHOULD check 'ciaddr' for correctness before replying to
	// the DHCPREQUEST." Everybody hears a broadcast; a client with another lease
	// of ours may mean another server.
	if b := s.Pool.Lease(c.Key, c.Now); !b.None() && b.Addr() != c.ciaddr {
		s.Count.Ignored.Add(1)
		return nil
	}
	return s.extend(c)
}

// extend prolongs the lease of ciaddr, or makes it when it is unknown and
// nobody else has the address. A client for which another address is reserved
// is refused once it is free, so that it moves there.
func (s *handler) extend(c *request) *dhcpd.Reply {
	if text := s.Pool.Refusal(c.ciaddr, &c.Client); text != "" {
		return s.plan.nak(c, text)
	}
	s.grant(c, c.ciaddr)
	return nil
}

// grant leases a to c: the acknowledgement follows the commit. A lease of c on
// another address ends. Nobody else may have a.
func (s *handler) grant(c *request, a netip.Addr) {
	if !s.Admits(&c.Client) || s.Overloaded() {
		return
	}
	p := s.plan
	l := given{addr: a, time: p.LeaseTime(a, c.Reserved, c.asked)}
	typ := dhcpv4.MessageTypeAck
	if c.typ == dhcpv4.MessageTypeNone {
		typ, l.time = dhcpv4.MessageTypeNone, dhcpd.Infinite
	}
	lease := dhcpd.Lease{
		Addr: a, MAC: slices.Clone(c.MAC[:]), ClientID: slices.Clone(c.ID),
		Hostname: p.Hostname(a, c.Reserved, c.Name), Expiry: dhcpd.Expiry(c.Now, l.time), State: dhcpd.StateBound,
	}
	if !p.Promise(&lease) {
		return // by now another host gives it; the client asks again
	}
	var ch dhcpd.Change
	l.hostname = ch.Bind(s.Pool.Bindings, &c.Client, lease)
	ch.Reply = p.leaseReply(c, typ, l)
	s.Enqueue(ch)
}

// handleDecline keeps an address that is in use by somebody else from all
// clients for a while.
//
// RFC 2131, section 4.3.3: "If the server receives a DHCPDECLINE message, [...]
// the server MUST mark the network address as not available and SHOULD notify
// the local system administrator of a possible configuration problem."
func (s *handler) handleDecline(c *request) {
	b := s.Pool.Lookup(c.Requested)
	if b.None() || s.otherServer(c) || (b.Offered() != c.Key && (!b.BoundAt(c.Now) || b.Key() != c.Key)) || !s.Pool.Holds(&c.Client, b) {
		s.Count.Ignored.Add(1)
		return
	}
	if s.Overloaded() {
		return
	}
	s.Count.Conflicts.Add(1)
	s.Log.Limited("a client found its address in use", "mac", c.MAC, "ip", b.Addr())
	var ch dhcpd.Change
	ch.Set(s.Pool.Bindings, dhcpd.Declined, b, dhcpd.Lease{
		Addr: b.Addr(), MAC: slices.Clone(c.MAC[:]), ClientID: slices.Clone(c.ID),
		Expiry: c.Now.Add(dhcpd.DeclineHold), State: dhcpd.StateDeclined,
	})
	s.Pool.Withdraw(c.Key)
	s.Enqueue(ch)
}

// handleRelease ends a lease.
//
// RFC 2131, section 4.3.4: "Upon receipt of a DHCPRELEASE message, the server
// marks the network address as not allocated. The server SHOULD retain a record
// of the client's initialization parameters for possible reuse".
func (s *handler) handleRelease(c *request) {
	b := s.Pool.Lookup(c.ciaddr)
	// The server of an address of a former subnet was us, by the address there.
	if b.None() || s.otherServer(c) && s.plan.Usable(b.Addr()) || !b.BoundAt(c.Now) || b.Key() != c.Key || !s.Pool.Holds(&c.Client, b) {
		s.Count.Ignored.Add(1)
		return
	}
	if s.Overloaded() {
		return
	}
	var ch dhcpd.Change
	ch.End(s.Pool.Bindings, b, c.Now)
	s.Enqueue(ch)
}

// otherServer reports whether c is meant for another server.
func (s *handler) otherServer(c *request) bool {
	return c.serverID.IsValid() && c.serverID != s.plan.cfg.Server
}

// handleInform answers a client that has an address from elsewhere. See
// informReply.
func (s *handler) handleInform(c *request) *dhcpd.Reply {
	a := c.ciaddr
	if !a.IsValid() {
		a = c.src // some clients leave ciaddr out
	}
	if !s.plan.Usable(a) {
		s.Count.Ignored.Add(1)
		return nil
	}
	return s.plan.informReply(c, a)
}

// handleBOOTP answers a message without a type, from a client of RFC 951, when
// an address is reserved for its MAC. It has it for ever.
//
// RFC 1534, section 2: a server that answers BOOTP clients gives them addresses
// that don't expire, since they know of no lease.
func (s *handler) handleBOOTP(c *request) {
	r := c.Reserved
	if r == nil || r.MAC == nil || !r.Addr.IsValid() || s.Pool.Refusal(r.Addr, &c.Client) != "" {
		s.Count.Ignored.Add(1)
		return
	}
	s.grant(c, r.Addr)
}
