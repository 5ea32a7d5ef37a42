package dnsd

import (
	"context"
	"net"
	"net/netip"
)

// serveUDP answers what comes in on c until reading fails, which it does when c
// is closed. It returns that error.
func (s *Server) serveUDP(ctx context.Context, c *net.UDPConn) error {
	raw := make([]byte, maxQuery)
	buf := make([]byte, payloadSize)
	q := new(query)
	for {
		n, client, err := c.ReadFromUDPAddrPort(raw)
		if err != nil {
			return err
		}
		if client.Port() == 0 {
			continue // nobody can be answered there
		}
		s.answerUDP(ctx, c, client, q, raw[:n], buf)
	}
}

// answerUDP answers one datagram, at once or when an upstream has answered.
func (s *Server) answerUDP(ctx context.Context, c *net.UDPConn, client netip.AddrPort, q *query, raw, buf []byte) {
	reply, forward := s.respond(q, raw, buf, payloadSize, s.now())
	if forward {
		s.forwarder.forward(ctx, waiter{q: q.clone(), client: client.Addr(), send: func(b []byte) {
			s.writeUDP(c, client, b)
		}})
		return
	}
	if reply != nil {
		s.writeUDP(c, client, reply)
	}
}

// writeUDP sends an answer, none if b is empty. A client that can't be reached asks again, or is
// gone: no reason to stop.
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
