package dnsd

import (
	"context"
	"net"
	"net/netip"
)

// serveUDP answers what comes in on c until reading fails, which it does when c
// is closed. It returns that error.
func (s *Server) serveUDP(ctx context.Context, c *net.UDPConn) error {
	b, err := newBatch(c)
	if err != nil {
		return err
	}
	q := new(query)
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
			reply, forward := s.respond(q, b.query(i), b.replies[i][:0], payloadSize, now)
			switch {
			case forward:
				s.forwardUDP(ctx, c, q.clone(), b, i)
			case len(reply) > 0:
				b.answer(i, reply)
			}
		}
		answers := b.answers
		s.counters.dropped.Add(uint64(b.flush()))
		s.counters.atOnce.add(s.now().Sub(now), answers)
	}
}

// forwardUDP has q, the datagram i of b, answered when an upstream has answered.
func (s *Server) forwardUDP(ctx context.Context, c *net.UDPConn, q *query, b *batch, i int) {
	client := b.client(i)
	s.forwarder.forward(ctx, &waiter{q: q, client: client.Addr(), send: func(reply []byte) {
		s.writeUDP(c, client, reply)
	}})
}

// writeUDP sends an answer, none if b is empty. A client that can't be reached asks
// again, or is gone: no reason to stop.
func (s *Server) writeUDP(c *net.UDPConn, client netip.AddrPort, b []byte) {
	if len(b) == 0 {
		s.counters.dropped.Add(1)
		return
	}
	if _, err := c.WriteToUDPAddrPort(b, client); err != nil {
		s.counters.dropped.Add(1)
		s.log.Debug("sending an answer", keyIP, client.Addr(), keyError, err)
	}
}
