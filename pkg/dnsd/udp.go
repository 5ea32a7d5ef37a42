package dnsd

import (
	"context"
	"net"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// serveUDP answers the queries that come in on c until reading fails, as it does
// when c is closed. It returns that error.
func (s *Server) serveUDP(ctx context.Context, c *net.UDPConn) error {
	b, err := newBatch(c)
	if err != nil {
		return err
	}
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
	}
}

// forwardUDP has in, which the datagram i of b is about, answered by upstream servers.
func (s *Server) forwardUDP(ctx context.Context, in *inquiry, b *batch, i int) {
	conn, client, to := b.conn, b.client(i), b.clients[i]
	s.forward(ctx, in, client.Addr(), func(reply []byte) {
		if err := sendUDP(conn, to, reply); err != nil {
			s.counters.dropped.Add(1)
			s.log.Debug("sending an answer", keyIP, client.Addr(), keyError, err)
		}
	})
}
