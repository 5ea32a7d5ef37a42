package dnsd

import (
	"context"
	"net"
	"net/netip"

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
				s.forwardUDP(ctx, c, forward, b, i)
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
func (s *Server) forwardUDP(ctx context.Context, c *net.UDPConn, in *inquiry, b *batch, i int) {
	client := b.client(i)
	s.forward(ctx, in, client.Addr(), func(reply []byte) { s.writeUDP(c, client, reply) })
}

// writeUDP sends an answer, none if b is empty. A client that can't be reached asks
// again, or is gone: that is no error.
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
