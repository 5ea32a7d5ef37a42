package dnsd

import (
	"context"
	"net/netip"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/pkg/dnsd/upstream"
	"github.com/vnetd/vnetd/pkg/dnsd/wire"
	"github.com/vnetd/vnetd/pkg/dnsd/zone"
)

// inquiry is what upstream servers are asked for a client, and what is made of their answer:
// all that there is of a question while it waits, in one piece.
type inquiry struct {
	query   wire.Query // shares nothing with the message that it came from
	alias   *alias     // not nil: query is for the name that it leads to
	ready   []byte     // not nil: the answer, of which a gate is to be told
	from    datagram   // of a question over UDP
	request request    // once it is forwarded
}

// newInquiry returns an inquiry about what q asks.
func newInquiry(q *wire.Query) *inquiry {
	in := new(inquiry)
	q.CopyTo(&in.query)
	return in
}

// alias is a question of a client for a name that is another one's alias, which is not ours.
type alias struct {
	query  wire.Query
	answer zone.Answer // without records
}

// follow asks for the name that a, an answer to q, leads to: RFC 1034 section 3.6.2. It
// returns the whole answer, packed into buf if that is long enough, or what upstream
// servers are to be asked. The server of that name must not be us, so this is one step.
func (s *Server) follow(q *wire.Query, a zone.Answer, buf []byte) ([]byte, *inquiry) {
	target := q.For(a.Target())
	if !s.forwarder.selector.Serves(target.Key) {
		s.counters.local.add(a.Rcode)
		return a.Pack(q, s.zone.View().Forwards(), buf), nil
	}
	one := &alias{query: *q, answer: a}
	reply := s.forwarder.cached(target, nil)
	if reply != nil && s.watched(target.Key, q.Key) == "" {
		return one.join(reply), nil
	}
	q.CopyTo(&one.query)
	return nil, &inquiry{query: *target, alias: one, ready: reply}
}

// forward has upstream servers answer in for client, which are asked when out is flushed, at
// once where it is nil. It does not block.
func (s *Server) forward(ctx context.Context, in *inquiry, client netip.Addr, out *upstream.Outbox, send sender) {
	asked := in.query.Key
	if in.alias != nil {
		whole := send
		send = sendFunc(func(reply []byte, together *replies) { whole.send(in.alias.join(reply), together) })
		asked = in.alias.query.Key
	}
	if name := s.watched(in.query.Key, asked); name != "" {
		send = s.gate(name, &in.query, send)
	}
	if in.ready != nil {
		send.send(in.ready, nil)
		return
	}
	in.request.Query, in.request.client, in.request.sender = &in.query, client, send
	s.forwarder.forward(ctx, &in.request, out)
}

// join returns the answer to the alias's question: its CNAME records, and what reply, the
// answer to the question for the other name, says of that. It has reply's rcode (RFC
// 6604 section 3).
func (l *alias) join(reply []byte) []byte {
	head, rest := new(dns.Msg), new(dns.Msg)
	own := l.answer.Pack(&l.query, true, nil)
	if head.Unpack(own) != nil || rest.Unpack(reply) != nil {
		wire.SetRcode(own, dns.RcodeServerFailure)
		return own
	}
	head.Rcode = rest.Rcode & 0xf
	head.Answer = append(head.Answer, rest.Answer...)
	head.Ns = rest.Ns
	head.Truncated = rest.Truncated
	head.Compress = true
	head.Truncate(l.query.Size())
	whole, err := head.PackBuffer(nil)
	if err != nil {
		wire.SetRcode(own, dns.RcodeServerFailure)
		return own
	}
	return whole
}
