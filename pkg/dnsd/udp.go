package dnsd

import (
	"context"

	"github.com/vnetd/vnetd/internal/udpwait"
	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// serveUDP answers the queries that come in on c until reading fails, as it does
// when c is closed. It returns that error.
func (s *Server) serveUDP(ctx context.Context, c *udpwait.Conn) error {
	b := newBatch(c)
	q := new(wire.Query)
	for {
		n, err := b.next()
		if err != nil {
			return err
		}
		now := s.now()
		for i := range n {
			if b.port(i) == 0 {
				continue // nobody can be answered there
			}
			reply, forward := s.respond(q, b.query(i), b.replies[i][:0], wire.PayloadSize, now)
			switch {
			case forward != nil:
				s.forwardUDP(ctx, forward, b, i)
			case len(reply) > 0:
				b.answer(i, reply)
			}
		}
		answers := b.answers
		s.counters.dropped.Add(uint64(b.flush()))
		s.counters.atOnce.Add(s.now().Sub(now), answers)
		b.questions.Flush()
	}
}

// forwardUDP has in, which the datagram i of b is about, answered by upstream servers, once
// b's questions are flushed.
func (s *Server) forwardUDP(ctx context.Context, in *inquiry, b *batch, i int) {
	in.from = datagram{s.counters, b.conn, b.clients[i]}
	s.forward(ctx, in, b.client(i).Addr(), &b.questions, &in.from)
}
